//! Why a distro could not be exported, beyond what the parts say themselves.

use std::io;
use std::path::PathBuf;

use crate::convert::SourceError;
use crate::disk::DiskError;
use crate::error::{Diagnose, io_code};
use crate::image::tar::WriteError;

/// Why a distro could not be exported.
#[derive(Debug, thiserror::Error)]
pub(super) enum ExportError {
    /// The new disk cannot be made.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// A disk whose name does not say its format (B048).
    #[error("The specified file must have the .vhdx or .vhd file extension.")]
    Extension,
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
    /// A version 1 distro has no disk.
    #[error("a version 1 distribution has no disk")]
    NoDisk,
    /// A disk cannot be streamed.
    #[error("a disk cannot be written to standard output")]
    NoStream,
    /// The distro's root cannot be read.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The target's disk has no room for what is sure to be needed.
    #[error(
        "not enough space in '{}': {available} MB are free, {needed} MB are needed",
        path.display()
    )]
    Space {
        /// The target's directory.
        path: PathBuf,
        /// Free megabytes.
        available: u64,
        /// Needed megabytes.
        needed: u64,
    },
    /// Standard output is a terminal.
    #[error("an archive is not written to a terminal")]
    Terminal,
    /// The archive cannot be written.
    #[error(transparent)]
    Write(#[from] WriteError),
}

impl Diagnose for ExportError {
    fn code(&self) -> &'static str {
        match self {
            Self::Disk(error) => error.code(),
            Self::Extension => "WSL_E_EXPORT_FAILED",
            Self::Io { source, .. } => io_code(source),
            Self::NoDisk => "WSL_E_WSL2_NEEDED",
            Self::NoStream | Self::Terminal => "E_INVALIDARG",
            Self::Source(error) => error.code(),
            Self::Space { .. } => "ERROR_DISK_FULL",
            Self::Write(error) => error.code(),
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Disk(error) => error.hint(),
            Self::NoDisk => Some("leave out --vhd for an archive, or convert it first".to_owned()),
            Self::NoStream => Some("name a file, .vhdx or .vhd".to_owned()),
            Self::Source(error) => error.hint(),
            Self::Space { .. } => Some("free some space, or write it somewhere else".to_owned()),
            Self::Terminal => Some("name a file, or lead the output into a pipe".to_owned()),
            Self::Write(error) => error.hint(),
            Self::Extension | Self::Io { .. } => None,
        }
    }
}
