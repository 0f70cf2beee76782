//! A new VHDX.

use std::fs::File;
use std::os::unix::fs::FileExt as _;

use uuid::Uuid;

use super::format::{BLOCK_LENGTHS, BLOCK_PRESENT, MAXIMUM_SIZE, MEGABYTE, SIGNATURE};
use super::header::{self, Header};
use super::metadata::Metadata;
use super::region;
use super::{MAXIMUM_BLOCKS, Map};
use crate::disk::{DiskError, Format, put};

/// Where a new file's parts are. The table of blocks is as long as it must be, and blocks
/// follow.
const LOG: (u64, u64) = (MEGABYTE, MEGABYTE);
const METADATA: (u64, u64) = (2 * MEGABYTE, MEGABYTE);
const MAP: u64 = 3 * MEGABYTE;

/// How a new disk is to be; lengths in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// The disk's length, whole logical sectors.
    pub size: u64,
    /// A block's length, a power of two from 1 MB to 256 MB; chosen by the size where
    /// absent.
    pub block: Option<u64>,
    /// Whether all blocks have their place from the start.
    pub fixed: bool,
    /// The length of a logical sector, 512 or 4096.
    pub logical_sector: u32,
}

impl Options {
    /// A dynamic disk of `size` bytes with sectors of 512.
    #[must_use]
    pub fn new(size: u64) -> Self {
        Self { size, block: None, fixed: false, logical_sector: 512 }
    }
}

/// Makes a VHDX of zeroes of an empty file. The blocks of a fixed one are holes.
///
/// # Errors
/// Where the format does not allow the options or the file cannot be written.
pub fn create(file: &File, options: &Options) -> Result<(), DiskError> {
    let size = options.size;
    let logical = u64::from(options.logical_sector);
    let block = options.block.unwrap_or_else(|| usual_block(size));
    let wrong = || DiskError::Size { format: Format::Vhdx, size };
    if ![512, 4096].contains(&logical)
        || size == 0
        || size > MAXIMUM_SIZE
        || !size.is_multiple_of(logical)
    {
        return Err(wrong());
    }
    if !BLOCK_LENGTHS.contains(&block)
        || !block.is_power_of_two()
        || size.div_ceil(block) > MAXIMUM_BLOCKS
    {
        return Err(wrong());
    }
    let metadata = Metadata {
        size,
        block,
        fixed: options.fixed,
        logical_sector: logical,
        physical_sector: 4096,
    };
    let blocks = size.div_ceil(block);
    let map = Map { offset: MAP, blocks, ratio: (logical << 23) / block };
    let region = (MAP, (map.entries() * 8).next_multiple_of(MEGABYTE));
    write(file, options, &metadata, &map, region).map_err(DiskError::write)
}

/// Short blocks follow the data closely; of a long disk they make a long table.
fn usual_block(size: u64) -> u64 {
    (size >> 20).next_power_of_two().clamp(MEGABYTE, 32 * MEGABYTE)
}

fn write(
    file: &File,
    options: &Options,
    metadata: &Metadata,
    map: &Map,
    region: (u64, u64),
) -> std::io::Result<()> {
    let first = region.0 + region.1;
    let blocks = if options.fixed { map.blocks * metadata.block } else { 0 };
    file.set_len(first + blocks)?;
    let mut identifier = [0; 520];
    put(&mut identifier, 0, &SIGNATURE);
    for (index, unit) in "wslr".encode_utf16().enumerate() {
        put(&mut identifier, 8 + index * 2, &unit.to_le_bytes());
    }
    file.write_all_at(&identifier, 0)?;
    let header = Header {
        file_id: Uuid::new_v4(),
        data_id: Uuid::new_v4(),
        log_id: Uuid::nil(),
        log_offset: LOG.0,
        log_length: LOG.1 as u32,
    };
    header::create(file, &header)?;
    region::create(file, region, METADATA)?;
    metadata.create(file, METADATA.0, Uuid::new_v4())?;
    if options.fixed {
        let mut bytes = vec![0; (map.entries() * 8) as usize];
        for block in 0..map.blocks {
            let entry = (first + block * metadata.block) | BLOCK_PRESENT;
            let at = map.entry(block as u32) - map.offset;
            put(&mut bytes, at as usize, &entry.to_le_bytes());
        }
        file.write_all_at(&bytes, map.offset)?;
    }
    Ok(())
}
