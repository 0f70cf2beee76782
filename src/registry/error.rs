//! Why the registry cannot be read or changed.

use std::io;
use std::path::PathBuf;

use super::{Activity, NameError};
use crate::error::{Diagnose, io_code};

/// Why the registry cannot be read or changed, or does not hold what was asked for.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// A name that is taken.
    #[error("A distribution with the name '{name}' already exists.")]
    AlreadyExists {
        /// The name.
        name: String,
    },
    /// The file is not what `wslr` writes.
    #[error("the registry '{}' is damaged in line {line}: {reason}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What was expected.
        reason: String,
    },
    /// A disk or root directory of the name that a new one would have (B055).
    #[error("Failed to create disk '{}': it exists already", path.display())]
    DiskExists {
        /// The disk.
        path: PathBuf,
    },
    /// The distro is exported, or something else that takes its time (B096).
    #[error("The distribution '{name}' cannot be used now: it is being {}.", match activity {
        Activity::Exporting => "exported",
        Activity::Other => "worked on",
    })]
    Held {
        /// Its name.
        name: String,
        /// What is done with it.
        activity: Activity,
    },
    /// Another process has the disk or root directory open.
    #[error("the disk '{}' is in use by another process", path.display())]
    InUse {
        /// The disk.
        path: PathBuf,
    },
    /// A system call failed.
    #[error("cannot {action} '{}'", path.display())]
    Io {
        /// What was being done.
        action: &'static str,
        /// With which file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// A directory that another distro has (B055).
    #[error("The supplied install location is already in use.")]
    LocationInUse {
        /// The directory.
        path: PathBuf,
    },
    /// A name that no distro can have (B056).
    #[error(transparent)]
    Name(#[from] NameError),
    /// A newer `wslr` wrote the file.
    #[error("the registry '{}' has version {version}; this wslr knows up to {known}",
        path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        version: u32,
        /// The newest known.
        known: u32,
    },
    /// No distro is registered (B039).
    #[error("There is no default distribution: none is installed.")]
    NoDefault,
    /// A conversion to what it is (B061).
    #[error("The distribution '{name}' is already version {version}.")]
    SameVersion {
        /// Its name.
        name: String,
        /// Its version.
        version: u32,
    },
    /// A snapshot of a name that one has.
    #[error("a snapshot with the name '{name}' already exists")]
    SnapshotExists {
        /// The name.
        name: String,
    },
    /// A name that no snapshot can have.
    #[error("invalid snapshot name: \"{name}\"")]
    SnapshotName {
        /// As asked for.
        name: String,
    },
    /// No snapshot of that name.
    #[error("there is no snapshot with the name '{name}'")]
    SnapshotNotFound {
        /// As asked for.
        name: String,
    },
    /// A root directory cannot be deleted.
    #[error("cannot delete '{}'", path.display())]
    Tree {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: crate::tree::process::Error,
    },
    /// No distro of that name or id (B008).
    #[error("There is no distribution with the supplied name.")]
    NotFound,
}

impl Diagnose for RegistryError {
    fn code(&self) -> &'static str {
        match self {
            Self::AlreadyExists { .. } => "ERROR_ALREADY_EXISTS",
            Self::Damaged { .. } => "ERROR_FILE_CORRUPT",
            Self::DiskExists { .. } | Self::LocationInUse { .. } => "ERROR_FILE_EXISTS",
            Self::Held { .. } => "E_ILLEGAL_STATE_CHANGE",
            Self::InUse { .. } => "ERROR_SHARING_VIOLATION",
            Self::Name(error) => error.code(),
            Self::Io { source, .. } => io_code(source),
            Self::Newer { .. } => "ERROR_REVISION_MISMATCH",
            Self::NoDefault => "WSL_E_DEFAULT_DISTRO_NOT_FOUND",
            Self::NotFound => "WSL_E_DISTRO_NOT_FOUND",
            Self::SameVersion { .. } => "WSL_E_VM_MODE_INVALID_STATE",
            Self::SnapshotExists { .. } => "ERROR_ALREADY_EXISTS",
            Self::SnapshotName { .. } => "E_INVALIDARG",
            Self::SnapshotNotFound { .. } => "ERROR_NOT_FOUND",
            Self::Tree { source, .. } => source.code(),
        }
    }

    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::AlreadyExists { .. } => "choose another name with --name".to_owned(),
            Self::Damaged { path, .. } => {
                format!("mend or move away '{}'; the disks it names are untouched", path.display())
            }
            Self::Newer { .. } => "use the newer wslr".to_owned(),
            Self::NoDefault => "'wslr --list --online' shows what can be installed, \
                'wslr --install NAME' installs it"
                .to_owned(),
            Self::NotFound => "'wslr --list' shows the installed distributions".to_owned(),
            Self::DiskExists { .. } | Self::LocationInUse { .. } => {
                "choose another directory with --location".to_owned()
            }
            Self::Name(error) => return error.hint(),
            Self::Io { source, .. } => match source.kind() {
                io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied => {
                    "set WSLR_DATA_DIR to a directory that can be written".to_owned()
                }
                _ => return None,
            },
            Self::SnapshotExists { .. } => {
                "'wslr --manage NAME --delete-snapshot SNAPSHOT' deletes one".to_owned()
            }
            Self::SnapshotName { .. } => {
                "a name has up to 256 letters, digits, '.', '_' and '-', and no '.' in front"
                    .to_owned()
            }
            Self::SnapshotNotFound { .. } => {
                "'wslr --manage NAME --list-snapshots' shows them".to_owned()
            }
            Self::Held { .. } | Self::InUse { .. } | Self::SameVersion { .. } => return None,
            Self::Tree { source, .. } => return source.hint(),
        })
    }
}
