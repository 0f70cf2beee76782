//! The distros that are installed.
//!
//! One JSON file, replaced as a whole: [`Registry::load`] reads it, [`update`] changes it
//! under a lock. A crash at any instant leaves the old file or the new one. Fields that
//! this version does not know are kept.

mod abandoned;
mod adoption;
mod conversion;
mod distro;
mod error;
mod hold;
mod installation;
mod lock;
mod relocation;
mod removal;
mod snapshots;
mod store;

pub use adoption::adopt;
pub use conversion::Conversion;
pub use distro::{Distro, NameError, State, check_name, root_name};
pub use error::RegistryError;
pub use hold::{Activity, Hold};
pub use installation::{Details, Installation, Plan};
pub use lock::{is_at, lock_root};
pub use relocation::Relocation;
pub use removal::remove;
pub use snapshots::{NewSnapshot, Snapshot, delete_snapshot, find_snapshot, snapshots};
pub use store::{Registry, update};
