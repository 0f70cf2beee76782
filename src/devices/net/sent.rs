//! When the guest has to know that frames of its own are gone.
//!
//! Nobody waits for that of a few small ones, and a driver that is interrupted by what comes in
//! sees by itself what is gone: so a question and its answer are one interrupt. But a guest that
//! has more to send may wait for the room, so that many or large ones are told at once.

use std::time::{Duration, Instant};

/// How long a guest is left in the dark at most. The worker's timer is no finer.
const WAIT: Duration = Duration::from_millis(1);
/// The same where it was interrupted by what came in, and has looked itself if it ever does.
const LONG_WAIT: Duration = Duration::from_millis(50);
/// Of how many frames, and of how many bytes.
const FEW: usize = 8;
const SMALL: usize = 2048;
/// Of how many it is told although it could have looked.
const MANY: usize = 64;

/// Frames that were taken and not told of.
#[derive(Debug, Default)]
pub(super) struct Sent {
    all: usize,
    /// Those since the guest was interrupted by what came in, and their length.
    count: usize,
    bytes: usize,
    deadline: Option<Instant>,
}

impl Sent {
    /// One more was taken.
    pub(super) fn add(&mut self, bytes: usize, now: Instant) {
        self.all += 1;
        self.count += 1;
        self.bytes = self.bytes.saturating_add(bytes);
        self.owe(now);
    }

    /// A frame was given back unread.
    pub(super) fn owe(&mut self, now: Instant) {
        self.deadline.get_or_insert(now + WAIT);
    }

    /// When the guest is to be told at the latest.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Whether it is to be told now.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        let late = self.deadline.is_some_and(|deadline| deadline <= now);
        late || self.count > FEW || self.bytes > SMALL || self.all > MANY
    }

    /// The guest is told.
    pub(super) fn told(&mut self) {
        *self = Self::default();
    }

    /// The guest is told of frames that come in.
    pub(super) fn others_told(&mut self, now: Instant) {
        if self.count > 0 {
            *self = Self { all: self.all, deadline: Some(now + LONG_WAIT), ..Self::default() };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_small_frames_wait_for_what_comes_in_but_not_long() {
        let (now, mut sent) = (Instant::now(), Sent::default());
        assert!(!sent.is_due(now));
        assert_eq!(sent.deadline(), None);
        sent.add(80, now);
        sent.add(80, now + WAIT / 2);
        assert!(!sent.is_due(now + WAIT / 2));
        assert!(sent.is_due(now + WAIT));
        assert_eq!(sent.deadline(), Some(now + WAIT));
        sent.told();
        assert_eq!(sent.deadline(), None);
        for _ in 0..FEW {
            sent.add(80, now);
            assert!(!sent.is_due(now));
        }
        sent.add(80, now);
        assert!(sent.is_due(now));
        sent.told();
        sent.add(65_000, now);
        assert!(sent.is_due(now));
    }

    #[test]
    fn a_driver_that_does_not_look_by_itself_is_told_in_the_end() {
        let (now, mut sent) = (Instant::now(), Sent::default());
        sent.others_told(now);
        assert_eq!(sent.deadline(), None);
        for _ in 0..MANY {
            sent.add(80, now);
            sent.others_told(now);
            assert!(!sent.is_due(now + WAIT));
        }
        assert!(sent.is_due(now + LONG_WAIT));
        sent.add(80, now);
        sent.others_told(now);
        assert!(sent.is_due(now));
    }
}
