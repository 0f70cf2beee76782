//! VHD: the format of Virtual PC and older Hyper-V, fixed and dynamic.
//!
//! A fixed disk is its bytes and a footer. A dynamic one has a table of blocks, of 2 MB as
//! a rule, each behind a bitmap of its sectors, and the footer at both ends of the file. A
//! new block goes where the last footer stands; while that is on its way the copy at the
//! front serves. All numbers are big-endian ("Virtual Hard Disk Image Format
//! Specification", 1.0).

mod footer;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Seek as _, SeekFrom};
use std::os::unix::fs::FileExt as _;

use uuid::Uuid;

use self::footer::{Footer, Kind};
use super::blocks::{Blocks, Geometry, Layout, MAXIMUM_BLOCKS, check_places};
use super::raw::Raw;
use super::{Disk, DiskError, Format, number, put};

number!(u32_at, u32, from_be_bytes);
number!(u64_at, u64, from_be_bytes);

/// The length of a sector, and the unit of table entries.
const SECTOR: u64 = 512;

/// The length of the header of a dynamic disk.
const HEADER: usize = 1024;

/// What a dynamic disk's header begins with.
const HEADER_COOKIE: &[u8; 8] = b"cxsparse";

/// The length of the blocks of a new disk.
const BLOCK: u64 = 2 << 20;

/// The longest block that is read. Others write 512 KB or 2 MB.
const MAXIMUM_BLOCK: u64 = 256 << 20;

/// The entry of a block that is nowhere.
const NOWHERE: u32 = u32::MAX;

/// The longest disk: what Windows takes.
pub const MAXIMUM_SIZE: u64 = 2040 << 30;

fn damaged(what: impl Into<String>) -> DiskError {
    DiskError::Damaged { format: Format::Vhd, what: what.into() }
}

/// Opens a VHD.
///
/// # Errors
/// Where it is damaged, or a differencing one.
pub(super) fn open(mut file: File, writable: bool) -> Result<Box<dyn Disk>, DiskError> {
    let length = file.seek(SeekFrom::End(0)).map_err(DiskError::read)?;
    let footer = find_footer(&file, length)?;
    match footer.kind {
        Kind::Differencing => Err(DiskError::Differencing { format: Format::Vhd }),
        Kind::Fixed if footer.size > length - footer::LENGTH as u64 => {
            Err(damaged(format!("its {} bytes are more than its file has", footer.size)))
        }
        Kind::Fixed => Ok(Box::new(Raw::with_length(file, footer.size))),
        Kind::Dynamic => open_dynamic(file, length, &footer, writable),
    }
}

/// The footer at the end; the one at the front where that is damaged.
fn find_footer(file: &File, length: u64) -> Result<Footer, DiskError> {
    let mut problem = damaged("it is too short for a footer");
    let last = length.checked_sub(footer::LENGTH as u64);
    for at in [last, Some(0)].into_iter().flatten().filter(|_| last.is_some()) {
        let mut bytes = [0; footer::LENGTH];
        file.read_exact_at(&mut bytes, at).map_err(DiskError::read)?;
        match Footer::parse(&bytes) {
            // A fixed disk may begin with anything.
            Ok(footer) if at == 0 && footer.kind == Kind::Fixed && last != Some(0) => {}
            Ok(footer) => return Ok(footer),
            Err(error) => problem = error,
        }
    }
    Err(problem)
}

fn open_dynamic(
    file: File,
    length: u64,
    footer: &Footer,
    writable: bool,
) -> Result<Box<dyn Disk>, DiskError> {
    let mut header = [0; HEADER];
    let place = footer.header;
    let header_end = place.checked_add(HEADER as u64).filter(|end| *end <= length);
    let header_end = header_end.ok_or_else(|| damaged(format!("its header is at {place}")))?;
    file.read_exact_at(&mut header, place).map_err(DiskError::read)?;
    if !header.starts_with(HEADER_COOKIE) || u32_at(&header, 36) != footer::checksum(&header, 36) {
        return Err(damaged("the header's checksum is wrong"));
    }
    let table = u64_at(&header, 16);
    let entries = u64::from(u32_at(&header, 28));
    let block = u64::from(u32_at(&header, 32));
    if !block.is_power_of_two() || !(SECTOR..=MAXIMUM_BLOCK).contains(&block) {
        return Err(damaged(format!("its blocks are {block} bytes long")));
    }
    let blocks = footer.size.div_ceil(block);
    if blocks > entries {
        return Err(damaged(format!("{blocks} blocks have a table of {entries} entries")));
    }
    if blocks > MAXIMUM_BLOCKS {
        let what = format!("its table has {entries} entries");
        return Err(DiskError::Unsupported { format: Format::Vhd, what });
    }
    let table_end = table
        .checked_add((entries * 4).next_multiple_of(SECTOR))
        .filter(|end| table.is_multiple_of(SECTOR) && table >= SECTOR && *end <= length);
    let table_end = table_end
        .ok_or_else(|| damaged(format!("its table of {entries} entries is at {table}")))?;
    let mut bytes = vec![0; blocks as usize * 4];
    file.read_exact_at(&mut bytes, table).map_err(DiskError::read)?;
    let entries = bytes.as_chunks::<4>().0.iter().map(|entry| match u32::from_be_bytes(*entry) {
        NOWHERE => Ok(0),
        0 => Err(damaged("a block is at the file's start")),
        place => Ok(place),
    });
    let places = entries.collect::<Result<Vec<u32>, _>>()?;
    let geometry = Geometry {
        size: footer.size,
        block,
        unit: SECTOR,
        bitmap: bitmap_length(block),
        footer: footer.encode().to_vec(),
    };
    let from = table_end.max(header_end).next_multiple_of(SECTOR);
    let end = check_places(&places, &geometry, from, length).map_err(damaged)?;
    let layout = Table { place: table, footer: geometry.footer.clone() };
    Ok(Box::new(Blocks::new(file, geometry, places, end, Box::new(layout), writable)))
}

/// The length of the bitmap before a block, whole sectors.
fn bitmap_length(block: u64) -> u64 {
    (block / SECTOR).div_ceil(8).next_multiple_of(SECTOR)
}

/// How a new disk is to be.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// The disk's length in bytes, whole sectors.
    pub size: u64,
    /// Whether all of its bytes have their place from the start.
    pub fixed: bool,
}

/// Makes a VHD of zeroes of an empty file. The blocks of a fixed one are holes.
///
/// # Errors
/// Where the format does not allow the size or the file cannot be written.
pub fn create(file: &File, options: &Options) -> Result<(), DiskError> {
    let size = options.size;
    if size == 0 || size > MAXIMUM_SIZE || !size.is_multiple_of(SECTOR) {
        return Err(DiskError::Size { format: Format::Vhd, size });
    }
    let kind = if options.fixed { Kind::Fixed } else { Kind::Dynamic };
    let header = if options.fixed { u64::MAX } else { SECTOR };
    let footer = Footer::new(kind, size, header, Uuid::new_v4()).encode();
    if options.fixed {
        file.set_len(size + SECTOR).map_err(DiskError::write)?;
        return file.write_all_at(&footer, size).map_err(DiskError::write);
    }
    let entries = size.div_ceil(BLOCK);
    let table = SECTOR + HEADER as u64;
    let mut bytes = [0; HEADER];
    put(&mut bytes, 0, HEADER_COOKIE);
    put(&mut bytes, 8, &u64::MAX.to_be_bytes());
    put(&mut bytes, 16, &table.to_be_bytes());
    put(&mut bytes, 24, &0x1_0000_u32.to_be_bytes());
    put(&mut bytes, 28, &(entries as u32).to_be_bytes());
    put(&mut bytes, 32, &(BLOCK as u32).to_be_bytes());
    let sum = footer::checksum(&bytes, 36);
    put(&mut bytes, 36, &sum.to_be_bytes());
    let nowhere = vec![0xff; (entries * 4).next_multiple_of(SECTOR) as usize];
    let mut whole = footer.to_vec();
    whole.extend_from_slice(&bytes);
    whole.extend_from_slice(&nowhere);
    whole.extend_from_slice(&footer);
    file.write_all_at(&whole, 0).map_err(DiskError::write)
}

/// The table of a dynamic disk.
#[derive(Debug)]
struct Table {
    place: u64,
    footer: Vec<u8>,
}

impl Layout for Table {
    fn begin(&mut self, file: &File, end: u64) -> io::Result<()> {
        // Blocks that a crash left without an entry are forgotten.
        file.set_len(end)?;
        file.write_all_at(&self.footer, end)?;
        // This one is found where the last one is damaged.
        file.write_all_at(&self.footer, 0)?;
        file.sync_data()
    }

    fn commit(&mut self, file: &File, changed: &BTreeMap<u32, u32>, _: u64) -> io::Result<()> {
        // An entry does not cross a sector, which a disk writes whole or not at all.
        for (block, place) in changed {
            let at = self.place + u64::from(*block) * 4;
            file.write_all_at(&place.to_be_bytes(), at)?;
        }
        file.sync_data()
    }

    fn close(&mut self, _: &File) -> io::Result<()> {
        Ok(())
    }
}
