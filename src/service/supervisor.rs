//! Who lives and for how long: the machines, the distros in them, the sessions in those,
//! and the service itself.
//!
//! There is one [`Slot`] for each kind of machine; they live and end independently. One
//! lock guards it all and is never held across work; long work runs in a thread of its own
//! and everyone who waits for it waits for the same [`Attempt`]. A distro without sessions,
//! a machine without distros and a service without a machine each end after a time; the
//! watch sleeps until the nearest of these.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::attempt::Attempt;
use super::error::ServiceError;
use super::machine::{Boot, Kind};
use super::slot::{Occupant, Slot};
use super::user_disks::{self, UserDisks};
use super::vm::Vm;
use super::{distro, lock};
use crate::config::paths::Paths;
use crate::error::Failure;
use crate::network::ports::Ports;
use crate::protocol::client::{self, Progress, RunningDistro, Status};
use crate::protocol::guest::Root;

/// How long a service that runs nothing waits for another command.
const LINGER: Duration = Duration::from_secs(2);

/// How long at least lies between two looks at the services of a distro.
const SERVICES_PAUSE: Duration = Duration::from_secs(1);

/// How long after a machine's end its clients may take to be told.
const FAREWELL: Duration = Duration::from_millis(500);

/// How long a lost session waits to learn what became of its distro.
const REASON_LIMIT: Duration = Duration::from_secs(5);

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

/// A session's claim on its running distro; the distro cannot be idle while it lives.
#[derive(Debug)]
pub struct Claim {
    supervisor: Arc<Supervisor>,
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
    supervisor: Arc<Supervisor>,
    /// It has only looked.
    is_observer: bool,
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
    supervisor: Arc<Supervisor>,
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

    /// Starts the distro where it does not run, and claims a session in it. Warnings for
    /// the user come with it.
    ///
    /// # Errors
    /// Where it cannot start, or `report` says that the client is gone.
    pub fn open(
        self: &Arc<Self>,
        id: Uuid,
        mut report: impl FnMut(Progress) -> bool,
    ) -> Result<(Claim, Arc<Vm>, Vec<String>), OpenError> {
        let session = self.next_session.fetch_add(1, Ordering::Relaxed);
        let claim = Claim { supervisor: Arc::clone(self), distro: id, session };
        let mut warnings = Vec::new();
        loop {
            let (attempt, starting) = {
                let mut state = self.state();
                if state.phase != Phase::Serving {
                    return Err(OpenError::Failed(shutting_down()));
                }
                match state.distros.get_mut(&id) {
                    None => {
                        let attempt = Arc::new(Attempt::default());
                        state.distros.insert(
                            id,
                            Distro {
                                stage: Stage::Starting(Arc::clone(&attempt)),
                                kind: None,
                                place: None,
                                sessions: BTreeSet::from([session]),
                                idle_since: Instant::now(),
                                is_looked_at: false,
                            },
                        );
                        drop(state);
                        self.spawn_start(id, &attempt);
                        (attempt, true)
                    }
                    Some(Distro { stage: Stage::Starting(attempt), sessions, .. }) => {
                        sessions.insert(session);
                        (Arc::clone(attempt), true)
                    }
                    Some(Distro { stage: Stage::Stopping(attempt), .. }) => {
                        (Arc::clone(attempt), false)
                    }
                    Some(Distro { stage: Stage::Running, sessions, place, .. }) => {
                        let Some((vm, _)) = place else {
                            return Err(OpenError::Failed(shutting_down()));
                        };
                        sessions.insert(session);
                        return Ok((claim, Arc::clone(vm), warnings));
                    }
                }
            };
            match attempt.wait(&mut report) {
                None => return Err(OpenError::ClientGone),
                Some(Err(failure)) if starting => return Err(OpenError::Failed(failure)),
                Some(Ok(more)) if starting => warnings.extend(more),
                Some(_) => {}
            }
        }
    }

    /// Ends one distro; done at once where it does not run.
    ///
    /// # Errors
    /// Where no thread can be started.
    pub fn terminate(self: &Arc<Self>, id: Uuid) -> Result<(), Failure> {
        loop {
            let (attempt, stopping) = {
                let mut state = self.state();
                let Some(distro) = state.distros.get_mut(&id) else { return Ok(()) };
                match (&distro.stage, &distro.place) {
                    (Stage::Stopping(attempt), _) => (Arc::clone(attempt), true),
                    (Stage::Starting(attempt), None) => (Arc::clone(attempt), false),
                    (Stage::Starting(_) | Stage::Running, Some((vm, root))) => {
                        let (vm, root) = (Arc::clone(vm), root.clone());
                        let attempt = Arc::new(Attempt::default());
                        distro.stage = Stage::Stopping(Arc::clone(&attempt));
                        drop(state);
                        distro::stop(self, id, &vm, &root, &attempt);
                        return Ok(());
                    }
                    (Stage::Running, None) => return Ok(()),
                }
            };
            let _ = attempt.wait(|_| true);
            if stopping {
                return Ok(());
            }
        }
    }

    /// Ends the machines with all distros. Nothing can be started afterwards; the caller
    /// answers its client, one of the `own` connections, and calls [`Supervisor::leave`].
    pub fn shutdown(&self, force: bool, own: usize) {
        let mut state = self.state();
        if state.phase == Phase::Serving {
            state.phase = Phase::ShuttingDown;
        }
        let mut ending = Vec::new();
        for kind in Kind::ALL {
            let slot = state.slot(kind);
            if let Some(vm) = slot.vm().map(Arc::clone) {
                slot.machine = Occupant::Stopping(Arc::clone(&vm));
                ending.push(vm);
            }
        }
        drop(state);
        thread::scope(|scope| {
            let mut rest = ending.iter();
            let last = rest.next_back();
            for vm in rest {
                let work = move || self.end_machine(vm, force);
                if thread::Builder::new().spawn_scoped(scope, work).is_err() {
                    self.end_machine(vm, force);
                }
            }
            if let Some(vm) = last {
                self.end_machine(vm, force);
            }
        });
        state = self.state();
        let deadline = Instant::now() + FAREWELL;
        while state.connections > own && Instant::now() < deadline {
            state = self.wait(state, Some(deadline));
        }
    }

    /// Lets [`Supervisor::watch`] return.
    pub fn leave(&self) {
        self.state().phase = Phase::Leaving;
        self.changed.notify_all();
    }

    /// Stops serving if nothing is in use: the client of another build wants to start its own.
    /// False where the service stays.
    pub fn begin_leave_if_idle(&self) -> bool {
        let mut state = self.state();
        if !state.distros.is_empty() {
            return false;
        }
        state.phase = Phase::ShuttingDown;
        true
    }

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

    /// The machine in which a distro runs.
    fn machine_of(&self, id: Uuid) -> Option<Arc<Vm>> {
        let state = self.state();
        Some(Arc::clone(&state.distros.get(&id)?.place.as_ref()?.0))
    }

    /// The running machine of that kind for a distro that starts, booted where there is
    /// none, and warnings for the user.
    ///
    /// # Errors
    /// Where it cannot be booted.
    pub fn machine(
        self: &Arc<Self>,
        id: Uuid,
        kind: Kind,
    ) -> Result<(Arc<Vm>, Vec<String>), Failure> {
        let mut warnings = Vec::new();
        let mut state = self.state();
        if let Some(distro) = state.distros.get_mut(&id) {
            distro.kind = Some(kind);
        }
        loop {
            if state.phase != Phase::Serving {
                return Err(shutting_down());
            }
            let attempt = match &state.slot(kind).machine {
                Occupant::Running(vm) => return Ok((Arc::clone(vm), warnings)),
                Occupant::Stopping(_) => {
                    state = self.wait(state, None);
                    continue;
                }
                Occupant::Starting(attempt) => Arc::clone(attempt),
                Occupant::Off => {
                    let attempt = Arc::new(Attempt::default());
                    state.slot(kind).machine = Occupant::Starting(Arc::clone(&attempt));
                    drop(state);
                    self.boot_machine(kind, &attempt);
                    state = self.state();
                    attempt
                }
            };
            drop(state);
            if let Some(result) = attempt.wait(|_| true) {
                warnings.extend(result?);
            }
            state = self.state();
        }
    }

    /// Keeps the virtual machine, where there is one or will be, from ending as idle.
    pub fn hold(self: &Arc<Self>) -> Hold {
        self.state().holds += 1;
        Hold { supervisor: Arc::clone(self) }
    }

    /// The running machine of that kind, if there is one.
    pub fn running(&self, kind: Kind) -> Option<Arc<Vm>> {
        match &self.state().slot(kind).machine {
            Occupant::Running(vm) => Some(Arc::clone(vm)),
            _ => None,
        }
    }

    /// Where a distro runs, once it takes sessions.
    pub fn place(&self, id: Uuid) -> Option<(Arc<Vm>, Root)> {
        let state = self.state();
        let distro = state.distros.get(&id)?;
        match distro.stage {
            Stage::Running => distro.place.clone(),
            Stage::Starting(_) | Stage::Stopping(_) => None,
        }
    }

    /// Notes where a distro is that the guest has started, so that it can be stopped from
    /// now on, although it takes no sessions of clients yet.
    pub fn placed(&self, id: Uuid, attempt: &Arc<Attempt>, vm: &Arc<Vm>, root: &Root) {
        if let Some(distro) = self.state().starting(id, attempt) {
            distro.place = Some((Arc::clone(vm), root.clone()));
        }
    }

    /// Whether somebody stops a distro that this attempt is to start.
    pub fn stopped(&self, id: Uuid, attempt: &Arc<Attempt>) -> bool {
        self.state().starting(id, attempt).is_none()
    }

    /// A starting distro takes sessions. False where the start was given up or the machine
    /// ended meanwhile.
    pub fn started(&self, id: Uuid, attempt: &Arc<Attempt>, vm: &Arc<Vm>) -> bool {
        let mut state = self.state();
        let runs = state.slot(vm.kind).is_running(vm);
        match state.starting(id, attempt) {
            Some(distro) if runs => {
                distro.stage = Stage::Running;
                distro.idle_since = Instant::now();
                drop(state);
                self.changed.notify_all();
                true
            }
            _ => false,
        }
    }

    /// A start failed and what it did must be undone. False where somebody else stops
    /// the distro already.
    pub fn give_up(&self, id: Uuid, attempt: &Arc<Attempt>) -> bool {
        let mut state = self.state();
        match state.starting(id, attempt) {
            Some(distro) => {
                distro.stage = Stage::Stopping(Arc::clone(attempt));
                true
            }
            None => false,
        }
    }

    /// Kills a machine that does not obey, and waits for its end.
    pub fn kill(&self, vm: &Arc<Vm>) {
        let mut state = self.state();
        let slot = state.slot(vm.kind);
        if slot.is_running(vm) {
            slot.machine = Occupant::Stopping(Arc::clone(vm));
        }
        drop(state);
        self.end_machine(vm, true);
    }

    /// A start failed, or a stop is done.
    pub fn discard(&self, id: Uuid, attempt: &Arc<Attempt>) {
        let mut state = self.state();
        let ours = state.distros.get(&id).is_some_and(|distro| match &distro.stage {
            Stage::Starting(other) | Stage::Stopping(other) => Arc::ptr_eq(other, attempt),
            Stage::Running => false,
        });
        if ours && let Some(kind) = state.distros.remove(&id).and_then(|distro| distro.kind) {
            state.slot(kind).quiet_since = Instant::now();
        }
        drop(state);
        self.changed.notify_all();
    }

    /// A distro ended by itself and its disk is released.
    pub fn exited(self: &Arc<Self>, vm: &Arc<Vm>, id: Uuid) {
        let mut state = self.state();
        let Some(distro) = state.distros.get_mut(&id) else { return };
        let (Stage::Running, Some((at, root))) = (&distro.stage, &distro.place) else { return };
        if !Arc::ptr_eq(at, vm) {
            return;
        }
        let (vm, root) = (Arc::clone(vm), root.clone());
        let attempt = Arc::new(Attempt::default());
        distro.stage = Stage::Stopping(Arc::clone(&attempt));
        drop(state);
        let supervisor = Arc::clone(self);
        let spawned = super::spawn("distro-exit", move || {
            distro::release(&supervisor, id, &vm, &root, &attempt);
        });
        if let Err(failure) = spawned {
            super::log(format_args!("{failure}"));
        }
    }

    /// The machine has ended, and with it everything in it.
    pub fn ended(&self, vm: &Arc<Vm>) {
        let mut state = self.state();
        let slot = state.slot(vm.kind);
        if slot.vm().is_some_and(|at| Arc::ptr_eq(at, vm)) {
            slot.machine = Occupant::Off;
            slot.quiet_since = Instant::now();
        }
        state.distros.retain(|_, distro| {
            let here = matches!(&distro.place, Some((at, _)) if Arc::ptr_eq(at, vm));
            match &distro.stage {
                // The threads that start and stop distros see the end by themselves.
                Stage::Starting(_) | Stage::Stopping(_) => true,
                Stage::Running => !here,
            }
        });
        drop(state);
        self.changed.notify_all();
    }

    /// Whether any distro but this one is in the machine.
    pub fn others(&self, id: Uuid, vm: &Vm) -> bool {
        let state = self.state();
        state.distros.iter().any(|(other, distro)| *other != id && distro.kind == Some(vm.kind))
    }

    /// Why a session's connection ended before its command did.
    pub fn why_lost(&self, claim: &Claim, vm: &Vm, name: &str) -> Failure {
        let deadline = Instant::now() + REASON_LIMIT;
        let mut state = self.state();
        loop {
            let stopped = state.phase != Phase::Serving
                || state.distros.get(&claim.distro).is_none_or(|distro| {
                    matches!(distro.stage, Stage::Stopping(_))
                        || !distro.sessions.contains(&claim.session)
                });
            if let Some(end) = vm.end() {
                return end.clone();
            }
            if stopped {
                let error = ServiceError::Stopped { name: name.to_owned() };
                return Failure::new("Wsl/Service", &error);
            }
            if Instant::now() >= deadline {
                return Failure::new("Wsl/Service", &ServiceError::ConnectionLost);
            }
            state = self.wait(state, Some(deadline));
        }
    }

    fn spawn_start(self: &Arc<Self>, id: Uuid, attempt: &Arc<Attempt>) {
        let (supervisor, theirs) = (Arc::clone(self), Arc::clone(attempt));
        let spawned = super::spawn("distro-start", move || distro::start(&supervisor, id, &theirs));
        if let Err(failure) = spawned {
            self.discard(id, attempt);
            attempt.finish(Err(failure));
        }
    }

    fn boot_machine(self: &Arc<Self>, kind: Kind, attempt: &Attempt) {
        let result = Vm::start(self, kind).map(|(vm, mut warnings)| {
            if kind == Kind::Virtual {
                warnings.extend(user_disks::restore(self, &vm));
            }
            (vm, warnings)
        });
        let mut state = self.state();
        let serving = state.phase == Phase::Serving;
        let slot = state.slot(kind);
        slot.machine = Occupant::Off;
        let result = match result {
            Ok((vm, _)) if !serving => {
                vm.machine.kill();
                Err(shutting_down())
            }
            // The machine may have ended before it was put here.
            Ok((vm, _)) if vm.end().is_some() => {
                Err(vm.end().cloned().unwrap_or_else(shutting_down))
            }
            Ok((vm, warnings)) => {
                slot.machine = Occupant::Running(vm);
                Ok(warnings)
            }
            Err(failure) => Err(failure),
        };
        slot.quiet_since = Instant::now();
        drop(state);
        attempt.finish(result);
        self.changed.notify_all();
    }

    /// Powers the machine off, or kills it where that takes too long.
    fn end_machine(&self, vm: &Arc<Vm>, force: bool) {
        if !force && vm.control.power_off().is_ok() {
            // What follows is part of the whole's time too.
            let deadline = Instant::now() + vm.settings.stop_limit().mul_f32(0.8);
            let mut state = self.state();
            while vm.end().is_none() && Instant::now() < deadline {
                state = self.wait(state, Some(deadline));
            }
        }
        if vm.end().is_none() {
            vm.machine.kill();
            let deadline = Instant::now() + FAREWELL;
            let mut state = self.state();
            while vm.end().is_none() && Instant::now() < deadline {
                state = self.wait(state, Some(deadline));
            }
        }
    }

    /// Runs `work` in another thread, or here where there is none to be had.
    fn in_background(&self, work: impl Fn() + Send + Sync + 'static) {
        let work = Arc::new(work);
        let theirs = Arc::clone(&work);
        if super::spawn("idle", move || theirs()).is_err() {
            work();
        }
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

fn shutting_down() -> Failure {
    Failure::new("Wsl/Service", &ServiceError::ShuttingDown)
}
