//! Datagrams: UDP and echoes, each guest's port or identifier a socket of the host.
//!
//! A port keeps its socket whomever it talks to (RFC 4787, 4.1), so that programs that find
//! out how others reach them are right. What the network says of a datagram, the guest is
//! told.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use vmm_sys_util::epoll::EventSet;

use super::addresses::Addresses;
use super::encode::Encoder;
use super::packet::{self, Icmp, Ipv4, Ipv6, UDP, Udp};
use super::socket::{Datagrams, Undelivered};
use zerocopy::{FromBytes as _, IntoBytes as _};

/// How long a port's socket is kept without use (RFC 4787, 4.3).
const SILENCE: Duration = Duration::from_secs(300);
/// The same for echoes.
const ECHO_SILENCE: Duration = Duration::from_secs(30);

/// What a socket stands for.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Port {
    /// A port of UDP.
    Udp(SocketAddr),
    /// An identifier of echoes.
    Echo(IpAddr, u16),
}

/// A guest's port or identifier.
#[derive(Debug)]
pub struct Flow {
    /// Which.
    pub port: Port,
    /// The host's socket.
    pub socket: Datagrams,
    /// Whether it stands in the list of those with something for the guest.
    pub listed: bool,
    /// The socket may have something, a word of what did not arrive included.
    pub readable: bool,
    used: Instant,
}

impl Flow {
    /// A flow with a socket of its own.
    ///
    /// # Errors
    /// The system's.
    pub fn new(port: Port, now: Instant) -> std::io::Result<Self> {
        let socket = match port {
            Port::Udp(guest) => Datagrams::udp(guest.is_ipv6())?,
            Port::Echo(guest, _) => Datagrams::echo(guest.is_ipv6())?,
        };
        Ok(Self { port, socket, listed: false, readable: false, used: now })
    }

    /// What `epoll` says of the socket.
    pub fn socket_event(&mut self, events: EventSet) {
        self.socket.note(events);
        self.readable |= events.intersects(EventSet::IN | EventSet::ERROR);
    }

    /// When it ends, if it is not used until then.
    pub fn deadline(&self) -> Instant {
        let silence = match self.port {
            Port::Udp(_) => SILENCE,
            Port::Echo(..) => ECHO_SILENCE,
        };
        self.used + silence
    }

    /// Sends what the guest sent; what the system refuses is lost, as datagrams are.
    ///
    /// # Errors
    /// The system's, where there is no way there.
    pub fn send(
        &mut self,
        destination: SocketAddr,
        data: &[u8],
        now: Instant,
    ) -> std::io::Result<()> {
        self.used = now;
        self.socket.send(destination, data)
    }

    /// The next frame for the guest. What comes from the host's loopback addresses is shown
    /// by those of `host`, or dropped where there is none.
    pub fn receive(
        &mut self,
        encoder: &Encoder,
        host: Option<&Addresses>,
        scratch: &mut [u8],
        now: Instant,
    ) -> Option<Vec<u8>> {
        let seen = |place: SocketAddr| match host {
            Some(addresses) => Some(addresses.seen_by_guest(place)),
            None => (!place.ip().is_loopback()).then_some(place),
        };
        if let Some(undelivered) = self.socket.undelivered() {
            let destination = seen(undelivered.destination)?;
            return self.report(encoder, Undelivered { destination, ..undelivered });
        }
        match self.socket.receive(scratch) {
            Ok((length, Some(from))) => {
                self.used = now;
                let from = seen(from)?;
                let data = scratch.get(..length)?;
                match self.port {
                    Port::Udp(guest) => encoder.udp(from, guest, data),
                    Port::Echo(guest, identifier) => {
                        let (icmp, data) = Icmp::read_from_prefix(data).ok()?;
                        let kind = if guest.is_ipv6() { 129 } else { 0 };
                        let echo = (identifier, icmp.number.get());
                        encoder.icmp(from.ip(), guest, (kind, 0), echo, data)
                    }
                }
            }
            Ok((_, None)) => None,
            // An error is that of a datagram, whose story is in the queue of errors.
            Err(error) => {
                self.readable = error.kind() != std::io::ErrorKind::WouldBlock;
                None
            }
        }
    }

    /// What the guest is told of a datagram that did not arrive.
    fn report(&self, encoder: &Encoder, undelivered: Undelivered) -> Option<Vec<u8>> {
        let Port::Udp(guest) = self.port else { return None };
        let quoted = quote(guest, undelivered.destination);
        // As if from the destination: who really said so is not to be found on the link.
        let from = undelivered.destination.ip();
        encoder.icmp(from, guest.ip(), undelivered.reason, (0, 0), &quoted)
    }
}

/// The beginning of a datagram that the guest sent, as an error message quotes it.
fn quote(source: SocketAddr, destination: SocketAddr) -> Vec<u8> {
    let length = size_of::<Udp>();
    let mut quoted = match (source.ip(), destination.ip()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let mut header = Ipv4 {
                version: 0x45,
                service: 0,
                length: ((size_of::<Ipv4>() + length) as u16).into(),
                identification: 0.into(),
                fragment: 0.into(),
                hops: 64,
                protocol: UDP,
                checksum: 0.into(),
                source: source.octets(),
                destination: destination.octets(),
            };
            header.checksum = (!packet::fold(packet::add(0, header.as_bytes()))).into();
            header.as_bytes().to_vec()
        }
        (source, destination) => {
            let octets = |address| match address {
                IpAddr::V6(address) => address.octets(),
                IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
            };
            let header = Ipv6 {
                version: (6 << 28).into(),
                length: (length as u16).into(),
                next: UDP,
                hops: 64,
                source: octets(source),
                destination: octets(destination),
            };
            header.as_bytes().to_vec()
        }
    };
    let header = Udp {
        source: source.port().into(),
        destination: destination.port().into(),
        length: (length as u16).into(),
        checksum: 0.into(),
    };
    quoted.extend_from_slice(header.as_bytes());
    quoted
}
