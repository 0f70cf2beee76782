//! What a distro is used for although no session is open in it: services.
//!
//! Beyond `wsl`, whose distros end under a running server. In use is a distro with
//!
//! - a unit of the user's own that has processes ([`units`]),
//! - a process that listens on a port or is connected to one ([`sockets`]), but for those
//!   which every system has, and
//! - a container: processes in a PID namespace of their own.
//!
//! Looked at from outside the distro, by who serves it, as nobody inside may see all. All
//! that is read there may be made to deceive; it is bounded, and becomes plain text.

mod processes;
mod sockets;
mod units;

use std::collections::BTreeSet;

use nix::unistd::Pid;

use self::processes::Process;

/// The most uses that are named.
const MAXIMUM: usize = 16;

/// Programs whose sockets are part of a running system, by what their names begin with.
const BASE: [&str; 8] = [
    "NetworkManager",
    "avahi-daemon",
    "chronyd",
    "dbus-",
    "dhclient",
    "dhcpcd",
    "ntpd",
    "systemd-",
];

/// What the distro of that first process is used for, each as a short text; nothing where
/// it is idle.
#[must_use]
pub fn look(init: Pid) -> Vec<String> {
    let processes = processes::of_distro(init);
    let Some(first) = processes.iter().find(|process| process.pid == init) else {
        return Vec::new();
    };
    let level = first.pids.len();
    let mut uses = BTreeSet::new();
    for process in &processes {
        if process.pids.len() > level && process.pids.last() == Some(&1) {
            uses.insert(format!("a container ({})", process.name));
        }
    }
    uses.extend(units::of_the_user(init, &processes));
    let others: Vec<&Process> = processes
        .iter()
        .filter(|process| !BASE.iter().any(|name| process.name.starts_with(name)))
        .collect();
    uses.extend(sockets::in_use(init, &others));
    uses.into_iter().take(MAXIMUM).collect()
}
