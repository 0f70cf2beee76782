//! The footer of a VHD: what kind of disk it is, and how long.

use std::time::{Duration, SystemTime};

use uuid::Uuid;

use super::{DiskError, SECTOR, damaged, u32_at, u64_at};
use crate::disk::put;

/// Its length in bytes.
pub(super) const LENGTH: usize = 512;

/// What it begins with.
pub(super) const COOKIE: &[u8; 8] = b"conectix";

/// Where the checksum is.
const CHECKSUM: usize = 64;

/// The time that time stamps count seconds from, 2000-01-01, in seconds since 1970.
const EPOCH: u64 = 946_684_800;

/// The kinds of disks.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Kind {
    Fixed = 2,
    Dynamic = 3,
    Differencing = 4,
}

/// A footer.
#[derive(Clone, Debug)]
pub(super) struct Footer {
    /// As it stands in the file: what is not understood is kept.
    bytes: [u8; LENGTH],
    /// The kind of disk.
    pub(super) kind: Kind,
    /// The disk's length in bytes.
    pub(super) size: u64,
    /// Where a dynamic disk's header is.
    pub(super) header: u64,
}

impl Footer {
    /// Understands a footer.
    pub(super) fn parse(bytes: &[u8; LENGTH]) -> Result<Self, DiskError> {
        if !bytes.starts_with(COOKIE) {
            return Err(damaged("it has no footer"));
        }
        if u32_at(bytes, CHECKSUM) != checksum(bytes, CHECKSUM) {
            return Err(damaged("the footer's checksum is wrong"));
        }
        if u32_at(bytes, 12) >> 16 != 1 {
            return Err(damaged(format!("its version is {:#x}", u32_at(bytes, 12))));
        }
        let kind = match u32_at(bytes, 60) {
            2 => Kind::Fixed,
            3 => Kind::Dynamic,
            4 => Kind::Differencing,
            kind => return Err(damaged(format!("{kind} is no type of disk"))),
        };
        let size = u64_at(bytes, 48);
        if size == 0 || !size.is_multiple_of(SECTOR) || size > i64::MAX as u64 {
            return Err(damaged(format!("it is {size} bytes long")));
        }
        Ok(Self { bytes: *bytes, kind, size, header: u64_at(bytes, 16) })
    }

    /// The footer of a new disk.
    pub(super) fn new(kind: Kind, size: u64, header: u64, id: Uuid) -> Self {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let stamp = now.map_or(0, |now| now.saturating_sub(Duration::from_secs(EPOCH)).as_secs());
        let mut bytes = [0; LENGTH];
        put(&mut bytes, 0, COOKIE);
        put(&mut bytes, 8, &2_u32.to_be_bytes());
        put(&mut bytes, 12, &0x1_0000_u32.to_be_bytes());
        put(&mut bytes, 16, &header.to_be_bytes());
        put(&mut bytes, 24, &(stamp as u32).to_be_bytes());
        // With other names readers take the length from the geometry, which is rounded.
        put(&mut bytes, 28, b"win ");
        put(&mut bytes, 32, &0x6_0001_u32.to_be_bytes());
        put(&mut bytes, 36, b"Wi2k");
        put(&mut bytes, 40, &size.to_be_bytes());
        put(&mut bytes, 48, &size.to_be_bytes());
        let (cylinders, heads, sectors) = geometry(size / SECTOR);
        put(&mut bytes, 56, &cylinders.to_be_bytes());
        put(&mut bytes, 58, &[heads, sectors]);
        put(&mut bytes, 60, &(kind as u32).to_be_bytes());
        put(&mut bytes, 68, id.as_bytes());
        let sum = checksum(&bytes, CHECKSUM);
        put(&mut bytes, CHECKSUM, &sum.to_be_bytes());
        Self { bytes, kind, size, header }
    }

    /// Its bytes.
    pub(super) fn encode(&self) -> [u8; LENGTH] {
        self.bytes
    }
}

/// The complement of the sum of all bytes but the checksum's own, which is at `own`.
pub(super) fn checksum(bytes: &[u8], own: usize) -> u32 {
    let others = bytes.iter().enumerate().filter(|(at, _)| !(own..own + 4).contains(at));
    !others.fold(0_u32, |sum, (_, byte)| sum.wrapping_add(u32::from(*byte)))
}

/// Cylinders, heads and sectors per track, as the specification's appendix has them.
fn geometry(sectors: u64) -> (u16, u8, u8) {
    let sectors = sectors.min(65535 * 16 * 255);
    if sectors >= 65535 * 16 * 63 {
        return ((sectors / 255 / 16) as u16, 16, 255);
    }
    let mut per_track = 17;
    let mut tracks = sectors / per_track;
    let mut heads = tracks.div_ceil(1024).max(4);
    if tracks >= heads * 1024 || heads > 16 {
        (per_track, heads) = (31, 16);
        tracks = sectors / per_track;
    }
    if tracks >= heads * 1024 {
        (per_track, heads) = (63, 16);
        tracks = sectors / per_track;
    }
    ((tracks / heads) as u16, heads as u8, per_track as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_footer_is_what_it_was_made_of() {
        let bytes = Footer::new(Kind::Dynamic, 40 << 20, 512, Uuid::new_v4()).encode();
        let footer = Footer::parse(&bytes).unwrap();
        assert_eq!((footer.kind, footer.size, footer.header), (Kind::Dynamic, 40 << 20, 512));
        for at in 0..LENGTH {
            let mut broken = bytes;
            broken[at] ^= 1;
            assert!(Footer::parse(&broken).is_err(), "byte {at}");
        }
    }

    #[test]
    fn geometries_are_those_of_the_specification() {
        assert_eq!(geometry((40 << 20) / 512), (963, 5, 17));
        assert_eq!(geometry((1 << 40) / 512), (65535, 16, 255));
    }
}
