//! virtio-scsi: one host bus adapter whose disks come and go while the VM runs.
//!
//! [`ScsiBus`] is the handle: disks are attached and detached through it from any thread,
//! before and after the driver is up. [`ScsiDevice`] is what the transport sees. SCSI
//! itself stands in [`command`] (what is asked), [`inquiry`] (what the disk tells of
//! itself), [`sense`] (how it says no) and [`mod@unit`] (doing it); a disk's bytes come from
//! a [`Backend`].

pub mod backend;
pub mod bus;
pub mod command;
pub mod device;
pub mod inquiry;
mod pool;
pub mod sense;
pub mod state;
#[cfg(test)]
mod tests;
pub mod unit;
pub mod wire;
mod worker;

pub use backend::{Backend, Volume};
pub use bus::{DiskOptions, ScsiBus};
pub use device::ScsiDevice;

use crate::error::Diagnose;

/// The most disks at one time: logical units 0 to 254 of target 0.
pub const MAXIMUM_UNITS: u16 = 255;

/// The size of a logical block in bytes.
pub const BLOCK: u64 = 512;

/// The size of a physical block in bytes, the granularity of discards.
pub const PHYSICAL_BLOCK: u64 = 4096;

/// Why a disk could not be attached or detached.
#[derive(Debug, thiserror::Error)]
pub enum ScsiError {
    /// What was written last could not be brought to the disk.
    #[error("cannot flush disk {lun}")]
    Flush {
        /// The logical unit.
        lun: u16,
        /// Why.
        source: std::io::Error,
    },
    /// All logical units are taken.
    #[error("{MAXIMUM_UNITS} disks are attached to the virtual machine already")]
    Full,
    /// The disk cannot be looked at.
    #[error("cannot determine the size of the disk")]
    Length(#[source] std::io::Error),
    /// No disk of that number.
    #[error("no disk {lun} is attached to the virtual machine")]
    NotAttached {
        /// The logical unit.
        lun: u16,
    },
    /// Less than one block.
    #[error("a disk of {length} bytes is too small")]
    TooSmall {
        /// Its length in bytes.
        length: u64,
    },
}

impl Diagnose for ScsiError {
    fn code(&self) -> &'static str {
        match self {
            Self::Full => "WSL_E_TOO_MANY_DISKS_ATTACHED",
            Self::Flush { .. }
            | Self::Length(_)
            | Self::NotAttached { .. }
            | Self::TooSmall { .. } => "E_FAIL",
        }
    }
}
