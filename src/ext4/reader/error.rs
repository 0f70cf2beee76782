//! Why an image cannot be read.

use std::io;

use crate::error::{Diagnose, io_code};

/// Why an image, or something in it, cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// It contradicts itself or a checksum.
    #[error("the disk's file system is damaged: {what}")]
    Damaged {
        /// What is wrong, with the numbers of inodes and blocks.
        what: String,
    },
    /// It cannot be read from the host's disk.
    #[error("cannot read the disk image")]
    Io(#[from] io::Error),
    /// There is no ext4 file system.
    #[error("the disk has no ext4 file system")]
    NotExt4,
    /// It needs what this reader does not know.
    #[error("the disk's file system has features that are not supported: {features}")]
    Unsupported {
        /// Their names, as `mke2fs` calls them, or their bits.
        features: String,
    },
}

impl ReadError {
    pub(super) fn damaged(what: impl Into<String>) -> Self {
        Self::Damaged { what: what.into() }
    }
}

impl Diagnose for ReadError {
    fn code(&self) -> &'static str {
        match self {
            Self::Damaged { .. } | Self::NotExt4 => "WSL_E_DISK_CORRUPTED",
            Self::Io(error) => io_code(error),
            Self::Unsupported { .. } => "ERROR_NOT_SUPPORTED",
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Damaged { .. } => Some("'e2fsck -f' on the disk image may repair it".to_owned()),
            _ => None,
        }
    }
}
