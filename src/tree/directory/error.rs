//! What can go wrong with a directory tree.
//!
//! The error crosses a pipe from the process that works on an ordinary user's tree
//! (`tree::process`), so it is plain data.

use std::fmt;
use std::io;

use nix::errno::Errno;
use serde::{Deserialize, Serialize};

use crate::error::{Diagnose, io_code};

/// What was being done.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum Action {
    /// Making an entry.
    Create,
    /// Deleting an entry.
    Delete,
    /// Reading an entry.
    Read,
    /// Setting an owner, a mode, a time.
    Set,
    /// Setting an extended attribute.
    SetAttribute,
    /// Waiting until all is on the disk.
    Sync,
    /// Writing content.
    Write,
}

impl fmt::Display for Action {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Create => "create",
            Self::Delete => "delete",
            Self::Read => "read",
            Self::Set => "set owner, mode or time of",
            Self::SetAttribute => "set an extended attribute of",
            Self::Sync => "complete",
            Self::Write => "write",
        })
    }
}

/// Why a directory tree could not be written, read or deleted.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize, thiserror::Error)]
pub enum Error {
    /// A file's content could not be read.
    #[error("cannot read a file's content: {}", io::Error::from_raw_os_error(*errno))]
    Content {
        /// The system's error number.
        errno: i32,
    },
    /// A file's content could not be read, for a reason that is not the system's.
    #[error("cannot read a file's content: {reason}")]
    ContentOther {
        /// The reason.
        reason: String,
    },
    /// Something else would replace a directory with content, or the root.
    #[error("cannot add '{path}': a directory with content is there")]
    DirectoryInTheWay {
        /// The path.
        path: String,
    },
    /// A system call failed.
    #[error("cannot {action} '{path}': {}", io::Error::from_raw_os_error(*errno))]
    Io {
        /// What was being done.
        action: Action,
        /// The path in the tree.
        path: String,
        /// The system's error number.
        errno: i32,
    },
    /// A path leads through something that is not a directory.
    #[error("cannot add '{path}': its directory is not one, or is a mount point")]
    NotADirectory {
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
    /// A path in the tree is longer than Linux takes.
    #[error("a path below '{path}' is too long")]
    PathTooLong {
        /// Its directory.
        path: String,
    },
    /// A file's segments overlap, descend, or go beyond its size.
    #[error("cannot add '{path}': its data segments contradict its size")]
    Segments {
        /// The file.
        path: String,
    },
}

impl Error {
    /// A failed system call.
    pub(super) fn io(action: Action, path: impl fmt::Display, errno: Errno) -> Self {
        Self::Io { action, path: path.to_string(), errno: errno as i32 }
    }

    /// A failed operation of the standard library.
    pub(crate) fn standard(action: Action, path: impl fmt::Display, error: &io::Error) -> Self {
        let errno = error.raw_os_error().unwrap_or(libc::EIO);
        Self::Io { action, path: path.to_string(), errno }
    }
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        match error.raw_os_error() {
            Some(errno) => Self::Content { errno },
            None => Self::ContentOther { reason: error.to_string() },
        }
    }
}

impl Diagnose for Error {
    fn code(&self) -> &'static str {
        match self {
            Self::Io { errno, .. } => io_code(&io::Error::from_raw_os_error(*errno)),
            _ => "WSL_E_IMPORT_FAILED",
        }
    }

    fn hint(&self) -> Option<String> {
        let Self::Io { errno, action, .. } = self else { return None };
        match *errno {
            libc::ENOSPC | libc::EDQUOT => {
                Some("free some space on the host, or choose another --location".to_owned())
            }
            libc::EOPNOTSUPP if *action == Action::SetAttribute => Some(
                "the host's file system keeps no extended attributes: choose another directory \
                 with --location"
                    .to_owned(),
            ),
            _ => None,
        }
    }
}
