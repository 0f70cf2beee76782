//! Frames from the guest, taken apart. Everything in them is the guest's word: lengths are
//! checked against what is there, and what makes no sense is dropped without an answer, as
//! any host does.

use std::net::{IpAddr, SocketAddr};

use zerocopy::FromBytes;

use super::packet::{
    self, Arp, Ethernet, ICMP6, Icmp, Ipv4, Ipv6, NEEDS_CHECKSUM, Offload, TCP, TYPE_ARP,
    TYPE_IPV4, TYPE_IPV6, Tcp, UDP, Udp,
};

/// TCP flags.
pub const FIN: u16 = 1;
/// A connection is asked for.
pub const SYN: u16 = 2;
/// There is no such connection.
pub const RST: u16 = 4;
/// The data need not wait for more.
pub const PSH: u16 = 8;
/// The acknowledgment counts.
pub const ACK: u16 = 16;

/// The most extension headers of IPv6 that are skipped.
const MAXIMUM_EXTENSIONS: usize = 8;

/// A frame's content.
#[derive(Debug)]
pub enum Content<'a> {
    /// A question for an address of IPv4.
    Arp(&'a Arp),
    /// A packet.
    Packet(Packet<'a>),
}

/// A packet of either IP.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a> {
    /// From whom.
    pub source: IpAddr,
    /// To whom.
    pub destination: IpAddr,
    /// What the payload is.
    pub protocol: u8,
    /// All of it, as an error message quotes it.
    pub whole: &'a [u8],
    /// What follows the headers of IP.
    pub payload: &'a [u8],
    /// Whether the payload's checksum has been left to this side.
    unchecked: bool,
}

/// A segment of TCP.
#[derive(Clone, Copy, Debug)]
pub struct Segment<'a> {
    /// From whom.
    pub source: SocketAddr,
    /// To whom.
    pub destination: SocketAddr,
    /// Of the first byte.
    pub sequence: u32,
    /// The next byte expected.
    pub acknowledgment: u32,
    /// [`SYN`] and so on.
    pub flags: u16,
    /// Room for data, not scaled.
    pub window: u16,
    /// The option with the largest segment the sender takes.
    pub maximum: Option<u16>,
    /// The option with the shift of the sender's window.
    pub scale: Option<u8>,
    /// The data.
    pub data: &'a [u8],
}

impl Segment<'_> {
    /// Whether all of these flags are set.
    #[must_use]
    pub fn has(&self, flags: u16) -> bool {
        self.flags & flags == flags
    }

    /// What it takes of the sequence numbers.
    #[must_use]
    pub fn length(&self) -> u32 {
        // A packet is shorter than 64 KiB.
        self.data.len() as u32 + u32::from(self.has(SYN)) + u32::from(self.has(FIN))
    }
}

/// Takes a frame, with what precedes it, apart.
#[must_use]
pub fn frame(bytes: &[u8]) -> Option<Content<'_>> {
    let (offload, rest) = Offload::ref_from_prefix(bytes).ok()?;
    let (ethernet, rest) = Ethernet::ref_from_prefix(rest).ok()?;
    let unchecked = offload.flags & NEEDS_CHECKSUM != 0;
    match ethernet.kind.get() {
        TYPE_ARP => Arp::ref_from_prefix(rest).ok().map(|(arp, _)| Content::Arp(arp)),
        TYPE_IPV4 => ipv4(rest, unchecked).map(Content::Packet),
        TYPE_IPV6 => ipv6(rest, unchecked).map(Content::Packet),
        _ => None,
    }
}

fn ipv4(bytes: &[u8], unchecked: bool) -> Option<Packet<'_>> {
    let (header, _) = Ipv4::ref_from_prefix(bytes).ok()?;
    let headers = usize::from(header.version & 15) * 4;
    let whole = bytes.get(..usize::from(header.length.get()))?;
    // More fragments, or not the first.
    let fragment = header.fragment.get() & 0x3fff != 0;
    if header.version >> 4 != 4 || headers < size_of::<Ipv4>() || fragment {
        return None;
    }
    if packet::fold(packet::add(0, whole.get(..headers)?)) != 0xffff {
        return None;
    }
    Some(Packet {
        source: IpAddr::from(header.source),
        destination: IpAddr::from(header.destination),
        protocol: header.protocol,
        whole,
        payload: whole.get(headers..)?,
        unchecked,
    })
}

fn ipv6(bytes: &[u8], unchecked: bool) -> Option<Packet<'_>> {
    let (header, rest) = Ipv6::ref_from_prefix(bytes).ok()?;
    if header.version.get() >> 28 != 6 {
        return None;
    }
    let length = usize::from(header.length.get());
    let mut payload = rest.get(..length)?;
    let mut protocol = header.next;
    for _ in 0..MAXIMUM_EXTENSIONS {
        // Options for each hop, routing, options for the destination.
        if !matches!(protocol, 0 | 43 | 60) {
            break;
        }
        let (&next, &words) = (payload.first()?, payload.get(1)?);
        payload = payload.get((usize::from(words) + 1) * 8..)?;
        protocol = next;
    }
    Some(Packet {
        source: IpAddr::from(header.source),
        destination: IpAddr::from(header.destination),
        protocol,
        whole: bytes.get(..size_of::<Ipv6>() + length)?,
        payload,
        unchecked,
    })
}

impl<'a> Packet<'a> {
    fn is_sound(&self, protocol: u8) -> bool {
        if self.unchecked {
            return true;
        }
        let length = self.payload.len();
        let sum = packet::pseudo_header(self.source, self.destination, protocol, length);
        packet::fold(packet::add(sum, self.payload)) == 0xffff
    }

    /// The packet as TCP.
    #[must_use]
    pub fn tcp(&self) -> Option<Segment<'a>> {
        let (header, _) = Tcp::ref_from_prefix(self.payload).ok()?;
        let flags = header.flags.get();
        let headers = usize::from(flags >> 12) * 4;
        let options = self.payload.get(size_of::<Tcp>()..headers)?;
        if !self.is_sound(TCP) {
            return None;
        }
        let mut segment = Segment {
            source: SocketAddr::new(self.source, header.source.get()),
            destination: SocketAddr::new(self.destination, header.destination.get()),
            sequence: header.sequence.get(),
            acknowledgment: header.acknowledgment.get(),
            flags: flags & 0x3f,
            window: header.window.get(),
            maximum: None,
            scale: None,
            data: self.payload.get(headers..)?,
        };
        read_options(options, &mut segment);
        Some(segment)
    }

    /// The packet as UDP: the ports and the data.
    #[must_use]
    pub fn udp(&self) -> Option<(SocketAddr, SocketAddr, &'a [u8])> {
        let (header, _) = Udp::ref_from_prefix(self.payload).ok()?;
        let data = self.payload.get(size_of::<Udp>()..usize::from(header.length.get()))?;
        // IPv4 allows leaving the checksum out.
        let absent = header.checksum.get() == 0 && self.source.is_ipv4();
        if !absent && !self.is_sound(UDP) {
            return None;
        }
        Some((
            SocketAddr::new(self.source, header.source.get()),
            SocketAddr::new(self.destination, header.destination.get()),
            data,
        ))
    }

    /// The packet as ICMP of its version, and what follows the header.
    #[must_use]
    pub fn icmp(&self) -> Option<(&'a Icmp, &'a [u8])> {
        let (header, data) = Icmp::ref_from_prefix(self.payload).ok()?;
        let sound = match self.source {
            IpAddr::V4(_) => packet::fold(packet::add(0, self.payload)) == 0xffff,
            IpAddr::V6(_) => self.is_sound(ICMP6),
        };
        sound.then_some((header, data))
    }
}

/// Reads what is wanted of the options; a damaged one ends them.
fn read_options(mut options: &[u8], segment: &mut Segment<'_>) {
    loop {
        options = match options {
            [] | [0, ..] => return,
            [1, rest @ ..] => rest,
            [kind, length, ..] => {
                let Some((option, rest)) = options.split_at_checked(usize::from(*length)) else {
                    return;
                };
                match (kind, option.get(2..)) {
                    (2, Some(&[high, low])) => {
                        segment.maximum = Some(u16::from_be_bytes([high, low]));
                    }
                    // More than 14 counts as 14 (RFC 7323, 2.3).
                    (3, Some(&[shift])) => segment.scale = Some(shift.min(14)),
                    (_, Some(_)) => {}
                    // A length that does not cover the option itself.
                    (_, None) => return,
                }
                rest
            }
            [_] => return,
        };
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn nothing_that_a_guest_sends_is_too_much(bytes: Vec<u8>, kind in 0..4_usize) {
            let mut bytes = bytes;
            let kinds: [[u8; 2]; 4] = [[8, 0], [8, 6], [0x86, 0xdd], [1, 2]];
            if let Some(place) = bytes.get_mut(24..26) {
                place.copy_from_slice(&kinds[kind]);
            }
            if let Some(Content::Packet(packet)) = frame(&bytes) {
                let _ = (packet.tcp(), packet.udp(), packet.icmp());
            }
        }

        #[test]
        fn options_end_whatever_they_say(options: Vec<u8>) {
            let any = SocketAddr::from(([0, 0, 0, 0], 0));
            let mut segment = Segment {
                source: any, destination: any, sequence: 0, acknowledgment: 0, flags: 0,
                window: 0, maximum: None, scale: None, data: &[],
            };
            read_options(&options, &mut segment);
            prop_assert!(segment.scale.is_none_or(|scale| scale <= 14));
        }
    }
}
