//! Who lives and for how long: the machines, the distros in them, the sessions in those,
//! and the service itself.
//!
//! There is one [`Slot`] for each kind of machine; they live and end independently. One
//! lock guards it all and is never held across work; long work runs in a thread of its own
//! and everyone who waits for it waits for the same [`Attempt`]. A distro without sessions,
//! a machine without distros and a service without a machine each end after a time; the
//! watch sleeps until the nearest of these.

mod claims;
mod distros;
mod idle;
mod machines;

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Instant;

use uuid::Uuid;

use super::attempt::Attempt;
use super::error::ServiceError;
use super::machine::{Boot, Kind};
use super::slot::{Occupant, Slot};
use super::user_disks::UserDisks;
use super::vm::Vm;
use super::{distro, lock};
use crate::config::paths::Paths;
use crate::error::Failure;
use crate::network::ports::Ports;
use crate::protocol::client::{self, RunningDistro, Status};
use crate::protocol::guest::Root;

pub use self::claims::{Claim, Connected, Hold};

/// The one owner of everything that runs.
#[derive(Debug)]
pub struct Supervisor {
    /// Where the user's files are.
    pub paths: Paths,
    /// What makes machines.
    pub boot: Box<dyn Boot>,
    /// The user's own disks in the virtual machine.
    pub user_disks: UserDisks,
    state: Mutex<State>,
    changed: Condvar,
    next_session: AtomicU64,
}

#[derive(Debug)]
struct State {
    phase: Phase,
    host: Slot,
    virtual_machine: Slot,
    distros: HashMap<Uuid, Distro>,
    connections: usize,
    /// What keeps the virtual machine although no distro is in it.
    holds: usize,
    /// When the last connection ended.
    alone_since: Instant,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Phase {
    Serving,
    /// Nothing new is started.
    ShuttingDown,
    /// The process is about to end.
    Leaving,
}

#[derive(Debug)]
struct Distro {
    stage: Stage,
    /// The machine it runs in; unknown until its record is read.
    kind: Option<Kind>,
    /// Where it runs, once its files are attached there.
    place: Option<(Arc<Vm>, Root)>,
    sessions: BTreeSet<u64>,
    idle_since: Instant,
    /// Somebody looks whether it is idle indeed.
    is_looked_at: bool,
}

#[derive(Debug)]
enum Stage {
    Starting(Arc<Attempt>),
    Running,
    Stopping(Arc<Attempt>),
}

/// Why no session could be opened.
#[derive(Debug)]
pub enum OpenError {
    /// The client stopped waiting.
    ClientGone,
    /// The distro cannot be started.
    Failed(Failure),
}

impl Supervisor {
    /// A supervisor of nothing yet.
    #[must_use]
    pub fn new(paths: Paths, boot: Box<dyn Boot>) -> Arc<Self> {
        Arc::new(Self {
            paths,
            boot,
            user_disks: UserDisks::default(),
            state: Mutex::new(State {
                phase: Phase::Serving,
                host: Slot::default(),
                virtual_machine: Slot::default(),
                distros: HashMap::new(),
                connections: 0,
                holds: 0,
                alone_since: Instant::now(),
            }),
            changed: Condvar::new(),
            next_session: AtomicU64::new(1),
        })
    }

    /// Counts a connection; `None` where the service is leaving and must not answer: the
    /// client then starts another one.
    pub fn connect(self: &Arc<Self>) -> Option<Connected> {
        let mut state = self.state();
        if state.phase != Phase::Serving {
            return None;
        }
        state.connections += 1;
        Some(Connected { supervisor: Arc::clone(self), is_observer: false })
    }

    /// What runs, and with `uses` what it is used for.
    pub fn status(&self, uses: bool) -> Status {
        let mut status = self.status_of_sessions();
        if !uses {
            return status;
        }
        thread::scope(|scope| {
            for running in &mut status.distros {
                let Some(vm) = self.machine_of(running.distro) else { continue };
                let look = move || running.uses = distro::uses(&vm, running.distro);
                // A status without them is better than none.
                let _ = thread::Builder::new().spawn_scoped(scope, look);
            }
        });
        status
    }

    fn status_of_sessions(&self) -> Status {
        let state = self.state();
        let machine = state.virtual_machine.vm().and_then(|vm| {
            let resources = vm.machine.resources()?;
            Some(client::Machine {
                kernel: vm.kernel.clone(),
                processors: resources.processors,
                memory: resources.memory,
            })
        });
        let mut distros: Vec<_> = state
            .distros
            .iter()
            .filter(|(_, distro)| distro.place.is_some())
            .map(|(id, distro)| RunningDistro {
                distro: *id,
                sessions: u32::try_from(distro.sessions.len()).unwrap_or(u32::MAX),
                uses: Vec::new(),
            })
            .collect();
        distros.sort_by_key(|running| running.distro);
        let vm = state.virtual_machine.vm();
        let ports = vm.and_then(|vm| vm.machine.ports()).map(Ports::list).unwrap_or_default();
        Status { process: std::process::id(), machine, distros, ports }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    fn wait<'a>(
        &self,
        state: MutexGuard<'a, State>,
        deadline: Option<Instant>,
    ) -> MutexGuard<'a, State> {
        match deadline {
            None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            Some(deadline) => {
                let limit = deadline.saturating_duration_since(Instant::now());
                let result = self.changed.wait_timeout(state, limit);
                result.unwrap_or_else(PoisonError::into_inner).0
            }
        }
    }
}

impl State {
    fn slot(&mut self, kind: Kind) -> &mut Slot {
        match kind {
            Kind::Host => &mut self.host,
            Kind::Virtual => &mut self.virtual_machine,
        }
    }

    /// The running machine of that kind, if no distro is in it or about to be.
    fn unused(&mut self, kind: Kind) -> Option<Arc<Vm>> {
        if self.distros.values().any(|distro| distro.kind.is_none_or(|other| other == kind)) {
            return None;
        }
        if kind == Kind::Virtual && self.holds > 0 {
            return None;
        }
        match &self.slot(kind).machine {
            Occupant::Running(vm) => Some(Arc::clone(vm)),
            _ => None,
        }
    }

    /// Whether nothing runs and nobody is connected.
    fn is_empty(&self) -> bool {
        self.distros.is_empty()
            && self.connections == 0
            && self.host.is_off()
            && self.virtual_machine.is_off()
    }

    /// The distro, if it is still being started by that attempt.
    fn starting(&mut self, id: Uuid, attempt: &Arc<Attempt>) -> Option<&mut Distro> {
        self.distros.get_mut(&id).filter(
            |distro| matches!(&distro.stage, Stage::Starting(other) if Arc::ptr_eq(other, attempt)),
        )
    }
}

fn shutting_down() -> Failure {
    Failure::new("Wsl/Service", &ServiceError::ShuttingDown)
}
