//! Ends what is idle: distros, machines, and the service at last.

use std::sync::Arc;
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::{Phase, Stage, Supervisor};
use crate::service::attempt::Attempt;
use crate::service::machine::Kind;
use crate::service::slot::Occupant;
use crate::service::vm::Vm;
use crate::service::{distro, spawn};

/// How long a service that runs nothing waits for another command.
const LINGER: Duration = Duration::from_secs(2);

/// How long at least lies between two looks at the services of a distro.
const SERVICES_PAUSE: Duration = Duration::from_secs(1);

impl Supervisor {
    /// Ends what is idle, until the service itself has nothing left to do.
    pub fn watch(self: &Arc<Self>) {
        let mut state = self.state();
        while state.phase != Phase::Leaving {
            let now = Instant::now();
            let mut next = None;
            let mut idle = Vec::new();
            for (id, distro) in &mut state.distros {
                if let (Stage::Running, Some((vm, _)), true, false) =
                    (&distro.stage, &distro.place, distro.sessions.is_empty(), distro.is_looked_at)
                    && due(distro.idle_since, vm.settings.instance_idle_timeout, now, &mut next)
                {
                    distro.is_looked_at = true;
                    idle.push((*id, Arc::clone(vm), distro.idle_since));
                }
            }
            if !idle.is_empty() {
                drop(state);
                for (id, vm, since) in idle {
                    let supervisor = Arc::clone(self);
                    self.in_background(move || supervisor.end_if_idle(id, &vm, since));
                }
                state = self.state();
                continue;
            }
            if state.phase == Phase::Serving {
                let unused = Kind::ALL.into_iter().find_map(|kind| {
                    let vm = state.unused(kind)?;
                    let limit = match kind {
                        // It costs nothing to start again.
                        Kind::Host => Some(Duration::ZERO),
                        Kind::Virtual => vm.settings.vm_idle_timeout,
                    };
                    due(state.slot(kind).quiet_since, limit, now, &mut next).then_some(vm)
                });
                if let Some(vm) = unused {
                    state.slot(vm.kind).machine = Occupant::Stopping(Arc::clone(&vm));
                    let supervisor = Arc::clone(self);
                    drop(state);
                    self.in_background(move || supervisor.end_machine(&vm, false));
                    state = self.state();
                    continue;
                }
                let since = state.alone_since;
                let since =
                    since.max(state.host.quiet_since.max(state.virtual_machine.quiet_since));
                if state.is_empty() && due(since, Some(LINGER), now, &mut next) {
                    state.phase = Phase::Leaving;
                    continue;
                }
            }
            state = self.wait(state, next);
        }
    }

    /// Ends a distro that has had no session since then, unless it has services.
    fn end_if_idle(self: &Arc<Self>, id: Uuid, vm: &Arc<Vm>, since: Instant) {
        let uses = match vm.settings.services_keep_running {
            true => distro::uses(vm, id),
            false => Vec::new(),
        };
        let mut state = self.state();
        let Some(distro) = state.distros.get_mut(&id) else { return };
        distro.is_looked_at = false;
        let is_unchanged = distro.sessions.is_empty() && distro.idle_since == since;
        if let (Stage::Running, Some((at, root)), true) =
            (&distro.stage, &distro.place, is_unchanged)
            && Arc::ptr_eq(at, vm)
        {
            if uses.is_empty() {
                let (root, attempt) = (root.clone(), Arc::new(Attempt::default()));
                distro.stage = Stage::Stopping(Arc::clone(&attempt));
                drop(state);
                return distro::stop(self, id, vm, &root, &attempt);
            }
            distro.idle_since = Instant::now().max(since + SERVICES_PAUSE);
        }
        drop(state);
        self.changed.notify_all();
    }

    /// Runs `work` in another thread, or here where there is none to be had.
    fn in_background(&self, work: impl Fn() + Send + Sync + 'static) {
        let work = Arc::new(work);
        let theirs = Arc::clone(&work);
        if spawn("idle", move || theirs()).is_err() {
            work();
        }
    }
}

/// Whether something idle since then has been so long enough; else the time when it will
/// have been lowers `next`.
fn due(since: Instant, limit: Option<Duration>, now: Instant, next: &mut Option<Instant>) -> bool {
    let Some(deadline) = limit.and_then(|limit| since.checked_add(limit)) else { return false };
    if deadline <= now {
        return true;
    }
    *next = Some(next.map_or(deadline, |earlier| earlier.min(deadline)));
    false
}
