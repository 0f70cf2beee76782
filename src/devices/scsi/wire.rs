//! The structures of virtio 1.2, section 5.6, as bytes in guest memory.

use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Feature: events for units that come and go.
pub const F_HOTPLUG: u64 = 1 << 1;
/// Feature: events for units that change.
pub const F_CHANGE: u64 = 1 << 2;

/// Response: the command reached the unit.
pub const S_OK: u8 = 0;
/// Response: the command needs more data than the driver gave buffers for.
pub const S_OVERRUN: u8 = 1;
/// Response: no such target.
pub const S_BAD_TARGET: u8 = 3;
/// Response: the request itself makes no sense.
pub const S_FAILURE: u8 = 9;
/// Response of task management: the task, or any task, exists.
pub const S_FUNCTION_SUCCEEDED: u8 = 10;
/// Response of task management: not supported.
pub const S_FUNCTION_REJECTED: u8 = 11;
/// Response of task management: no such unit.
pub const S_INCORRECT_LUN: u8 = 12;

/// The default of the `cdb_size` configuration field.
pub const CDB_SIZE: u32 = 32;
/// The default of the `sense_size` configuration field.
pub const SENSE_SIZE: u32 = 96;

/// The head of a request; the command descriptor block follows, `cdb_size` bytes.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct RequestHead {
    /// The unit, see [`Address`].
    pub lun: [u8; 8],
    /// The driver's name for the task.
    pub id: U64,
    /// The task attribute; tasks are served in any order.
    pub attribute: u8,
    /// Unused.
    pub priority: u8,
    /// Unused.
    pub reference: u8,
}

/// The head of a response; sense data follows, `sense_size` bytes.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct ResponseHead {
    /// How much of the sense data counts.
    pub sense_length: U32,
    /// Bytes of data that were not transferred.
    pub residual: U32,
    /// Unused.
    pub qualifier: U16,
    /// The SCSI status.
    pub status: u8,
    /// An `S_` code.
    pub response: u8,
}

/// A task management request.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct TaskManagement {
    /// [`CONTROL_TASK_MANAGEMENT`].
    pub kind: U32,
    /// Which function.
    pub function: U32,
    /// The unit.
    pub lun: [u8; 8],
    /// The task, where the function is about one.
    pub id: U64,
}

/// An asynchronous notification query or subscription.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Notification {
    /// [`CONTROL_QUERY`] or [`CONTROL_SUBSCRIBE`].
    pub kind: U32,
    /// The unit.
    pub lun: [u8; 8],
    /// Which events.
    pub requested: U32,
}

/// The answer to a [`Notification`].
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct NotificationResponse {
    /// Which events are supported.
    pub actual: U32,
    /// An `S_` code.
    pub response: u8,
}

/// Control request: task management.
pub const CONTROL_TASK_MANAGEMENT: u32 = 0;
/// Control request: which asynchronous notifications exist.
pub const CONTROL_QUERY: u32 = 1;
/// Control request: subscribe to asynchronous notifications.
pub const CONTROL_SUBSCRIBE: u32 = 2;

/// An event for the driver.
#[derive(
    Clone, Copy, Debug, Eq, FromBytes, Immutable, IntoBytes, KnownLayout, PartialEq, Unaligned,
)]
#[repr(C)]
pub struct Event {
    /// An `EVENT_` code, with [`EVENTS_MISSED`].
    pub event: U32,
    /// The unit.
    pub lun: [u8; 8],
    /// What happened.
    pub reason: U32,
}

/// Event: none, only carries [`EVENTS_MISSED`].
pub const EVENT_NONE: u32 = 0;
/// Event: a unit came or went.
pub const EVENT_TRANSPORT_RESET: u32 = 1;
/// Event: a unit changed.
pub const EVENT_PARAMETER_CHANGE: u32 = 3;
/// Flag: events before this one were lost.
pub const EVENTS_MISSED: u32 = 1 << 31;
/// Reason of a transport reset: look at the unit again.
pub const RESET_RESCAN: u32 = 1;
/// Reason of a transport reset: the unit is gone.
pub const RESET_REMOVED: u32 = 2;

/// The configuration space.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Configuration {
    /// Request queues.
    pub queues: U32,
    /// Data segments per request.
    pub segments: U32,
    /// Sectors per request.
    pub sectors: U32,
    /// Commands per unit at one time.
    pub commands: U32,
    /// The size of [`Event`].
    pub event_size: U32,
    /// The size of the sense data; written by the driver.
    pub sense_size: U32,
    /// The size of the command descriptor block; written by the driver.
    pub cdb_size: U32,
    /// The highest channel.
    pub channel: U16,
    /// The highest target.
    pub target: U16,
    /// The highest unit.
    pub lun: U32,
}

/// Who a request is for (virtio 1.2, 5.6.6.1).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Address {
    /// A unit of target 0, in the peripheral or the flat form.
    Unit(u16),
    /// The well-known unit that reports the units.
    ReportLuns,
    /// Anything else.
    Nobody,
}

impl Address {
    /// Reads the eight bytes.
    #[must_use]
    pub fn parse(lun: [u8; 8]) -> Self {
        match lun {
            [0xc1, 0x01, ..] => Self::ReportLuns,
            [1, 0, high, low, ..] if high >> 6 <= 1 => {
                Self::Unit(u16::from_be_bytes([high & 0x3f, low]))
            }
            _ => Self::Nobody,
        }
    }

    /// The eight bytes for a unit of target 0. Linux joins the middle bytes of an event
    /// without looking at the form, so only the peripheral form reaches it.
    #[must_use]
    pub fn encode(lun: u16) -> [u8; 8] {
        let [high, low] = lun.to_be_bytes();
        let form = if high == 0 { 0 } else { 0x40 };
        [1, 0, form | high, low, 0, 0, 0, 0]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structures_have_the_sizes_of_the_specification() {
        assert_eq!(size_of::<RequestHead>(), 19);
        assert_eq!(size_of::<ResponseHead>(), 12);
        assert_eq!(size_of::<TaskManagement>(), 24);
        assert_eq!(size_of::<NotificationResponse>(), 5);
        assert_eq!(size_of::<Event>(), 16);
        assert_eq!(size_of::<Configuration>(), 36);
    }

    #[test]
    fn both_forms_of_a_unit_number_are_understood() {
        assert_eq!(Address::parse([1, 0, 0, 7, 0, 0, 0, 0]), Address::Unit(7));
        assert_eq!(Address::parse([1, 0, 0x40, 7, 0, 0, 0, 0]), Address::Unit(7));
        assert_eq!(Address::parse([1, 0, 0x41, 2, 0, 0, 0, 0]), Address::Unit(258));
        assert_eq!(Address::parse([1, 1, 0, 7, 0, 0, 0, 0]), Address::Nobody);
        assert_eq!(Address::parse([1, 0, 0xc1, 7, 0, 0, 0, 0]), Address::Nobody);
        assert_eq!(Address::parse([0xc1, 1, 0, 0, 0, 0, 0, 0]), Address::ReportLuns);
        for lun in [0, 1, 254, 255, 256, 16383] {
            assert_eq!(Address::parse(Address::encode(lun)), Address::Unit(lun));
        }
    }
}
