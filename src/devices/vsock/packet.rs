//! The header of every packet (virtio 1.2, section 5.10.6).

use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{GUEST_CID, HOST_CID};

/// The size of the header in bytes.
pub const HEADER: usize = size_of::<Header>();

/// The type of a stream packet.
pub const TYPE_STREAM: u16 = 1;

/// Shutdown flag: the sender will not receive any more.
pub const SHUTDOWN_RECEIVE: u32 = 1;
/// Shutdown flag: the sender will not send any more.
pub const SHUTDOWN_SEND: u32 = 2;
/// Both shutdown flags.
pub const SHUTDOWN_BOTH: u32 = SHUTDOWN_RECEIVE | SHUTDOWN_SEND;

/// What a packet is for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u16)]
pub enum Operation {
    /// Open a connection.
    Request = 1,
    /// The connection is open.
    Response = 2,
    /// There is no such connection, or there is none any more.
    Reset = 3,
    /// One or both directions end, as the flags say.
    Shutdown = 4,
    /// Data.
    Data = 5,
    /// Only the credit fields count.
    CreditUpdate = 6,
    /// Asks for a credit update.
    CreditRequest = 7,
}

impl Operation {
    /// Reads the number.
    #[must_use]
    pub fn parse(number: u16) -> Option<Self> {
        Some(match number {
            1 => Self::Request,
            2 => Self::Response,
            3 => Self::Reset,
            4 => Self::Shutdown,
            5 => Self::Data,
            6 => Self::CreditUpdate,
            7 => Self::CreditRequest,
            _ => return None,
        })
    }
}

/// The two ports that name a connection.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Ports {
    /// The host's.
    pub host: u32,
    /// The guest's.
    pub guest: u32,
}

/// The header as it lies in guest memory.
#[derive(
    Clone, Copy, Debug, Eq, FromBytes, Immutable, IntoBytes, KnownLayout, PartialEq, Unaligned,
)]
#[repr(C)]
pub struct Header {
    /// The sender's address.
    pub source_cid: U64,
    /// The receiver's address.
    pub destination_cid: U64,
    /// The sender's port.
    pub source_port: U32,
    /// The receiver's port.
    pub destination_port: U32,
    /// Bytes of data after the header.
    pub length: U32,
    /// [`TYPE_STREAM`].
    pub kind: U16,
    /// An [`Operation`].
    pub operation: U16,
    /// The shutdown flags.
    pub flags: U32,
    /// The size of the sender's receive buffer.
    pub buffer: U32,
    /// How many bytes have left the sender's receive buffer, modulo 2^32.
    pub forwarded: U32,
}

impl Header {
    /// A packet to the guest without data and credit.
    #[must_use]
    pub fn new(ports: Ports, operation: Operation) -> Self {
        Self {
            source_cid: HOST_CID.into(),
            destination_cid: GUEST_CID.into(),
            source_port: ports.host.into(),
            destination_port: ports.guest.into(),
            length: 0.into(),
            kind: TYPE_STREAM.into(),
            operation: (operation as u16).into(),
            flags: 0.into(),
            buffer: 0.into(),
            forwarded: 0.into(),
        }
    }

    /// The ports of a packet from the guest.
    #[must_use]
    pub fn ports(&self) -> Ports {
        Ports { host: self.destination_port.get(), guest: self.source_port.get() }
    }

    /// Whether a packet from the guest is from it and for this host.
    #[must_use]
    pub fn is_addressed(&self) -> bool {
        self.source_cid.get() == GUEST_CID && self.destination_cid.get() == HOST_CID
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_lies_as_the_specification_says() {
        assert_eq!(HEADER, 44);
        let ports = Ports { host: 0x0102_0304, guest: 5 };
        let header = Header { flags: 3.into(), ..Header::new(ports, Operation::Shutdown) };
        let bytes = header.as_bytes();
        assert_eq!(
            bytes[..24],
            [2, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 4, 3, 2, 1, 5, 0, 0, 0]
        );
        assert_eq!(bytes[28..36], [1, 0, 4, 0, 3, 0, 0, 0]);
    }

    #[test]
    fn operations_keep_their_numbers() {
        for number in 0..=u16::MAX {
            if let Some(operation) = Operation::parse(number) {
                assert_eq!(operation as u16, number);
            } else {
                assert!(!(1..=7).contains(&number));
            }
        }
    }
}
