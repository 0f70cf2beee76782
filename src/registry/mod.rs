//! The distros that are installed.
//!
//! One JSON file, replaced as a whole: [`Registry::load`] reads it, [`update`] changes it
//! under a lock. A crash at any instant leaves the old file or the new one. Fields that
//! this version does not know are kept.

mod distro;
mod error;
mod installation;
mod removal;
mod store;

pub use distro::{Distro, NameError, State, check_name};
pub use error::RegistryError;
pub use installation::{Details, Installation, Plan};
pub use removal::remove;
pub use store::{Registry, update};
