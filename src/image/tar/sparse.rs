//! The maps of sparse files, in GNU tar's four formats.

use std::io::Read;

use super::header::{self, Header};
use super::pax::{self, SparseRecords};
use super::source::Source;
use super::{BLOCK, TarError};
use crate::tree::Segment;
use crate::tree::path::TreePath;

/// The most segments of one file that are kept in memory.
const MAXIMUM_SEGMENTS: usize = 1 << 20;

/// A file's map, and how many bytes of content the archive holds after it.
pub(super) struct Map {
    /// Bytes stored; what the map itself takes is subtracted.
    pub(super) stored: u64,
    /// The file's apparent size.
    pub(super) size: u64,
    /// The data.
    pub(super) segments: Vec<Segment>,
}

impl Map {
    fn push(&mut self, offset: u64, length: u64) -> Option<()> {
        let end = offset.checked_add(length).filter(|end| *end <= self.size)?;
        let previous = self.segments.last().map_or(0, |last| last.offset + last.length);
        if length == 0 {
            return Some(());
        }
        if offset < previous || self.segments.len() >= MAXIMUM_SEGMENTS || end == 0 {
            return None;
        }
        self.segments.push(Segment { offset, length });
        Some(())
    }

    fn is_complete(&self) -> bool {
        self.segments.iter().map(|segment| segment.length).sum::<u64>() == self.stored
    }
}

/// The old format: four segments in the header, more in blocks that follow it.
pub(super) fn read_old<R: Read>(
    source: &mut Source<R>,
    header: &Header,
    path: &TreePath,
    map: &mut Map,
) -> Result<(), TarError> {
    let bad = || TarError::Sparse { path: path.to_string() };
    let gnu = header.raw.as_gnu().ok_or_else(bad)?;
    map.size = header::unsigned(&gnu.realsize).ok_or_else(bad)?;
    let mut add = |segments: &[tar::GnuSparseHeader]| {
        for segment in segments.iter().take_while(|segment| !segment.is_empty()) {
            let offset = header::unsigned(&segment.offset).ok_or_else(bad)?;
            let length = header::unsigned(&segment.numbytes).ok_or_else(bad)?;
            map.push(offset, length).ok_or_else(bad)?;
        }
        Ok::<(), TarError>(())
    };
    add(&gnu.sparse)?;
    let mut more = gnu.isextended != [0];
    let mut blocks = 0;
    while more {
        let mut extension = tar::GnuExtSparseHeader::new();
        if (source.fill(extension.as_mut_bytes())? as u64) < BLOCK {
            return Err(source.truncated("a sparse file's map"));
        }
        add(&extension.sparse)?;
        more = extension.isextended != [0];
        blocks += 1;
        if blocks > MAXIMUM_SEGMENTS / extension.sparse.len() {
            return Err(bad());
        }
    }
    if map.is_complete() { Ok(()) } else { Err(bad()) }
}

/// The formats in PAX headers: 0.0 and 0.1 have the map there, 1.0 before the content.
pub(super) fn read_pax<R: Read>(
    source: &mut Source<R>,
    records: &SparseRecords,
    path: &TreePath,
    map: &mut Map,
) -> Result<(), TarError> {
    let bad = || TarError::Sparse { path: path.to_string() };
    map.size = records.size.ok_or_else(bad)?;
    match (records.major, records.minor) {
        (0, _) => {
            for segment in &records.map {
                map.push(segment.offset, segment.length).ok_or_else(bad)?;
            }
        }
        (1, 0) => read_leading(source, map, &bad)?,
        _ => return Err(bad()),
    }
    if map.is_complete() { Ok(()) } else { Err(bad()) }
}

/// Format 1.0: decimal numbers, each on its line, padded to a block.
fn read_leading<R: Read>(
    source: &mut Source<R>,
    map: &mut Map,
    bad: &impl Fn() -> TarError,
) -> Result<(), TarError> {
    let mut numbers = Lines { block: Vec::new(), position: 0, left: map.stored };
    let count = numbers.next(source, bad)?;
    if count > MAXIMUM_SEGMENTS as u64 {
        return Err(bad());
    }
    for _ in 0..count {
        let offset = numbers.next(source, bad)?;
        let length = numbers.next(source, bad)?;
        map.push(offset, length).ok_or_else(bad)?;
    }
    map.stored = numbers.left;
    Ok(())
}

struct Lines {
    block: Vec<u8>,
    position: usize,
    left: u64,
}

impl Lines {
    fn next<R: Read>(
        &mut self,
        source: &mut Source<R>,
        bad: &impl Fn() -> TarError,
    ) -> Result<u64, TarError> {
        let mut digits = Vec::new();
        loop {
            let Some(byte) = self.block.get(self.position) else {
                self.left = self.left.checked_sub(BLOCK).ok_or_else(bad)?;
                self.block = source.take(BLOCK, "a sparse file's map")?;
                self.position = 0;
                continue;
            };
            self.position += 1;
            match byte {
                b'\n' => return pax::decimal(&digits).ok_or_else(bad),
                byte if digits.len() < 20 => digits.push(*byte),
                _ => return Err(bad()),
            }
        }
    }
}
