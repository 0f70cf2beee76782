//! Why a distro could not be installed, beyond what the parts say themselves.

use std::io;
use std::path::PathBuf;

use crate::error::{Diagnose, io_code};

/// Why a distro could not be installed.
#[derive(Debug, thiserror::Error)]
pub(super) enum InstallError {
    /// A disk whose name does not say its format (B049).
    #[error("The specified file must have the .vhd or .vhdx file extension.")]
    Extension,
    /// The archive is none, or cannot be made into a disk (B053).
    #[error("Importing the distribution failed")]
    Import {
        /// The code of the cause.
        code: &'static str,
        /// What would help.
        hint: Option<String>,
        /// The cause.
        source: Box<dyn std::error::Error>,
    },
    /// The content says no name and neither did the user (B077).
    #[error("'{file}' doesn't contain a default name")]
    NameNeeded {
        /// As typed.
        file: String,
    },
    /// A file cannot be used.
    #[error("cannot {action} '{}'", path.display())]
    Io {
        /// What was being done.
        action: &'static str,
        /// With which file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The host's disk has not even room for what is sure to be needed.
    #[error(
        "not enough space in '{}': {available} MB are free, at least {needed} MB are needed",
        path.display()
    )]
    Space {
        /// The disk's directory.
        path: PathBuf,
        /// Free megabytes.
        available: u64,
        /// Needed megabytes.
        needed: u64,
    },
}

impl Diagnose for InstallError {
    fn code(&self) -> &'static str {
        match self {
            Self::Extension => "WSL_E_IMPORT_FAILED",
            Self::Import { code, .. } => code,
            Self::NameNeeded { .. } => "WSL_E_DISTRIBUTION_NAME_NEEDED",
            Self::Io { source, .. } => io_code(source),
            Self::Space { .. } => "ERROR_DISK_FULL",
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Import { hint, .. } => hint.clone(),
            Self::NameNeeded { .. } => Some("use --name to specify one".to_owned()),
            Self::Space { .. } => {
                Some("free some space, or choose another directory with --location".to_owned())
            }
            Self::Extension | Self::Io { .. } => None,
        }
    }
}
