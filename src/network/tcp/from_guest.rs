//! What the guest says on a connection: its acknowledgments, its bytes, its end.

use std::io::Write as _;
use std::time::Instant;

use super::{
    ACKNOWLEDGMENT, Connection, DUPLICATES, MAXIMUM_KEPT, MAXIMUM_SEGMENT, Phase, SILENCE, Verdict,
    before,
};
use crate::network::parse::{ACK, FIN, RST, SYN, Segment};

impl Connection {
    /// The guest answers the call, or refuses it.
    fn called(&mut self, segment: &Segment<'_>, now: Instant) -> Verdict {
        let called = self.unacknowledged.wrapping_add(1);
        if !segment.has(ACK) || segment.acknowledgment != called {
            return Verdict::Continues;
        }
        if segment.has(RST) {
            self.abort();
            return Verdict::Over;
        }
        if segment.has(SYN) {
            let (usual, smallest) = MAXIMUM_SEGMENT;
            self.phase = Phase::Open;
            self.answer_due = false;
            (self.unacknowledged, self.next, self.highest) = (called, called, called);
            self.recovery = called;
            self.window = segment.window.into();
            self.shift = segment.scale.unwrap_or(0);
            self.scaled = segment.scale.is_some();
            self.maximum = segment.maximum.map_or(usual, |value| usize::from(value).max(smallest));
            self.expected = segment.sequence.wrapping_add(1);
            self.announced = self.expected;
            self.acknowledge = true;
            self.repetitions = 0;
            self.deadline = now + SILENCE;
        }
        Verdict::Continues
    }

    /// A segment of the guest.
    pub fn segment(&mut self, segment: &Segment<'_>, now: Instant) -> Verdict {
        if self.phase == Phase::Calling {
            return self.called(segment, now);
        }
        let offset = segment.sequence.wrapping_sub(self.expected);
        if segment.has(RST) {
            // Only one that is expected: RFC 5961 guards against guessed ones.
            let told = self.announced.wrapping_sub(self.expected);
            if offset == 0 || offset < told {
                self.abort();
                return Verdict::Over;
            }
            return Verdict::Continues;
        }
        if self.phase == Phase::Connecting {
            return Verdict::Continues;
        }
        if segment.has(SYN) {
            // Its first segment again, or one that cannot be: both are told how things are.
            self.answer_due |= self.phase == Phase::Answering;
            self.acknowledge = true;
            return Verdict::Continues;
        }
        if !segment.has(ACK) {
            return Verdict::Continues;
        }
        self.repetitions = 0;
        if !self.acknowledged(segment, now) {
            return Verdict::Continues;
        }
        if segment.length() == 0 {
            // Also a question for a sign of life, which has an old number.
            self.acknowledge |= offset != 0;
            return self.verdict();
        }
        // The end, and what comes with a gap before or behind it, is acknowledged at once.
        let plain = !segment.has(FIN) && offset == 0 && self.kept.is_empty();
        let waits = self.delay.asked(now) && plain;
        self.acknowledge |= !waits;
        let verdict = self.data(segment);
        // So is what fills the room up.
        self.acknowledge |= !self.backlog.is_empty();
        verdict
    }

    /// Takes the acknowledgment; false where the segment is of no use beyond it.
    fn acknowledged(&mut self, segment: &Segment<'_>, now: Instant) -> bool {
        let known = self.highest.wrapping_sub(self.unacknowledged);
        let count = segment.acknowledgment.wrapping_sub(self.unacknowledged);
        let old = before(segment.acknowledgment, self.unacknowledged);
        if count > known && !old {
            self.acknowledge = true;
            return false;
        }
        let window = u32::from(segment.window) << self.shift;
        if self.phase == Phase::Answering {
            if count == 0 || old {
                return false;
            }
            self.phase = Phase::Open;
            self.answer_due = false;
            self.unacknowledged = segment.acknowledgment;
        } else if old {
            return true;
        } else if count > 0 {
            let bytes = (count as usize).min(self.sent.len());
            self.end_acknowledged |= count as usize > self.sent.len();
            self.sent.forget(&self.socket, bytes);
            self.unacknowledged = segment.acknowledgment;
            if before(self.next, self.unacknowledged) {
                self.next = self.unacknowledged;
            }
            self.duplicates = 0;
        } else if segment.length() == 0 && self.window == window && known > 0 {
            self.duplicates = self.duplicates.saturating_add(1);
            if self.duplicates == DUPLICATES && !before(self.unacknowledged, self.recovery) {
                self.recovery = self.highest;
                self.next = self.unacknowledged;
            }
        }
        self.window = window;
        self.probe_due = false;
        self.deadline = now + if self.waits() { ACKNOWLEDGMENT } else { self.silence() };
        true
    }

    /// Takes data and the end.
    fn data(&mut self, segment: &Segment<'_>) -> Verdict {
        let ahead = segment.sequence.wrapping_sub(self.expected);
        // What was taken before is skipped; what lies beyond a gap will be sent again.
        let skip = if before(segment.sequence, self.expected) {
            self.expected.wrapping_sub(segment.sequence) as usize
        } else if ahead > 0 {
            self.keep(ahead as usize, segment);
            // One each: the guest counts them.
            self.repeats = self.repeats.saturating_add(1).min(DUPLICATES + 1);
            return Verdict::Continues;
        } else {
            0
        };
        if self.guest_ended {
            return Verdict::Continues;
        }
        let Some(fresh) = segment.data.get(skip..) else { return Verdict::Continues };
        let data = fresh.get(..fresh.len().min(self.free())).unwrap_or_default();
        let whole = data.len() == fresh.len();
        let mut verdict = self.accept(data);
        // What the gap was before.
        while verdict == Verdict::Continues
            && let Some((sequence, _)) = self.kept.front()
            && !before(self.expected, *sequence)
            && let Some((sequence, piece)) = self.kept.pop_front()
        {
            let known = self.expected.wrapping_sub(sequence) as usize;
            verdict = self.accept(piece.get(known..).unwrap_or_default());
        }
        let at_end = segment.sequence.wrapping_add(segment.data.len() as u32) == self.expected;
        if verdict == Verdict::Continues && whole && at_end && segment.has(FIN) {
            self.expected = self.expected.wrapping_add(1);
            self.guest_ended = true;
            return self.write_backlog();
        }
        verdict
    }

    /// Keeps data from beyond a gap, where it fits into the window and next to what is kept.
    fn keep(&mut self, ahead: usize, segment: &Segment<'_>) {
        let end = ahead.saturating_add(segment.data.len());
        if segment.data.is_empty() || end > self.free() || self.kept.len() >= MAXIMUM_KEPT {
            return;
        }
        let offset = |sequence: u32| sequence.wrapping_sub(self.expected) as usize;
        let position = self.kept.partition_point(|(sequence, _)| offset(*sequence) < ahead);
        let clear_before = position
            .checked_sub(1)
            .and_then(|last| self.kept.get(last))
            .is_none_or(|(sequence, piece)| offset(*sequence) + piece.len() <= ahead);
        let clear_behind =
            self.kept.get(position).is_none_or(|(sequence, _)| offset(*sequence) >= end);
        if clear_before && clear_behind {
            self.kept.insert(position, (segment.sequence, segment.data.to_vec()));
        }
    }

    /// Takes the bytes that are expected.
    fn accept(&mut self, mut data: &[u8]) -> Verdict {
        // At most the length of a packet.
        self.expected = self.expected.wrapping_add(data.len() as u32);
        while self.backlog.is_empty() && self.writable && !data.is_empty() {
            match self.socket.write(data) {
                Ok(count) => data = data.get(count..).unwrap_or_default(),
                Err(error) => {
                    if let Some(verdict) = self.not_written(&error) {
                        return verdict;
                    }
                }
            }
        }
        self.backlog.extend(data);
        Verdict::Continues
    }
}
