//! The ports on which distros listen, and what became of them on the host.
//!
//! The service says who listens; the link's thread makes the same ports the host's, and
//! says how it went. Both sides and `--status` share one table.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use uuid::Uuid;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::protocol::guest::{Listener, Transport};

/// The most sockets of a guest that are kept; it may say what it wants.
const MAXIMUM: usize = 8192;

/// A port of this machine.
pub type Port = (Transport, u16);

/// Ports of UDP that are never the host's and a distro's alike: those of DHCP, of the search for
/// names and devices on a link.
const LINK_SERVICES: [u16; 6] = [67, 68, 546, 1900, 5353, 5355];

/// Whether a port that somebody listens on, here or on the host, is the other's too: one that
/// others can find, on an address that means this machine. `chosen` are those of [`chosen`].
#[must_use]
pub fn is_shared((transport, port): Port, address: IpAddr, chosen: (u16, u16)) -> bool {
    // Others of 127.0.0.0/8 are whose they are alone (B205).
    let own = matches!(address, IpAddr::V4(Ipv4Addr::LOCALHOST) | IpAddr::V6(Ipv6Addr::LOCALHOST));
    // A client's port of UDP looks like a server's: those that the kernel chooses are clients'.
    let of_client = (chosen.0..=chosen.1).contains(&port) || LINK_SERVICES.contains(&port);
    port != 0 && (address.is_unspecified() || own) && (transport == Transport::Tcp || !of_client)
}

/// The first and the last of the ports that the kernel gives to whom does not care.
#[must_use]
pub fn chosen() -> (u16, u16) {
    let text = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let mut numbers = text.split_ascii_whitespace().map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(first)), Some(Ok(last))) => (first, last),
        _ => (32768, 60999),
    }
}

/// By which of its addresses the guest is reached.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum Way {
    /// That of IPv4.
    Four,
    /// That of IPv6.
    Six,
    /// 127.0.0.1, for datagrams.
    Loopback,
}

/// A port that a distro listens on, as `--status` tells it.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Forwarded {
    /// By what it is reached.
    pub transport: Transport,
    /// Its number, the same in the distro and on the host.
    pub port: u16,
    /// Whose it is.
    pub distro: Uuid,
    /// Where the distro listens.
    pub address: IpAddr,
    /// The name of the process, where it is known.
    pub process: Option<String>,
    /// Why the host does not have it; `None` where it does.
    pub problem: Option<String>,
}

/// The table; clones are the same one.
#[derive(Clone)]
pub struct Ports(Arc<Shared>);

struct Shared {
    table: Mutex<Table>,
    changed: EventFd,
    /// Tells the user's log.
    report: fn(fmt::Arguments<'_>),
    ignored: BTreeSet<u16>,
}

#[derive(Default)]
struct Table {
    listeners: HashMap<u64, Listener>,
    /// Why the host does not have a port.
    problems: BTreeMap<Port, String>,
}

impl Ports {
    /// An empty table. What is worth a line for the user is given to `report`; `ignored`
    /// are never the host's.
    ///
    /// # Errors
    /// Where the system gives no descriptor.
    pub fn new(report: fn(fmt::Arguments<'_>), ignored: BTreeSet<u16>) -> io::Result<Self> {
        let changed = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?;
        Ok(Self(Arc::new(Shared { table: Mutex::default(), changed, report, ignored })))
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Readable where the table has changed.
    pub(super) fn number(&self) -> RawFd {
        self.0.changed.as_raw_fd()
    }

    /// Makes the event silent.
    pub(super) fn seen(&self) {
        let _ = self.0.changed.read();
    }

    fn changed(&self) {
        // It can only fail where it is set already.
        let _ = self.0.changed.write(1);
    }

    /// A distro's socket begins to listen.
    pub fn opened(&self, listener: Listener) {
        if self.0.ignored.contains(&listener.port) {
            return;
        }
        let mut table = self.table();
        if table.listeners.len() < MAXIMUM {
            table.listeners.insert(listener.socket, listener);
            self.changed();
        }
    }

    /// A socket does not listen any more.
    pub fn closed(&self, socket: u64) {
        if self.table().listeners.remove(&socket).is_some() {
            self.changed();
        }
    }

    /// A distro has ended.
    pub fn forget(&self, distro: Uuid) {
        self.table().listeners.retain(|_, listener| listener.distro != distro);
        self.changed();
    }

    /// The ports that are to be the host's, and whether somebody listens there for others
    /// than the distro's own machine.
    pub(super) fn wanted(&self) -> BTreeMap<Port, bool> {
        let mut wanted = BTreeMap::new();
        for one in self.table().listeners.values() {
            let open = wanted.entry((one.transport, one.port)).or_default();
            *open |= one.address.is_unspecified();
        }
        wanted
    }

    /// How the guest is reached at a port, for somebody who came by IPv6 or not; `None`
    /// where it does not listen.
    pub(super) fn way(&self, (transport, port): Port, six: bool) -> Option<Way> {
        let table = self.table();
        let here = |one: &&Listener| (one.transport, one.port) == (transport, port);
        let ways = table.listeners.values().filter(here).map(|one| match one.address {
            IpAddr::V6(_) => Way::Six,
            // Connections find such a listener by themselves, datagrams do not.
            IpAddr::V4(address) if address.is_loopback() && transport == Transport::Udp => {
                Way::Loopback
            }
            IpAddr::V4(_) => Way::Four,
        });
        // The same version where there is one, else whichever there is.
        ways.min_by_key(|way| ((*way == Way::Six) != six, *way))
    }

    /// What became of a port on the host. A problem is reported once.
    pub(super) fn settled(&self, port: Port, problem: Option<&io::Error>) {
        let mut table = self.table();
        let Some(error) = problem else {
            if table.problems.remove(&port).is_some() {
                let (transport, number) = (name(port.0), port.1);
                (self.0.report)(format_args!("{transport} port {number} is now forwarded"));
            }
            return;
        };
        let text = match error.kind() {
            io::ErrorKind::AddrInUse => "another program of the host uses it".to_owned(),
            io::ErrorKind::PermissionDenied => {
                "the host's user may not use it (net.ipv4.ip_unprivileged_port_start)".to_owned()
            }
            _ => error.to_string(),
        };
        if table.problems.get(&port) != Some(&text) {
            let (transport, number) = (name(port.0), port.1);
            (self.0.report)(format_args!(
                "warning: {transport} port {number} is not forwarded: {text}"
            ));
            table.problems.insert(port, text);
        }
    }

    /// Forgets what became of a port that nobody listens on.
    pub(super) fn dropped(&self, port: Port) {
        self.table().problems.remove(&port);
    }

    /// All ports, in order.
    #[must_use]
    pub fn list(&self) -> Vec<Forwarded> {
        let table = self.table();
        let mut list: Vec<_> = table
            .listeners
            .values()
            .map(|one| Forwarded {
                transport: one.transport,
                port: one.port,
                distro: one.distro,
                address: one.address,
                process: one.process.clone(),
                problem: table.problems.get(&(one.transport, one.port)).cloned(),
            })
            .collect();
        list.sort_by_key(|one| (one.port, one.transport, one.distro, one.address));
        list
    }
}

fn name(transport: Transport) -> &'static str {
    match transport {
        Transport::Tcp => "TCP",
        Transport::Udp => "UDP",
    }
}

impl fmt::Debug for Ports {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Ports").field("listeners", &self.table().listeners.len()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listener(socket: u64, address: &str) -> Listener {
        Listener {
            socket,
            distro: Uuid::from_u128(socket.into()),
            transport: Transport::Tcp,
            address: address.parse().unwrap(),
            port: 80,
            process: None,
        }
    }

    #[test]
    fn b205_the_guest_is_reached_by_the_version_it_listens_on() {
        let ports = Ports::new(|_| {}, BTreeSet::from([22])).unwrap();
        let port = (Transport::Tcp, 80);
        let ways = |ports: &Ports, port| [ports.way(port, false), ports.way(port, true)];
        assert_eq!(ways(&ports, port), [None; 2]);
        ports.opened(listener(1, "127.0.0.1"));
        assert_eq!(ways(&ports, port), [Some(Way::Four); 2]);
        assert_eq!(ports.wanted(), BTreeMap::from([(port, false)]));
        ports.opened(listener(2, "::"));
        assert_eq!(ways(&ports, port), [Some(Way::Four), Some(Way::Six)]);
        assert_eq!(ports.wanted(), BTreeMap::from([(port, true)]));
        ports.closed(1);
        assert_eq!(ways(&ports, port), [Some(Way::Six); 2]);
        ports.forget(Uuid::from_u128(2));
        assert_eq!(ports.wanted(), BTreeMap::new());
        // Datagrams: whoever listens for everybody comes first.
        let port = (Transport::Udp, 80);
        ports.opened(Listener { transport: Transport::Udp, ..listener(4, "127.0.0.1") });
        assert_eq!(ways(&ports, port), [Some(Way::Loopback); 2]);
        ports.opened(Listener { transport: Transport::Udp, ..listener(5, "0.0.0.0") });
        assert_eq!(ways(&ports, port), [Some(Way::Four); 2]);
        ports.closed(4);
        ports.closed(5);
        ports.opened(Listener { port: 22, ..listener(3, "::") });
        assert_eq!(ports.list(), []);
    }
}
