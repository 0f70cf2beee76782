//! When which flow wants to be looked at.
//!
//! A flow's deadline moves with nearly every packet, mostly to later. So a later deadline is
//! only found out when the earlier one comes: the table is touched once per delay, not once
//! per packet.

use std::collections::{BTreeSet, HashMap};
use std::time::Instant;

/// Deadlines by number.
#[derive(Debug, Default)]
pub struct Timers {
    queue: BTreeSet<(Instant, u64)>,
    queued: HashMap<u64, Instant>,
}

impl Timers {
    /// Wants `id` to be reported at `deadline` at the latest.
    pub fn set(&mut self, id: u64, deadline: Instant) {
        match self.queued.get(&id) {
            Some(earlier) if *earlier <= deadline => return,
            Some(later) => _ = self.queue.remove(&(*later, id)),
            None => {}
        }
        self.queued.insert(id, deadline);
        self.queue.insert((deadline, id));
    }

    /// Forgets `id`.
    pub fn remove(&mut self, id: u64) {
        if let Some(deadline) = self.queued.remove(&id) {
            self.queue.remove(&(deadline, id));
        }
    }

    /// The first deadline.
    #[must_use]
    pub fn next(&self) -> Option<Instant> {
        self.queue.first().map(|(deadline, _)| *deadline)
    }

    /// One whose deadline has come; whoever gets it sets it anew where it was too early.
    pub fn pop(&mut self, now: Instant) -> Option<u64> {
        let (deadline, id) = *self.queue.first()?;
        if deadline > now {
            return None;
        }
        self.remove(id);
        Some(id)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_earliest_comes_first_and_a_later_wish_changes_nothing() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut timers = Timers::default();
        timers.set(1, at(5));
        timers.set(2, at(3));
        timers.set(1, at(9));
        timers.set(2, at(1));
        timers.set(3, at(2));
        timers.remove(3);
        assert_eq!(timers.next(), Some(at(1)));
        assert_eq!(
            (timers.pop(at(0)), timers.pop(at(4)), timers.pop(at(4))),
            (None, Some(2), None)
        );
        assert_eq!((timers.pop(at(5)), timers.next()), (Some(1), None));
    }
}
