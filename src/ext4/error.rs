//! What can go wrong while an image is written.

use std::io;

use crate::error::Diagnose;

/// Why an image could not be written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The size asked for is out of range.
    #[error("a disk of {size} bytes cannot be made: it must have {minimum} to {maximum} bytes")]
    Size {
        /// The size, in bytes.
        size: u64,
        /// The least, in bytes.
        minimum: u64,
        /// The most, in bytes.
        maximum: u64,
    },
    /// Content and metadata do not fit.
    #[error("the disk of {size} bytes is full")]
    NoSpace {
        /// The disk's size, in bytes.
        size: u64,
    },
    /// There are more files than inodes.
    #[error("the disk of {size} bytes has room for {inodes} files and no more")]
    NoInodes {
        /// The disk's size, in bytes.
        size: u64,
        /// All its inodes.
        inodes: u32,
    },
    /// A path leads through something that is not a directory.
    #[error("cannot add '{path}': '{ancestor}' is not a directory")]
    NotADirectory {
        /// The path.
        path: String,
        /// What is in the way.
        ancestor: String,
    },
    /// Something else would replace a directory with content, or the root.
    #[error("cannot add '{path}': a directory with content is there")]
    DirectoryInTheWay {
        /// The path.
        path: String,
    },
    /// A hard link comes before its target, or the target is missing.
    #[error("cannot add the hard link '{path}': its target '{target}' does not exist")]
    NoTarget {
        /// The link.
        path: String,
        /// The target.
        target: String,
    },
    /// A hard link's target is a directory.
    #[error("cannot add the hard link '{path}': its target '{target}' is a directory")]
    TargetIsDirectory {
        /// The link.
        path: String,
        /// The target.
        target: String,
    },
    /// An inode has too many names.
    #[error("cannot add the hard link '{path}': '{target}' has {maximum} names already")]
    TooManyLinks {
        /// The link.
        path: String,
        /// The target.
        target: String,
        /// The most names of one file.
        maximum: u16,
    },
    /// A file is larger than the format allows.
    #[error("cannot add '{path}': {size} bytes are more than a file can have")]
    FileTooLarge {
        /// The file.
        path: String,
        /// Its size, in bytes.
        size: u64,
    },
    /// A file's segments overlap, descend, or go beyond its size.
    #[error("cannot add '{path}': its data segments contradict its size")]
    Segments {
        /// The file.
        path: String,
    },
    /// A symbolic link's target is empty or too long.
    #[error("cannot add the symbolic link '{path}': a target of {length} bytes is not possible")]
    SymbolicLink {
        /// The link.
        path: String,
        /// The target's length, in bytes.
        length: usize,
    },
    /// A device number that Linux does not have.
    #[error("cannot add the device '{path}': no device can be {major}:{minor}")]
    Device {
        /// The device node.
        path: String,
        /// Its major number.
        major: u32,
        /// Its minor number.
        minor: u32,
    },
    /// Attributes do not fit in an inode and a block, or have no place in ext4.
    #[error("cannot add '{path}': its extended attributes of {length} bytes cannot be stored")]
    Attributes {
        /// The entry.
        path: String,
        /// Their names and values together, in bytes.
        length: usize,
    },
    /// A directory has more entries than a two-level index can hold.
    #[error("a directory has too many entries: {entries}")]
    DirectoryTooLarge {
        /// How many it has.
        entries: usize,
    },
    /// A file's content could not be read.
    #[error("cannot read a file's content")]
    Content(#[from] io::Error),
    /// The image could not be written.
    #[error("cannot write the disk image")]
    Write(#[source] io::Error),
}

impl Diagnose for Error {
    fn code(&self) -> &'static str {
        match self {
            Self::Write(error) if is_full(error) => "ERROR_DISK_FULL",
            Self::Write(_) => "ERROR_WRITE_FAULT",
            Self::Size { .. } => "E_INVALIDARG",
            Self::NoSpace { .. } | Self::NoInodes { .. } => "ERROR_DISK_FULL",
            _ => "WSL_E_IMPORT_FAILED",
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::NoSpace { .. } | Self::NoInodes { .. } => {
                Some("choose a larger disk with --vhd-size".to_owned())
            }
            Self::Write(error) if is_full(error) => {
                Some("free some space on the host, or choose another --location".to_owned())
            }
            _ => None,
        }
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
