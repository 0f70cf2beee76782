//! Why a disk file cannot be used.

use std::io;

use super::Format;
use crate::error::{Diagnose, io_code};

/// Why a disk file cannot be opened or made.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// The file is not what its format asks for.
    #[error("the {format} disk is damaged: {what}")]
    Damaged {
        /// Its format.
        format: Format,
        /// What is wrong, with the numbers found.
        what: String,
    },
    /// A disk that holds only the differences from another one.
    #[error("it is a differencing {format} disk, which cannot be used without its parent")]
    Differencing {
        /// Its format.
        format: Format,
    },
    /// A size that the format cannot hold.
    #[error("a {format} disk cannot have {size} bytes")]
    Size {
        /// The format.
        format: Format,
        /// As asked for.
        size: u64,
    },
    /// A system call failed.
    #[error("cannot {action} the disk")]
    Io {
        /// What was being done.
        action: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// Its log holds changes and the file must not be written.
    #[error("the {format} disk was not closed and cannot be repaired without writing to it")]
    Unclosed {
        /// Its format.
        format: Format,
    },
    /// Something that the format allows and nobody uses.
    #[error("the {format} disk cannot be used: {what}")]
    Unsupported {
        /// Its format.
        format: Format,
        /// What it is.
        what: String,
    },
}

impl DiskError {
    pub(super) fn read(source: io::Error) -> Self {
        Self::Io { action: "read", source }
    }

    pub(super) fn write(source: io::Error) -> Self {
        Self::Io { action: "write", source }
    }
}

impl Diagnose for DiskError {
    fn code(&self) -> &'static str {
        match self {
            Self::Damaged { .. } => "WSL_E_DISK_CORRUPTED",
            Self::Differencing { .. } | Self::Unsupported { .. } => "ERROR_NOT_SUPPORTED",
            Self::Size { .. } => "E_INVALIDARG",
            Self::Io { source, .. } => io_code(source),
            Self::Unclosed { .. } => "ERROR_WRITE_PROTECT",
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Differencing { .. } => {
                Some("merge it with its parent where it comes from, e.g. with Merge-VHD".to_owned())
            }
            Self::Unclosed { .. } => Some("make the file writable".to_owned()),
            _ => None,
        }
    }
}
