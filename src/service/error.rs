//! Why the service could not do what a command asked.

use std::io;
use std::path::PathBuf;

use crate::error::{Diagnose, io_code};
use crate::protocol::frame::FrameError;
use crate::protocol::session::ExitStatus;
use crate::vmm::exit::Exit;

/// Why the service could not do what a command asked.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// A first start could not set the distro up.
    #[error("cannot set up the distribution '{name}': its packages could not be configured{ended}")]
    Configure {
        /// Its name.
        name: String,
        /// How the script ended, as text with its own separator.
        ended: Ended,
        /// What it said.
        log: PathBuf,
    },
    /// The connection to a session was lost and nothing says why.
    #[error("the connection to the command was lost")]
    ConnectionLost,
    /// The machine ended under a command.
    #[error("{exit}")]
    Crashed {
        /// How.
        exit: Exit,
        /// What its kernel said last.
        log: PathBuf,
    },
    /// The distro's files cannot be used.
    #[error("cannot open the distribution's files '{path}'")]
    Disk {
        /// The image, or the directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another process uses the distro's files.
    #[error("the distribution's files '{path}' are in use by another process")]
    DiskInUse {
        /// The image, or the directory.
        path: PathBuf,
    },
    /// The process that runs version 1 distros ended by itself.
    #[error("the process that runs distributions of version 1 failed: {reason}")]
    HostMachine {
        /// What it said last, or how it ended.
        reason: String,
        /// All that it said.
        log: PathBuf,
    },
    /// What a command sent makes no sense.
    #[error("malformed request")]
    Malformed(#[source] FrameError),
    /// The distro runs without a virtual machine.
    #[error("the distribution '{name}' has no virtual machine")]
    NoMachine {
        /// Its name.
        name: String,
    },
    /// A command's streams were not passed along.
    #[error("{passed} streams were passed instead of {expected}")]
    Streams {
        /// How many came.
        passed: usize,
        /// How many the request names.
        expected: usize,
    },
    /// The service is about to leave.
    #[error("wslr is shutting down")]
    ShuttingDown,
    /// A file of the service cannot be made or read.
    #[error("cannot {action} '{path}'")]
    State {
        /// What was being done.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The distro was stopped under a command.
    #[error("the distribution '{name}' was stopped")]
    Stopped {
        /// Its name.
        name: String,
    },
    /// A system call failed.
    #[error("cannot {action}")]
    System {
        /// What was being done.
        action: &'static str,
        /// Why.
        source: io::Error,
    },
}

/// How a script ended, for the end of a sentence.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Ended(pub Option<ExitStatus>);

impl std::fmt::Display for Ended {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(ExitStatus::Code(code)) => write!(formatter, " (status {code})"),
            Some(ExitStatus::Signal(signal)) => write!(formatter, " (killed by signal {signal})"),
            None => Ok(()),
        }
    }
}

impl Diagnose for ServiceError {
    fn code(&self) -> &'static str {
        match self {
            Self::Configure { .. } => "CreateInstance/ConfigureDistro/E_FAIL",
            Self::ConnectionLost => "E_FAIL",
            Self::Crashed { .. } => "WSL_E_VM_CRASHED",
            Self::HostMachine { .. } => "CreateInstance/E_FAIL",
            Self::Disk { source, .. }
            | Self::State { source, .. }
            | Self::System { source, .. } => io_code(source),
            Self::DiskInUse { .. } => "ERROR_SHARING_VIOLATION",
            Self::NoMachine { .. } => "WSL_E_WSL2_NEEDED",
            Self::Malformed(_) | Self::Streams { .. } => "E_UNEXPECTED",
            Self::ShuttingDown | Self::Stopped { .. } => "E_ABORT",
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Configure { log, .. } => {
                Some(format!("see {}; the next start tries again", log.display()))
            }
            Self::Crashed { log, .. } => Some(format!("the kernel's log is {}", log.display())),
            Self::HostMachine { reason, log } if reason.contains("not permitted") => Some(format!(
                "what runs wslr, such as a container, must allow it to make namespaces; the log \
                 is {}",
                log.display()
            )),
            Self::HostMachine { log, .. } => Some(format!("the log is {}", log.display())),
            Self::State { source, .. }
                if matches!(
                    source.kind(),
                    io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied
                ) =>
            {
                Some("WSLR_DATA_DIR and WSLR_RUNTIME_DIR can point elsewhere".to_owned())
            }
            _ => None,
        }
    }
}
