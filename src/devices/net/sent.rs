//! When the guest has to know that frames of its own are gone.
//!
//! Nobody waits for that of a few small ones, and the interrupt of what comes in tells it as
//! well: so a question and its answer are one interrupt. But a guest that has more to send may
//! wait for the room, so that many or large ones are told at once.

use std::time::{Duration, Instant};

/// How long a guest is left in the dark at most. The worker's timer is no finer.
const WAIT: Duration = Duration::from_millis(1);
/// Of how many frames, and of how many bytes.
const FEW: usize = 8;
const SMALL: usize = 2048;

/// Frames that were taken and not told of.
#[derive(Debug, Default)]
pub(super) struct Sent {
    count: usize,
    bytes: usize,
    since: Option<Instant>,
}

impl Sent {
    /// One more was taken.
    pub(super) fn add(&mut self, bytes: usize, now: Instant) {
        self.count += 1;
        self.bytes = self.bytes.saturating_add(bytes);
        self.since.get_or_insert(now);
    }

    /// When the guest is to be told at the latest.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.since.map(|since| since + WAIT)
    }

    /// Whether it is to be told now.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        let late = self.deadline().is_some_and(|deadline| deadline <= now);
        late || self.count > FEW || self.bytes > SMALL
    }

    /// The guest is told; false where there is nothing to tell.
    pub(super) fn clear(&mut self) -> bool {
        std::mem::take(self).since.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_small_frames_wait_for_what_comes_in_but_not_long() {
        let (now, mut sent) = (Instant::now(), Sent::default());
        assert!(!sent.is_due(now) && !sent.clear());
        assert_eq!(sent.deadline(), None);
        sent.add(80, now);
        sent.add(80, now + WAIT / 2);
        assert!(!sent.is_due(now + WAIT / 2));
        assert!(sent.is_due(now + WAIT));
        assert_eq!(sent.deadline(), Some(now + WAIT));
        assert!(sent.clear() && !sent.clear());
        for _ in 0..FEW {
            sent.add(80, now);
            assert!(!sent.is_due(now));
        }
        sent.add(80, now);
        assert!(sent.is_due(now));
        sent.clear();
        sent.add(65_000, now);
        assert!(sent.is_due(now));
    }
}
