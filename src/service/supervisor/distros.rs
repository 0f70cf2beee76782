//! The distros: started by the first session, stopped by request or by their own end.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::{Claim, Distro, OpenError, Phase, Stage, Supervisor, shutting_down};
use crate::error::Failure;
use crate::protocol::client::Progress;
use crate::protocol::guest::Root;
use crate::service::attempt::Attempt;
use crate::service::error::ServiceError;
use crate::service::vm::Vm;
use crate::service::{distro, log, spawn};

/// How long a lost session waits to learn what became of its distro.
const REASON_LIMIT: Duration = Duration::from_secs(5);

impl Supervisor {
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

    /// The machine in which a distro runs.
    pub(super) fn machine_of(&self, id: Uuid) -> Option<Arc<Vm>> {
        let state = self.state();
        Some(Arc::clone(&state.distros.get(&id)?.place.as_ref()?.0))
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
        let spawned = spawn("distro-exit", move || {
            distro::release(&supervisor, id, &vm, &root, &attempt);
        });
        if let Err(failure) = spawned {
            log(format_args!("{failure}"));
        }
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
        let spawned = spawn("distro-start", move || distro::start(&supervisor, id, &theirs));
        if let Err(failure) = spawned {
            self.discard(id, attempt);
            attempt.finish(Err(failure));
        }
    }
}
