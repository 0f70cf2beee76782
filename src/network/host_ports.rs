//! The ports on which programs of the host listen, beside this process.
//!
//! Those that a distro has are on the host by sockets of this process: they are not the host's.
//! The tables are read and not asked for by netlink, whose modules not every host has; of
//! TCP's the listeners come first, and the rest is not read.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader};

use super::ports::{self, Port};
use super::socket_table::{LISTENING, Row, WITHOUT_PEER, inode_of_link};
use crate::protocol::guest::{HostPorts, Transport};

/// The tables, of the network that this thread is in.
const TABLES: [(&str, Transport, u8); 4] = [
    ("/proc/thread-self/net/tcp", Transport::Tcp, LISTENING),
    ("/proc/thread-self/net/tcp6", Transport::Tcp, LISTENING),
    ("/proc/thread-self/net/udp", Transport::Udp, WITHOUT_PEER),
    ("/proc/thread-self/net/udp6", Transport::Udp, WITHOUT_PEER),
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
        for (path, transport, state) in TABLES {
            let file = match File::open(path) {
                Ok(file) => file,
                // There is no IPv6.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            for line in BufReader::new(file).lines().skip(1) {
                let Some(row) = Row::parse(&line?) else { continue };
                if row.state != state {
                    match transport {
                        Transport::Tcp => break,
                        Transport::Udp => continue,
                    }
                }
                let port = (transport, row.local.port());
                if ports::is_shared(port, row.local.ip(), chosen) && !self.ignored.contains(&port.1)
                {
                    sockets.insert((row.inode, port));
                }
            }
        }
        Ok(sockets)
    }
}

/// The inodes of this process's sockets.
fn own() -> io::Result<HashSet<u64>> {
    let links = fs::read_dir(OWN)?.flatten().filter_map(|file| fs::read_link(file.path()).ok());
    Ok(links.filter_map(|target| inode_of_link(target.to_str()?)).collect())
}
