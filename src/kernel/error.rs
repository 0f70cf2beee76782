//! Why there is no kernel to boot.

use std::io;
use std::path::PathBuf;

use crate::archive::ArchiveError;
use crate::error::{Diagnose, io_code};
use crate::ext4;

/// Why a kernel cannot be fetched, prepared or found.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// The archive it comes from.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// Something compressed is not what it says.
    #[error("cannot decompress {what}")]
    Compressed {
        /// What it is.
        what: String,
        /// Why.
        source: io::Error,
    },
    /// The kernel that `.wslconfig` names is not there (B128).
    #[error("the custom kernel '{}' was not found", path.display())]
    CustomNotFound {
        /// The path as configured.
        path: PathBuf,
    },
    /// Modules need each other.
    #[error("module '{module}' needs itself")]
    DependencyCycle {
        /// One of the circle.
        module: String,
    },
    /// The modules disk cannot be written.
    #[error("cannot write the modules disk '{}'", path.display())]
    Disk {
        /// The disk.
        path: PathBuf,
        /// Why.
        source: ext4::Error,
    },
    /// A file cannot be used.
    #[error("cannot {action} '{}'", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A module is not one.
    #[error("'{path}' is not a kernel module: {reason}")]
    InvalidModule {
        /// Its path in the package.
        path: String,
        /// What is wrong.
        reason: String,
    },
    /// A package is not a kernel's.
    #[error("the kernel package cannot be used: {reason}")]
    InvalidPackage {
        /// What is wrong.
        reason: String,
    },
    /// A file is not a kernel.
    #[error("'{}' is not an x86-64 Linux kernel: {reason}", path.display())]
    NotAKernel {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A module, or one it depends on, does not exist.
    #[error("kernel {release} has no module '{module}'")]
    MissingModule {
        /// The kernel.
        release: String,
        /// The module.
        module: String,
    },
    /// No kernel was fetched yet.
    #[error("no Linux kernel is installed")]
    NotInstalled,
    /// Something is larger than any kernel's.
    #[error("{what} is larger than {limit} bytes")]
    TooLarge {
        /// What.
        what: String,
        /// The most that is accepted.
        limit: u64,
    },
}

impl KernelError {
    /// A closure that makes an error of `action` on `path`, for `map_err`.
    pub(crate) fn file(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { action, path, source }
    }
}

impl Diagnose for KernelError {
    fn code(&self) -> &'static str {
        match self {
            Self::Archive(error) => error.code(),
            Self::CustomNotFound { .. } | Self::NotAKernel { .. } => {
                "WSL_E_CUSTOM_KERNEL_NOT_FOUND"
            }
            Self::Disk { source, .. } => source.code(),
            Self::File { source, .. } => io_code(source),
            Self::NotInstalled => "WSL_E_WSL_OPTIONAL_COMPONENT_REQUIRED",
            Self::Compressed { .. }
            | Self::DependencyCycle { .. }
            | Self::InvalidModule { .. }
            | Self::InvalidPackage { .. }
            | Self::MissingModule { .. }
            | Self::TooLarge { .. } => "E_FAIL",
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Archive(error) => error.hint(),
            Self::CustomNotFound { .. } | Self::NotAKernel { .. } => {
                Some("correct or remove kernel= in .wslconfig".to_owned())
            }
            Self::Disk { source, .. } if source.code() == "ERROR_DISK_FULL" => {
                Some("free some space on the host".to_owned())
            }
            Self::NotInstalled => Some("run 'wslr --update'".to_owned()),
            _ => None,
        }
    }
}
