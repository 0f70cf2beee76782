//! The log: sectors of the table of blocks on their way to their place.
//!
//! An entry is on stable storage before any of its sectors is written in place, so that a
//! crash leaves either the old table or an entry to replay. Each flush of the disk writes
//! one entry, in turns to either half of the log: the one that it replaces is not the last
//! one, so that a valid one is there at any instant.
//!
//! Entries of other writers may be many, and wrap around the log's end. The ones to replay
//! are the newest unbroken run of them ([MS-VHDX] 2.3).

use std::fs::File;
use std::io::{Seek as _, SeekFrom};
use std::os::unix::fs::FileExt as _;

use uuid::Uuid;

use super::format::{REGION_TABLES, SECTOR, checksum, damaged, u32_at, u64_at, uuid_at};
use super::header::Header;
use crate::disk::raw::punch;
use crate::disk::{DiskError, put};

const ENTRY_SIGNATURE: &[u8; 4] = b"loge";
const DATA_DESCRIPTOR: &[u8; 4] = b"desc";
const ZERO_DESCRIPTOR: &[u8; 4] = b"zero";
const DATA_SIGNATURE: &[u8; 4] = b"data";

/// The length of an entry's header and of a descriptor.
const ENTRY_HEADER: usize = 64;
const DESCRIPTOR: usize = 32;

const SECTOR_LENGTH: usize = SECTOR as usize;

/// How many sectors an entry of ours takes, so that the descriptors fill one sector. Half of
/// the shortest log has room for them.
pub(super) const SECTORS_PER_ENTRY: usize = (SECTOR_LENGTH - ENTRY_HEADER) / DESCRIPTOR;

/// No file of the format is longer.
const MAXIMUM_LENGTH: u64 = 1 << 48;

/// One change that an entry makes.
#[derive(Clone, Debug, Eq, PartialEq)]
enum Change {
    Data { offset: u64, sector: Vec<u8> },
    Zeroes { offset: u64, length: u64 },
}

/// A valid entry, without its changes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Entry {
    place: u64,
    length: u64,
    tail: u64,
    number: u64,
    descriptors: usize,
    /// What the file's length was at least when it was written.
    flushed: u64,
    /// What the file's length must be.
    last: u64,
}

/// The log in memory.
#[derive(Debug)]
struct Log {
    bytes: Vec<u8>,
    id: Uuid,
    /// How many bytes may yet be summed up: entries that claim each other's bytes would
    /// take forever.
    budget: u64,
    header: (u64, u64),
}

/// Entries to replay, oldest first.
#[derive(Debug)]
pub(super) struct Sequence {
    log: Log,
    entries: Vec<Entry>,
}

/// Finds what is to be replayed.
pub(super) fn find(file: &File, header: &Header) -> Result<Sequence, DiskError> {
    let mut bytes = vec![0; header.log_length as usize];
    file.read_exact_at(&mut bytes, header.log_offset)
        .map_err(|_| damaged(format!("its log at {} is cut off", header.log_offset)))?;
    let place = (header.log_offset, header.log_offset + u64::from(header.log_length));
    let budget = 16 * u64::from(header.log_length);
    let mut log = Log { bytes, id: header.log_id, budget, header: place };
    let mut best: Vec<Entry> = Vec::new();
    let mut start = 0;
    while start < log.length() {
        let run = log.run(start)?;
        let length: u64 = run.iter().map(|entry| entry.length).sum();
        start += length.max(SECTOR);
        // A run counts where it has the entry that its last one says is the oldest needed.
        let Some(last) = run.last() else { continue };
        let Some(first) = run.iter().position(|entry| entry.place == last.tail) else { continue };
        if best.last().is_none_or(|other| other.number < last.number) {
            best = run.get(first..).unwrap_or_default().to_vec();
        }
    }
    Ok(Sequence { log, entries: best })
}

impl Log {
    fn length(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// The bytes from `start`, around the end.
    fn slice(&self, start: u64, length: u64) -> (&[u8], &[u8]) {
        let start = start as usize;
        let end = start.saturating_add(length as usize);
        let cut = end.min(self.bytes.len());
        let first = self.bytes.get(start..cut).unwrap_or_default();
        (first, self.bytes.get(..end - cut).unwrap_or_default())
    }

    fn sector(&self, start: u64) -> &[u8] {
        self.slice(start % self.length(), SECTOR).0
    }

    /// The unbroken run of entries from `start`.
    fn run(&mut self, start: u64) -> Result<Vec<Entry>, DiskError> {
        let mut run: Vec<Entry> = Vec::new();
        let mut total = 0;
        while let Some(entry) = self.entry((start + total) % self.length())? {
            total += entry.length;
            let follows =
                run.last().is_none_or(|last| Some(entry.number) == last.number.checked_add(1));
            if !follows || total > self.length() {
                break;
            }
            run.push(entry);
        }
        Ok(run)
    }

    /// The entry at `place`, where there is a valid one.
    fn entry(&mut self, place: u64) -> Result<Option<Entry>, DiskError> {
        let head = self.sector(place);
        let length = u64::from(u32_at(head, 8));
        let entry = Entry {
            place,
            length,
            tail: u32_at(head, 12).into(),
            number: u64_at(head, 16),
            descriptors: u32_at(head, 24) as usize,
            flushed: u64_at(head, 48),
            last: u64_at(head, 56),
        };
        let described = entry.described();
        if !head.starts_with(ENTRY_SIGNATURE)
            || uuid_at(head, 32) != self.id
            || length == 0
            || !length.is_multiple_of(SECTOR)
            || length > self.length()
            || described > length
            || !entry.tail.is_multiple_of(SECTOR)
            || entry.tail >= self.length()
            || entry.number == 0
        {
            return Ok(None);
        }
        let sum = u32_at(head, 4);
        self.budget = self
            .budget
            .checked_sub(length)
            .ok_or_else(|| damaged("the entries of its log overlap"))?;
        let (first, second) = self.slice(place, length);
        if crc32c::crc32c_append(checksum(first), second) != sum {
            return Ok(None);
        }
        Ok(self.changes(&entry).is_some().then_some(entry))
    }

    /// What an entry changes; `None` where it contradicts itself.
    fn changes(&self, entry: &Entry) -> Option<Vec<Change>> {
        let mut changes = Vec::new();
        let mut data = entry.place + entry.described();
        for index in 0..entry.descriptors {
            let within = ENTRY_HEADER + index * DESCRIPTOR;
            let sector = self.sector(entry.place + (within / SECTOR_LENGTH * SECTOR_LENGTH) as u64);
            let at = within % SECTOR_LENGTH;
            let descriptor = sector.get(at..at + DESCRIPTOR)?;
            let offset = u64_at(descriptor, 16);
            if u64_at(descriptor, 24) != entry.number || !offset.is_multiple_of(SECTOR) {
                return None;
            }
            if descriptor.starts_with(ZERO_DESCRIPTOR) {
                let length = u64_at(descriptor, 8);
                if !length.is_multiple_of(SECTOR) {
                    return None;
                }
                changes.push(Change::Zeroes { offset, length });
            } else if descriptor.starts_with(DATA_DESCRIPTOR) {
                if data >= entry.place + entry.length {
                    return None;
                }
                let mut sector = self.sector(data).to_vec();
                let number = u64::from(u32_at(&sector, 4)) << 32 | u64::from(u32_at(&sector, 4092));
                if !sector.starts_with(DATA_SIGNATURE) || number != entry.number {
                    return None;
                }
                // The ends of a sector are with its descriptor.
                put(&mut sector, 0, descriptor.get(8..16)?);
                put(&mut sector, 4092, descriptor.get(4..8)?);
                changes.push(Change::Data { offset, sector });
                data += SECTOR;
            } else {
                return None;
            }
        }
        Some(changes)
    }
}

impl Entry {
    /// The length of its header and its descriptors, whole sectors.
    fn described(&self) -> u64 {
        (ENTRY_HEADER as u64 + self.descriptors as u64 * DESCRIPTOR as u64).next_multiple_of(SECTOR)
    }
}

impl Sequence {
    /// Whether there is nothing to replay.
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Makes the changes, all on stable storage at the end.
    pub(super) fn replay(&self, mut file: &File) -> Result<(), DiskError> {
        let Some(newest) = self.entries.last() else { return Ok(()) };
        let mut length = file.seek(SeekFrom::End(0)).map_err(DiskError::read)?;
        if length < newest.flushed {
            let flushed = newest.flushed;
            return Err(damaged(format!("of its {flushed} bytes {length} are left")));
        }
        if newest.last > MAXIMUM_LENGTH {
            return Err(damaged(format!("its log makes it {} bytes long", newest.last)));
        }
        if length < newest.last {
            file.set_len(newest.last).map_err(DiskError::write)?;
            length = newest.last;
        }
        for entry in &self.entries {
            for change in self.log.changes(entry).unwrap_or_default() {
                self.apply(file, &change, length)?;
            }
        }
        file.sync_all().map_err(DiskError::write)
    }

    fn apply(&self, file: &File, change: &Change, file_length: u64) -> Result<(), DiskError> {
        let (offset, length) = match change {
            Change::Data { offset, .. } => (*offset, SECTOR),
            Change::Zeroes { offset, length } => (*offset, *length),
        };
        let end = offset.checked_add(length).filter(|end| *end <= file_length);
        let (log, log_end) = self.log.header;
        // The headers and the log itself are not changed through the log.
        let allowed = |end: u64| offset >= REGION_TABLES[0] && (end <= log || offset >= log_end);
        if !end.is_some_and(allowed) {
            return Err(damaged(format!("its log changes {length} bytes at {offset}")));
        }
        match change {
            Change::Data { sector, .. } => file.write_all_at(sector, offset),
            Change::Zeroes { .. } => punch(file, offset, length),
        }
        .map_err(DiskError::write)
    }
}

/// Where in the log of that length the entry of that number goes.
pub(super) fn place(number: u64, log_length: u32) -> u32 {
    if number.is_multiple_of(2) { 0 } else { log_length / 2 }
}

/// An entry that writes these sectors, at most [`SECTORS_PER_ENTRY`], from `place` in the
/// log; it needs no other one. The file has `length` bytes on stable storage.
pub(super) fn encode(
    id: Uuid,
    number: u64,
    place: u32,
    sectors: &[(u64, Vec<u8>)],
    length: u64,
) -> Vec<u8> {
    let mut bytes = vec![0; SECTOR_LENGTH * (1 + sectors.len())];
    let total = bytes.len() as u32;
    put(&mut bytes, 0, ENTRY_SIGNATURE);
    put(&mut bytes, 8, &total.to_le_bytes());
    put(&mut bytes, 12, &place.to_le_bytes());
    put(&mut bytes, 16, &number.to_le_bytes());
    put(&mut bytes, 24, &(sectors.len() as u32).to_le_bytes());
    put(&mut bytes, 32, &id.to_bytes_le());
    put(&mut bytes, 48, &length.to_le_bytes());
    put(&mut bytes, 56, &length.to_le_bytes());
    for (index, (offset, sector)) in sectors.iter().enumerate() {
        let at = ENTRY_HEADER + index * DESCRIPTOR;
        put(&mut bytes, at, DATA_DESCRIPTOR);
        put(&mut bytes, at + 4, sector.get(4092..4096).unwrap_or_default());
        put(&mut bytes, at + 8, sector.get(..8).unwrap_or_default());
        put(&mut bytes, at + 16, &offset.to_le_bytes());
        put(&mut bytes, at + 24, &number.to_le_bytes());
        let place = SECTOR_LENGTH * (1 + index);
        put(&mut bytes, place, sector);
        put(&mut bytes, place, DATA_SIGNATURE);
        put(&mut bytes, place + 4, &((number >> 32) as u32).to_le_bytes());
        put(&mut bytes, place + 4092, &(number as u32).to_le_bytes());
    }
    let sum = checksum(&bytes);
    put(&mut bytes, 4, &sum.to_le_bytes());
    bytes
}
