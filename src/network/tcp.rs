//! One TCP connection of the guest, and the host's own that stands for it.
//!
//! The guest's connection is answered only once the host's is made, so that what became of
//! that can be said in TCP's own words. From then on bytes wait in two places: what the
//! guest has not acknowledged, to be sent again where it is lost, and what the host's socket
//! did not take, for which room was announced. The link neither loses nor reorders, but the
//! guest may drop what comes from it; so losses are found by repeated acknowledgments and by
//! time, and everything from the gap is sent again. There is no congestion on a link of
//! memory, and so no control of it.

mod from_guest;
mod to_guest;

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use vmm_sys_util::epoll::EventSet;

use super::delay::Delay;
use super::parse::Segment;
use super::socket;
use super::store::Store;
use super::unacknowledged::Unacknowledged;

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

    /// Whether the socket may have bytes, or its end.
    fn may_have_more(&self) -> bool {
        self.readable && !self.drained
    }

    /// Fills up what waits for the guest. A stream that flows is left in the socket from then
    /// on, for a guest that can do `without_copies`.
    fn read(&mut self, without_copies: bool) -> Verdict {
        if self.broken {
            return Verdict::Reset;
        }
        while self.may_have_more() && self.sent.len() < self.room {
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
        let in_socket = self.sent.flows() && self.may_have_more();
        self.next != self.unacknowledged || !self.sent.is_empty() || in_socket
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
