//! The other end of the guest's cable.

mod inbound;
mod outbound;
mod questions;

use std::collections::hash_map::RandomState;
use std::collections::{HashMap, VecDeque};
use std::hash::BuildHasher as _;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::AsRawFd as _;
use std::path::PathBuf;
use std::time::Instant;

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

use super::addresses::{Addresses, GATEWAY_MAC, MTU};
use super::datagram::{self, Port};
use super::dns::Question;
use super::encode::{self, Encoder, Head};
use super::hosts::Hosts;
use super::names::Names;
use super::packet::{Ipv4, Ipv6, Tcp};
use super::parse::{self, ACK, Content, Packet, RST, Segment};
use super::ports::Ports;
use super::resolver::Resolver;
use super::tcp::{Connection, Given, Verdict};
use super::timers::Timers;
use crate::devices::net::{Deliver, FIRST_ID, Link, Offloads};
use inbound::{Door, Inbound};

/// The most TCP connections at one time, and of those the ones that the host still makes.
const MAXIMUM_CONNECTIONS: usize = 16_384;
const MAXIMUM_CONNECTING: usize = 2048;
/// How many bytes each way a connection may have waiting where there are fewer than so many,
/// and the same for all others.
const ROOM: [(usize, usize); 3] = [(32, 1 << 20), (256, 256 << 10), (2048, 32 << 10)];
const LEAST_ROOM: usize = 8 << 10;
/// The most ports of UDP and identifiers of echoes.
const MAXIMUM_PORTS: usize = 4096;
/// The most answers kept for a guest that does not take them.
const MAXIMUM_ANSWERS: usize = 256;

/// How much of a packet an error message quotes: its headers are enough to know it by.
const QUOTED: usize = 128;

/// The port of name servers.
const DNS: u16 = 53;

/// The largest datagram.
const SCRATCH: usize = 64 << 10;

/// ICMP: a host, or a port, that cannot be reached; and what is forbidden.
const UNREACHABLE_HOST: Reason = Reason { four: (3, 1), six: (1, 3) };
const UNREACHABLE_PORT: Reason = Reason { four: (3, 3), six: (1, 4) };
const UNREACHABLE_NETWORK: Reason = Reason { four: (3, 0), six: (1, 0) };
const PROHIBITED: Reason = Reason { four: (3, 13), six: (1, 1) };

/// Type and code of an error message in both versions of ICMP.
#[derive(Clone, Copy)]
struct Reason {
    four: (u8, u8),
    six: (u8, u8),
}

/// The largest segment of TCP on the link.
#[must_use]
pub fn largest_segment(peer: SocketAddr) -> u16 {
    let ip = if peer.is_ipv4() { size_of::<Ipv4>() } else { size_of::<Ipv6>() };
    // Headers are far smaller than the link's packets.
    MTU - (ip + size_of::<Tcp>()) as u16
}

/// Something with a socket.
#[derive(Debug)]
enum Flow {
    Connection(Box<Connection>),
    Door(Door),
    Port(datagram::Flow),
    Question(Question),
    Names(Box<Names>),
}

impl Flow {
    fn listed(&mut self) -> &mut bool {
        match self {
            Self::Connection(connection) => &mut connection.listed,
            Self::Door(door) => &mut door.listed,
            Self::Port(flow) => &mut flow.listed,
            Self::Question(question) => &mut question.listed,
            Self::Names(names) => &mut names.listed,
        }
    }

    /// When it is to be looked at whatever happens.
    fn deadline(&self) -> Option<Instant> {
        match self {
            Self::Connection(connection) => Some(connection.deadline()),
            Self::Door(_) => None,
            Self::Port(flow) => Some(flow.deadline()),
            Self::Question(question) => Some(question.deadline()),
            Self::Names(names) => Some(names.deadline()),
        }
    }
}

/// The guest's end and the other end of a connection, as the guest knows them.
type Ends = (SocketAddr, SocketAddr);

/// What a link is made of.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Who is who on it.
    pub addresses: Addresses,
    /// The host's `/etc/resolv.conf`.
    pub resolver: PathBuf,
    /// The host's `/etc/hosts`.
    pub hosts: PathBuf,
    /// The ports that the guest listens on.
    pub ports: Ports,
    /// Whether the guest reaches what listens on the host's loopback addresses.
    pub host_loopback: bool,
    /// Whether others than the host's own programs reach the guest's ports.
    pub lan_forwarding: bool,
}

/// User-mode network address translation.
pub struct Nat {
    addresses: Addresses,
    host_loopback: bool,
    lan_forwarding: bool,
    inbound: Inbound,
    encoder: Encoder,
    resolver: Resolver,
    hosts: Hosts,
    epoll: Epoll,
    flows: HashMap<u64, Flow>,
    connections: HashMap<Ends, u64>,
    ports: HashMap<Port, u64>,
    questions: usize,
    streams: usize,
    /// How many connections the host still makes.
    connecting: usize,
    /// Flows with something for the guest, in turn.
    listed: VecDeque<u64>,
    /// Whole frames for the guest; they go first.
    answers: VecDeque<Vec<u8>>,
    timers: Timers,
    next_id: u64,
    random: RandomState,
    scratch: Vec<u8>,
    frame: Vec<u8>,
}

impl Nat {
    /// A link for a guest that takes this work.
    ///
    /// # Errors
    /// Where the system gives no `epoll`.
    pub fn new(settings: Settings, offloads: Offloads) -> io::Result<Self> {
        let Settings { addresses, resolver, hosts, ports, host_loopback, lan_forwarding } =
            settings;
        let (epoll, inbound) = (Epoll::new()?, Inbound::new(ports));
        let interest = EpollEvent::new(EventSet::IN, inbound::PORTS);
        epoll.ctl(ControlOperation::Add, inbound.number(), interest)?;
        let mut nat = Self {
            addresses,
            host_loopback,
            lan_forwarding,
            inbound,
            encoder: Encoder { gateway: GATEWAY_MAC, offloads },
            resolver: Resolver::new(resolver),
            hosts: Hosts::new(hosts),
            epoll,
            flows: HashMap::new(),
            connections: HashMap::new(),
            ports: HashMap::new(),
            questions: 0,
            streams: 0,
            connecting: 0,
            listed: VecDeque::new(),
            answers: VecDeque::new(),
            timers: Timers::default(),
            next_id: FIRST_ID + 1,
            random: RandomState::new(),
            scratch: vec![0; SCRATCH],
            frame: Vec::new(),
        };
        // Those of a guest whose driver starts anew.
        nat.open_ports(Instant::now());
        Ok(nat)
    }

    /// How many flows there are.
    #[must_use]
    pub fn flows(&self) -> usize {
        self.flows.len()
    }

    /// How many of them are connections.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.connections.len()
    }

    fn answer(&mut self, frame: impl IntoIterator<Item = Vec<u8>>) {
        // More are taken from the guest only where there is room; those that come from
        // elsewhere are bounded by the flows.
        self.answers.extend(frame);
    }

    /// Has what happens to a socket reported.
    fn report(&self, number: i32, id: u64) -> Option<()> {
        let interest =
            EventSet::IN | EventSet::OUT | EventSet::READ_HANG_UP | EventSet::EDGE_TRIGGERED;
        self.epoll.ctl(ControlOperation::Add, number, EpollEvent::new(interest, id)).ok()
    }

    fn insert(&mut self, flow: Flow, number: i32) -> Option<u64> {
        let id = self.next_id;
        self.next_id += 1;
        self.report(number, id)?;
        if let Some(deadline) = flow.deadline() {
            self.timers.set(id, deadline);
        }
        self.flows.insert(id, flow);
        Some(id)
    }

    fn remove(&mut self, id: u64) {
        // Closing the socket takes it out of `epoll`.
        match self.flows.remove(&id) {
            Some(Flow::Connection(connection)) => {
                let ends = (connection.guest, connection.peer);
                if self.connections.get(&ends) == Some(&id) {
                    self.connections.remove(&ends);
                }
                self.connecting -= usize::from(connection.is_connecting());
            }
            Some(Flow::Port(flow)) => _ = self.ports.remove(&flow.port),
            Some(Flow::Question(_)) => self.questions -= 1,
            Some(Flow::Names(_)) => self.streams -= 1,
            Some(Flow::Door(_)) | None => {}
        }
        self.timers.remove(id);
    }

    /// Looks at a flow again after something happened to it.
    fn settle(&mut self, id: u64) {
        let Some(flow) = self.flows.get_mut(&id) else { return };
        if let Some(deadline) = flow.deadline() {
            self.timers.set(id, deadline);
        }
        let wants = match flow {
            Flow::Connection(connection) => connection.has_segment(&self.encoder),
            Flow::Door(door) => door.readable,
            Flow::Port(flow) => flow.readable,
            Flow::Question(_) | Flow::Names(_) => false,
        };
        let listed = flow.listed();
        if wants && !*listed {
            *listed = true;
            self.listed.push_back(id);
        }
    }

    /// Tells the guest that a packet did not get through.
    fn unreachable(&mut self, source: IpAddr, packet: &[u8], reason: Reason) {
        let code = if source.is_ipv4() { reason.four } else { reason.six };
        let quoted = packet.get(..QUOTED).unwrap_or(packet);
        let from = match source {
            IpAddr::V4(_) => IpAddr::V4(self.addresses.gateway4),
            IpAddr::V6(_) => IpAddr::V6(self.addresses.gateway6),
        };
        let frame = self.encoder.icmp(from, source, code, (0, 0), quoted);
        self.answer(frame);
    }

    /// Whether one of the guest's addresses reaches the host's loopback: not that of a distro
    /// which is kept to itself.
    fn reaches_host(&self, source: IpAddr) -> bool {
        self.host_loopback && self.addresses.is_machine(source)
    }

    fn reset(&mut self, ends: Ends, sequence: u32, acknowledgment: u32, flags: u16) {
        let (guest, peer) = ends;
        let head = Head {
            source: peer,
            destination: guest,
            sequence,
            acknowledgment,
            flags,
            window: 0,
            options: None,
            maximum: usize::from(MTU),
        };
        let mut frame = Vec::new();
        self.encoder.tcp(&mut frame, &head, &[]);
        self.answer([frame]);
    }

    /// The room of another connection.
    fn room(&self) -> usize {
        let fits = |(limit, _): &&(usize, usize)| self.connections.len() < *limit;
        ROOM.iter().find(fits).map_or(LEAST_ROOM, |(_, room)| *room)
    }

    /// A sequence number to begin with that nobody can guess.
    fn first_number(&self) -> u32 {
        self.random.hash_one(self.next_id) as u32
    }

    /// Notes a connection that the host makes for the guest.
    fn add_connection(
        &mut self,
        packet: &Packet<'_>,
        segment: &Segment<'_>,
        socket: TcpStream,
        now: Instant,
    ) {
        let number = socket.as_raw_fd();
        let first = self.first_number();
        let quoted = packet.whole.get(..QUOTED).unwrap_or(packet.whole);
        let connection = Connection::new(segment, quoted, socket, first, self.room(), now);
        let ends = (connection.guest, connection.peer);
        match self.insert(Flow::Connection(Box::new(connection)), number) {
            Some(id) => {
                self.connections.insert(ends, id);
                self.connecting += 1;
            }
            None => self.refuse(segment),
        }
    }

    /// Tells the guest why there is no connection.
    fn not_connected(&mut self, ends: Ends, quoted: &[u8], expected: u32, error: ErrorKind) {
        let reason = match error {
            ErrorKind::HostUnreachable | ErrorKind::TimedOut => UNREACHABLE_HOST,
            ErrorKind::NetworkUnreachable => UNREACHABLE_NETWORK,
            ErrorKind::PermissionDenied => PROHIBITED,
            _ => return self.reset(ends, 0, expected, RST | ACK),
        };
        self.unreachable(ends.0.ip(), quoted, reason);
    }

    /// Does what became of a connection.
    fn carry_out(&mut self, id: u64, verdict: Verdict, was_connecting: bool) {
        let Some(Flow::Connection(connection)) = self.flows.get(&id) else { return };
        if was_connecting && !connection.is_connecting() {
            self.connecting -= 1;
        }
        let ends = (connection.guest, connection.peer);
        match verdict {
            Verdict::Continues => self.settle(id),
            Verdict::Over => self.remove(id),
            Verdict::Reset => {
                let (sequence, expected) = (connection.reset_sequence(), connection.expected());
                self.remove(id);
                self.reset(ends, sequence, expected, RST | ACK);
            }
            Verdict::Failed(error) => {
                let expected = connection.expected();
                let quoted = connection.quoted().to_vec();
                self.remove(id);
                self.not_connected(ends, &quoted, expected, error);
            }
        }
    }

    /// Lets the next flow in turn have its say.
    fn give_flow(&mut self, deliver: &mut dyn Deliver) {
        let now = Instant::now();
        let Some(id) = self.listed.pop_front() else { return };
        let Some(flow) = self.flows.get_mut(&id) else { return };
        *flow.listed() = false;
        match flow {
            Flow::Connection(connection) => {
                let frame = &mut self.frame;
                let (given, verdict) = connection.give(&self.encoder, frame, deliver, now);
                if given == Given::NoRoom {
                    connection.listed = true;
                    self.listed.push_front(id);
                    return;
                }
                self.carry_out(id, verdict, false);
            }
            Flow::Door(_) => self.enter(id, now),
            Flow::Port(flow) => {
                let host = self.host_loopback.then_some(&self.addresses);
                let frame = flow.receive(&self.encoder, host, &mut self.scratch, now);
                self.answer(frame);
                self.settle(id);
            }
            Flow::Question(_) | Flow::Names(_) => {}
        }
    }
}

impl Link for Nat {
    fn epoll(&self) -> &Epoll {
        &self.epoll
    }

    fn event(&mut self, id: u64, events: EventSet) {
        let now = Instant::now();
        if id == inbound::PORTS {
            return self.open_ports(now);
        }
        match self.flows.get_mut(&id) {
            Some(Flow::Door(door)) => {
                door.socket_event(events);
                self.settle(id);
            }
            Some(Flow::Connection(connection)) => {
                let was_connecting = connection.is_connecting();
                let verdict = connection.socket_event(events, now);
                self.carry_out(id, verdict, was_connecting);
            }
            Some(Flow::Port(flow)) => {
                flow.socket_event(events);
                self.settle(id);
            }
            Some(Flow::Question(_)) => self.answered(id, false, now),
            Some(Flow::Names(_)) => self.carry_names(id, now),
            None => {}
        }
    }

    fn deadline(&self) -> Option<Instant> {
        self.timers.next()
    }

    fn expire(&mut self, now: Instant) {
        while let Some(id) = self.timers.pop(now) {
            if id == inbound::PORTS {
                self.open_ports(now);
                continue;
            }
            let later = |flow: &&mut Flow| flow.deadline().filter(|deadline| *deadline > now);
            match self.flows.get_mut(&id) {
                Some(flow) if let Some(deadline) = later(&flow) => self.timers.set(id, deadline),
                Some(Flow::Connection(connection)) => {
                    let was_connecting = connection.is_connecting();
                    let verdict = connection.expire(now);
                    self.carry_out(id, verdict, was_connecting);
                }
                Some(Flow::Port(_)) => self.remove(id),
                Some(Flow::Question(_)) => self.answered(id, true, now),
                Some(Flow::Names(_)) => self.carry_names(id, now),
                Some(Flow::Door(_)) | None => {}
            }
        }
    }

    fn takes(&self) -> bool {
        self.answers.len() < MAXIMUM_ANSWERS
    }

    fn take(&mut self, frame: &[u8]) {
        let now = Instant::now();
        match parse::frame(frame) {
            Some(Content::Arp(question)) => self.neighbour(&question.clone()),
            Some(Content::Packet(packet)) => self.packet(&packet, now),
            None => {}
        }
    }

    fn has_frames(&self) -> bool {
        !self.answers.is_empty() || !self.listed.is_empty()
    }

    fn give(&mut self, deliver: &mut dyn Deliver) {
        match self.answers.front() {
            Some(frame) => {
                if deliver.pieces(&encode::whole(frame)) {
                    self.answers.pop_front();
                }
            }
            None => self.give_flow(deliver),
        }
    }
}

impl std::fmt::Debug for Nat {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Nat")
            .field("addresses", &self.addresses)
            .field("flows", &self.flows.len())
            .finish_non_exhaustive()
    }
}
