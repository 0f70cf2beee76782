//! Sense data: how a unit says why a command did not succeed (SPC-4, section 4.5).

use std::io;

use serde::{Deserialize, Serialize};

/// The status of a command that succeeded.
pub const STATUS_GOOD: u8 = 0;
/// The status of a command with sense data.
pub const STATUS_CHECK_CONDITION: u8 = 2;

/// The length of fixed format sense data in bytes.
pub const LENGTH: usize = 18;

/// A sense key with its additional code.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Sense {
    /// The sense key.
    pub key: u8,
    /// The additional sense code and its qualifier.
    pub code: (u8, u8),
    /// The block it is about.
    pub block: Option<u64>,
}

impl Sense {
    /// Nothing to tell.
    pub const NONE: Self = Self::new(0, 0, 0);
    /// An operation code that is not implemented.
    pub const INVALID_OPERATION: Self = Self::new(5, 0x20, 0);
    /// A block beyond the end.
    pub const BLOCK_OUT_OF_RANGE: Self = Self::new(5, 0x21, 0);
    /// A field of the command makes no sense.
    pub const INVALID_FIELD: Self = Self::new(5, 0x24, 0);
    /// No such unit.
    pub const UNIT_NOT_SUPPORTED: Self = Self::new(5, 0x25, 0);
    /// A field of the command's data makes no sense.
    pub const INVALID_PARAMETER: Self = Self::new(5, 0x26, 0);
    /// The command's data is shorter than it says.
    pub const PARAMETER_LENGTH: Self = Self::new(5, 0x1a, 0);
    /// The unit is new, or was reset.
    pub const RESET: Self = Self::new(6, 0x29, 0);
    /// The size changed.
    pub const CAPACITY_CHANGED: Self = Self::new(6, 0x2a, 9);
    /// Not writable.
    pub const WRITE_PROTECTED: Self = Self::new(7, 0x27, 0);
    /// The host's file system is full. Linux turns exactly this into `ENOSPC`.
    pub const NO_SPACE: Self = Self::new(7, 0x27, 7);
    /// The host could not read.
    pub const READ_ERROR: Self = Self::new(3, 0x11, 0);
    /// The host could not write.
    pub const WRITE_ERROR: Self = Self::new(3, 0x0c, 0);

    const fn new(key: u8, code: u8, qualifier: u8) -> Self {
        Self { key, code: (code, qualifier), block: None }
    }

    /// What a failed read is called.
    #[must_use]
    pub fn of_read(_error: &io::Error) -> Self {
        Self::READ_ERROR
    }

    /// What a failed write, flush or discard is called.
    #[must_use]
    pub fn of_write(error: &io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::ENOSPC | libc::EDQUOT | libc::EFBIG) => Self::NO_SPACE,
            Some(libc::EROFS | libc::EPERM | libc::EACCES | libc::EBADF) => Self::WRITE_PROTECTED,
            _ => Self::WRITE_ERROR,
        }
    }

    /// The same, about a block.
    #[must_use]
    pub fn at(self, block: u64) -> Self {
        Self { block: Some(block), ..self }
    }

    /// The bytes in fixed format. A block that does not fit its field is left out.
    #[must_use]
    pub fn encode(self) -> [u8; LENGTH] {
        let block = self.block.and_then(|block| u32::try_from(block).ok());
        let [a, b, c, d] = block.unwrap_or(0).to_be_bytes();
        let valid = if block.is_some() { 0x80 } else { 0 };
        let (code, qualifier) = self.code;
        let rest = (LENGTH - 8) as u8;
        [0x70 | valid, 0, self.key, a, b, c, d, rest, 0, 0, 0, 0, code, qualifier, 0, 0, 0, 0]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_host_is_told_apart_from_a_broken_one() {
        let full = io::Error::from_raw_os_error(libc::ENOSPC);
        let broken = io::Error::from_raw_os_error(libc::EIO);
        assert_eq!(Sense::of_write(&full), Sense::NO_SPACE);
        assert_eq!(Sense::of_write(&broken), Sense::WRITE_ERROR);
    }

    #[test]
    fn the_block_is_told_where_it_fits() {
        let bytes = Sense::READ_ERROR.at(0x0102_0304).encode();
        assert_eq!(bytes[..8], [0xf0, 0, 3, 1, 2, 3, 4, 10]);
        assert_eq!(Sense::READ_ERROR.at(1 << 40).encode()[..8], [0x70, 0, 3, 0, 0, 0, 0, 10]);
    }
}
