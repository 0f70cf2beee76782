//! Tells a machine whose ports are one with the host's which of them the host has (B213).
//!
//! Who listens in a distro is told by the kernel as it happens. Of the host's sockets an
//! ordinary user is told by nobody, so they are looked at twice a second, as `wsl` looks for
//! ports that were closed: in this mode only, and while a machine runs. The guest is woken by
//! changes.

use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::control::ControlError;
use super::log;
use super::vm::Vm;
use crate::network::host_ports::Watch;
use crate::protocol::guest::Request;

/// How often the host's sockets are looked at, in milliseconds.
const PERIOD: u16 = 500;

/// How long the guest may take to take changes.
const LIMIT: Duration = Duration::from_secs(10);

/// Tells the guest what the host has now, before any distro starts, and what changes until what
/// this gives is dropped; `None` where the ports are not one.
pub fn follow(vm: &Arc<Vm>) -> Option<UnixStream> {
    vm.machine.network()?.mirrored?;
    let mut watch = Watch::new(vm.settings.networking.ignored_ports.clone());
    let mut problem = None;
    if !tell(vm, &mut watch, &mut problem) {
        return None;
    }
    let (ours, theirs) = UnixStream::pair().ok()?;
    let vm = Arc::clone(vm);
    let work = move || {
        loop {
            let mut polled = [PollFd::new(theirs.as_fd(), PollFlags::POLLIN)];
            match poll(&mut polled, PollTimeout::from(PERIOD)) {
                Ok(0) | Err(Errno::EINTR) => {}
                Ok(_) | Err(_) => return,
            }
            if !tell(&vm, &mut watch, &mut problem) {
                return;
            }
        }
    };
    super::spawn("mirror", work).inspect_err(|failure| log(format_args!("{failure}"))).ok()?;
    Some(ours)
}

/// Tells the guest what has changed; false where it does not want to know. A `problem` that
/// lasts is said once.
fn tell(vm: &Vm, watch: &mut Watch, problem: &mut Option<io::ErrorKind>) -> bool {
    let changes = match watch.changes() {
        Ok(changes) => changes,
        Err(error) => {
            if problem.replace(error.kind()) != Some(error.kind()) {
                log(format_args!("cannot look at the host's sockets: {error}"));
            }
            return true;
        }
    };
    *problem = None;
    let Some(changes) = changes else { return true };
    match vm.control.request(Request::SetHostPorts(changes), LIMIT) {
        // What was sent in time arrives, however late it is answered.
        Ok(_) | Err(ControlError::Timeout { .. }) => true,
        Err(error) => {
            log(format_args!("the host's ports are not distributions': {error}"));
            false
        }
    }
}
