//! How a virtual machine ends, and where the first reason is kept.

use std::fmt;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// How a virtual machine ended.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Exit {
    /// KVM or the guest came to a state from which nothing goes on.
    Failure {
        /// What happened.
        reason: String,
    },
    /// [`kill`](super::machine::VirtualMachine::kill).
    Killed,
    /// The guest powered itself off.
    PowerOff,
    /// The guest reset itself. With `panic=-1` this is what a kernel panic ends in.
    Reset,
}

impl fmt::Display for Exit {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failure { reason } => write!(formatter, "the virtual machine failed: {reason}"),
            Self::Killed => write!(formatter, "the virtual machine was ended"),
            Self::PowerOff => write!(formatter, "the virtual machine powered off"),
            Self::Reset => write!(formatter, "the virtual machine crashed"),
        }
    }
}

/// Holds the first reason given; the later ones are its consequences.
#[derive(Debug, Default)]
pub struct ExitLatch {
    exit: Mutex<Option<Exit>>,
    set: Condvar,
}

impl ExitLatch {
    fn lock(&self) -> MutexGuard<'_, Option<Exit>> {
        self.exit.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets the reason unless there is one.
    pub fn set(&self, exit: Exit) {
        self.lock().get_or_insert(exit);
        self.set.notify_all();
    }

    /// The reason, if there is one.
    pub fn get(&self) -> Option<Exit> {
        self.lock().clone()
    }

    /// Blocks until there is a reason.
    pub fn wait(&self) -> Exit {
        let mut guard = self.lock();
        loop {
            match &*guard {
                Some(exit) => return exit.clone(),
                None => guard = self.set.wait(guard).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_reason_stays() {
        let latch = ExitLatch::default();
        assert_eq!(latch.get(), None);
        latch.set(Exit::PowerOff);
        latch.set(Exit::Killed);
        assert_eq!(latch.wait(), Exit::PowerOff);
    }

    #[test]
    fn waiting_ends_when_another_thread_sets_a_reason() {
        let latch = ExitLatch::default();
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| latch.wait());
            latch.set(Exit::Reset);
            assert_eq!(waiter.join().unwrap(), Exit::Reset);
        });
    }
}
