//! The list of distros that can be installed.
//!
//! `distros.json` is compiled in. It has the schema of WSL's manifest (behaviour
//! reference, section 3) and one addition: an entry may have, beside or instead of
//! `Amd64Url` and `Arm64Url`, a signed package archive to assemble the distro from, with
//! the members of [`archive::Source`]:
//!
//! ```json
//! "Archive": {
//!   "Keyring": "debian",
//!   "Mirror": "http://deb.debian.org/debian",
//!   "Suites": ["trixie", "trixie-updates"],
//!   "SecurityMirror": "http://deb.debian.org/debian-security",
//!   "SecuritySuites": ["trixie-security"],
//!   "Components": ["main"]
//! }
//! ```
//!
//! An entry's image is tried first, then its archive. A manifest of WSL's own schema can
//! replace the list or go before it, as in WSL.
//!
//! [`archive::Source`]: crate::archive::Source

mod catalog;
mod error;
mod schema;

pub use catalog::{Catalog, Distro, Image, Settings, Source};
pub use error::ManifestError;
