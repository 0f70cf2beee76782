//! One distro: its namespaces, its root, its init.
//!
//! Free of any virtual machine: [`Options`] name a root and what is shared into it, and a
//! socket carries [`link`] messages.

pub mod files;
pub mod init;
pub mod link;
pub mod mounts;
pub mod protection;
pub mod root;
pub mod systemd;

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::unistd::Pid;

use super::sys::{self, Forked};
use crate::protocol::guest::Network;

/// What a distro is started with.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Options {
    /// Its registered name (`WSL_DISTRO_NAME`).
    pub name: String,
    /// Its host name unless it has one of its own, cleaned (B141).
    pub hostname: String,
    /// The name of the host's time zone in the tz database, where it is known.
    pub time_zone: Option<String>,
    /// How long it may take to stop in good order.
    pub stop_limit: Duration,
    /// Its own settings do not count, nor is anything of it started (B125).
    pub safe_mode: bool,
    /// Where its files are.
    pub root: Root,
    /// Whose kernel it runs on.
    pub kernel: Kernel,
    /// The directory, on a mount of shared propagation, that becomes `/mnt/wsl` (B146).
    pub shared: Option<PathBuf>,
    /// The executable bound read-only at `/init` (B151).
    pub init: Option<PathBuf>,
    /// How the distro is connected, in `wsl`'s words; told where there is an `init`.
    pub networking: String,
    /// Whose network it has.
    pub network: Net,
    /// The kernel's modules, for `/lib/modules/<release>`.
    pub modules: Option<Modules>,
}

/// Whose network a distro has.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Net {
    /// That of whoever starts it.
    Shared,
    /// Its own, connected in this way where it is connected at all.
    Own(Option<Box<Network>>),
}

/// Where a distro's files are.
#[derive(Clone, Debug, Eq, PartialEq)]
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

/// Whose kernel a distro runs on, which says what it may do with it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kernel {
    /// A virtual machine's, which is there for distros: they get all of its devices and
    /// settings.
    Own,
    /// The host's, from which everything but the distro's own files is kept.
    Shared {
        /// There is no user in it but its root
        /// ([`Mapping::Single`](crate::namespaces::user::Mapping::Single)).
        has_one_user: bool,
        /// The distro is started in a cgroup of its own.
        has_group: bool,
    },
}

/// A kernel's modules.
#[derive(Clone, Debug, Eq, PartialEq)]
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
            // A distro sees the descriptors of its first process, and ends with the process
            // that has started it.
            sys::silence();
            let _ = nix::sys::prctl::set_pdeathsig(Signal::SIGKILL);
            init::run(options, theirs)
        }
    }
}
