//! From the host to the guest: the ports of distros on the host's loopback addresses
//! (B204, B205, B207).
//!
//! A port is the host's on both of its addresses or on none, so that `localhost` never means
//! two programs. One that is taken is tried again from time to time. Whoever comes is shown
//! to the guest with the address that stands for the host, so that answers find back. Others
//! than the host's own programs come only where a setting says so, and only to who listens
//! for everybody; they are shown as who they are.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::fd::AsRawFd as _;
use std::time::{Duration, Instant};

use vmm_sys_util::epoll::EventSet;

use super::{Flow, MAXIMUM_CONNECTIONS, Nat};
use crate::network::addresses::Place;
use crate::network::ports::{Port, Ports, Way};
use crate::network::socket::{self, Datagrams};
use crate::network::tcp::Connection;
use crate::protocol::guest::Transport;

/// The number of the table's event.
pub(super) const PORTS: u64 = crate::devices::net::FIRST_ID;

/// After how many milliseconds a port that is taken is tried again: at first soon, for whoever
/// has it may be about to leave.
const RETRIES: [u64; 5] = [20, 100, 1000, 5000, 30_000];
/// So many times are not worth a word.
const SILENT_TRIES: usize = 2;

/// The most clients of ports of UDP, and how long they are remembered without a word
/// (RFC 4787, 4.3).
const MAXIMUM_CLIENTS: usize = 4096;
const SILENCE: Duration = Duration::from_secs(300);

/// How many of those who wait at a port are let in at once.
const BATCH: usize = 64;

/// A port of the host on one of its addresses.
#[derive(Debug)]
pub(super) struct Door {
    port: Port,
    socket: Socket,
    /// Whether it stands in the list of those with something for the guest.
    pub listed: bool,
    /// The socket may have something.
    pub readable: bool,
}

impl Door {
    /// What `epoll` says of the socket.
    pub(super) fn socket_event(&mut self, events: EventSet) {
        if let Socket::Datagrams(socket) = &mut self.socket {
            socket.note(events);
        }
        self.readable = true;
    }
}

#[derive(Debug)]
enum Socket {
    Listener(TcpListener),
    Datagrams(Datagrams),
}

impl Socket {
    fn number(&self) -> i32 {
        match self {
            Self::Listener(listener) => listener.as_raw_fd(),
            Self::Datagrams(socket) => socket.number(),
        }
    }
}

/// What became of a port.
#[derive(Debug)]
enum Attempt {
    /// It is the host's, by these flows, and for others than the host itself or not.
    Open { doors: Vec<u64>, open: bool },
    /// It is taken; how often that was found, and when to try again.
    Taken { tries: usize, next: Instant },
}

/// Who came to a port of UDP.
#[derive(Clone, Copy, Debug)]
struct Client {
    door: u64,
    address: SocketAddr,
    used: Instant,
}

/// The guest's port, and the client as the guest knows it.
type Guise = (u16, SocketAddr);

/// All ports that are the guest's on the host.
#[derive(Debug)]
pub(super) struct Inbound {
    table: Ports,
    ports: BTreeMap<Port, Attempt>,
    clients: HashMap<Guise, Client>,
    guises: HashMap<(u64, SocketAddr), Guise>,
}

impl Inbound {
    pub(super) fn new(table: Ports) -> Self {
        Self { table, ports: BTreeMap::new(), clients: HashMap::new(), guises: HashMap::new() }
    }

    /// The table's event.
    pub(super) fn number(&self) -> i32 {
        self.table.number()
    }

    /// Whether a port of the host is the guest's own.
    pub(super) fn has(&self, port: Port) -> bool {
        matches!(self.ports.get(&port), Some(Attempt::Open { .. }))
    }

    /// How the guest is to know a client of UDP.
    fn guise(&mut self, door: u64, address: SocketAddr, port: u16, host: IpAddr) -> Option<Guise> {
        let now = Instant::now();
        if let Some(guise) = self.guises.get(&(door, address))
            && guise.1.ip() == host
        {
            if let Some(client) = self.clients.get_mut(guise) {
                client.used = now;
            }
            return Some(*guise);
        }
        if self.clients.len() >= MAXIMUM_CLIENTS {
            self.clients.retain(|_, client| now.duration_since(client.used) < SILENCE);
            let clients = &self.clients;
            self.guises.retain(|_, guise| clients.contains_key(guise));
            if self.clients.len() >= MAXIMUM_CLIENTS {
                return None;
            }
        }
        // Its own port, or another where somebody has that: two clients on two addresses.
        let guise = (0..64)
            .map(|step| (port, SocketAddr::new(host, address.port().wrapping_add(step).max(1))))
            .find(|guise| !self.clients.contains_key(guise))?;
        self.clients.insert(guise, Client { door, address, used: now });
        self.guises.insert((door, address), guise);
        Some(guise)
    }
}

fn bind(port: Port, address: IpAddr) -> io::Result<Socket> {
    let place = SocketAddr::new(address, port.1);
    match port.0 {
        Transport::Tcp => socket::listen_at(place).map(Socket::Listener),
        Transport::Udp => Datagrams::bind(place).map(Socket::Datagrams),
    }
}

/// The host's ends of a port, for everybody where it is `open`: all or none. Where there is no
/// IPv6 there is one.
fn bind_all(port: Port, open: bool) -> io::Result<Vec<Socket>> {
    let (four, six) = match open {
        true => (Ipv4Addr::UNSPECIFIED, Ipv6Addr::UNSPECIFIED),
        false => (Ipv4Addr::LOCALHOST, Ipv6Addr::LOCALHOST),
    };
    let mut sockets = vec![bind(port, four.into())?];
    match bind(port, six.into()) {
        Ok(socket) => sockets.push(socket),
        Err(error)
            if matches!(
                error.raw_os_error(),
                Some(libc::EADDRNOTAVAIL | libc::EAFNOSUPPORT | libc::ENETUNREACH)
            ) => {}
        Err(error) => return Err(error),
    }
    Ok(sockets)
}

impl Nat {
    /// Makes the host's ports those that are wanted.
    pub(super) fn open_ports(&mut self, now: Instant) {
        self.inbound.table.seen();
        let mut wanted = self.inbound.table.wanted();
        wanted.values_mut().for_each(|open| *open &= self.lan_forwarding);
        let is_wanted = |port: &Port, attempt: &Attempt| match (wanted.get(port), attempt) {
            (Some(wanted), Attempt::Open { open, .. }) => wanted == open,
            (wanted, _) => wanted.is_some(),
        };
        let ports = self.inbound.ports.iter();
        let unwanted: Vec<Port> =
            ports.filter(|(port, attempt)| !is_wanted(port, attempt)).map(|(p, _)| *p).collect();
        for port in unwanted {
            if let Some(Attempt::Open { doors, .. }) = self.inbound.ports.remove(&port) {
                for door in doors {
                    self.inbound.guises.retain(|(at, _), _| *at != door);
                    self.inbound.clients.retain(|_, client| client.door != door);
                    self.remove(door);
                }
            }
            self.inbound.table.dropped(port);
        }
        for (port, open) in wanted {
            let tries = match self.inbound.ports.get(&port) {
                Some(Attempt::Open { .. }) => continue,
                Some(Attempt::Taken { next, .. }) if *next > now => continue,
                Some(Attempt::Taken { tries, .. }) => *tries,
                None => 0,
            };
            let result = bind_all(port, open);
            let taken = matches!(&result, Err(error) if error.kind() == io::ErrorKind::AddrInUse);
            if !taken || tries >= SILENT_TRIES {
                self.inbound.table.settled(port, result.as_ref().err());
            }
            let attempt = match result {
                Ok(sockets) => Attempt::Open { doors: self.add_doors(port, sockets), open },
                Err(_) => {
                    let delay = RETRIES.get(tries).or(RETRIES.last()).copied().unwrap_or(1);
                    let next = now + Duration::from_millis(delay);
                    Attempt::Taken { tries: tries + 1, next }
                }
            };
            self.inbound.ports.insert(port, attempt);
        }
        let next = self.inbound.ports.values().filter_map(|attempt| match attempt {
            Attempt::Taken { next, .. } => Some(*next),
            Attempt::Open { .. } => None,
        });
        self.timers.remove(PORTS);
        if let Some(next) = next.min() {
            self.timers.set(PORTS, next);
        }
    }

    fn add_doors(&mut self, port: Port, sockets: Vec<Socket>) -> Vec<u64> {
        let doors = sockets.into_iter().filter_map(|socket| {
            let number = socket.number();
            let door = Door { port, socket, listed: false, readable: false };
            self.insert(Flow::Door(door), number)
        });
        doors.collect()
    }

    /// The guest's end, and the address by which the guest is to know somebody who came to
    /// a port: his own, or what stands for the host where he is on it.
    fn ends(&self, port: Port, client: IpAddr) -> Option<(SocketAddr, IpAddr)> {
        let addresses = &self.addresses;
        let way = self.inbound.table.way(port, client.is_ipv6())?;
        let (guest, host) = match way {
            Way::Six => (IpAddr::V6(addresses.guest6), IpAddr::V6(addresses.host6)),
            Way::Four => (IpAddr::V4(addresses.guest4), IpAddr::V4(addresses.host4)),
            Way::Loopback => (IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V4(addresses.host4)),
        };
        // What the guest could not answer to is shown as the host as well.
        let own = addresses.place(client) == Place::World && client.is_ipv6() == guest.is_ipv6();
        let shown = if own && way != Way::Loopback { client } else { host };
        Some((SocketAddr::new(guest, port.1), shown))
    }

    /// Lets in who waits at a port, or takes the next datagram.
    pub(super) fn enter(&mut self, id: u64, now: Instant) {
        match self.flows.get(&id) {
            Some(Flow::Door(Door { socket: Socket::Listener(_), .. })) => self.admit(id, now),
            Some(Flow::Door(_)) => self.receive_inbound(id),
            _ => return,
        }
        self.settle(id);
    }

    fn admit(&mut self, id: u64, now: Instant) {
        for _ in 0..BATCH {
            let Some(Flow::Door(door)) = self.flows.get_mut(&id) else { return };
            let port = door.port;
            let Socket::Listener(listener) = &door.socket else { return };
            match listener.accept() {
                Ok((stream, client)) => self.call(port, stream, client, now),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    // Whoever is gone already, or no descriptor left: they may come again.
                    let door_is_empty = error.kind() == io::ErrorKind::WouldBlock;
                    if door_is_empty || error.raw_os_error() == Some(libc::EMFILE) {
                        door.readable = false;
                        return;
                    }
                }
            }
        }
    }

    /// Calls the guest for somebody who has come.
    fn call(&mut self, port: Port, stream: std::net::TcpStream, client: SocketAddr, now: Instant) {
        let ends = self.ends(port, client.ip());
        let prepared = stream.set_nonblocking(true).and_then(|()| socket::prepare(&stream));
        let room = self.connections.len() < MAXIMUM_CONNECTIONS && prepared.is_ok();
        let (Some((guest, host)), true) = (ends, room) else {
            return socket::reset_on_close(&stream);
        };
        let peer = (0..64)
            .map(|step| SocketAddr::new(host, client.port().wrapping_add(step).max(1)))
            .find(|peer| !self.connections.contains_key(&(guest, *peer)));
        let Some(peer) = peer else { return socket::reset_on_close(&stream) };
        let number = stream.as_raw_fd();
        let (first, room) = (self.first_number(), self.room());
        let connection = Connection::calling((guest, peer), stream, first, room, now);
        if let Some(id) = self.insert(Flow::Connection(Box::new(connection)), number) {
            self.connections.insert((guest, peer), id);
            self.settle(id);
        }
    }

    /// The next datagram of somebody who has come to a port.
    fn receive_inbound(&mut self, id: u64) {
        let Some(Flow::Door(door)) = self.flows.get_mut(&id) else { return };
        let Socket::Datagrams(socket) = &mut door.socket else { return };
        // What the network says of an answer: the guest has done what it could.
        let _ = socket.undelivered();
        let (length, client) = match socket.receive(&mut self.scratch) {
            Ok((length, Some(client))) => (length, client),
            Ok((_, None)) => return,
            Err(error) => {
                door.readable = error.kind() != io::ErrorKind::WouldBlock;
                return;
            }
        };
        let port = door.port;
        let Some((guest, host)) = self.ends(port, client.ip()) else { return };
        let Some((_, peer)) = self.inbound.guise(id, client, port.1, host) else { return };
        let data = self.scratch.get(..length).unwrap_or_default();
        let frame = self.encoder.udp(peer, guest, data);
        self.answer(frame);
    }

    /// Sends an answer of the guest to who has come to its port; false where nobody has.
    pub(super) fn send_inbound(
        &mut self,
        from: SocketAddr,
        to: SocketAddr,
        data: &[u8],
        now: Instant,
    ) -> bool {
        let Some(client) = self.inbound.clients.get_mut(&(from.port(), to)) else { return false };
        client.used = now;
        let client = *client;
        if let Some(Flow::Door(door)) = self.flows.get(&client.door)
            && let Socket::Datagrams(socket) = &door.socket
        {
            // What the system refuses is lost, as datagrams are.
            let _ = socket.send(client.address, data);
        }
        true
    }
}
