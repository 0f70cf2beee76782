//! The guest's init: disks, distros in namespaces, sessions.
//!
//! Three kinds of processes, each single-threaded, each forked from the one before:
//!
//! - the [`server`] of distros: PID 1 of the virtual machine ([`init`]), or a process on
//!   the host for distros without one ([`host`]). Talks to the service, starts and stops
//!   distros, hands arriving sessions to them. It never waits for anything but its poll
//!   loop; what can block runs in a forked [`job`].
//! - the *distro init* ([`distro`]): PID 1 of one distro's namespaces. It knows nothing
//!   of a virtual machine: it gets a root, options and a socket.
//! - the *relay* ([`session`]): one per session, below its distro's init. It starts the
//!   command, moves bytes, reports the exit status, and stays until the last descendant
//!   of the command is gone.

pub mod boot;
pub mod cgroup;
pub mod connectivity;
pub mod control;
pub mod crash;
pub mod debug;
pub mod disk;
pub mod distro;
pub mod host;
pub mod host_cgroup;
pub mod information;
pub mod init;
pub mod interface;
pub mod job;
pub mod listeners;
pub mod log;
pub mod memory;
pub mod mirror;
pub mod modules;
pub mod network;
pub mod server;
pub mod session;
pub mod streams;
pub mod sys;
pub mod usage;
pub mod volume;

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Takes over where this process serves distros: as the init of a virtual machine, or on
/// the host. Otherwise returns at once.
pub fn run_if_called() {
    if is_init() {
        init::run();
    }
    crash::run_if_called();
    information::run_if_called();
    modules::run_if_called();
    if std::env::args_os().next().is_some_and(|name| name == host::ARGUMENT) {
        host::run();
    }
}

/// Whether this process is PID 1 of a virtual machine, started from its initramfs.
#[must_use]
pub fn is_init() -> bool {
    std::process::id() == 1
        && std::env::args_os().next().is_some_and(|name| name == "/init")
        && Path::new("/init").exists()
        && Path::new("/modules").is_dir()
}

/// The largest file of a distro's `/etc` that is read.
const MAXIMUM_FILE: u64 = 16 << 20;

/// Reads a regular file of the distro; neither a FIFO nor an endless file can hold it up.
fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
    }
    let mut content = Vec::new();
    file.take(MAXIMUM_FILE).read_to_end(&mut content)?;
    Ok(content)
}
