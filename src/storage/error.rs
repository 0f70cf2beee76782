//! Why something cannot be done with a distro's root.

use std::io;
use std::path::PathBuf;

use crate::convert::ConvertError;
use crate::disk::DiskError;
use crate::disk::clone::CloneError;
use crate::error::{Diagnose, io_code};
use crate::ext4::reader::ReadError;
use crate::registry::RegistryError;

/// Why something cannot be done with a distro's root.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// A disk's file cannot be copied.
    #[error(transparent)]
    Clone(#[from] CloneError),
    /// Its files cannot be written anew.
    #[error(transparent)]
    Convert(#[from] ConvertError),
    /// The disk cannot be used.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// A system call failed.
    #[error("cannot use '{}'", path.display())]
    Io {
        /// With which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The distro has no disk: its version is 1.
    #[error("This operation is only supported by WSL2.")]
    NoDisk,
    /// The file system cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The distro cannot be changed now, or its record not be changed.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// A size that the disk cannot have (B094).
    #[error("Failed to resize disk: {reason}.")]
    Resize {
        /// Why.
        reason: String,
    },
    /// Signals cannot be waited for.
    #[error("cannot wait for signals")]
    Signals(#[source] io::Error),
}

impl Diagnose for StorageError {
    fn code(&self) -> &'static str {
        match self {
            Self::Clone(error) => error.code(),
            Self::Convert(error) => error.code(),
            Self::Disk(error) => error.code(),
            Self::Io { source, .. } | Self::Signals(source) => io_code(source),
            Self::NoDisk => "WSL_E_WSL2_NEEDED",
            Self::Read(error) => error.code(),
            Self::Registry(error) => error.code(),
            Self::Resize { .. } => "E_FAIL",
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Clone(error) => error.hint(),
            Self::Convert(error) => error.hint(),
            Self::Disk(error) => error.hint(),
            Self::Read(error) => error.hint(),
            Self::Registry(error) => error.hint(),
            Self::NoDisk => {
                Some("'wslr --set-version NAME 2' gives a distribution a disk".to_owned())
            }
            Self::Io { .. } | Self::Resize { .. } | Self::Signals(_) => None,
        }
    }
}
