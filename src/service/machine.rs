//! The machine that distros run in, as the service sees it.
//!
//! Everything the service does with its virtual machine goes through [`Machine`], so that
//! tests can put a scripted guest behind it, and another way of running distros can take
//! its place. None of these calls waits for the guest, except where a time is given.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::config::wslconfig::WslConfig;
use crate::error::{Diagnose, Failure};
use crate::vmm::exit::Exit;

/// A running machine.
pub trait Machine: fmt::Debug + Send + Sync {
    /// Gives the guest a disk; the machine owns the file until it is detached.
    ///
    /// # Errors
    /// Where no logical unit is free or the file cannot be used.
    fn attach(&self, disk: File, read_only: bool) -> Result<u16, MachineError>;

    /// Takes a disk away and closes its file, whether the guest still uses it or not.
    ///
    /// # Errors
    /// Where no such disk is attached.
    fn detach(&self, lun: u16) -> Result<(), MachineError>;

    /// Bridges a socket to a new connection to the guest's
    /// [`STREAM_PORT`](crate::protocol::guest::STREAM_PORT) that starts with `prefix`.
    /// A guest that refuses shows as the end of the socket.
    ///
    /// # Errors
    /// Where the machine is gone.
    fn connect(&self, socket: UnixStream, prefix: Vec<u8>) -> Result<(), MachineError>;

    /// Waits for the guest's control connection.
    ///
    /// # Errors
    /// Where the machine ends first or the time passes.
    fn control(&self, limit: Duration) -> Result<UnixStream, MachineError>;

    /// The disk with the kernel's modules, where the machine has one.
    fn modules(&self) -> Option<u16>;

    /// Ends the machine at once, whatever the guest does.
    fn kill(&self);

    /// Waits until the machine has ended.
    fn wait(&self) -> Exit;

    /// Virtual processors.
    fn processors(&self) -> u32;

    /// Memory in bytes.
    fn memory(&self) -> u64;

    /// Writes what the guest's kernel said last to a new file.
    ///
    /// # Errors
    /// Where it cannot be written.
    fn save_log(&self, to: &Path) -> io::Result<()>;
}

/// What makes machines.
pub trait Boot: fmt::Debug + Send + Sync {
    /// Builds a machine and starts its processors.
    ///
    /// # Errors
    /// Where this host cannot run it, or it has no kernel.
    fn boot(&self, settings: &WslConfig) -> Result<Arc<dyn Machine>, Failure>;
}

/// Why a machine does not do what is asked.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// A disk cannot be attached.
    #[error("cannot attach the disk to the virtual machine: {reason}")]
    Attach {
        /// Why.
        reason: String,
    },
    /// The guest did not call within the time.
    #[error("the virtual machine did not start within {limit:?}")]
    BootTimeout {
        /// How long it was given.
        limit: Duration,
        /// What its kernel said.
        log: PathBuf,
    },
    /// A socket cannot be bridged.
    #[error("cannot connect to the virtual machine: {reason}")]
    Connect {
        /// Why.
        reason: String,
    },
    /// The machine has ended.
    #[error("{exit}")]
    Ended {
        /// How.
        exit: Exit,
    },
    /// No logical unit is free.
    #[error("too many disks are attached to the virtual machine")]
    TooManyDisks,
    /// No such disk is attached.
    #[error("no disk {lun} is attached")]
    NotAttached {
        /// The logical unit.
        lun: u16,
    },
}

impl Diagnose for MachineError {
    fn code(&self) -> &'static str {
        match self {
            Self::Attach { .. } => "AttachDisk/E_FAIL",
            Self::Connect { .. } => "E_FAIL",
            Self::TooManyDisks => "WSL_E_TOO_MANY_DISKS_ATTACHED",
            Self::BootTimeout { .. } => "CreateVm/HCS_E_CONNECTION_TIMEOUT",
            Self::Ended { .. } => "WSL_E_VM_CRASHED",
            Self::NotAttached { .. } => "DetachDisk/ERROR_FILE_NOT_FOUND",
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::BootTimeout { log, .. } => Some(format!(
                "the kernel's log is {}; kernelBootTimeout in .wslconfig gives it more time",
                log.display()
            )),
            _ => None,
        }
    }
}
