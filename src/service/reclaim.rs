//! Gives the host back what the guest of an idle machine keeps files in (B136).
//!
//! What the guest frees goes back by itself: its kernel reports free pages to the
//! [`balloon`](crate::devices::balloon). What it has cached it never frees, so it is asked
//! to, once nothing has run for a while and there is something to be gained. The guest is
//! looked at from outside: one that is left alone is not woken.

use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};

use super::log;
use super::machine::Load;
use super::vm::Vm;
use crate::config::wslconfig::MemoryReclaim;
use crate::error::Failure;
use crate::protocol::guest::Request;

/// How long lies between two looks at a machine that is busy or has memory to give.
const PERIOD: Duration = Duration::from_secs(10);

/// The same where it is idle and has nothing to give.
const LONG_PERIOD: Duration = Duration::from_secs(60);

/// A machine is idle where its processors have run for less than this part of the time since
/// the last look.
const IDLE_PART: u32 = 20;

/// How much more memory than after the last time must be in use, in bytes.
const WORTH: u64 = 32 << 20;

/// How long the guest may take. It does it in steps of a second where that is wanted.
const LIMIT: Duration = Duration::from_secs(600);

/// Watches a machine until it is gone.
///
/// # Errors
/// Where no thread can be started.
pub fn follow(vm: &Arc<Vm>) -> Result<(), Failure> {
    let gradually = match vm.settings.memory_reclaim {
        MemoryReclaim::Disabled => return Ok(()),
        MemoryReclaim::Gradual => true,
        MemoryReclaim::DropCache => false,
    };
    let vm = Arc::downgrade(vm);
    super::spawn("memory", move || watch(&vm, gradually))
}

fn watch(vm: &Weak<Vm>, gradually: bool) {
    let mut policy = Policy::default();
    let (mut period, mut looked) = (PERIOD, Instant::now());
    loop {
        thread::sleep(period);
        let Some(vm) = vm.upgrade().filter(|vm| vm.end().is_none()) else { return };
        let Some(load) = vm.machine.load() else { return };
        let passed = std::mem::replace(&mut looked, Instant::now()).elapsed();
        period = match policy.look(load, passed) {
            Decision::Reclaim => {
                let request = Request::ReclaimMemory { gradually };
                if let Err(error) = vm.control.request(request, LIMIT) {
                    log(format_args!("the guest's memory is left to it: {error}"));
                }
                // What that took is not the guest's own doing.
                policy.reclaimed(vm.machine.load().unwrap_or(load));
                looked = Instant::now();
                PERIOD
            }
            Decision::LookSoon => PERIOD,
            Decision::LookLater => LONG_PERIOD,
        };
    }
}

/// What to do.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Decision {
    Reclaim,
    LookSoon,
    LookLater,
}

/// What is known from the looks before.
#[derive(Debug, Default)]
struct Policy {
    processor_time: Option<Duration>,
    /// The least memory in use since the last time, once there was one.
    floor: Option<u64>,
}

impl Policy {
    /// Decides by what a machine has come to in the time since the last look.
    fn look(&mut self, load: Load, passed: Duration) -> Decision {
        let before = self.processor_time.replace(load.processor_time);
        let Some(before) = before else { return Decision::LookSoon };
        let is_idle = load.processor_time.saturating_sub(before).saturating_mul(IDLE_PART) < passed;
        // Memory goes back a while after it is free.
        self.floor = self.floor.map(|floor| floor.min(load.resident));
        let is_worth_it = self.floor.is_none_or(|floor| load.resident >= floor + WORTH);
        match (is_idle, is_worth_it) {
            (false, _) => Decision::LookSoon,
            (true, true) => Decision::Reclaim,
            (true, false) => Decision::LookLater,
        }
    }

    fn reclaimed(&mut self, load: Load) {
        self.processor_time = Some(load.processor_time);
        self.floor = Some(load.resident);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn b136_an_idle_machine_is_asked_once_for_what_it_has_cached() {
        let mut policy = Policy::default();
        let load = |milliseconds, megabytes: u64| Load {
            processor_time: Duration::from_millis(milliseconds),
            resident: megabytes << 20,
        };
        let look = |policy: &mut Policy, milliseconds, megabytes| {
            policy.look(load(milliseconds, megabytes), PERIOD)
        };
        // Its start counts as use.
        assert_eq!(look(&mut policy, 1000, 100), Decision::LookSoon);
        assert_eq!(look(&mut policy, 3000, 500), Decision::LookSoon);
        assert_eq!(look(&mut policy, 3400, 500), Decision::Reclaim);
        policy.reclaimed(load(3900, 500));
        // The pages are reported a moment later, and that is all there is.
        assert_eq!(look(&mut policy, 4000, 90), Decision::LookLater);
        assert_eq!(look(&mut policy, 4100, 100), Decision::LookLater);
        // A file is read, in less time than counts as use.
        assert_eq!(look(&mut policy, 4400, 300), Decision::Reclaim);
        policy.reclaimed(load(4500, 300));
        // It is the guest's, and no cache.
        assert_eq!(look(&mut policy, 4600, 300), Decision::LookLater);
        assert_eq!(look(&mut policy, 9000, 400), Decision::LookSoon);
        assert_eq!(look(&mut policy, 9100, 400), Decision::Reclaim);
    }
}
