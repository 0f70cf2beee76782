//! The numbers of the format, little-endian all of them.

use uuid::{Uuid, uuid};

use crate::disk::{DiskError, Format, number};

number!(u16_at, u16, from_le_bytes);
number!(u32_at, u32, from_le_bytes);
number!(u64_at, u64, from_le_bytes);

/// What a file begins with.
pub(super) const SIGNATURE: [u8; 8] = *b"vhdxfile";

/// The longest disk.
pub const MAXIMUM_SIZE: u64 = 64 << 40;

pub(super) const KILOBYTE: u64 = 1 << 10;

/// The unit of everything but what is in the first one.
pub(super) const MEGABYTE: u64 = 1 << 20;

/// What the log counts in.
pub(super) const SECTOR: u64 = 4096;

/// The two headers.
pub(super) const HEADERS: [u64; 2] = [64 * KILOBYTE, 128 * KILOBYTE];
pub(super) const HEADER_LENGTH: usize = 4096;

/// The two tables of regions, and the length of each and of that of the metadata.
pub(super) const REGION_TABLES: [u64; 2] = [192 * KILOBYTE, 256 * KILOBYTE];
pub(super) const TABLE_LENGTH: usize = 64 << 10;

/// The most entries that such a table may have.
pub(super) const MAXIMUM_ENTRIES: usize = 2047;

pub(super) const REGION_MAP: Uuid = uuid!("2dc27766-f623-4200-9d64-115e9bfd4a08");
pub(super) const REGION_METADATA: Uuid = uuid!("8b7ca206-4790-4b9a-b8fe-575f050f886e");

pub(super) const FILE_PARAMETERS: Uuid = uuid!("caa16737-fa36-4d43-b3b6-33f0aa44e76b");
pub(super) const DISK_SIZE: Uuid = uuid!("2fa54224-cd1b-4876-b211-5dbed83bf4b8");
pub(super) const DISK_ID: Uuid = uuid!("beca12ab-b2e6-4523-93ef-c309e000c746");
pub(super) const LOGICAL_SECTOR: Uuid = uuid!("8141bf1d-a96f-4709-ba47-f233a8faab5f");
pub(super) const PHYSICAL_SECTOR: Uuid = uuid!("cda348c7-445d-4471-9cc9-e9885251c556");
pub(super) const PARENT_LOCATOR: Uuid = uuid!("a8d35f2d-b30b-454d-abf7-d3d84834ab0c");

/// The state of a block that has its place in the file.
pub(super) const BLOCK_PRESENT: u64 = 6;

/// The lengths that a block may have.
pub(super) const BLOCK_LENGTHS: std::ops::RangeInclusive<u64> = MEGABYTE..=256 * MEGABYTE;

pub(super) fn damaged(what: impl Into<String>) -> DiskError {
    DiskError::Damaged { format: Format::Vhdx, what: what.into() }
}

pub(super) fn unsupported(what: impl Into<String>) -> DiskError {
    DiskError::Unsupported { format: Format::Vhdx, what: what.into() }
}

/// An identifier as the format keeps it: its first three parts are numbers.
pub(super) fn uuid_at(bytes: &[u8], at: usize) -> Uuid {
    let found = bytes.get(at..at.saturating_add(16)).and_then(|bytes| bytes.try_into().ok());
    found.map_or(Uuid::nil(), Uuid::from_bytes_le)
}

/// CRC-32C over all of `bytes`, the checksum's own four at 4 taken as zeroes.
pub(super) fn checksum(bytes: &[u8]) -> u32 {
    let (front, rest) = bytes.split_at(bytes.len().min(4));
    let sum = crc32c::crc32c_append(crc32c::crc32c(front), &[0; 4]);
    crc32c::crc32c_append(sum, rest.get(4..).unwrap_or_default())
}
