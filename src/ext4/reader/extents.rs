//! The map from a file's blocks to the image's, read one node at a time.

use zerocopy::FromBytes;

use super::super::checksum;
use super::super::format::{ExtentHeader, ExtentIndex, ExtentRecord};
use super::blocks::Blocks;
use super::error::ReadError;
use super::inode::{Inode, Map};

const MAGIC: u16 = 0xf30a;

/// The deepest tree: five levels hold more than 2^32 blocks.
const MAXIMUM_DEPTH: usize = 5;

/// Bytes of a header and of a record.
const RECORD: usize = size_of::<ExtentRecord>();

/// The longest run; what is longer by this much is allocated but not written.
const WRITTEN: u16 = 32768;

/// Data blocks in a row.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Run {
    pub(super) logical: u64,
    pub(super) physical: u64,
    pub(super) length: u64,
}

/// A node on the way down, and its next record.
struct Level {
    bytes: Vec<u8>,
    next: usize,
    entries: usize,
    depth: usize,
}

/// The runs of a file in ascending order, without what is not written.
pub(super) struct Runs<'a> {
    blocks: &'a Blocks,
    inode: u32,
    /// The seed of the inode's checksums.
    seed: Option<u32>,
    kind: Kind,
    /// The first block that no run before has reached.
    floor: u64,
}

enum Kind {
    Extents(Vec<Level>),
    Indirect(super::indirect::Pointers),
}

impl<'a> Runs<'a> {
    pub(super) fn new(blocks: &'a Blocks, inode: &Inode) -> Result<Self, ReadError> {
        let kind = match &inode.map {
            Map::Inline(_) => Kind::Extents(Vec::new()),
            Map::Indirect(pointers) => {
                Kind::Indirect(super::indirect::Pointers::new(pointers, blocks.size()))
            }
            Map::Extents(_) => Kind::Extents(Vec::new()),
        };
        let mut runs = Self { blocks, inode: inode.number, seed: inode.seed, kind, floor: 0 };
        if let Map::Extents(root) = &inode.map {
            let root = runs.level(root.to_vec(), None)?;
            runs.kind = Kind::Extents(vec![root]);
        }
        Ok(runs)
    }

    fn damaged(&self, what: &str) -> ReadError {
        ReadError::damaged(format!("inode {} has {what}", self.inode))
    }

    /// Checks a node; `depth` is the one it must have.
    fn level(&self, bytes: Vec<u8>, depth: Option<usize>) -> Result<Level, ReadError> {
        let (header, _) =
            ExtentHeader::read_from_prefix(&bytes).map_err(|_| self.damaged("no extents"))?;
        let (entries, found) = (usize::from(header.entries.get()), usize::from(header.depth.get()));
        let room = (bytes.len() - RECORD) / RECORD;
        if header.magic.get() != MAGIC
            || entries > room
            || found > MAXIMUM_DEPTH
            || depth.is_some_and(|depth| depth != found)
        {
            return Err(self.damaged("a wrong extent node"));
        }
        if let (Some(seed), Some(_)) = (self.seed, depth) {
            let tail = RECORD * (1 + usize::from(header.max.get()));
            let stored = super::super_block::word(&bytes, tail);
            let covered = bytes.get(..tail).filter(|_| tail + 4 <= bytes.len());
            if covered.is_none_or(|covered| checksum::extend(seed, covered) != stored) {
                return Err(self.damaged("an extent node with a wrong checksum"));
            }
        }
        Ok(Level { bytes, next: 0, entries, depth: found })
    }

    /// The next run.
    pub(super) fn next(&mut self) -> Result<Option<Run>, ReadError> {
        let run = match &mut self.kind {
            Kind::Indirect(pointers) => pointers.next(self.blocks)?,
            Kind::Extents(_) => self.next_extent()?,
        };
        let Some(run) = run else { return Ok(None) };
        let end = run.physical.checked_add(run.length);
        if run.logical < self.floor || end.is_none_or(|end| end > self.blocks.count()) {
            return Err(self.damaged("extents that overlap, descend or lie beyond the end"));
        }
        self.floor = run.logical + run.length;
        Ok(Some(run))
    }

    fn next_extent(&mut self) -> Result<Option<Run>, ReadError> {
        loop {
            let Kind::Extents(levels) = &mut self.kind else { return Ok(None) };
            let Some(level) = levels.last_mut() else { return Ok(None) };
            if level.next >= level.entries {
                levels.pop();
                continue;
            }
            level.next += 1;
            let at = RECORD * level.next;
            let depth = level.depth;
            let record = level.bytes.get(at..at + RECORD).unwrap_or_default();
            if depth == 0 {
                let Ok(record) = ExtentRecord::read_from_bytes(record) else { continue };
                let (logical, length) = (u64::from(record.block.get()), record.len.get());
                let high = u64::from(record.start_hi.get()) << 32;
                let physical = high | u64::from(record.start_lo.get());
                match length {
                    0 => return Err(self.damaged("an empty extent")),
                    1..=WRITTEN => {
                        return Ok(Some(Run { logical, physical, length: length.into() }));
                    }
                    // Allocated only: it reads as zeros.
                    _ if logical < self.floor => {
                        return Err(self.damaged("extents that overlap or descend"));
                    }
                    _ => self.floor = logical + u64::from(length - WRITTEN),
                }
                continue;
            }
            let Ok(index) = ExtentIndex::read_from_bytes(record) else { continue };
            let place = u64::from(index.leaf_hi.get()) << 32 | u64::from(index.leaf_lo.get());
            // Everything ascends, so no node is visited twice and the map ends.
            if u64::from(index.block.get()) < self.floor {
                return Err(self.damaged("extent nodes that overlap"));
            }
            let below = self.blocks.read(place)?;
            let below = self.level(below, Some(depth - 1))?;
            if below.entries == 0 {
                return Err(self.damaged("an empty extent node"));
            }
            self.floor = self.floor.max(u64::from(index.block.get()));
            if let Kind::Extents(levels) = &mut self.kind {
                levels.push(below);
            }
        }
    }
}
