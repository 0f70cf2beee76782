//! One connection: a host socket on this side, ports and credit on the guest's.
//!
//! Nothing here knows of queues or threads. Bytes from the guest go to the socket at
//! once, or wait in a backlog as long as the socket's peer does not read; the credit the
//! guest gets bounds the backlog. Bytes to the guest are read from the socket only when
//! there is a guest buffer and credit for them, so they wait in the socket.

use std::collections::VecDeque;
use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Instant;

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv, send};

use super::handle::OnEnd;
use super::packet::{Header, Operation, Ports, SHUTDOWN_BOTH, SHUTDOWN_RECEIVE, SHUTDOWN_SEND};
use crate::devices::buffers::Buffers;

/// Where a connection is in its life.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Phase {
    /// The guest was asked, or will be.
    Requested {
        /// When the guest counts as not answering.
        deadline: Instant,
    },
    /// Both ways are open, or were.
    Open,
    /// The guest knows no more of it; what it sent is still being delivered.
    Lingering,
}

/// Control packets that wait for a buffer of the guest. One flag each, so that no guest
/// can make them pile up.
#[derive(Clone, Copy, Debug, Default)]
struct Owed {
    request: bool,
    response: bool,
    credit_update: bool,
    credit_request: bool,
}

/// What came of reading from the host.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Fetched {
    /// That many bytes, at least one.
    Bytes(usize),
    /// Nothing now.
    Nothing,
}

/// What became of data from the guest.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Accepted {
    /// Delivered or kept.
    Yes,
    /// The guest broke the rules.
    Violation,
}

/// A connection.
pub(super) struct Connection {
    pub(super) ports: Ports,
    pub(super) phase: Phase,
    /// Whether it stands in the list of those with something for the guest.
    pub(super) listed: bool,
    socket: UnixStream,
    on_end: Option<OnEnd>,
    owed: Owed,

    /// Bytes for the guest that come before the socket's.
    prefix: VecDeque<u8>,
    /// The socket may have bytes, or its end.
    readable: bool,
    /// The socket's peer has closed its writing side: after a short read there is more
    /// to learn.
    ending: bool,
    /// The socket's peer is gone altogether.
    gone: bool,
    /// The socket gives no more.
    drained: bool,
    /// The guest's buffer size, what left it, and what was sent into it.
    guest_buffer: u32,
    guest_forwarded: u32,
    sent: u32,
    /// Shutdown flags the guest was sent.
    shutdown_sent: u32,

    /// Bytes from the guest that the socket did not take.
    backlog: VecDeque<u8>,
    /// The socket may take bytes.
    writable: bool,
    /// The socket takes no more: bytes from the guest are dropped.
    deaf: bool,
    /// The socket's writing side was shut down.
    finished: bool,
    /// This side's buffer size, what came into it, what left it, and what of that the
    /// guest knows.
    buffer: u32,
    received: u32,
    forwarded: u32,
    announced: u32,
    /// Shutdown flags the guest sent.
    guest_shutdown: u32,
}

impl Connection {
    fn new(ports: Ports, phase: Phase, socket: OwnedFd, buffer: u32) -> Self {
        Self {
            ports,
            phase,
            listed: false,
            socket: UnixStream::from(socket),
            on_end: None,
            owed: Owed::default(),
            prefix: VecDeque::new(),
            readable: false,
            ending: false,
            gone: false,
            drained: false,
            guest_buffer: 0,
            guest_forwarded: 0,
            sent: 0,
            shutdown_sent: 0,
            backlog: VecDeque::new(),
            writable: true,
            deaf: false,
            finished: false,
            buffer,
            received: 0,
            forwarded: 0,
            announced: 0,
            guest_shutdown: 0,
        }
    }

    /// A connection that the guest will be asked for.
    pub(super) fn requested(
        ports: Ports,
        socket: OwnedFd,
        prefix: Vec<u8>,
        on_end: OnEnd,
        buffer: u32,
        deadline: Instant,
    ) -> Self {
        let mut connection = Self::new(ports, Phase::Requested { deadline }, socket, buffer);
        connection.prefix = prefix.into();
        connection.on_end = Some(on_end);
        connection.owed.request = true;
        connection
    }

    /// A connection that the guest asked for and that was accepted.
    pub(super) fn accepted(ports: Ports, socket: OwnedFd, buffer: u32) -> Self {
        let mut connection = Self::new(ports, Phase::Open, socket, buffer);
        connection.owed.response = true;
        connection
    }

    /// The host's socket.
    pub(super) fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// The number of the host's socket, for `epoll_ctl`.
    pub(super) fn socket_number(&self) -> i32 {
        self.socket.as_raw_fd()
    }

    /// Takes note of the guest's credit, which every packet carries.
    pub(super) fn take_credit(&mut self, header: &Header) {
        self.guest_buffer = header.buffer.get();
        self.guest_forwarded = header.forwarded.get();
    }

    /// How many bytes the guest has room for. A guest that contradicts itself has none.
    pub(super) fn credit(&self) -> usize {
        let waiting = self.sent.wrapping_sub(self.guest_forwarded);
        self.guest_buffer.saturating_sub(waiting) as usize
    }

    /// The guest agreed to the connection.
    pub(super) fn opened(&mut self) {
        self.phase = Phase::Open;
    }

    /// The guest wants to know this side's credit.
    pub(super) fn credit_requested(&mut self) {
        self.owed.credit_update = true;
    }

    /// What `epoll` says of the socket.
    pub(super) fn socket_event(
        &mut self,
        readable: bool,
        writable: bool,
        ending: bool,
        gone: bool,
    ) {
        self.readable |= readable || ending || gone;
        self.ending |= ending || gone;
        self.gone |= gone;
        if writable || gone {
            self.writable = true;
            self.deliver();
        }
    }

    /// Whether there is something for the guest right now.
    pub(super) fn has_packet(&self) -> bool {
        if self.phase == Phase::Lingering {
            return false;
        }
        let owed = self.owed;
        owed.request
            || self.phase == Phase::Open
                && (owed.response
                    || owed.credit_update
                    || owed.credit_request
                    || self.shutdown_due() != 0
                    || self.has_data() && self.credit() > 0)
    }

    fn has_data(&self) -> bool {
        !self.prefix.is_empty() || (self.readable && !self.drained)
    }

    /// The shutdown flags to send next, all that hold so far, or none.
    fn shutdown_due(&self) -> u32 {
        let mut flags = self.shutdown_sent;
        if self.prefix.is_empty() && self.drained {
            flags |= SHUTDOWN_SEND;
            if self.gone {
                flags |= SHUTDOWN_RECEIVE;
            }
        }
        if self.deaf {
            flags |= SHUTDOWN_RECEIVE;
        }
        if flags == self.shutdown_sent { 0 } else { flags }
    }

    /// The next control packet, which counts as sent.
    pub(super) fn control_packet(&mut self) -> Option<Header> {
        let owed = &mut self.owed;
        let operation = if std::mem::take(&mut owed.request) {
            Operation::Request
        } else if !matches!(self.phase, Phase::Open) {
            return None;
        } else if std::mem::take(&mut owed.response) {
            Operation::Response
        } else if std::mem::take(&mut owed.credit_update) {
            Operation::CreditUpdate
        } else if std::mem::take(&mut owed.credit_request) {
            Operation::CreditRequest
        } else {
            let flags = self.shutdown_due();
            if flags == 0 {
                return None;
            }
            self.shutdown_sent = flags;
            let header = self.header(Operation::Shutdown);
            return Some(Header { flags: flags.into(), ..header });
        };
        Some(self.header(operation))
    }

    /// A header with this side's credit.
    pub(super) fn header(&mut self, operation: Operation) -> Header {
        self.announced = self.forwarded;
        Header {
            buffer: self.buffer.into(),
            forwarded: self.forwarded.into(),
            ..Header::new(self.ports, operation)
        }
    }

    /// Whether data can be sent now, once no control packet is left.
    pub(super) fn has_sendable_data(&self) -> bool {
        self.phase == Phase::Open && self.has_data() && self.credit() > 0
    }

    /// Moves bytes for the guest into `room`, which is not larger than the credit.
    pub(super) fn fetch(&mut self, room: &mut Buffers<'_>) -> Fetched {
        let wanted = room.length();
        let (front, _) = self.prefix.as_slices();
        if !front.is_empty() {
            let count = room.copy_from(front);
            self.prefix.drain(..count);
            self.count_sent(count);
            return Fetched::Bytes(count);
        }
        match room.receive(self.socket.as_fd()) {
            Ok(0) if wanted == 0 => Fetched::Nothing,
            Ok(0) => {
                self.end_reading();
                Fetched::Nothing
            }
            Ok(count) => {
                // The end of a stream makes an event of its own, unless it was seen.
                self.readable = count == wanted || self.ending;
                self.count_sent(count);
                Fetched::Bytes(count)
            }
            Err(error) => {
                if error.kind() == io::ErrorKind::WouldBlock {
                    self.readable = false;
                } else {
                    self.gone = true;
                    self.end_reading();
                }
                Fetched::Nothing
            }
        }
    }

    fn count_sent(&mut self, count: usize) {
        self.sent = self.sent.wrapping_add(count as u32);
        // The guest tells of its own accord; this is for one that waits to be asked.
        self.owed.credit_request |= self.credit() == 0;
    }

    fn end_reading(&mut self) {
        self.readable = false;
        self.drained = true;
    }

    /// Data from the guest.
    pub(super) fn accept(&mut self, data: &mut Buffers<'_>) -> Accepted {
        let length = data.length();
        let waiting = self.received.wrapping_sub(self.forwarded);
        let room = self.buffer.saturating_sub(waiting) as usize;
        if length > room || self.phase != Phase::Open || self.guest_shutdown & SHUTDOWN_SEND != 0 {
            return Accepted::Violation;
        }
        self.received = self.received.wrapping_add(length as u32);
        if self.backlog.is_empty() && self.writable && !self.deaf {
            while !data.is_empty() {
                match data.send(self.socket.as_fd()) {
                    Ok(count) => self.count_forwarded(count),
                    Err(error) => {
                        self.not_sent(&error);
                        break;
                    }
                }
            }
        }
        let rest = data.length();
        if self.deaf {
            self.count_forwarded(rest);
        } else if rest > 0 {
            let mut bytes = vec![0; rest];
            data.copy_to(&mut bytes);
            self.backlog.extend(bytes);
        }
        Accepted::Yes
    }

    /// Gives the socket as much of the backlog as it takes, and the end after it.
    fn deliver(&mut self) {
        while self.writable && !self.backlog.is_empty() {
            let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
            match send(self.socket.as_raw_fd(), self.backlog.as_slices().0, flags) {
                Ok(count) => {
                    self.backlog.drain(..count);
                    self.count_forwarded(count);
                }
                Err(Errno::EINTR) => {}
                Err(error) => self.not_sent(&error.into()),
            }
        }
        if self.backlog.is_empty() {
            self.backlog = VecDeque::new();
            if self.guest_shutdown & SHUTDOWN_SEND != 0 && !self.finished {
                self.finished = true;
                // It fails only where the peer is gone, and then nobody waits for it.
                let _ = self.socket.shutdown(Shutdown::Write);
            }
        }
    }

    fn not_sent(&mut self, error: &io::Error) {
        self.writable = false;
        if error.kind() != io::ErrorKind::WouldBlock {
            self.deaf = true;
            let dropped = self.backlog.len();
            self.backlog = VecDeque::new();
            self.count_forwarded(dropped);
        }
    }

    fn count_forwarded(&mut self, count: usize) {
        self.forwarded = self.forwarded.wrapping_add(count as u32);
        let known_room = self.buffer.saturating_sub(self.received.wrapping_sub(self.announced));
        if self.forwarded != self.announced && known_room < self.buffer / 2 {
            self.owed.credit_update = true;
        }
    }

    /// The guest closes one or both directions; true where nothing is left of it.
    pub(super) fn shut_down(&mut self, flags: u32) -> bool {
        self.guest_shutdown |= flags & SHUTDOWN_BOTH;
        if self.guest_shutdown & SHUTDOWN_RECEIVE != 0 && !self.drained {
            self.prefix.clear();
            self.end_reading();
            // It fails only where the peer is gone, and then nobody writes any more.
            let _ = self.socket.shutdown(Shutdown::Read);
        }
        if self.guest_shutdown & SHUTDOWN_SEND != 0 {
            self.deliver();
        }
        self.guest_shutdown == SHUTDOWN_BOTH
    }

    /// The guest has forgotten the connection.
    pub(super) fn linger(&mut self) {
        self.phase = Phase::Lingering;
        self.shut_down(SHUTDOWN_BOTH);
    }

    /// Whether a lingering connection has delivered all it can.
    pub(super) fn is_done(&self) -> bool {
        self.phase == Phase::Lingering && (self.backlog.is_empty() || self.gone)
    }

    /// Closes the socket so that its peer reads everything and then an orderly end:
    /// closing a Unix socket with unread bytes would give the peer an error instead.
    pub(super) fn close(mut self) -> Option<OnEnd> {
        // It fails only where the peer is gone.
        let _ = self.socket.shutdown(Shutdown::Both);
        let mut unread = [0; 65536];
        let most = 64;
        for _ in 0..most {
            match recv(self.socket.as_raw_fd(), &mut unread, MsgFlags::MSG_DONTWAIT) {
                Ok(1..) | Err(Errno::EINTR) => {}
                Ok(0) | Err(_) => break,
            }
        }
        self.on_end.take()
    }
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Connection")
            .field("ports", &self.ports)
            .field("phase", &self.phase)
            .field("backlog", &self.backlog.len())
            .finish_non_exhaustive()
    }
}
