//! Why a distro could not be converted.

use std::io;
use std::path::PathBuf;

use super::TargetError;
use crate::disk::DiskError;
use crate::error::{Diagnose, io_code};
use crate::ext4::reader::ReadError;
use crate::registry::RegistryError;
use crate::tree::{directory, process};

/// Why a distro could not be converted.
#[derive(Debug, thiserror::Error)]
pub enum ConvertError {
    /// The old root directory cannot be read.
    #[error("cannot read the distribution's files")]
    Directory(#[source] directory::Error),
    /// The old disk cannot be opened.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The new root cannot be used.
    #[error("cannot open '{}'", path.display())]
    Open {
        /// Where it is.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The old root directory cannot be read, in a user namespace.
    #[error("cannot read the distribution's files")]
    Process(#[source] process::Error),
    /// The old disk cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The distro cannot be converted now, or its record not be changed.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// Signals cannot be waited for.
    #[error("cannot wait for signals")]
    Signals(#[source] io::Error),
    /// The new root cannot be written.
    #[error("cannot write the distribution's files")]
    Write(#[from] TargetError),
}

impl Diagnose for ConvertError {
    fn code(&self) -> &'static str {
        match self {
            Self::Directory(error) => error.code(),
            Self::Disk(error) => error.code(),
            Self::Open { source, .. } | Self::Signals(source) => io_code(source),
            Self::Process(error) => error.code(),
            Self::Read(error) => error.code(),
            Self::Registry(error) => error.code(),
            Self::Write(error) => error.code(),
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Directory(error) => error.hint(),
            Self::Disk(error) => error.hint(),
            Self::Open { .. } | Self::Signals(_) => None,
            Self::Process(error) => error.hint(),
            Self::Read(error) => error.hint(),
            Self::Registry(error) => error.hint(),
            Self::Write(error) => error.hint(),
        }
    }
}
