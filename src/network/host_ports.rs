//! The ports on which programs of the host listen, beside this process.
//!
//! Those that a distro has are on the host by sockets of this process: they are not the host's.
//! The kernel is asked; one that does not answer, for a module that is not there and cannot be
//! loaded, has tables to read.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader};
use std::net::SocketAddr;

use super::ports::{self, Port};
use super::socket_diagnostics;
use super::socket_table::{LISTENING, Row, WITHOUT_PEER, inode_of_link};
use crate::protocol::guest::{HostPorts, Transport};

/// The tables, of the network that this thread is in.
const TABLES: [(Transport, [&str; 2], u8); 2] = [
    (Transport::Tcp, ["/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"], LISTENING),
    (Transport::Udp, ["/proc/thread-self/net/udp", "/proc/thread-self/net/udp6"], WITHOUT_PEER),
];
/// The sockets of this process.
const OWN: &str = "/proc/self/fd";

/// A socket by its inode, and its port.
type Socket = (u64, Port);

/// What was known at the last look.
#[derive(Debug)]
pub struct Watch {
    ignored: BTreeSet<u16>,
    /// The sockets that there are, and whether they are somebody else's.
    sockets: BTreeMap<Socket, bool>,
    told: BTreeSet<Port>,
}

impl Watch {
    /// Nothing is known; `ignored` never is.
    #[must_use]
    pub fn new(ignored: BTreeSet<u16>) -> Self {
        Self { ignored, sockets: BTreeMap::new(), told: BTreeSet::new() }
    }

    /// What has changed since the last call; `None` where nothing has.
    ///
    /// # Errors
    /// The system's, where a table cannot be read. Nothing has changed by that.
    pub fn changes(&mut self) -> io::Result<Option<HostPorts>> {
        let first = self.look()?;
        if first.iter().eq(self.sockets.keys()) {
            return Ok(None);
        }
        // One of this process that comes or goes in these moments must not be taken for
        // another's: a socket that is there before and after is among its files between. And
        // a table that changes while it is read may miss one that stays.
        let own = own()?;
        let second = self.look()?;
        self.sockets.retain(|socket, _| first.contains(socket) || second.contains(socket));
        for socket in first.intersection(&second) {
            self.sockets.entry(*socket).or_insert_with(|| !own.contains(&socket.0));
        }
        let others = self.sockets.iter().filter(|(_, is_other)| **is_other);
        let ports: BTreeSet<Port> = others.map(|((_, port), _)| *port).collect();
        let changes = HostPorts {
            taken: ports.difference(&self.told).copied().collect(),
            free: self.told.difference(&ports).copied().collect(),
        };
        self.told = ports;
        Ok((changes != HostPorts::default()).then_some(changes))
    }

    /// All sockets that listen where a distro's would be the host's too.
    fn look(&self) -> io::Result<BTreeSet<Socket>> {
        let chosen = ports::chosen();
        let mut sockets = BTreeSet::new();
        for (transport, tables, state) in TABLES {
            let found = socket_diagnostics::listening(transport)
                .or_else(|_| read(transport, tables, state))?;
            for (place, inode) in found {
                let port = (transport, place.port());
                if ports::is_shared(port, place.ip(), chosen) && !self.ignored.contains(&port.1) {
                    sockets.insert((inode, port));
                }
            }
        }
        Ok(sockets)
    }
}

/// Reads tables.
fn read(transport: Transport, tables: [&str; 2], state: u8) -> io::Result<Vec<(SocketAddr, u64)>> {
    let mut found = Vec::new();
    for path in tables {
        let file = match File::open(path) {
            Ok(file) => file,
            // There is no IPv6.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        for line in BufReader::new(file).lines().skip(1) {
            match Row::parse(&line?) {
                Some(row) if row.state == state => found.push((row.local, row.inode)),
                // Listeners come first.
                Some(_) if transport == Transport::Tcp => break,
                _ => {}
            }
        }
    }
    Ok(found)
}

/// The inodes of this process's sockets.
fn own() -> io::Result<HashSet<u64>> {
    let links = fs::read_dir(OWN)?.flatten().filter_map(|file| fs::read_link(file.path()).ok());
    Ok(links.filter_map(|target| inode_of_link(target.to_str()?)).collect())
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};

    use super::*;

    #[test]
    fn the_tables_say_what_the_kernel_does() {
        let (listener, datagrams) =
            (TcpListener::bind("[::1]:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
        let places = [listener.local_addr().unwrap(), datagrams.local_addr().unwrap()];
        for ((transport, tables, state), place) in TABLES.into_iter().zip(places) {
            // Others of this machine come and go.
            let here = |found: Vec<(SocketAddr, u64)>| {
                found.into_iter().find(|(other, _)| *other == place).unwrap()
            };
            let told = here(socket_diagnostics::listening(transport).unwrap());
            assert_eq!(here(read(transport, tables, state).unwrap()), told);
        }
    }
}
