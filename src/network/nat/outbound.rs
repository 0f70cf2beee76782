//! From the guest: what each of its packets means, and the host's socket that it becomes.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Instant;

use super::{
    DNS, Flow, MAXIMUM_CONNECTING, MAXIMUM_CONNECTIONS, MAXIMUM_PORTS, Nat, PROHIBITED,
    UNREACHABLE_HOST, UNREACHABLE_NETWORK, UNREACHABLE_PORT,
};
use crate::network::addresses::Place;
use crate::network::datagram::{self, Port};
use crate::network::packet::{Arp, ICMP, ICMP6, TCP, UDP};
use crate::network::parse::{ACK, Packet, RST, SYN, Segment};
use crate::network::socket;
use crate::protocol::guest::Transport;

impl Nat {
    pub(super) fn neighbour(&mut self, question: &Arp) {
        let asked = IpAddr::from(question.target_address);
        let is_question = question.operation.get() == 1 && question.lengths == [6, 4];
        if is_question && self.addresses.is_neighbour(asked) {
            let answer = self.encoder.arp(question);
            self.answer([answer]);
        }
    }

    pub(super) fn packet(&mut self, packet: &Packet<'_>, now: Instant) {
        if packet.protocol == ICMP6 && self.solicitation(packet) {
            return;
        }
        if !self.addresses.is_guest(packet.source) {
            return self.loopback(packet, now);
        }
        match packet.protocol {
            TCP => {
                if let Some(segment) = packet.tcp() {
                    self.segment(packet, &segment, now);
                }
            }
            UDP => {
                if let Some((source, destination, data)) = packet.udp() {
                    self.datagram(packet, source, destination, data, now);
                }
            }
            ICMP if packet.source.is_ipv4() => self.echo(packet, 8, now),
            ICMP6 if packet.source.is_ipv6() => self.echo(packet, 128, now),
            _ => {}
        }
    }

    /// The answer of a server of UDP that listens on the guest's 127.0.0.1 only; anything
    /// else from there is dropped.
    fn loopback(&mut self, packet: &Packet<'_>, now: Instant) {
        if packet.protocol == UDP
            && packet.source == Ipv4Addr::LOCALHOST
            && self.addresses.place(packet.destination) == Place::Host
            && let Some((source, destination, data)) = packet.udp()
        {
            self.send_inbound(source, destination, data, now);
        }
    }

    /// A guest that looks for a neighbour of IPv6 (RFC 4861, 4.3); true where it is one.
    fn solicitation(&mut self, packet: &Packet<'_>) -> bool {
        let Some((icmp, data)) = packet.icmp() else { return false };
        if icmp.kind != 135 {
            return false;
        }
        let asked = data.get(..16).and_then(|bytes| <[u8; 16]>::try_from(bytes).ok());
        if let Some(asked) = asked.map(IpAddr::from)
            && self.addresses.is_neighbour(asked)
            && !packet.source.is_unspecified()
        {
            let mut answer = match asked {
                IpAddr::V6(address) => address.octets().to_vec(),
                IpAddr::V4(_) => return true,
            };
            // The option with this side's address.
            answer.extend([2, 1]);
            answer.extend(self.encoder.gateway);
            // A router's answer to a question, which replaces what was known.
            let flags = (0xe000, 0);
            let frame = self.encoder.icmp(asked, packet.source, (136, 0), flags, &answer);
            self.answer(frame);
        }
        true
    }

    fn segment(&mut self, packet: &Packet<'_>, segment: &Segment<'_>, now: Instant) {
        let ends = (segment.source, segment.destination);
        let is_first = segment.flags & (SYN | ACK | RST) == SYN;
        if let Some(&id) = self.connections.get(&ends)
            && let Some(Flow::Connection(connection)) = self.flows.get_mut(&id)
        {
            if is_first && connection.is_finished() {
                // The guest uses the ports anew; what is left of the old one goes on alone.
                self.connections.remove(&ends);
            } else {
                let was_connecting = connection.is_connecting();
                let verdict = connection.segment(segment, now);
                self.carry_out(id, verdict, was_connecting);
                return;
            }
        }
        if is_first {
            self.connect(packet, segment, now);
        } else if !segment.has(RST) {
            self.refuse(segment);
        }
    }

    /// Answers a segment of no connection (RFC 9293, 3.10.7.1).
    pub(super) fn refuse(&mut self, segment: &Segment<'_>) {
        let (sequence, flags) =
            if segment.has(ACK) { (segment.acknowledgment, RST) } else { (0, RST | ACK) };
        let acknowledgment = segment.sequence.wrapping_add(segment.length());
        self.reset((segment.source, segment.destination), sequence, acknowledgment, flags);
    }

    fn connect(&mut self, packet: &Packet<'_>, segment: &Segment<'_>, now: Instant) {
        let peer = match self.addresses.place(segment.destination.ip()) {
            Place::World => segment.destination,
            Place::Gateway | Place::Resolver if segment.destination.port() == DNS => {
                return self.ask_for_names(packet, segment, now);
            }
            Place::Gateway => return self.refuse(segment),
            Place::Host if self.reaches_host(packet.source) => {
                // What is the guest's own on the host would come back without end.
                let port = segment.destination.port();
                if self.inbound.has((Transport::Tcp, port)) {
                    return self.refuse(segment);
                }
                self.addresses.on_host(segment.destination)
            }
            Place::Host | Place::Resolver | Place::Nowhere => {
                return self.unreachable(packet.source, packet.whole, PROHIBITED);
            }
        };
        if self.connections.len() >= MAXIMUM_CONNECTIONS || self.connecting >= MAXIMUM_CONNECTING {
            return self.refuse(segment);
        }
        let socket = match socket::begin_connect(peer) {
            Ok(socket) => socket,
            Err(error) => {
                let ends = (segment.source, segment.destination);
                let expected = segment.sequence.wrapping_add(1);
                return self.not_connected(ends, packet.whole, expected, error.kind());
            }
        };
        self.add_connection(packet, segment, socket, now);
    }

    fn datagram(
        &mut self,
        packet: &Packet<'_>,
        source: SocketAddr,
        destination: SocketAddr,
        data: &[u8],
        now: Instant,
    ) {
        match self.addresses.place(destination.ip()) {
            Place::World if self.send_inbound(source, destination, data, now) => {}
            Place::World => self.send(packet, Port::Udp(source), destination, data, now),
            Place::Host if self.send_inbound(source, destination, data, now) => {}
            Place::Host if self.reaches_host(packet.source) => {
                if self.inbound.has((Transport::Udp, destination.port())) {
                    return self.unreachable(packet.source, packet.whole, UNREACHABLE_PORT);
                }
                let destination = self.addresses.on_host(destination);
                self.send(packet, Port::Udp(source), destination, data, now);
            }
            Place::Gateway | Place::Resolver if destination.port() == DNS => {
                self.question(source, destination, data, now);
            }
            Place::Gateway => self.unreachable(packet.source, packet.whole, UNREACHABLE_PORT),
            Place::Host | Place::Resolver => {
                self.unreachable(packet.source, packet.whole, PROHIBITED);
            }
            Place::Nowhere => {
                // Groups and the link's own chatter are not answered.
                if !is_group(destination.ip()) {
                    self.unreachable(packet.source, packet.whole, PROHIBITED);
                }
            }
        }
    }

    /// Sends on a port's or an identifier's socket.
    fn send(
        &mut self,
        packet: &Packet<'_>,
        port: Port,
        destination: SocketAddr,
        data: &[u8],
        now: Instant,
    ) {
        let id = match self.ports.get(&port) {
            Some(id) => *id,
            None => {
                if self.ports.len() >= MAXIMUM_PORTS {
                    return;
                }
                let Ok(flow) = datagram::Flow::new(port, now) else {
                    return self.unreachable(packet.source, packet.whole, PROHIBITED);
                };
                let number = flow.socket.number();
                let Some(id) = self.insert(Flow::Port(flow), number) else { return };
                self.ports.insert(port, id);
                id
            }
        };
        let Some(Flow::Port(flow)) = self.flows.get_mut(&id) else { return };
        let result = flow.send(destination, data, now);
        self.settle(id);
        match result.map_err(|error| error.kind()) {
            Err(ErrorKind::NetworkUnreachable) => {
                self.unreachable(packet.source, packet.whole, UNREACHABLE_NETWORK)
            }
            Err(ErrorKind::HostUnreachable) => {
                self.unreachable(packet.source, packet.whole, UNREACHABLE_HOST)
            }
            Err(ErrorKind::PermissionDenied) => {
                self.unreachable(packet.source, packet.whole, PROHIBITED)
            }
            Ok(()) | Err(_) => {}
        }
    }

    fn echo(&mut self, packet: &Packet<'_>, request: u8, now: Instant) {
        let Some((icmp, data)) = packet.icmp() else { return };
        if icmp.kind != request {
            return;
        }
        let identifier = icmp.identifier.get();
        match self.addresses.place(packet.destination) {
            Place::World => {
                let port = Port::Echo(packet.source, identifier);
                let destination = SocketAddr::new(packet.destination, 0);
                // The system puts in an identifier of its own and the checksum.
                self.send(packet, port, destination, packet.payload, now);
            }
            Place::Gateway | Place::Host | Place::Resolver => {
                let kind = if packet.source.is_ipv4() { 0 } else { 129 };
                let echo = (identifier, icmp.number.get());
                let (from, to) = (packet.destination, packet.source);
                let frame = self.encoder.icmp(from, to, (kind, 0), echo, data);
                self.answer(frame);
            }
            Place::Nowhere => {
                if !is_group(packet.destination) {
                    self.unreachable(packet.source, packet.whole, PROHIBITED);
                }
            }
        }
    }
}

fn is_group(address: IpAddr) -> bool {
    let is_broadcast = |address: std::net::Ipv4Addr| address.octets()[3] == 255;
    match address {
        IpAddr::V4(address) => address.is_multicast() || is_broadcast(address),
        IpAddr::V6(address) => address.is_multicast(),
    }
}
