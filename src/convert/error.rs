//! Why a distro could not be converted.

use std::io;
use std::path::PathBuf;

use super::{SourceError, TargetError};
use crate::error::{Diagnose, io_code};
use crate::registry::RegistryError;

/// Why a distro could not be converted.
#[derive(Debug, thiserror::Error)]
pub enum ConvertError {
    /// The new root cannot be used.
    #[error("cannot open '{}'", path.display())]
    Open {
        /// Where it is.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The distro cannot be converted now, or its record not be changed.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The old root cannot be read.
    #[error(transparent)]
    Source(#[from] SourceError),
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
            Self::Open { source, .. } | Self::Signals(source) => io_code(source),
            Self::Registry(error) => error.code(),
            Self::Source(error) => error.code(),
            Self::Write(error) => error.code(),
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Open { .. } | Self::Signals(_) => None,
            Self::Registry(error) => error.hint(),
            Self::Source(error) => error.hint(),
            Self::Write(error) => error.hint(),
        }
    }
}
