//! A distro or a package straight from a signed Debian-style archive.
//!
//! A [`Repository`] is the verified content of one or more suites: every byte it gives out
//! hangs on an `InRelease` whose OpenPGP signature was made by a key that is compiled in.
//! There is no way around the signature. The order of the work is the order of the files:
//! [`source`] says what to fetch, [`signature`] and [`release`] verify it, [`index`] lists
//! the packages, [`closure`] chooses them, [`repository`] fetches them, [`deb`] reads one,
//! [`assemble`] makes a distro of them.

pub mod assemble;
pub mod closure;
mod compression;
pub mod deb;
pub mod deb822;
mod error;
pub mod index;
pub mod keyring;
pub mod minimal;
pub mod relation;
pub mod release;
pub mod repository;
pub mod signature;
pub mod source;
pub mod version;

pub use error::ArchiveError;
pub use repository::{Options, Repository};
pub use source::Source;
