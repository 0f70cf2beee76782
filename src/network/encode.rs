//! Frames for the guest, put together.

use std::io::IoSlice;
use std::net::{IpAddr, SocketAddr};

use zerocopy::IntoBytes;

use super::addresses;
use super::packet::{
    self, Arp, ETHERNET, Ethernet, ICMP, ICMP6, Icmp, Ipv4, Ipv6, Mac, NEEDS_CHECKSUM, OFFLOAD,
    Offload, SEGMENTS_TCP4, SEGMENTS_TCP6, TCP, TYPE_ARP, TYPE_IPV4, TYPE_IPV6, Tcp, UDP, Udp,
};
use crate::devices::net::Offloads;

/// The hops of packets that begin here.
const HOPS: u8 = 64;
/// Neighbour discovery is believed only with this many.
const NEIGHBOUR_HOPS: u8 = 255;

/// The data of one large segment of TCP, which the guest counts as many.
const LARGE: usize = 60 << 10;

/// A segment of TCP for the guest.
#[derive(Clone, Copy, Debug)]
pub struct Head {
    /// From whom.
    pub source: SocketAddr,
    /// To whom.
    pub destination: SocketAddr,
    /// Of the first byte.
    pub sequence: u32,
    /// The next byte expected.
    pub acknowledgment: u32,
    /// The flags.
    pub flags: u16,
    /// Room for data, scaled.
    pub window: u16,
    /// The options of a first segment: the largest segment, and the shift of the window.
    pub options: Option<(u16, Option<u8>)>,
    /// The largest segment the guest takes.
    pub maximum: usize,
}

/// Makes frames for one link.
#[derive(Clone, Copy, Debug)]
pub struct Encoder {
    /// This side's address.
    pub gateway: Mac,
    /// What work the guest takes.
    pub offloads: Offloads,
}

impl Encoder {
    fn ethernet(&self, frame: &mut Vec<u8>, offload: Offload, kind: u16, to: IpAddr) {
        let offload = Offload { buffers: 1.into(), ..offload };
        frame.extend_from_slice(offload.as_bytes());
        let ethernet = Ethernet {
            destination: addresses::mac_of(to),
            source: self.gateway,
            kind: kind.into(),
        };
        frame.extend_from_slice(ethernet.as_bytes());
    }

    /// All headers up to that of IP, for a payload of `length` bytes, which must be less
    /// than 65,516.
    fn ip(
        &self,
        frame: &mut Vec<u8>,
        offload: Offload,
        (source, destination): (IpAddr, IpAddr),
        (protocol, hops): (u8, u8),
        length: usize,
    ) {
        match (source, destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                self.ethernet(frame, offload, TYPE_IPV4, destination.into());
                let total = size_of::<Ipv4>() + length;
                let mut header = Ipv4 {
                    version: 0x45,
                    service: 0,
                    length: (total as u16).into(),
                    identification: 0.into(),
                    // Not to be cut: what is too large is the sender's to know.
                    fragment: (if protocol == TCP { 0x4000 } else { 0 }).into(),
                    hops,
                    protocol,
                    checksum: 0.into(),
                    source: source.octets(),
                    destination: destination.octets(),
                };
                header.checksum = (!packet::fold(packet::add(0, header.as_bytes()))).into();
                frame.extend_from_slice(header.as_bytes());
            }
            (source, destination) => {
                self.ethernet(frame, offload, TYPE_IPV6, destination);
                let octets = |address| match address {
                    IpAddr::V6(address) => address.octets(),
                    IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
                };
                let header = Ipv6 {
                    version: (6 << 28).into(),
                    length: (length as u16).into(),
                    next: protocol,
                    hops,
                    source: octets(source),
                    destination: octets(destination),
                };
                frame.extend_from_slice(header.as_bytes());
            }
        }
    }

    /// What the guest is told of a checksum it is to complete.
    fn checksummed(&self, source: IpAddr, offset: u16) -> Offload {
        if !self.offloads.checksum {
            return Offload::default();
        }
        let ip = ip_length(source);
        Offload {
            flags: NEEDS_CHECKSUM,
            checksum_start: ((ETHERNET + ip) as u16).into(),
            checksum_offset: offset.into(),
            ..Offload::default()
        }
    }

    /// The checksum to write, of a header without one.
    fn checksum(&self, pseudo: u64, header: &[u8], data: &[&[u8]]) -> u16 {
        if self.offloads.checksum {
            return packet::fold(pseudo);
        }
        let sum = packet::add(packet::add(pseudo, header), &data.concat());
        !packet::fold(sum)
    }

    /// How many bytes one segment to the guest may hold.
    #[must_use]
    pub fn largest(&self, source: IpAddr, maximum: usize) -> usize {
        let whole =
            if source.is_ipv4() { self.offloads.segments4 } else { self.offloads.segments6 };
        if whole { (LARGE / maximum).max(1) * maximum } else { maximum }
    }

    /// The length of what comes before the data in a segment without options.
    #[must_use]
    pub fn before_data(&self, source: IpAddr) -> usize {
        let ip = ip_length(source);
        OFFLOAD + ETHERNET + ip + size_of::<Tcp>()
    }

    /// A segment's frame without its data, for which `frame` is emptied.
    pub fn tcp(&self, frame: &mut Vec<u8>, head: &Head, data: &[&[u8]]) {
        let amount = data.iter().map(|part| part.len()).sum();
        self.segment(frame, head, amount, data);
    }

    /// The same for data that the guest has; it must be one that completes checksums.
    pub fn tcp_without_data(&self, frame: &mut Vec<u8>, head: &Head, amount: usize) {
        debug_assert!(self.offloads.checksum);
        self.segment(frame, head, amount, &[]);
    }

    fn segment(&self, frame: &mut Vec<u8>, head: &Head, amount: usize, data: &[&[u8]]) {
        frame.clear();
        let mut options = Vec::new();
        if let Some((maximum, scale)) = head.options {
            let [high, low] = maximum.to_be_bytes();
            options.extend([2, 4, high, low]);
            // One byte of padding.
            options.extend(scale.iter().flat_map(|shift| [3, 3, *shift, 0]));
        }
        let headers = size_of::<Tcp>() + options.len();
        let (source, destination) = (head.source.ip(), head.destination.ip());
        let mut tcp = Tcp {
            source: head.source.port().into(),
            destination: head.destination.port().into(),
            sequence: head.sequence.into(),
            acknowledgment: head.acknowledgment.into(),
            flags: (((headers / 4) as u16) << 12 | head.flags).into(),
            window: head.window.into(),
            checksum: 0.into(),
            urgent: 0.into(),
        };
        let length = headers + amount;
        let pseudo = packet::pseudo_header(source, destination, TCP, length);
        let mut summed = tcp.as_bytes().to_vec();
        summed.extend_from_slice(&options);
        tcp.checksum = self.checksum(pseudo, &summed, data).into();
        let mut offload = self.checksummed(source, 16);
        if amount > head.maximum {
            let ip = ip_length(source);
            offload.segmentation = if source.is_ipv4() { SEGMENTS_TCP4 } else { SEGMENTS_TCP6 };
            offload.headers = ((ETHERNET + ip + headers) as u16).into();
            offload.segment = (head.maximum as u16).into();
        }
        self.ip(frame, offload, (source, destination), (TCP, HOPS), length);
        frame.extend_from_slice(tcp.as_bytes());
        frame.extend_from_slice(&options);
    }

    /// A datagram; none where it is too long for one packet.
    #[must_use]
    pub fn udp(&self, source: SocketAddr, destination: SocketAddr, data: &[u8]) -> Option<Vec<u8>> {
        let length = size_of::<Udp>() + data.len();
        if length > usize::from(u16::MAX) - size_of::<Ipv6>() {
            return None;
        }
        let mut udp = Udp {
            source: source.port().into(),
            destination: destination.port().into(),
            length: (length as u16).into(),
            checksum: 0.into(),
        };
        let pseudo = packet::pseudo_header(source.ip(), destination.ip(), UDP, length);
        let sum = self.checksum(pseudo, udp.as_bytes(), &[data]);
        // Zero would mean that there is none.
        udp.checksum = (if sum == 0 { 0xffff } else { sum }).into();
        let mut frame = Vec::with_capacity(OFFLOAD + ETHERNET + size_of::<Ipv6>() + length);
        let offload = self.checksummed(source.ip(), 6);
        self.ip(&mut frame, offload, (source.ip(), destination.ip()), (UDP, HOPS), length);
        frame.extend_from_slice(udp.as_bytes());
        frame.extend_from_slice(data);
        Some(frame)
    }

    /// A message of ICMP or, between addresses of IPv6, of ICMPv6.
    #[must_use]
    pub fn icmp(
        &self,
        source: IpAddr,
        destination: IpAddr,
        (kind, code): (u8, u8),
        (identifier, number): (u16, u16),
        data: &[u8],
    ) -> Option<Vec<u8>> {
        let length = size_of::<Icmp>() + data.len();
        if length > usize::from(u16::MAX) - size_of::<Ipv6>() {
            return None;
        }
        let mut icmp = Icmp {
            kind,
            code,
            checksum: 0.into(),
            identifier: identifier.into(),
            number: number.into(),
        };
        let (protocol, sum) = match source {
            IpAddr::V4(_) => (ICMP, 0),
            IpAddr::V6(_) => (ICMP6, packet::pseudo_header(source, destination, ICMP6, length)),
        };
        let sum = packet::add(packet::add(sum, icmp.as_bytes()), data);
        icmp.checksum = (!packet::fold(sum)).into();
        let hops = if matches!(kind, 133..=137) { NEIGHBOUR_HOPS } else { HOPS };
        let mut frame = Vec::with_capacity(OFFLOAD + ETHERNET + size_of::<Ipv6>() + length);
        let none = Offload::default();
        self.ip(&mut frame, none, (source, destination), (protocol, hops), length);
        frame.extend_from_slice(icmp.as_bytes());
        frame.extend_from_slice(data);
        Some(frame)
    }

    /// The answer to a question for an address of IPv4.
    #[must_use]
    pub fn arp(&self, question: &Arp) -> Vec<u8> {
        let mut frame = Vec::new();
        let asker = IpAddr::from(question.sender_address);
        self.ethernet(&mut frame, Offload::default(), TYPE_ARP, asker);
        let answer = Arp {
            operation: 2.into(),
            sender: self.gateway,
            sender_address: question.target_address,
            target: question.sender,
            target_address: question.sender_address,
            ..*question
        };
        frame.extend_from_slice(answer.as_bytes());
        frame
    }
}

/// The length of IP's own header.
fn ip_length(source: IpAddr) -> usize {
    if source.is_ipv4() { size_of::<Ipv4>() } else { size_of::<Ipv6>() }
}

/// A frame in one piece.
#[must_use]
pub fn whole(frame: &[u8]) -> [IoSlice<'_>; 1] {
    [IoSlice::new(frame)]
}
