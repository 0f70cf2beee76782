//! Why a disk of the user's cannot be attached, mounted or let go of.

use std::io;
use std::path::PathBuf;

use crate::error::{Diagnose, io_code};
use crate::service::control::ControlError;
use crate::service::machine::MachineError;

/// Why a disk of the user's cannot be attached, mounted or let go of; the codes go behind
/// `Wsl/Service`.
#[derive(Debug, thiserror::Error)]
pub enum UserDiskError {
    /// It is attached, and asked to be no more than that.
    #[error("Failed to attach disk '{}' to WSL2: it is attached already", path.display())]
    AlreadyAttached {
        /// As named.
        path: PathBuf,
    },
    /// The same part of it is mounted.
    #[error("The disk '{}' is already mounted as '/mnt/wsl/{name}'", path.display())]
    AlreadyMounted {
        /// As named.
        path: PathBuf,
        /// Where.
        name: String,
    },
    /// The machine does not take it.
    #[error("Failed to attach disk '{}' to WSL2", path.display())]
    Attach {
        /// As named.
        path: PathBuf,
        /// Why.
        source: MachineError,
    },
    /// It is in use in a distro.
    #[error("The disk '{}' failed to detach: {reason}", path.display())]
    Detach {
        /// As named.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// Another process has it, or the host has mounted it (B116).
    #[error("Failed to attach disk '{}' to WSL2: it is in use on this host", path.display())]
    InUse {
        /// As named.
        path: PathBuf,
    },
    /// A name that no mount can have (B107).
    #[error("The disk was attached but not mounted: the name '{name}' is invalid")]
    Name {
        /// As asked for.
        name: String,
    },
    /// A name that another mount has (B108).
    #[error("The disk was attached but not mounted: the name '{name}' is already used")]
    NameTaken {
        /// As asked for.
        name: String,
    },
    /// There is no distro of version 2 (B118).
    #[error("This operation needs a distribution of version 2, and none is installed")]
    NoDistro,
    /// It is not attached.
    #[error("The disk '{}' is not attached", path.display())]
    NotAttached {
        /// As named.
        path: PathBuf,
    },
    /// A regular file that is not said to be a disk, or something else.
    #[error("Failed to attach disk '{}' to WSL2: it is no block device", path.display())]
    NotBlockDevice {
        /// As named.
        path: PathBuf,
    },
    /// It cannot be opened.
    #[error("Failed to attach disk '{}' to WSL2", path.display())]
    Open {
        /// As named.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The guest does not answer.
    #[error("The disk was attached, but nothing is known of its mount")]
    Silent(#[source] ControlError),
    /// The list of disks cannot be written.
    #[error("cannot write '{}'", path.display())]
    Store {
        /// The list.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl Diagnose for UserDiskError {
    fn code(&self) -> &'static str {
        match self {
            Self::AlreadyAttached { .. } => "AttachDisk/WSL_E_DISK_ALREADY_ATTACHED",
            Self::AlreadyMounted { .. } => "MountDisk/WSL_E_DISK_ALREADY_MOUNTED",
            Self::Attach { source: MachineError::TooManyDisks, .. } => {
                "AttachDisk/WSL_E_TOO_MANY_DISKS_ATTACHED"
            }
            Self::Attach { source, .. } => match source.code() {
                "MountDisk/WSL_E_DISK_CORRUPTED" => "AttachDisk/MountDisk/HCS/ERROR_FILE_CORRUPT",
                _ => "AttachDisk/MountDisk/HCS/E_FAIL",
            },
            Self::Detach { .. } => "DetachDisk/ERROR_BUSY",
            Self::InUse { .. } => "AttachDisk/MountDisk/HCS/ERROR_SHARING_VIOLATION",
            Self::Name { .. } => "MountDisk/WSL_E_VM_MODE_INVALID_MOUNT_NAME",
            Self::NameTaken { .. } => "MountDisk/WSL_E_VM_MODE_MOUNT_NAME_ALREADY_EXISTS",
            Self::NoDistro => "AttachDisk/WSL_E_WSL2_NEEDED",
            Self::NotAttached { .. } => "DetachDisk/ERROR_FILE_NOT_FOUND",
            Self::NotBlockDevice { .. } => "AttachDisk/MountDisk/HCS/E_INVALIDARG",
            Self::Open { source, .. } => match io_code(source) {
                "ERROR_FILE_NOT_FOUND" => "AttachDisk/MountDisk/HCS/ERROR_FILE_NOT_FOUND",
                "E_ACCESSDENIED" => "AttachDisk/MountDisk/HCS/E_ACCESSDENIED",
                _ => "AttachDisk/MountDisk/HCS/E_FAIL",
            },
            Self::Silent(error) => error.code(),
            Self::Store { source, .. } => io_code(source),
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::AlreadyAttached { path } | Self::AlreadyMounted { path, .. } => {
                Some(format!("'wslr --unmount {}' lets go of it", path.display()))
            }
            Self::Attach { source, .. } => source.hint(),
            Self::Detach { .. } => {
                Some("end what uses it; 'wslr --shutdown' lets go of all disks".to_owned())
            }
            Self::Name { .. } => {
                Some("a name is not empty, '.' or '..', and has no '/'".to_owned())
            }
            Self::NameTaken { .. } => Some("choose another one with --name".to_owned()),
            Self::NoDistro => Some("'wslr --install --version 2' installs one".to_owned()),
            Self::NotBlockDevice { .. } => Some("--vhd is for a file with a disk".to_owned()),
            Self::Open { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                Some("the user needs to be able to read and write it".to_owned())
            }
            Self::Silent(error) => error.hint(),
            _ => None,
        }
    }
}
