//! The place of a machine in the service: empty, or with a machine in some stage of its
//! life.

use std::sync::Arc;
use std::time::Instant;

use super::attempt::Attempt;
use super::vm::Vm;

/// The place of one machine.
#[derive(Debug)]
pub struct Slot {
    /// What is in it.
    pub machine: Occupant,
    /// When the last distro in it, or the machine itself, ended.
    pub quiet_since: Instant,
}

/// The machine in a slot.
#[derive(Debug)]
pub enum Occupant {
    /// There is none.
    Off,
    /// It is being started.
    Starting(Arc<Attempt>),
    /// It takes distros.
    Running(Arc<Vm>),
    /// It takes no more, and ends.
    Stopping(Arc<Vm>),
}

impl Default for Slot {
    fn default() -> Self {
        Self { machine: Occupant::Off, quiet_since: Instant::now() }
    }
}

impl Slot {
    /// The machine, if there is one and it is not only about to be.
    #[must_use]
    pub fn vm(&self) -> Option<&Arc<Vm>> {
        match &self.machine {
            Occupant::Running(vm) | Occupant::Stopping(vm) => Some(vm),
            Occupant::Off | Occupant::Starting(_) => None,
        }
    }

    /// Whether that machine is in it, and not about to end.
    #[must_use]
    pub fn is_running(&self, vm: &Arc<Vm>) -> bool {
        matches!(&self.machine, Occupant::Running(running) if Arc::ptr_eq(running, vm))
    }

    /// Whether there is no machine, nor one about to be.
    #[must_use]
    pub fn is_off(&self) -> bool {
        matches!(self.machine, Occupant::Off)
    }
}
