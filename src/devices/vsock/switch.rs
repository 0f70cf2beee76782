//! All connections of the device, and what happens to packets.

use std::collections::{HashMap, VecDeque};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

use super::MAXIMUM_CONNECTIONS;
use super::connection::{Accepted, Connection, Phase};
use super::handle::{Ended, OnEnd, Vsock};
use super::packet::{Header, Operation, Ports, TYPE_STREAM};
use crate::devices::buffers::Buffers;

/// How long the guest has to answer a request.
const PATIENCE: Duration = Duration::from_secs(60);

/// The size of a connection's buffer, and of those made while there are many.
const BUFFER: u32 = 256 << 10;
const SMALL_BUFFER: u32 = 64 << 10;
const MANY: usize = 256;

/// The most replies kept for a guest that does not take them.
const MAXIMUM_REPLIES: usize = 256;

/// The first port this side connects from.
const FIRST_PORT: u32 = 1 << 30;

/// What `epoll` reports for the first connection; smaller numbers are the worker's.
pub(super) const FIRST_ID: u64 = 16;

/// What goes to the guest next.
#[derive(Debug)]
pub(super) enum Next {
    /// A packet without data.
    Header(Header),
    /// Data of that connection.
    Data(u64),
}

/// The connections.
pub(super) struct Switch {
    handle: Vsock,
    epoll: Epoll,
    connections: HashMap<u64, Connection>,
    by_ports: HashMap<Ports, u64>,
    /// Connections with something for the guest, in turn.
    listed: VecDeque<u64>,
    /// Resets of what is no connection, or none any more.
    replies: VecDeque<Header>,
    /// When requests expire, in order.
    deadlines: VecDeque<(Instant, u64)>,
    next_id: u64,
    next_port: u32,
}

impl Switch {
    pub(super) fn new(handle: Vsock, epoll: Epoll) -> Self {
        Self {
            handle,
            epoll,
            connections: HashMap::new(),
            by_ports: HashMap::new(),
            listed: VecDeque::new(),
            replies: VecDeque::new(),
            deadlines: VecDeque::new(),
            next_id: FIRST_ID,
            next_port: FIRST_PORT,
        }
    }

    pub(super) fn epoll(&self) -> &Epoll {
        &self.epoll
    }

    /// Opens a connection to the guest.
    pub(super) fn connect(&mut self, port: u32, socket: OwnedFd, prefix: Vec<u8>, on_end: OnEnd) {
        if self.connections.len() >= MAXIMUM_CONNECTIONS {
            drop(socket);
            return on_end(Ended::Failed);
        }
        let mut ports = Ports { host: self.next_port, guest: port };
        while self.by_ports.contains_key(&ports) {
            ports.host = ports.host.wrapping_add(1).max(FIRST_PORT);
        }
        self.next_port = ports.host.wrapping_add(1).max(FIRST_PORT);
        let deadline = Instant::now() + PATIENCE;
        let buffer = self.buffer_size();
        let connection = Connection::requested(ports, socket, prefix, on_end, buffer, deadline);
        if let Some(id) = self.insert(connection) {
            self.deadlines.push_back((deadline, id));
        }
    }

    fn buffer_size(&self) -> u32 {
        if self.connections.len() < MANY { BUFFER } else { SMALL_BUFFER }
    }

    fn insert(&mut self, connection: Connection) -> Option<u64> {
        let id = self.next_id;
        self.next_id += 1;
        let interest =
            EventSet::IN | EventSet::OUT | EventSet::READ_HANG_UP | EventSet::EDGE_TRIGGERED;
        let event = EpollEvent::new(interest, id);
        if self.epoll.ctl(ControlOperation::Add, connection.socket_number(), event).is_err() {
            if connection.phase == Phase::Open {
                self.reply_reset(connection.ports);
            }
            end(connection, Ended::Failed);
            return None;
        }
        self.by_ports.insert(connection.ports, id);
        self.connections.insert(id, connection);
        self.list(id);
        Some(id)
    }

    /// Puts a connection into the list where it has something for the guest.
    fn list(&mut self, id: u64) {
        if let Some(connection) = self.connections.get_mut(&id)
            && !connection.listed
            && connection.has_packet()
        {
            connection.listed = true;
            self.listed.push_back(id);
        }
    }

    /// What `epoll` said of a connection's socket.
    pub(super) fn socket_event(&mut self, id: u64, events: EventSet) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        connection.socket_event(
            events.contains(EventSet::IN),
            events.contains(EventSet::OUT),
            events.contains(EventSet::READ_HANG_UP),
            events.intersects(EventSet::HANG_UP | EventSet::ERROR),
        );
        self.settle(id);
    }

    /// Ends a connection that is done, or lists it.
    fn settle(&mut self, id: u64) {
        if self.connections.get(&id).is_some_and(Connection::is_done) {
            self.remove(id, Ended::Closed);
        } else {
            self.list(id);
        }
    }

    /// Whether a packet can be taken; a guest that does not take the replies to its
    /// packets has to wait.
    pub(super) fn takes_packets(&self) -> bool {
        self.replies.len() < MAXIMUM_REPLIES
    }

    /// A packet from the guest with all that came with it.
    pub(super) fn packet(&mut self, header: &Header, mut rest: Buffers<'_>) {
        if !header.is_addressed() {
            return;
        }
        let ports = header.ports();
        let operation = Operation::parse(header.operation.get());
        let mut data = rest.take(header.length.get() as usize);
        let whole = data.length() == header.length.get() as usize;
        let Some(id) = self.by_ports.get(&ports).copied() else {
            return match operation {
                Some(Operation::Reset) => {}
                Some(Operation::Request) if header.kind.get() == TYPE_STREAM => {
                    self.accept(ports, header);
                }
                _ => self.reply_reset(ports),
            };
        };
        let Some(connection) = self.connections.get_mut(&id) else { return };
        connection.take_credit(header);
        let requested = matches!(connection.phase, Phase::Requested { .. });
        match operation {
            _ if header.kind.get() != TYPE_STREAM || !whole => self.violation(id),
            Some(Operation::Reset) => {
                if requested {
                    self.remove(id, Ended::Refused);
                } else {
                    self.forget(id);
                }
            }
            Some(Operation::Response) if requested => {
                connection.opened();
                self.list(id);
            }
            Some(Operation::Data) => match connection.accept(&mut data) {
                Accepted::Yes => self.list(id),
                Accepted::Violation => self.violation(id),
            },
            Some(Operation::Shutdown) if !requested => {
                if connection.shut_down(header.flags.get()) {
                    self.reply_reset(ports);
                    self.forget(id);
                } else {
                    self.list(id);
                }
            }
            Some(Operation::CreditUpdate) => self.list(id),
            Some(Operation::CreditRequest) => {
                connection.credit_requested();
                self.list(id);
            }
            _ => self.violation(id),
        }
    }

    /// A request from the guest.
    fn accept(&mut self, ports: Ports, header: &Header) {
        let Some(listener) = self.handle.listener(ports.host) else {
            return self.reply_reset(ports);
        };
        if self.connections.len() >= MAXIMUM_CONNECTIONS {
            return self.reply_reset(ports);
        }
        let Ok((ours, theirs)) = UnixStream::pair() else {
            return self.reply_reset(ports);
        };
        let mut connection = Connection::accepted(ports, ours.into(), self.buffer_size());
        connection.take_credit(header);
        if self.insert(connection).is_some() {
            listener(theirs);
        }
    }

    /// The guest has forgotten a connection; what it sent is still delivered.
    fn forget(&mut self, id: u64) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let ports = connection.ports;
        connection.linger();
        self.by_ports.remove(&ports);
        self.settle(id);
    }

    /// The guest broke the rules.
    fn violation(&mut self, id: u64) {
        if let Some(connection) = self.connections.get(&id) {
            let ports = connection.ports;
            self.reply_reset(ports);
            self.remove(id, Ended::Failed);
        }
    }

    fn reply_reset(&mut self, ports: Ports) {
        self.replies.push_back(Header::new(ports, Operation::Reset));
    }

    fn remove(&mut self, id: u64, how: Ended) {
        let Some(connection) = self.connections.remove(&id) else { return };
        if self.by_ports.get(&connection.ports) == Some(&id) {
            self.by_ports.remove(&connection.ports);
        }
        let number = connection.socket().as_raw_fd();
        // It cannot fail for a registered socket; closing would do it as well, unless
        // someone else has the socket open.
        let _ = self.epoll.ctl(ControlOperation::Delete, number, EpollEvent::default());
        end(connection, how);
    }

    /// Whether anything is to be sent to the guest.
    pub(super) fn has_packets(&self) -> bool {
        !self.replies.is_empty() || !self.listed.is_empty()
    }

    /// What goes to the guest next. A header counts as sent.
    pub(super) fn next(&mut self) -> Option<Next> {
        if let Some(reply) = self.replies.pop_front() {
            return Some(Next::Header(reply));
        }
        while let Some(id) = self.listed.pop_front() {
            let Some(connection) = self.connections.get_mut(&id) else { continue };
            connection.listed = false;
            if let Some(header) = connection.control_packet() {
                self.list(id);
                return Some(Next::Header(header));
            }
            if connection.has_sendable_data() {
                return Some(Next::Data(id));
            }
        }
        None
    }

    /// The connection to take data of.
    pub(super) fn connection(&mut self, id: u64) -> Option<&mut Connection> {
        self.connections.get_mut(&id)
    }

    /// After data of a connection was taken: it waits for its next turn.
    pub(super) fn had_turn(&mut self, id: u64) {
        self.list(id);
    }

    /// Gives up requests that the guest did not answer.
    pub(super) fn expire(&mut self, now: Instant) {
        while let Some((deadline, id)) = self.deadlines.front().copied()
            && deadline <= now
        {
            self.deadlines.pop_front();
            if let Some(connection) = self.connections.get(&id)
                && matches!(connection.phase, Phase::Requested { .. })
            {
                let ports = connection.ports;
                self.reply_reset(ports);
                self.remove(id, Ended::TimedOut);
            }
        }
    }

    /// When a request expires next.
    pub(super) fn next_deadline(&mut self) -> Option<Instant> {
        while let Some((deadline, id)) = self.deadlines.front() {
            let waits = self
                .connections
                .get(id)
                .is_some_and(|connection| matches!(connection.phase, Phase::Requested { .. }));
            if waits {
                return Some(*deadline);
            }
            self.deadlines.pop_front();
        }
        None
    }

    /// Ends all connections.
    pub(super) fn clear(&mut self) {
        let ids: Vec<u64> = self.connections.keys().copied().collect();
        for id in ids {
            self.remove(id, Ended::Failed);
        }
        self.replies.clear();
        self.listed.clear();
        self.deadlines.clear();
    }
}

fn end(connection: Connection, how: Ended) {
    if let Some(on_end) = connection.close() {
        on_end(how);
    }
}

impl std::fmt::Debug for Switch {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Switch")
            .field("connections", &self.connections.len())
            .field("replies", &self.replies.len())
            .finish_non_exhaustive()
    }
}
