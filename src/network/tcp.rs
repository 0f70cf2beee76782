//! One TCP connection of the guest, and the host's own that stands for it.
//!
//! The guest's connection is answered only once the host's is made, so that what became of
//! that can be said in TCP's own words. From then on bytes wait in two places: what the
//! guest has not acknowledged, to be sent again where it is lost, and what the host's socket
//! did not take, for which room was announced. The link neither loses nor reorders, but the
//! guest may drop what comes from it; so losses are found by repeated acknowledgments and by
//! time, and everything from the gap is sent again. There is no congestion on a link of
//! memory, and so no control of it.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, IoSlice, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use vmm_sys_util::epoll::EventSet;

use super::delay::Delay;
use super::encode::{Encoder, Head};
use super::parse::{ACK, FIN, PSH, RST, SYN, Segment};
use super::socket;
use super::store::Store;
use super::unacknowledged::Unacknowledged;
use crate::devices::net::Deliver;

/// How much is read of the host's socket at once, at first, and where there is always more.
const READ: (usize, usize) = (16 << 10, 256 << 10);
/// The shift of the window that this side announces: all of the room fits into 16 bits.
const SHIFT: u8 = 5;

/// How long the host may take to connect.
const CONNECTING: Duration = Duration::from_secs(75);
/// How long an acknowledgment may take; doubled at every repetition.
const ACKNOWLEDGMENT: Duration = Duration::from_millis(400);
/// How often the guest is called in vain: for some ten seconds.
const MAXIMUM_CALLS: u32 = 4;
/// How often a segment is repeated in vain.
const MAXIMUM_REPETITIONS: u32 = 7;
/// How long a silent connection is taken for alive before the guest is asked.
const SILENCE: Duration = Duration::from_secs(600);
/// The same where the host has said its last: a guest whose reset was lost says nothing more,
/// and a system keeps such an end of its own no longer (`tcp_fin_timeout`).
const LAST_SILENCE: Duration = Duration::from_secs(60);
/// After how long without a byte on its way a connection gives memory back.
const QUIET: Duration = Duration::from_secs(1);
/// Acknowledgments of the same byte that tell of a gap (RFC 5681, 3.2).
const DUPLICATES: u8 = 3;
/// The most pieces beyond a gap that are kept.
const MAXIMUM_KEPT: usize = 256;
/// The segment of a guest that names none, and the smallest that is believed.
const MAXIMUM_SEGMENT: (usize, usize) = (536, 88);

/// Where a connection is in its life.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Phase {
    /// The host connects.
    Connecting,
    /// The guest has to answer a call of the host's.
    Calling,
    /// The guest has to acknowledge that it is connected.
    Answering,
    /// Both ways are open, or were.
    Open,
}

/// What became of a connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Verdict {
    /// It goes on.
    Continues,
    /// It is over, in good order or by the guest's reset.
    Over,
    /// It is over and the guest is to be reset.
    Reset,
    /// The host could not connect.
    Failed(ErrorKind),
}

/// What came of offering the guest a segment.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Given {
    /// It has one.
    Taken,
    /// There was no room.
    NoRoom,
    /// There is nothing for it.
    Nothing,
}

/// A connection.
pub struct Connection {
    /// The guest's end.
    pub guest: SocketAddr,
    /// The other end, as the guest knows it.
    pub peer: SocketAddr,
    /// Whether it stands in the list of those with something for the guest.
    pub listed: bool,
    socket: TcpStream,
    phase: Phase,
    /// The beginning of the guest's packet, as long as an error message may quote it.
    quoted: Vec<u8>,
    /// When to look again.
    deadline: Instant,
    repetitions: u32,

    /// The first byte that the guest has not acknowledged, the next to send, and the first
    /// that was never sent.
    unacknowledged: u32,
    next: u32,
    highest: u32,
    /// The guest's window in bytes, its shift, and its largest segment.
    window: u32,
    shift: u8,
    scaled: bool,
    maximum: usize,
    /// The bytes from `unacknowledged` on.
    sent: Unacknowledged,
    duplicates: u8,
    /// Until this is acknowledged, duplicates tell nothing new.
    recovery: u32,
    /// The first answer is due, a byte beyond the window, or a question for a sign of life.
    answer_due: bool,
    probe_due: bool,
    life_due: bool,
    /// The host's connection was reset before the guest's was made.
    broken: bool,
    /// The socket may have bytes, or its end; it has its end.
    readable: bool,
    ending: bool,
    /// How much is read at once.
    reading: usize,
    /// The socket gives no more.
    drained: bool,
    /// The guest has acknowledged the end.
    end_acknowledged: bool,

    /// The next byte expected from the guest, and the end of the window it was told.
    expected: u32,
    announced: u32,
    acknowledge: bool,
    delay: Delay,
    /// Acknowledgments that are to repeat the last one, so that the guest knows of a gap.
    repeats: u8,
    /// Bytes from beyond a gap, with their sequence numbers, in order and apart.
    kept: VecDeque<(u32, Vec<u8>)>,
    /// Bytes from the guest that the socket did not take.
    backlog: Store,
    writable: bool,
    /// The guest has sent its end, and the socket has been told.
    guest_ended: bool,
    shut: bool,
    room: usize,
}

/// Whether `a` comes before `b` in the circle of sequence numbers.
fn before(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b)).cast_signed() < 0
}

impl Connection {
    /// The guest asks for a connection; `first` is a sequence number to begin with,
    /// `quoted` the beginning of the packet that asks, `room` how many bytes each way may
    /// wait.
    pub fn new(
        segment: &Segment<'_>,
        quoted: &[u8],
        socket: TcpStream,
        first: u32,
        room: usize,
        now: Instant,
    ) -> Self {
        let (usual, smallest) = MAXIMUM_SEGMENT;
        let expected = segment.sequence.wrapping_add(1);
        Self {
            guest: segment.source,
            peer: segment.destination,
            listed: false,
            socket,
            phase: Phase::Connecting,
            quoted: quoted.to_vec(),
            deadline: now + CONNECTING,
            repetitions: 0,
            unacknowledged: first,
            next: first,
            highest: first,
            window: segment.window.into(),
            shift: segment.scale.unwrap_or(0),
            scaled: segment.scale.is_some(),
            maximum: segment.maximum.map_or(usual, |value| usize::from(value).max(smallest)),
            sent: Unacknowledged::default(),
            duplicates: 0,
            recovery: first,
            answer_due: false,
            probe_due: false,
            life_due: false,
            broken: false,
            readable: false,
            ending: false,
            reading: READ.0,
            drained: false,
            end_acknowledged: false,
            expected,
            announced: expected,
            acknowledge: false,
            delay: Delay::default(),
            repeats: 0,
            kept: VecDeque::new(),
            backlog: Store::default(),
            writable: false,
            guest_ended: false,
            shut: false,
            room,
        }
    }

    /// The host calls the guest: for somebody who is connected already, and whom the guest
    /// is to know as `peer`.
    pub fn calling(
        (guest, peer): (SocketAddr, SocketAddr),
        socket: TcpStream,
        first: u32,
        room: usize,
        now: Instant,
    ) -> Self {
        let unknown = Segment {
            source: guest,
            destination: peer,
            sequence: 0,
            acknowledgment: 0,
            flags: 0,
            window: 0,
            maximum: None,
            scale: None,
            data: &[],
        };
        let mut connection = Self::new(&unknown, &[], socket, first, room, now);
        connection.phase = Phase::Calling;
        connection.answer_due = true;
        connection.deadline = now + ACKNOWLEDGMENT;
        connection
    }

    /// Whether the host still connects.
    pub fn is_connecting(&self) -> bool {
        self.phase == Phase::Connecting
    }

    /// When to call [`Connection::expire`].
    pub fn deadline(&self) -> Instant {
        self.delay.deadline().map_or(self.deadline, |delayed| delayed.min(self.deadline))
    }

    /// Whether both sides have said their last: the guest may use the ports anew.
    pub fn is_finished(&self) -> bool {
        self.guest_ended && self.end_acknowledged
    }

    /// The sequence number of a reset.
    pub fn reset_sequence(&self) -> u32 {
        self.highest
    }

    /// The beginning of the guest's packet, while the host connects.
    pub fn quoted(&self) -> &[u8] {
        &self.quoted
    }

    /// The next byte expected.
    pub fn expected(&self) -> u32 {
        self.expected
    }

    /// Makes the end of the host's connection a reset.
    pub fn abort(&self) {
        socket::reset_on_close(&self.socket);
    }

    // ---- the host's side ----

    /// What `epoll` says of the socket.
    pub fn socket_event(&mut self, events: EventSet, now: Instant) -> Verdict {
        if self.phase == Phase::Connecting {
            let result = self.socket.take_error();
            // A connection that is not made is refused; one that was made can be reset.
            self.broken = matches!(&result, Ok(Some(error))
                if error.kind() == ErrorKind::ConnectionReset);
            match result {
                _ if self.broken => self.connected(now),
                Ok(None) if events.contains(EventSet::OUT) => self.connected(now),
                Ok(None) => return Verdict::Continues,
                Ok(Some(error)) | Err(error) => return Verdict::Failed(error.kind()),
            }
        }
        let ends = EventSet::READ_HANG_UP | EventSet::HANG_UP | EventSet::ERROR;
        self.ending |= events.intersects(ends);
        self.readable |= self.ending || events.contains(EventSet::IN);
        if self.sent.flows() && self.readable && self.in_flight() == 0 {
            // The guest may have no room.
            self.deadline = self.deadline.min(now + self.patience());
        }
        if events.intersects(EventSet::OUT | EventSet::ERROR | EventSet::HANG_UP) {
            self.writable = true;
            let verdict = self.write_backlog();
            if !self.waits() {
                self.deadline = self.deadline.min(now + self.silence());
            }
            return verdict;
        }
        Verdict::Continues
    }

    /// The host is connected: the guest is to be answered.
    fn connected(&mut self, now: Instant) {
        self.phase = Phase::Answering;
        self.quoted = Vec::new();
        self.answer_due = true;
        self.deadline = now + ACKNOWLEDGMENT;
    }

    /// Fills up what waits for the guest. A stream that flows is left in the socket from then
    /// on, for a guest that can do `without_copies`.
    fn read(&mut self, without_copies: bool) -> Verdict {
        if self.broken {
            return Verdict::Reset;
        }
        while self.readable && !self.drained && self.sent.len() < self.room {
            let wanted = self.reading.min(self.room - self.sent.len());
            match self.sent.read(&self.socket, wanted) {
                Ok(0) => {
                    self.readable = false;
                    self.drained = true;
                }
                Ok(count) => {
                    // What comes after the last byte is reported anew, but not an end that was.
                    self.readable = self.ending || count == wanted;
                    if count == READ.1 && without_copies {
                        self.sent.flow(&self.socket);
                    }
                    if count == self.reading {
                        self.reading = (self.reading * 2).min(READ.1);
                    }
                    break;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.readable = false,
                Err(_) => return Verdict::Reset,
            }
        }
        Verdict::Continues
    }

    /// Gives the socket what waits for it, and the end after that.
    fn write_backlog(&mut self) -> Verdict {
        while self.writable && !self.backlog.is_empty() {
            match self.backlog.drain(|[front, _]| self.socket.write(front)) {
                Ok(()) => {}
                Err(error) => {
                    if let Some(verdict) = self.not_written(&error) {
                        return verdict;
                    }
                }
            }
        }
        let all = self.backlog.is_empty();
        if all && self.guest_ended && !self.shut && self.phase != Phase::Connecting {
            self.shut = true;
            // It fails only where the peer is gone, which reading tells as well.
            let _ = self.socket.shutdown(Shutdown::Write);
        }
        // The guest may wait for a word that there is room again.
        let told = self.announced.wrapping_sub(self.expected) as usize;
        let free = self.free();
        self.acknowledge |= told < self.room / 4 && free >= told + self.room / 4;
        self.verdict()
    }

    fn not_written(&mut self, error: &io::Error) -> Option<Verdict> {
        match error.kind() {
            ErrorKind::Interrupted => None,
            ErrorKind::WouldBlock => {
                self.writable = false;
                None
            }
            _ => Some(Verdict::Reset),
        }
    }

    fn free(&self) -> usize {
        self.room.saturating_sub(self.backlog.len())
    }

    fn verdict(&self) -> Verdict {
        let over = self.is_finished() && self.shut && !self.acknowledge;
        if over { Verdict::Over } else { Verdict::Continues }
    }

    // ---- the guest's side ----

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

    /// How long it may be silent before something is to be done.
    fn silence(&self) -> Duration {
        if self.sent.is_untidy() || self.backlog.is_untidy() {
            QUIET
        } else if self.end_acknowledged {
            LAST_SILENCE
        } else {
            SILENCE
        }
    }

    /// Whether something is on its way to the guest, or wants to be.
    fn waits(&self) -> bool {
        let in_socket = self.sent.flows() && self.readable && !self.drained;
        self.next != self.unacknowledged || !self.sent.is_empty() || in_socket
    }

    /// Bytes on their way.
    fn in_flight(&self) -> usize {
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
        let wants = self.sent.flows() && self.readable && !self.drained;
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
                let reads = !self.sent.flows() && self.readable && !self.drained;
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
        let largest = super::nat::largest_segment(self.peer);
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

    fn patience(&self) -> Duration {
        ACKNOWLEDGMENT * (1 << self.repetitions.min(MAXIMUM_REPETITIONS))
    }

    /// The deadline has come.
    pub fn expire(&mut self, now: Instant) -> Verdict {
        if self.phase == Phase::Connecting {
            return Verdict::Failed(ErrorKind::TimedOut);
        }
        if self.delay.expire(now) {
            self.acknowledge = true;
            return Verdict::Continues;
        }
        if self.phase == Phase::Open && !self.waits() && self.silence() == QUIET {
            self.sent.tidy();
            self.backlog.tidy();
            self.reading = READ.0;
            self.deadline = now + self.silence();
            return Verdict::Continues;
        }
        if self.phase == Phase::Calling && self.repetitions >= MAXIMUM_CALLS {
            self.abort();
            return Verdict::Over;
        }
        if self.repetitions >= MAXIMUM_REPETITIONS {
            self.abort();
            return Verdict::Reset;
        }
        self.repetitions += 1;
        if matches!(self.phase, Phase::Answering | Phase::Calling) {
            self.answer_due = true;
            self.deadline = now + self.patience();
        } else if self.waits() {
            self.probe_due = self.window == 0;
            self.next = self.unacknowledged;
            self.recovery = self.highest;
            self.duplicates = 0;
            self.deadline = now + self.patience();
        } else {
            self.life_due = true;
            self.deadline = now + ACKNOWLEDGMENT * 10;
        }
        Verdict::Continues
    }
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Connection")
            .field("guest", &self.guest)
            .field("peer", &self.peer)
            .field("phase", &self.phase)
            .finish_non_exhaustive()
    }
}
