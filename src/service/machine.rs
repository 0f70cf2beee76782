//! The machine that distros run in, as the service sees it.
//!
//! There is one for each version of distros: the virtual machine, and a process on the
//! host. Everything the service does with them goes through [`Machine`], so that tests can
//! put a scripted guest behind it. None of these calls waits for the guest, except where a
//! time is given.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::config::wslconfig::WslConfig;
use crate::disk::DiskError;
use crate::error::{Diagnose, Failure};
use crate::ext4::reader::ReadError;
use crate::network::ports::Ports;
use crate::protocol::guest::{Network, Root};
use crate::protocol::session::{Session, StreamKind};
use crate::registry::Distro;
use crate::vmm::exit::Exit;

/// A running machine.
pub trait Machine: fmt::Debug + Send + Sync {
    /// Gives the guest a distro's files; the machine owns the open file until it is
    /// detached.
    ///
    /// # Errors
    /// Where there is no room for it or the file cannot be used.
    fn attach(&self, storage: Storage) -> Result<Root, MachineError>;

    /// Takes a distro's files away and closes what holds them, whether the guest still uses
    /// them or not.
    ///
    /// # Errors
    /// Where they are not attached.
    fn detach(&self, root: &Root) -> Result<(), MachineError>;

    /// Tells the guest how long an attached disk is, which has become longer.
    ///
    /// # Errors
    /// Where it is not attached, or there are no disks here.
    fn measure_again(&self, root: &Root) -> Result<(), MachineError> {
        Err(MachineError::NotAttached { root: root.clone() })
    }

    /// Gives the guest a session: its control stream, and one stream for each of its
    /// [`kinds`](crate::protocol::session::Streams::kinds). A guest that refuses shows as
    /// the end of the streams. `number` is unique in the machine's life.
    ///
    /// # Errors
    /// Where the machine is gone.
    fn open(
        &self,
        number: u64,
        session: &Session,
        control: UnixStream,
        streams: Vec<(StreamKind, OwnedFd)>,
    ) -> Result<(), MachineError>;

    /// Waits for the guest's control connection.
    ///
    /// # Errors
    /// Where the machine ends first or the time passes.
    fn control(&self, limit: Duration) -> Result<UnixStream, MachineError>;

    /// The disk with the kernel's modules, where the machine has one.
    fn modules(&self) -> Option<u16>;

    /// The disk to swap to, where the machine has one.
    fn swap(&self) -> Option<u16> {
        None
    }

    /// What the user is told of what it does without.
    fn warnings(&self) -> Vec<String> {
        Vec::new()
    }

    /// How the guest sets its network up, where the machine has one of its own.
    fn network(&self) -> Option<Network> {
        None
    }

    /// The ports that its distros listen on, where they are made the host's.
    fn ports(&self) -> Option<&Ports> {
        None
    }

    /// Ends the machine at once, whatever the guest does.
    fn kill(&self);

    /// Waits until the machine has ended.
    fn wait(&self) -> Exit;

    /// What it has of its own; a machine that is the host itself has nothing.
    fn resources(&self) -> Option<Resources>;

    /// What it takes of the host, where that can be told.
    fn load(&self) -> Option<Load> {
        None
    }

    /// Writes what the guest's kernel said last to a new file.
    ///
    /// # Errors
    /// Where it cannot be written.
    fn save_log(&self, to: &Path) -> io::Result<()>;
}

/// Which of the machines.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// The one of version 1, on the host's kernel.
    Host,
    /// The one of version 2.
    Virtual,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Host, Self::Virtual];

    /// The one that a distro runs in.
    #[must_use]
    pub fn of(distro: &Distro) -> Self {
        if distro.version == 1 { Self::Host } else { Self::Virtual }
    }
}

/// A distro's files.
#[derive(Debug)]
pub struct Storage {
    /// Where they are: a disk image, or a directory.
    pub path: PathBuf,
    /// The same, open and locked.
    pub file: File,
    /// What they are used for.
    pub usage: Use,
}

/// What files are used for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Use {
    /// The root of a distro.
    Root {
        /// All space of the disk is reserved, and none is given back.
        reserved: bool,
    },
    /// A disk of the user's, whatever is on it.
    Own {
        /// It must not be written.
        read_only: bool,
    },
}

/// What a machine has of its own.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Resources {
    /// Virtual processors.
    pub processors: u32,
    /// Memory in bytes.
    pub memory: u64,
}

/// What a machine takes of the host.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Load {
    /// How long its processors have run, all together.
    pub processor_time: Duration,
    /// The memory that is in use, in bytes.
    pub resident: u64,
}

/// What makes machines.
pub trait Boot: fmt::Debug + Send + Sync {
    /// Builds a machine and starts it.
    ///
    /// # Errors
    /// Where this host cannot run it, or it has no kernel.
    fn boot(&self, kind: Kind, settings: &WslConfig) -> Result<Arc<dyn Machine>, Failure>;
}

/// Why a machine does not do what is asked.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// A distro's files cannot be attached.
    #[error("cannot use the distribution's files: {reason}")]
    Attach {
        /// Why.
        reason: String,
    },
    /// The distro's disk cannot be opened.
    #[error("cannot use the distribution's disk: {0}")]
    Disk(#[from] DiskError),
    /// The distro's disk has no file system that could be mounted (B052).
    #[error(transparent)]
    FileSystem(#[from] ReadError),
    /// The guest did not call within the time.
    #[error("the virtual machine did not start within {limit:?}")]
    BootTimeout {
        /// How long it was given.
        limit: Duration,
        /// What its kernel said.
        log: PathBuf,
    },
    /// A session cannot be given to it.
    #[error("cannot reach what runs the distribution: {reason}")]
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
    /// No such files are attached.
    #[error("{root:?} is not attached")]
    NotAttached {
        /// What was to be detached.
        root: Root,
    },
}

impl Diagnose for MachineError {
    fn code(&self) -> &'static str {
        match self {
            Self::Attach { .. } => "AttachDisk/E_FAIL",
            Self::Connect { .. } => "E_FAIL",
            Self::Disk(DiskError::Damaged { .. }) => "MountDisk/WSL_E_DISK_CORRUPTED",
            Self::Disk(error) => error.code(),
            Self::FileSystem(_) => "MountDisk/WSL_E_DISK_CORRUPTED",
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
            Self::Disk(error) => error.hint(),
            Self::FileSystem(error) => error.hint(),
            _ => None,
        }
    }
}
