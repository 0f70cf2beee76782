//! What the guest is told on a connection: bytes of the host's, acknowledgments, the end.

use std::io::{ErrorKind, IoSlice};
use std::time::Instant;

use super::{Connection, Given, Phase, SHIFT, Verdict, before};
use crate::devices::net::Deliver;
use crate::network::encode::{Encoder, Head};
use crate::network::nat;
use crate::network::parse::{ACK, FIN, PSH, SYN};

impl Connection {
    /// Bytes on their way.
    pub(super) fn in_flight(&self) -> usize {
        (self.next.wrapping_sub(self.unacknowledged) as usize).min(self.sent.len())
    }

    /// Whether the end is to be sent.
    fn end_due(&self) -> bool {
        let all = self.next.wrapping_sub(self.unacknowledged) as usize == self.sent.len();
        self.drained && !self.end_acknowledged && all
    }

    /// How many bytes can be sent now, of those that were read or sent before.
    fn sendable(&self, encoder: &Encoder) -> usize {
        let in_flight = self.in_flight();
        // A segment is from one place.
        let waiting = match self.sent.stored(in_flight) {
            0 => self.sent.len() - in_flight,
            stored => stored,
        };
        self.within_window(waiting, encoder)
    }

    /// How many bytes that stay in the socket can be sent now for the first time, if they are
    /// there.
    fn fresh(&self, encoder: &Encoder) -> usize {
        let wants = self.sent.flows() && self.may_have_more();
        if !wants || self.in_flight() < self.sent.len() {
            return 0;
        }
        self.within_window(self.room.saturating_sub(self.sent.len()), encoder)
    }

    /// How many of so many bytes that wait can be sent now.
    fn within_window(&self, waiting: usize, encoder: &Encoder) -> usize {
        let in_flight = self.in_flight();
        let window = (self.window as usize).saturating_sub(in_flight);
        let length = waiting.min(window).min(encoder.largest(self.peer.ip(), self.maximum));
        if self.probe_due && in_flight == 0 && window == 0 {
            return waiting.min(1);
        }
        // A window that opens by drops is not filled by drops (RFC 9293, 3.8.6.2.1).
        if length < self.maximum && length < waiting && in_flight > 0 { 0 } else { length }
    }

    /// Whether there may be something for the guest.
    pub fn has_segment(&self, encoder: &Encoder) -> bool {
        match self.phase {
            Phase::Connecting => false,
            Phase::Answering | Phase::Calling => self.answer_due,
            Phase::Open => {
                let reads = !self.sent.flows() && self.may_have_more();
                self.acknowledge
                    || self.life_due
                    || self.end_due()
                    || self.sendable(encoder) > 0
                    || self.fresh(encoder) > 0
                    || reads && self.sent.len() < self.room
            }
        }
    }

    /// Offers the guest the next segment.
    pub fn give(
        &mut self,
        encoder: &Encoder,
        frame: &mut Vec<u8>,
        deliver: &mut dyn Deliver,
        now: Instant,
    ) -> (Given, Verdict) {
        let calling = self.phase == Phase::Calling;
        let answering = calling || self.phase == Phase::Answering;
        if !self.has_segment(encoder) {
            return (Given::Nothing, Verdict::Continues);
        }
        let mut length = 0;
        if !answering {
            length = self.sendable(encoder);
            if !self.sent.flows() && length < encoder.largest(self.peer.ip(), self.maximum) {
                let verdict = self.read(encoder.offloads.checksum);
                if verdict != Verdict::Continues {
                    return (Given::Nothing, verdict);
                }
                length = self.sendable(encoder);
            }
            if self.sent.flows() && self.sent.stored(self.in_flight()) == 0 {
                let most = if length > 0 { length } else { self.fresh(encoder) };
                length = 0;
                if most > 0
                    && let Some(result) = self.give_from_socket(most, encoder, deliver, now)
                {
                    return result;
                }
            }
        }
        let start = self.in_flight();
        let last = start + length == self.sent.len();
        let end = !answering
            && self.drained
            && !self.end_acknowledged
            && last
            && (length > 0 || self.end_due());
        if !answering && length == 0 && !end && !self.acknowledge && !self.life_due {
            if self.waits() {
                // The guest has no room, and its word that it has some could be lost.
                self.deadline = self.deadline.min(now + self.patience());
            }
            return (Given::Nothing, Verdict::Continues);
        }
        let mut flags = if calling { 0 } else { ACK };
        if answering {
            flags |= SYN;
        }
        if end {
            flags |= FIN;
        }
        if length > 0 && last {
            flags |= PSH;
        }
        let sequence = if length == 0 && !end && self.life_due {
            self.unacknowledged.wrapping_sub(1)
        } else {
            self.next
        };
        let (first, second) = self.sent.range(start..start + length);
        let head = self.head(sequence, flags);
        encoder.tcp(frame, &head, &[first, second]);
        if !deliver.pieces(&[IoSlice::new(frame), IoSlice::new(first), IoSlice::new(second)]) {
            return (Given::NoRoom, Verdict::Continues);
        }
        if answering {
            self.answer_due = false;
            self.next = self.unacknowledged.wrapping_add(1);
        }
        self.given(&head, length, end, now)
    }

    /// Offers the guest the next segment, with up to `most` bytes that stay in the socket; `None`
    /// where there are none.
    fn give_from_socket(
        &mut self,
        most: usize,
        encoder: &Encoder,
        deliver: &mut dyn Deliver,
        now: Instant,
    ) -> Option<(Given, Verdict)> {
        let start = self.in_flight();
        let again = start < self.sent.len();
        let mut head = self.head(self.next, ACK);
        let (sent, socket) = (&mut self.sent, &self.socket);
        let result = deliver.filled(
            encoder.before_data(self.peer.ip()),
            most,
            &mut |buffers| sent.show(socket, start, buffers),
            &mut |count, frame| {
                head.flags |= if count < most { PSH } else { 0 };
                encoder.tcp_without_data(frame, &head, count);
            },
        );
        match result {
            None => Some((Given::NoRoom, Verdict::Continues)),
            Some(Ok(count)) => {
                if !again {
                    self.readable = self.ending || count == most;
                    self.drained = count == 0;
                }
                (count > 0).then(|| self.given(&head, count, false, now))
            }
            Some(Err(error)) if error.kind() == ErrorKind::WouldBlock => {
                self.readable = false;
                None
            }
            Some(Err(_)) => Some((Given::Nothing, Verdict::Reset)),
        }
    }

    /// A segment with what there is to be said beside its data.
    fn head(&self, sequence: u32, flags: u16) -> Head {
        let first = flags & SYN != 0;
        let calling = flags & ACK == 0;
        let shift = if self.scaled && !first { SHIFT } else { 0 };
        let largest = nat::largest_segment(self.peer);
        Head {
            source: self.peer,
            destination: self.guest,
            sequence,
            acknowledgment: self.expected,
            flags,
            window: u16::try_from(self.free() >> shift).unwrap_or(u16::MAX),
            options: first.then_some((largest, (calling || self.scaled).then_some(SHIFT))),
            maximum: self.maximum,
        }
    }

    /// The guest was given a segment with so many bytes, and the end behind them.
    fn given(&mut self, head: &Head, length: usize, end: bool, now: Instant) -> (Given, Verdict) {
        let shift = if self.scaled && head.flags & SYN == 0 { SHIFT } else { 0 };
        self.announced = self.expected.wrapping_add(u32::from(head.window) << shift);
        self.delay.told(length > 0, now);
        self.repeats = self.repeats.saturating_sub(1);
        self.acknowledge = self.repeats > 0;
        self.life_due = false;
        self.probe_due = false;
        if length > 0 || end {
            if self.next == self.unacknowledged {
                self.deadline = self.deadline.min(now + self.patience());
            }
            // At most the length of a packet.
            self.next = self.next.wrapping_add(length as u32 + u32::from(end));
        }
        if before(self.highest, self.next) {
            self.highest = self.next;
        }
        (Given::Taken, self.verdict())
    }
}
