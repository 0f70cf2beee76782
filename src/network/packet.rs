//! The headers of the packets on the guest's link, as they lie in a frame, and the Internet
//! checksum.
//!
//! Each is plain bytes without alignment, so reading one is a length check and no copy.
//! Sources: RFC 826 (ARP), 791 (IPv4), 8200 (IPv6), 9293 (TCP), 768 (UDP), 792 and 4443
//! (ICMP), and virtio 1.2, 5.1.6 for what precedes a frame.

use std::net::IpAddr;

use zerocopy::byteorder::{big_endian as be, little_endian as le};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// An Ethernet address.
pub type Mac = [u8; 6];

/// `EtherType` of IPv4.
pub const TYPE_IPV4: u16 = 0x0800;
/// `EtherType` of ARP.
pub const TYPE_ARP: u16 = 0x0806;
/// `EtherType` of IPv6.
pub const TYPE_IPV6: u16 = 0x86dd;

/// The protocol number of ICMP.
pub const ICMP: u8 = 1;
/// The protocol number of TCP.
pub const TCP: u8 = 6;
/// The protocol number of UDP.
pub const UDP: u8 = 17;
/// The protocol number of ICMP for IPv6.
pub const ICMP6: u8 = 58;

/// The size in bytes of what precedes every frame.
pub const OFFLOAD: usize = size_of::<Offload>();
/// The size in bytes of the Ethernet header.
pub const ETHERNET: usize = size_of::<Ethernet>();

/// [`Offload::flags`]: the checksum is of the pseudo header only and has to be completed.
pub const NEEDS_CHECKSUM: u8 = 1;
/// [`Offload::segmentation`]: TCP over IPv4.
pub const SEGMENTS_TCP4: u8 = 1;
/// [`Offload::segmentation`]: TCP over IPv6.
pub const SEGMENTS_TCP6: u8 = 4;

/// What precedes a frame: the work left to the other side (`virtio_net_hdr_v1`).
#[derive(Clone, Copy, Debug, Default, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Offload {
    /// [`NEEDS_CHECKSUM`] or nothing.
    pub flags: u8,
    /// How a large packet is to be cut.
    pub segmentation: u8,
    /// The length of all headers, where it is to be cut.
    pub headers: le::U16,
    /// The data of each piece.
    pub segment: le::U16,
    /// Where in the frame the checksummed part begins.
    pub checksum_start: le::U16,
    /// Where in that part the checksum is.
    pub checksum_offset: le::U16,
    /// How many buffers the frame takes.
    pub buffers: le::U16,
}

/// Ethernet II.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Ethernet {
    /// To whom.
    pub destination: Mac,
    /// From whom.
    pub source: Mac,
    /// What follows.
    pub kind: be::U16,
}

/// ARP for IPv4 over Ethernet.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Arp {
    /// 1 for Ethernet.
    pub hardware: be::U16,
    /// [`TYPE_IPV4`].
    pub protocol: be::U16,
    /// 6 and 4.
    pub lengths: [u8; 2],
    /// 1 asks, 2 answers.
    pub operation: be::U16,
    /// The sender.
    pub sender: Mac,
    /// Its address.
    pub sender_address: [u8; 4],
    /// The one asked for.
    pub target: Mac,
    /// Its address.
    pub target_address: [u8; 4],
}

/// IPv4 without options.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Ipv4 {
    /// Version and header length in words.
    pub version: u8,
    /// Class of service.
    pub service: u8,
    /// Length of header and payload.
    pub length: be::U16,
    /// Which fragments belong together.
    pub identification: be::U16,
    /// Flags and offset.
    pub fragment: be::U16,
    /// Hops left.
    pub hops: u8,
    /// What follows.
    pub protocol: u8,
    /// Of the header.
    pub checksum: be::U16,
    /// From whom.
    pub source: [u8; 4],
    /// To whom.
    pub destination: [u8; 4],
}

/// IPv6.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Ipv6 {
    /// Version, class and flow.
    pub version: be::U32,
    /// Length of the payload.
    pub length: be::U16,
    /// What follows.
    pub next: u8,
    /// Hops left.
    pub hops: u8,
    /// From whom.
    pub source: [u8; 16],
    /// To whom.
    pub destination: [u8; 16],
}

/// TCP without options.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Tcp {
    /// From which port.
    pub source: be::U16,
    /// To which port.
    pub destination: be::U16,
    /// Of the first byte.
    pub sequence: be::U32,
    /// The next byte expected.
    pub acknowledgment: be::U32,
    /// Header length in words, and flags.
    pub flags: be::U16,
    /// Room for data.
    pub window: be::U16,
    /// Of pseudo header, header and data.
    pub checksum: be::U16,
    /// Ignored.
    pub urgent: be::U16,
}

/// UDP.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Udp {
    /// From which port.
    pub source: be::U16,
    /// To which port.
    pub destination: be::U16,
    /// Of header and data.
    pub length: be::U16,
    /// Of pseudo header, header and data.
    pub checksum: be::U16,
}

/// ICMP and ICMPv6.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Icmp {
    /// What it is.
    pub kind: u8,
    /// What it is more exactly.
    pub code: u8,
    /// Of the message, for IPv6 with a pseudo header.
    pub checksum: be::U16,
    /// An echo's identifier, else as the kind says.
    pub identifier: be::U16,
    /// An echo's number.
    pub number: be::U16,
}

/// Adds bytes to a sum; all but the last part must have an even length.
#[must_use]
pub fn add(sum: u64, bytes: &[u8]) -> u64 {
    let (pairs, rest) = bytes.as_chunks::<2>();
    let sum = pairs.iter().fold(sum, |sum, pair| sum + u64::from(u16::from_be_bytes(*pair)));
    rest.iter().fold(sum, |sum, byte| sum + (u64::from(*byte) << 8))
}

/// A sum in 16 bits, not inverted.
#[must_use]
pub fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    // It fits after the loop.
    sum as u16
}

/// The sum of the pseudo header of TCP, UDP and ICMPv6.
#[must_use]
pub fn pseudo_header(source: IpAddr, destination: IpAddr, protocol: u8, length: usize) -> u64 {
    let address = |sum, address: IpAddr| match address {
        IpAddr::V4(address) => add(sum, &address.octets()),
        IpAddr::V6(address) => add(sum, &address.octets()),
    };
    address(address(0, source), destination) + u64::from(protocol) + length as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_have_the_sizes_of_their_standards() {
        assert_eq!((OFFLOAD, ETHERNET, size_of::<Arp>()), (12, 14, 28));
        assert_eq!((size_of::<Ipv4>(), size_of::<Ipv6>()), (20, 40));
        assert_eq!((size_of::<Tcp>(), size_of::<Udp>(), size_of::<Icmp>()), (20, 8, 8));
    }

    #[test]
    fn the_checksum_of_a_known_header_is_right() {
        // RFC 1071's example.
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(fold(add(0, &bytes)), 0xddf2);
        assert_eq!(fold(add(0, &[1, 2, 3])), 0x0402);
    }
}
