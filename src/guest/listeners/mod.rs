//! Who listens in the distros, told at the moment in which it changes (B204, B205).
//!
//! The kernel runs [`programs`] for the sockets of a distro's cgroup, and nothing of the
//! distro is asked or looked at. [`Listeners`] reads what they tell; the host then makes
//! the same ports its own. A packet that comes from the host finds also those who listen on
//! the loopback address only.

pub(super) mod assembler;
pub(super) mod bpf;
pub(super) mod functions;
mod programs;

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use uuid::Uuid;

use crate::network::ports;
use crate::protocol::guest::{Event, Listener, Transport};
use bpf::{Hook, Map, MapKind, Program, Ring};
pub use programs::Entrance;
use programs::{Maps, Watched};

/// The most sockets that are known to listen.
const MAXIMUM: u32 = 8192;
/// The length of the ring, for some thousand records.
const RING: u32 = 256 << 10;
/// How many records are taken at once, so that nobody keeps the reader to himself.
const BATCH: usize = 512;

/// The listeners of all distros.
#[derive(Debug)]
pub struct Listeners {
    maps: Maps,
    ring: Ring,
    namespace: u64,
    /// Keeps the packets' program attached.
    _link: OwnedFd,
    distros: HashMap<u32, Uuid>,
    next: u32,
    /// Sockets that were told of.
    told: HashSet<u64>,
}

impl Listeners {
    /// Watches the network namespace of this thread, which the host's packets reach by
    /// `entrance`.
    ///
    /// # Errors
    /// The system's: it may be forbidden, or the kernel too old.
    pub fn new(entrance: Entrance) -> io::Result<Self> {
        let ring = Ring::new(RING)?;
        let maps = Maps {
            listeners: Map::new(MapKind::Hash, 8, programs::RECORD as u32, MAXIMUM)?,
            names: Map::new(MapKind::Recent, 8, 16, MAXIMUM)?,
            loopback: Map::new(MapKind::Sockets, 8, 8, MAXIMUM)?,
            chosen: Map::new(MapKind::Array, 4, 8, 1)?,
            lost: Map::new(MapKind::Array, 4, 4, 1)?,
            ring: ring.number(),
        };
        let lookup = Program::load(Hook::Lookup, &programs::lookup(&maps, entrance))?;
        let own = fs::File::open("/proc/thread-self/ns/net")?;
        Ok(Self {
            _link: lookup.link(own.as_fd())?,
            namespace: bpf::namespace()?,
            maps,
            ring,
            distros: HashMap::new(),
            next: 0,
            told: HashSet::new(),
        })
    }

    /// Watches the sockets that processes of this group make from now on.
    ///
    /// # Errors
    /// The system's.
    pub fn watch(&mut self, distro: Uuid, group: BorrowedFd<'_>) -> io::Result<()> {
        let watched = Watched { number: self.next, namespace: self.namespace };
        self.chosen();
        programs::attach(&self.maps, watched, group)?;
        self.distros.retain(|_, other| *other != distro);
        self.distros.insert(self.next, distro);
        self.next = self.next.wrapping_add(1);
        Ok(())
    }

    /// The ports that clients are given, which the programs are told as well: somebody may have
    /// changed them.
    fn chosen(&self) -> (u16, u16) {
        let chosen @ (first, last) = ports::chosen();
        let value = [first, last].map(|port| u32::from(port).to_ne_bytes()).concat();
        // Where it fails they tell of more ports than are wanted.
        let _ = self.maps.chosen.set(&[0; 4], &value);
        chosen
    }

    /// What has changed. Never waits; there may be more.
    pub fn changes(&mut self) -> Vec<Event> {
        let ephemeral = self.chosen();
        let mut events = Vec::new();
        let mut record = [0; programs::RECORD];
        let zero = [0; 4];
        if self.maps.lost.get(&zero).is_some_and(|lost| lost != zero) {
            // Before the look, so that what is lost during it counts again. What is in the
            // ring is older than what the look will find.
            let _ = self.maps.lost.set(&zero, &zero);
            for _ in 0..RING as usize / programs::RECORD {
                if self.ring.take(&mut record).is_none() {
                    break;
                }
            }
            events.extend(self.look(ephemeral));
        }
        for _ in 0..BATCH {
            if self.ring.take(&mut record).is_none() {
                break;
            }
            events.extend(self.change(&record, ephemeral));
        }
        events
    }

    /// Compares what was told with what is.
    fn look(&mut self, ephemeral: (u16, u16)) -> Vec<Event> {
        let mut events = Vec::new();
        let mut gone = self.told.clone();
        for key in self.maps.listeners.keys() {
            let Some(record) = self.maps.listeners.get(&key) else { continue };
            let Ok(record) = <[u8; programs::RECORD]>::try_from(record) else { continue };
            if !gone.remove(&number64(&record, programs::SOCKET)) {
                events.extend(self.change(&record, ephemeral));
            }
        }
        for socket in gone {
            self.told.remove(&socket);
            events.push(Event::PortClosed { socket });
        }
        events
    }

    fn change(&mut self, record: &[u8; programs::RECORD], ephemeral: (u16, u16)) -> Option<Event> {
        let socket = number64(record, programs::SOCKET);
        if number32(record, programs::KIND) == programs::CLOSED {
            return self.told.remove(&socket).then_some(Event::PortClosed { socket });
        }
        let distro = *self.distros.get(&number32(record, programs::DISTRO))?;
        let listener = listener(record, distro)?;
        (is_wanted(&listener, ephemeral) && self.told.insert(socket))
            .then_some(Event::PortOpened(listener))
    }
}

impl AsFd for Listeners {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ring.as_fd()
    }
}

fn number32(record: &[u8], at: usize) -> u32 {
    let bytes = record.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
    u32::from_ne_bytes(bytes.unwrap_or_default())
}

fn number64(record: &[u8], at: usize) -> u64 {
    let bytes = record.get(at..at + 8).and_then(|bytes| bytes.try_into().ok());
    u64::from_ne_bytes(bytes.unwrap_or_default())
}

/// What a record says.
fn listener(record: &[u8; programs::RECORD], distro: Uuid) -> Option<Listener> {
    let transport = match i32::try_from(number32(record, programs::PROTOCOL)).ok()? {
        libc::IPPROTO_TCP => Transport::Tcp,
        libc::IPPROTO_UDP => Transport::Udp,
        _ => return None,
    };
    let bytes: [u8; 16] = record.get(programs::ADDRESS..)?.first_chunk().copied()?;
    let address = match i32::try_from(number32(record, programs::FAMILY)).ok()? {
        libc::AF_INET => IpAddr::V4(Ipv4Addr::from(*bytes.first_chunk::<4>()?)),
        libc::AF_INET6 => IpAddr::V6(Ipv6Addr::from(bytes)).to_canonical(),
        _ => return None,
    };
    let name = record.get(programs::PROCESS..)?.split(|byte| *byte == 0).next()?;
    let process = (!name.is_empty()).then(|| String::from_utf8_lossy(name).into_owned());
    let socket = number64(record, programs::SOCKET);
    let port = u16::try_from(number32(record, programs::PORT)).ok()?;
    Some(Listener { socket, distro, transport, address, port, process })
}

/// Whether the host makes the port its own.
fn is_wanted(listener: &Listener, chosen: (u16, u16)) -> bool {
    let Listener { transport, address, port, .. } = *listener;
    // Datagrams to the loopback address of IPv6 cannot come from outside of the machine.
    let reachable = transport == Transport::Tcp || address != Ipv6Addr::LOCALHOST;
    reachable && ports::is_shared((transport, port), address, chosen)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(transport: Transport, address: &str, port: u16) -> bool {
        let address = address.parse().unwrap();
        let listener =
            Listener { socket: 1, distro: Uuid::nil(), transport, address, port, process: None };
        is_wanted(&listener, (32768, 60999))
    }

    #[test]
    fn b205_only_what_means_this_machine_is_the_hosts_too() {
        for address in ["0.0.0.0", "127.0.0.1", "::", "::1"] {
            assert!(wanted(Transport::Tcp, address, 80), "{address}");
            assert!(wanted(Transport::Tcp, address, 40000), "{address}");
        }
        for address in ["127.0.0.2", "127.0.0.53", "172.20.224.2", "fd77::2", "10.0.0.1"] {
            assert!(!wanted(Transport::Tcp, address, 80), "{address}");
        }
        assert!(!wanted(Transport::Tcp, "0.0.0.0", 0));
    }

    #[test]
    fn ports_of_clients_and_of_the_link_are_not_forwarded() {
        assert!(wanted(Transport::Udp, "0.0.0.0", 53) && wanted(Transport::Udp, "::", 61000));
        for port in [67, 68, 546, 1900, 5353, 5355, 32768, 60999] {
            assert!(!wanted(Transport::Udp, "0.0.0.0", port), "{port}");
        }
        assert!(wanted(Transport::Udp, "127.0.0.1", 53));
        assert!(!wanted(Transport::Udp, "127.0.0.53", 53) && !wanted(Transport::Udp, "::1", 53));
    }

    #[test]
    fn a_record_is_read_whatever_is_in_it() {
        let mut record = [0; programs::RECORD];
        assert!(listener(&record, Uuid::nil()).is_none());
        let mut put = |at: usize, bytes: &[u8]| record[at..at + bytes.len()].copy_from_slice(bytes);
        put(programs::PROTOCOL, &6_u32.to_ne_bytes());
        put(programs::FAMILY, &10_u32.to_ne_bytes());
        put(programs::PORT, &8080_u32.to_ne_bytes());
        put(programs::SOCKET, &7_u64.to_ne_bytes());
        // Java's way to say 127.0.0.1.
        put(programs::ADDRESS, &Ipv4Addr::LOCALHOST.to_ipv6_mapped().octets());
        put(programs::PROCESS, b"java\0");
        let expected = Listener {
            socket: 7,
            distro: Uuid::nil(),
            transport: Transport::Tcp,
            address: Ipv4Addr::LOCALHOST.into(),
            port: 8080,
            process: Some("java".to_owned()),
        };
        assert_eq!(listener(&record, Uuid::nil()), Some(expected));
    }
}
