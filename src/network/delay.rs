//! When an acknowledgment may wait for the answer that will carry it (RFC 9293, 3.8.6.3).
//!
//! A question and its answer then are one frame each way, and the guest is woken once. But a
//! guest that holds its next words back until the last ones are acknowledged (RFC 896) would
//! wait for nothing. So only a guest whose questions have lately been answered at once is
//! made to wait, not for long, and after a wait in vain not again for a while.

use std::time::{Duration, Instant};

/// What counts as at once, and how long an acknowledgment waits at most. The worker's timer
/// is no finer than a millisecond.
const AT_ONCE: Duration = Duration::from_millis(4);
/// So many answers in turn make a conversation.
const CONVERSATION: i8 = 3;
/// The count after a wait in vain.
const DOUBT: i8 = -16;

/// The state of one connection.
#[derive(Debug, Default)]
pub struct Delay {
    /// When the guest's words came that have no answer yet.
    asked: Option<Instant>,
    /// Their acknowledgment waits.
    owed: bool,
    answers: i8,
}

impl Delay {
    /// The guest has said something; true where its acknowledgment may wait.
    pub fn asked(&mut self, now: Instant) -> bool {
        // Two segments in a row are no question.
        self.owed = self.answers >= CONVERSATION && self.asked.is_none();
        self.asked = Some(now);
        self.owed
    }

    /// The acknowledgment is on its way, with an answer or without.
    pub fn told(&mut self, with_answer: bool, now: Instant) {
        self.owed = false;
        if with_answer && let Some(asked) = self.asked.take() {
            let at_once = now.duration_since(asked) <= AT_ONCE;
            self.answers = if at_once { (self.answers + 1).min(CONVERSATION) } else { 0 };
        }
    }

    /// When the acknowledgment is to be sent at the latest.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.asked.filter(|_| self.owed).map(|asked| asked + AT_ONCE)
    }

    /// True where it has waited in vain, and is to be sent now.
    pub fn expire(&mut self, now: Instant) -> bool {
        let in_vain = self.deadline().is_some_and(|deadline| deadline <= now);
        if in_vain {
            *self = Self { answers: DOUBT, ..Self::default() };
        }
        in_vain
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Questions and answers, so many and so long apart.
    fn converse(delay: &mut Delay, count: usize, now: Instant, pause: Duration) -> Vec<bool> {
        let round = |_| {
            let waits = delay.asked(now);
            if !waits {
                delay.told(false, now);
            }
            delay.told(true, now + pause);
            waits
        };
        (0..count).map(round).collect()
    }

    #[test]
    fn only_in_a_conversation_an_acknowledgment_waits() {
        let (now, mut delay) = (Instant::now(), Delay::default());
        let waits = converse(&mut delay, 5, now, AT_ONCE);
        assert_eq!(waits, [false, false, false, true, true]);
        // Somebody far away is not waited for.
        let waits = converse(&mut Delay::default(), 20, now, AT_ONCE * 2);
        assert_eq!(waits, [false; 20]);
        assert_eq!(delay.deadline(), None);
    }

    #[test]
    fn two_segments_in_a_row_are_acknowledged() {
        let (now, mut delay) = (Instant::now(), Delay::default());
        converse(&mut delay, 3, now, AT_ONCE);
        assert!(delay.asked(now));
        assert!(!delay.asked(now));
        assert_eq!(delay.deadline(), None);
    }

    #[test]
    fn after_a_wait_in_vain_there_is_none_for_a_while() {
        let (now, mut delay) = (Instant::now(), Delay::default());
        converse(&mut delay, 3, now, AT_ONCE);
        assert!(delay.asked(now) && !delay.expire(now));
        let end = delay.deadline().unwrap();
        assert!(delay.expire(end) && !delay.expire(end));
        let waits = converse(&mut delay, 20, now, AT_ONCE);
        assert_eq!(waits.iter().position(|waits| *waits), Some(19));
    }
}
