//! Files from https, http and file urls: resumed, hashed, with progress.
//!
//! A [`Fetcher`] never leaves a file that is not what was asked for: bytes go to
//! `<name>.partial`, which a later call continues, and get their final name only once
//! size and SHA-256 are right.

mod checksum;
mod error;
mod fetcher;
mod location;
mod partial;

pub use checksum::{ChecksumError, Sha256};
pub use error::DownloadError;
pub use fetcher::{Download, Fetcher};
pub use location::Location;
