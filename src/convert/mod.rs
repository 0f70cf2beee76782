//! The root of a distro in either of its forms: a disk (version 2) or a directory
//! (version 1), written, and made into the other.

mod target;

pub use target::{Target, TargetError};
