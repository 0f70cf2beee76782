//! VHDX: the format of Hyper-V and WSL, fixed and dynamic ([MS-VHDX]).
//!
//! The first megabyte has the signature, two headers that are written in turns, and two
//! copies of the table of regions. The regions hold the metadata and the table of blocks;
//! the table is changed through a log only, as [`log`] tells.

mod create;
mod format;
mod header;
mod log;
mod metadata;
mod region;

use std::collections::{BTreeMap, btree_map};
use std::fs::File;
use std::io::{self, Seek as _, SeekFrom};
use std::os::unix::fs::FileExt as _;

use uuid::Uuid;

pub use self::create::{Options, create};
pub use self::format::MAXIMUM_SIZE;
use self::format::{MEGABYTE, SECTOR, SIGNATURE, damaged, unsupported};
use self::header::{Header, Headers};
use self::log::SECTORS_PER_ENTRY;
use self::metadata::Metadata;
use self::region::Regions;
use super::blocks::{Blocks, Geometry, Layout, MAXIMUM_BLOCKS, check_places};
use super::{Disk, DiskError, Format, put};

/// Opens a VHDX. Where it was not closed its log is replayed, which writes to the file.
///
/// # Errors
/// Where it is damaged, a differencing one, or has what nobody uses.
pub(super) fn open(mut file: File, writable: bool) -> Result<Box<dyn Disk>, DiskError> {
    let mut signature = [0; 8];
    match file.read_exact_at(&mut signature, 0) {
        Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => {
            return Err(DiskError::read(error));
        }
        _ if signature != SIGNATURE => return Err(damaged("it does not begin as one")),
        _ => {}
    }
    let mut headers = Headers::read(&file)?;
    if !headers.current.log_id.is_nil() {
        let sequence = log::find(&file, &headers.current)?;
        match (sequence.is_empty(), writable) {
            (true, false) => {}
            (false, false) => return Err(DiskError::Unclosed { format: Format::Vhdx }),
            (_, true) => {
                sequence.replay(&file)?;
                let closed = Header { log_id: Uuid::nil(), ..headers.current.clone() };
                headers.write(&file, closed).map_err(DiskError::write)?;
            }
        }
    }
    let length = file.seek(SeekFrom::End(0)).map_err(DiskError::read)?;
    let log = (headers.current.log_offset, u64::from(headers.current.log_length));
    let regions = Regions::read(&file, log, length)?;
    let metadata = Metadata::read(&file, &regions.metadata)?;
    let map = Map::new(&metadata, &regions)?;
    let (places, others) = map.read(&file)?;
    let geometry = Geometry {
        size: metadata.size,
        block: metadata.block,
        unit: MEGABYTE,
        bitmap: 0,
        footer: Vec::new(),
    };
    let end = check_all(&places, &others, &geometry, &regions, log, length)?;
    let layout = Journal { headers, map };
    Ok(Box::new(Blocks::new(file, geometry, places, end, Box::new(layout), writable)))
}

/// Checks that no block overlaps another one, a region or the log, and tells the end of
/// all.
fn check_all(
    places: &[u32],
    others: &[u32],
    geometry: &Geometry,
    regions: &Regions,
    log: (u64, u64),
    length: u64,
) -> Result<u64, DiskError> {
    let end = check_places(places, geometry, MEGABYTE, length).map_err(damaged)?;
    let mut fixed = regions.all.clone();
    fixed.push(log);
    // Bitmap blocks have a meaning in differencing disks only, yet others may place them.
    fixed.extend(others.iter().map(|place| (u64::from(*place) * MEGABYTE, MEGABYTE)));
    fixed.sort_unstable();
    for place in places.iter().filter(|place| **place != 0) {
        let start = u64::from(*place) * MEGABYTE;
        let next = fixed.partition_point(|(other, length)| other + length <= start);
        if let Some((other, _)) = fixed.get(next).filter(|(o, _)| *o < start + geometry.block) {
            return Err(damaged(format!("the block at {start} overlaps what is at {other}")));
        }
    }
    let last = fixed.iter().map(|(offset, length)| offset + length).max().unwrap_or(0);
    Ok(end.max(last).next_multiple_of(MEGABYTE))
}

/// The table of blocks: an entry for each, and one for a bitmap after every `ratio`.
#[derive(Debug)]
struct Map {
    offset: u64,
    blocks: u64,
    ratio: u64,
}

impl Map {
    fn new(metadata: &Metadata, regions: &Regions) -> Result<Self, DiskError> {
        let blocks = metadata.size.div_ceil(metadata.block);
        let ratio = (metadata.logical_sector << 23) / metadata.block;
        let map = Self { offset: regions.map.0, blocks, ratio };
        if blocks > MAXIMUM_BLOCKS {
            return Err(unsupported(format!("it has {blocks} blocks")));
        }
        if map.entries() * 8 > regions.map.1 {
            let (entries, length) = (map.entries(), regions.map.1);
            return Err(damaged(format!("{entries} entries have a table of {length} bytes")));
        }
        Ok(map)
    }

    fn entries(&self) -> u64 {
        self.blocks + self.blocks.saturating_sub(1) / self.ratio
    }

    /// The places of the blocks, and those of the bitmaps.
    fn read(&self, file: &File) -> Result<(Vec<u32>, Vec<u32>), DiskError> {
        let mut places = Vec::with_capacity(self.blocks as usize);
        let mut others = Vec::new();
        let mut buffer = vec![0; MEGABYTE as usize];
        let (mut done, length) = (0, self.entries() * 8);
        while done < length {
            let count = (length - done).min(MEGABYTE) as usize;
            let Some(chunk) = buffer.get_mut(..count) else { break };
            file.read_exact_at(chunk, self.offset + done).map_err(DiskError::read)?;
            for (index, entry) in (done / 8..).zip(chunk.as_chunks::<8>().0) {
                let entry = u64::from_le_bytes(*entry);
                let place = u32::try_from(entry >> 20);
                let place = place.map_err(|_| damaged(format!("entry {index} is {entry:#x}")));
                if index % (self.ratio + 1) == self.ratio {
                    if entry & 7 == format::BLOCK_PRESENT {
                        others.push(place?);
                    }
                    continue;
                }
                places.push(match entry & 7 {
                    format::BLOCK_PRESENT if entry >> 20 == 0 => {
                        return Err(damaged(format!("entry {index} is {entry:#x}")));
                    }
                    format::BLOCK_PRESENT => place?,
                    // Not present, undefined, zero, unmapped: whatever a place says, the
                    // block reads as zeroes.
                    0..=3 => 0,
                    state => {
                        return Err(damaged(format!(
                            "the block of entry {index} is in state {state}"
                        )));
                    }
                });
            }
            done += count as u64;
        }
        Ok((places, others))
    }

    /// Where a block's entry is in the file.
    fn entry(&self, block: u32) -> u64 {
        let block = u64::from(block);
        self.offset + (block + block / self.ratio) * 8
    }
}

/// The table as it is changed: through the log.
#[derive(Debug)]
struct Journal {
    headers: Headers,
    map: Map,
}

impl Journal {
    /// The table's sectors with these entries, by where they are.
    fn sectors(
        &self,
        file: &File,
        changed: &BTreeMap<u32, u32>,
    ) -> io::Result<BTreeMap<u64, Vec<u8>>> {
        let mut sectors = BTreeMap::new();
        for (block, place) in changed {
            let entry = self.map.entry(*block);
            let start = entry - entry % SECTOR;
            let sector = match sectors.entry(start) {
                btree_map::Entry::Occupied(known) => known.into_mut(),
                btree_map::Entry::Vacant(new) => new.insert(self.sector(file, start)?),
            };
            let bits = u64::from(*place) << 20 | format::BLOCK_PRESENT;
            put(sector, (entry - start) as usize, &bits.to_le_bytes());
        }
        Ok(sectors)
    }

    fn sector(&self, file: &File, start: u64) -> io::Result<Vec<u8>> {
        let mut sector = vec![0; SECTOR as usize];
        file.read_exact_at(&mut sector, start)?;
        Ok(sector)
    }

    fn write_entry(
        &mut self,
        file: &File,
        header: &Header,
        sectors: &[(u64, Vec<u8>)],
        end: u64,
    ) -> io::Result<()> {
        self.headers.sequence += 1;
        let number = self.headers.sequence;
        let place = log::place(number, header.log_length);
        let entry = log::encode(header.log_id, number, place, sectors, end);
        file.write_all_at(&entry, header.log_offset + u64::from(place))?;
        file.sync_data()
    }
}

impl Layout for Journal {
    fn begin(&mut self, file: &File, end: u64) -> io::Result<()> {
        // Who holds a copy of the file's identity sees from here on that it has changed.
        let header = Header {
            file_id: Uuid::new_v4(),
            data_id: Uuid::new_v4(),
            log_id: Uuid::nil(),
            ..self.headers.current.clone()
        };
        self.headers.write(file, header.clone())?;
        // Blocks that a crash left without an entry are forgotten.
        file.set_len(end)?;
        file.sync_data()?;
        // The log is never without an entry: readers differ in what that means. This one
        // changes nothing.
        let opened = Header { log_id: Uuid::new_v4(), ..header };
        let start = self.map.offset;
        let first = vec![(start, self.sector(file, start)?)];
        self.write_entry(file, &opened, &first, end)?;
        self.headers.write(file, opened)
    }

    fn commit(&mut self, file: &File, changed: &BTreeMap<u32, u32>, end: u64) -> io::Result<()> {
        let header = self.headers.current.clone();
        let sectors: Vec<(u64, Vec<u8>)> = self.sectors(file, changed)?.into_iter().collect();
        for (index, batch) in sectors.chunks(SECTORS_PER_ENTRY).enumerate() {
            if index > 0 {
                // The entry before is about to be written over.
                file.sync_data()?;
            }
            self.write_entry(file, &header, batch, end)?;
            for (start, sector) in batch {
                file.write_all_at(sector, *start)?;
            }
        }
        Ok(())
    }

    fn close(&mut self, file: &File) -> io::Result<()> {
        let closed = Header { log_id: Uuid::nil(), ..self.headers.current.clone() };
        self.headers.write(file, closed)
    }
}
