//! The table of regions: where the metadata and the table of blocks are.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use super::format::{
    MAXIMUM_ENTRIES, MEGABYTE, REGION_MAP, REGION_METADATA, REGION_TABLES, TABLE_LENGTH, checksum,
    damaged, u32_at, u64_at, unsupported, uuid_at,
};
use crate::disk::{DiskError, put};

const REGION_SIGNATURE: &[u8; 4] = b"regi";

/// Where a region is, and its length.
pub(super) type Region = (u64, u64);

/// The regions of a file.
#[derive(Debug)]
pub(super) struct Regions {
    /// The table of blocks.
    pub(super) map: Region,
    /// The metadata.
    pub(super) metadata: Region,
    /// These and others that may be there.
    pub(super) all: Vec<Region>,
}

impl Regions {
    /// Reads the first copy of the table that is whole. The file has `length` bytes.
    pub(super) fn read(file: &File, log: Region, length: u64) -> Result<Self, DiskError> {
        let mut bytes = vec![0; TABLE_LENGTH];
        for offset in REGION_TABLES {
            match file.read_exact_at(&mut bytes, offset) {
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => continue,
                result => result.map_err(DiskError::read)?,
            }
            if bytes.starts_with(REGION_SIGNATURE) && u32_at(&bytes, 4) == checksum(&bytes) {
                return Self::parse(&bytes, log, length);
            }
        }
        Err(damaged("neither table of regions has the right checksum"))
    }

    fn parse(bytes: &[u8], log: Region, file_length: u64) -> Result<Self, DiskError> {
        let count = u32_at(bytes, 8) as usize;
        if count > MAXIMUM_ENTRIES {
            return Err(damaged(format!("it has {count} regions")));
        }
        let (mut map, mut metadata, mut all) = (None, None, Vec::new());
        for at in (0..count).map(|index| 16 + index * 32) {
            let id = uuid_at(bytes, at);
            let region = (u64_at(bytes, at + 16), u64::from(u32_at(bytes, at + 24)));
            let (offset, length) = region;
            let inside = offset.checked_add(length).is_some_and(|end| end <= file_length);
            if !inside
                || length == 0
                || offset < MEGABYTE
                || !offset.is_multiple_of(MEGABYTE)
                || !length.is_multiple_of(MEGABYTE)
            {
                return Err(damaged(format!("its region of {length} bytes is at {offset}")));
            }
            let known = match id {
                REGION_MAP => &mut map,
                REGION_METADATA => &mut metadata,
                _ if u32_at(bytes, at + 28) & 1 != 0 => {
                    return Err(unsupported(format!("it needs the region {id}")));
                }
                _ => {
                    all.push(region);
                    continue;
                }
            };
            if known.replace(region).is_some() {
                return Err(damaged(format!("it has two regions {id}")));
            }
            all.push(region);
        }
        let mut sorted = all.clone();
        sorted.push(log);
        sorted.sort_unstable();
        let pairs = sorted.iter().zip(sorted.iter().skip(1));
        if let Some((first, second)) = pairs.into_iter().find(|(a, b)| a.0 + a.1 > b.0) {
            return Err(damaged(format!("what is at {} and at {} overlap", first.0, second.0)));
        }
        let missing = || damaged("a region is missing");
        Ok(Self { map: map.ok_or_else(missing)?, metadata: metadata.ok_or_else(missing)?, all })
    }
}

/// Writes both copies for a new file.
pub(super) fn create(file: &File, map: Region, metadata: Region) -> io::Result<()> {
    let mut bytes = vec![0; TABLE_LENGTH];
    put(&mut bytes, 0, REGION_SIGNATURE);
    put(&mut bytes, 8, &2_u32.to_le_bytes());
    for (at, id, (offset, length)) in [(16, REGION_MAP, map), (48, REGION_METADATA, metadata)] {
        put(&mut bytes, at, &id.to_bytes_le());
        put(&mut bytes, at + 16, &offset.to_le_bytes());
        put(&mut bytes, at + 24, &(length as u32).to_le_bytes());
        put(&mut bytes, at + 28, &1_u32.to_le_bytes());
    }
    let sum = checksum(&bytes);
    put(&mut bytes, 4, &sum.to_le_bytes());
    REGION_TABLES.into_iter().try_for_each(|offset| file.write_all_at(&bytes, offset))
}
