//! What keeps distros, machines and the service from ending as idle, for as long as it lives.

use std::sync::Arc;
use std::time::Instant;

use uuid::Uuid;

use super::Supervisor;

/// A session's claim on its running distro; the distro cannot be idle while it lives.
#[derive(Debug)]
pub struct Claim {
    pub(super) supervisor: Arc<Supervisor>,
    /// The distro.
    pub distro: Uuid,
    /// The session's number.
    pub session: u64,
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut state = self.supervisor.state();
        if let Some(distro) = state.distros.get_mut(&self.distro)
            && distro.sessions.remove(&self.session)
            && distro.sessions.is_empty()
        {
            distro.idle_since = Instant::now();
        }
        drop(state);
        self.supervisor.changed.notify_all();
    }
}

/// A connection that keeps the service from leaving.
#[derive(Debug)]
pub struct Connected {
    pub(super) supervisor: Arc<Supervisor>,
    /// It has only looked.
    pub(super) is_observer: bool,
}

impl Connected {
    /// Lets the service leave as if nobody had connected.
    pub fn observes(&mut self) {
        self.is_observer = true;
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        let mut state = self.supervisor.state();
        state.connections = state.connections.saturating_sub(1);
        if !self.is_observer {
            state.alone_since = Instant::now();
        }
        drop(state);
        self.supervisor.changed.notify_all();
    }
}

/// Work with the virtual machine that is no distro's; the machine does not end as idle while
/// it lives.
#[derive(Debug)]
pub struct Hold {
    pub(super) supervisor: Arc<Supervisor>,
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut state = self.supervisor.state();
        state.holds = state.holds.saturating_sub(1);
        state.virtual_machine.quiet_since = Instant::now();
        drop(state);
        self.supervisor.changed.notify_all();
    }
}
