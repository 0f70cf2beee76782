//! One distro: its namespaces, its root, its init.
//!
//! Free of any virtual machine: [`Options`] name a root and what is shared into it, and a
//! socket carries [`link`] messages. In a virtual machine the machine's init forks a
//! distro ([`start`]); elsewhere [`entry`] is a process of its own that does.

pub mod entry;
pub mod files;
pub mod init;
pub mod link;
pub mod mounts;
pub mod root;
pub mod systemd;

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use super::sys::{self, Forked};

/// What a distro is started with.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Options {
    /// Its registered name (`WSL_DISTRO_NAME`).
    pub name: String,
    /// Its host name unless it has one of its own, cleaned (B141).
    pub hostname: String,
    /// The name of the host's time zone in the tz database, where it is known.
    pub time_zone: Option<String>,
    /// How long it may take to stop in good order.
    pub stop_limit: Duration,
    /// Where its files are.
    pub root: Root,
    /// What its `/dev` is.
    pub devices: Devices,
    /// The directory, on a mount of shared propagation, that becomes `/mnt/wsl` (B146).
    pub shared: Option<PathBuf>,
    /// The executable bound read-only at `/init` (B151).
    pub init: Option<PathBuf>,
    /// The kernel's modules, for `/lib/modules/<release>`.
    pub modules: Option<Modules>,
}

/// Where a distro's files are.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum Root {
    /// A directory.
    Directory(PathBuf),
    /// The ext4 file system of a disk, mounted in the distro's own mount namespace so
    /// that it goes with the distro.
    Disk {
        /// The disk's logical unit.
        lun: u16,
        /// Where to mount it, a directory of the starter's.
        staging: PathBuf,
    },
}

/// What a distro's `/dev` is.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum Devices {
    /// The kernel's own, all devices of the machine.
    All,
    /// A memory file system with the harmless ones of the starter's `/dev`.
    Harmless,
}

/// A kernel's modules.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Modules {
    /// `uname -r`.
    pub release: String,
    /// The directory that holds them.
    pub directory: PathBuf,
}

/// A distro's init as its starter holds it.
#[derive(Debug)]
pub struct Started {
    /// The process: the first of its PID namespace, a child of the caller.
    pub pid: Pid,
    /// For [`link`] messages.
    pub socket: OwnedFd,
}

/// The namespaces of a distro (behaviour reference 4.3).
const NAMESPACES: i32 =
    libc::CLONE_NEWNS | libc::CLONE_NEWPID | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;

/// Forks a distro's init. It answers with one [`link::Report`].
///
/// # Errors
/// The system's.
pub fn start(options: &Options, cgroup: Option<BorrowedFd<'_>>) -> io::Result<Started> {
    let (ours, theirs) = link::pair()?;
    match sys::fork_into(NAMESPACES, cgroup)? {
        Forked::Parent(pid) => Ok(Started { pid, socket: ours }),
        Forked::Child => {
            sys::close_all_except(&[theirs.as_raw_fd()]);
            init::run(options, theirs)
        }
    }
}
