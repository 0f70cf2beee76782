//! The machines: booted when a distro needs one, ended with everything in them.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::{Hold, Phase, Stage, Supervisor, shutting_down};
use crate::error::Failure;
use crate::service::attempt::Attempt;
use crate::service::machine::Kind;
use crate::service::slot::Occupant;
use crate::service::user_disks;
use crate::service::vm::Vm;

/// How long after a machine's end its clients may take to be told.
const FAREWELL: Duration = Duration::from_millis(500);

impl Supervisor {
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

    /// Powers the machine off, or kills it where that takes too long.
    pub(super) fn end_machine(&self, vm: &Arc<Vm>, force: bool) {
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
}
