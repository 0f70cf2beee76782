//! The map from a file's blocks to the image's: runs, and a tree over them when there are
//! more than an inode holds.
//!
//! Leaves are written as soon as they are full, so a file of any number of runs needs one
//! leaf and the index over the leaves in memory.

use zerocopy::IntoBytes;
use zerocopy::little_endian::{U16, U32};

use super::allocator::Allocator;
use super::checksum;
use super::error::Error;
use super::format::{Block, ExtentHeader, ExtentIndex, ExtentRecord, ZERO_BLOCK, split};
use super::output::Output;

/// The longest run, in blocks.
const MAXIMUM_LENGTH: u16 = 32768;

/// Bytes of a header, a run, and an index entry.
const RECORD: usize = size_of::<ExtentRecord>();

/// Entries in a block, whose last four bytes are the checksum.
const ENTRIES_PER_BLOCK: usize = (CHECKSUM - RECORD) / RECORD;

/// Entries in an inode.
const ENTRIES_PER_INODE: usize = 4;

/// Where a block's checksum is.
const CHECKSUM: usize = super::format::BLOCK_SIZE - 4;

/// Blocks in a row, in the file and in the image.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Extent {
    pub(super) logical: u32,
    pub(super) physical: u64,
    pub(super) length: u16,
}

/// A map under construction, in ascending order of the file's blocks.
pub(super) struct Extents {
    /// The checksum seed of the inode.
    seed: u32,
    leaf: Vec<Extent>,
    /// First file block and place of each leaf that is written.
    leaves: Vec<(u32, u64)>,
    /// Blocks taken, those of the tree included.
    blocks: u64,
}

impl Extents {
    pub(super) fn new(seed: u32) -> Self {
        Self { seed, leaf: Vec::new(), leaves: Vec::new(), blocks: 0 }
    }

    /// Blocks taken so far, those of the tree included.
    pub(super) fn blocks(&self) -> u64 {
        self.blocks
    }

    /// Adds one block.
    pub(super) fn push(
        &mut self,
        logical: u32,
        physical: u64,
        allocator: &mut Allocator,
        output: &mut Output,
    ) -> Result<(), Error> {
        self.blocks += 1;
        if let Some(last) = self.leaf.last_mut().filter(|last| {
            last.length < MAXIMUM_LENGTH
                && u64::from(last.logical) + u64::from(last.length) == u64::from(logical)
                && last.physical + u64::from(last.length) == physical
        }) {
            last.length += 1;
            return Ok(());
        }
        if self.leaf.len() == ENTRIES_PER_BLOCK {
            self.write_leaf(allocator, output)?;
        }
        self.leaf.push(Extent { logical, physical, length: 1 });
        Ok(())
    }

    /// The inode's `block` field; writes the tree below it.
    pub(super) fn finish(
        &mut self,
        allocator: &mut Allocator,
        output: &mut Output,
    ) -> Result<[u8; 60], Error> {
        if self.leaves.is_empty() && self.leaf.len() <= ENTRIES_PER_INODE {
            let records: Vec<_> = self.leaf.iter().map(record).collect();
            return Ok(node::<60>(0, ENTRIES_PER_INODE, records.as_bytes(), records.len()));
        }
        if !self.leaf.is_empty() {
            self.write_leaf(allocator, output)?;
        }
        let mut depth = 1;
        let mut level = std::mem::take(&mut self.leaves);
        while level.len() > ENTRIES_PER_INODE {
            let mut above = Vec::new();
            for entries in level.chunks(ENTRIES_PER_BLOCK) {
                let records: Vec<_> = entries.iter().map(index).collect();
                let bytes = records.as_bytes();
                let first = entries.first().map_or(0, |entry| entry.0);
                let block = self.write_node(depth, bytes, records.len(), allocator, output)?;
                above.push((first, block));
            }
            level = above;
            depth += 1;
        }
        let records: Vec<_> = level.iter().map(index).collect();
        Ok(node::<60>(depth, ENTRIES_PER_INODE, records.as_bytes(), records.len()))
    }

    fn write_leaf(&mut self, allocator: &mut Allocator, output: &mut Output) -> Result<(), Error> {
        let records: Vec<_> = self.leaf.iter().map(record).collect();
        let first = self.leaf.first().map_or(0, |extent| extent.logical);
        let block = self.write_node(0, records.as_bytes(), records.len(), allocator, output)?;
        self.leaves.push((first, block));
        self.leaf.clear();
        Ok(())
    }

    fn write_node(
        &mut self,
        depth: u16,
        records: &[u8],
        count: usize,
        allocator: &mut Allocator,
        output: &mut Output,
    ) -> Result<u64, Error> {
        let mut content: Block = ZERO_BLOCK;
        let head = node::<CHECKSUM>(depth, ENTRIES_PER_BLOCK, records, count);
        let sum = checksum::extend(self.seed, &head);
        if let Some((body, tail)) = content.split_at_mut_checked(CHECKSUM) {
            body.copy_from_slice(&head);
            tail.copy_from_slice(&sum.to_le_bytes());
        }
        let block = allocator.allocate()?;
        self.blocks += 1;
        output.write(block, &content)?;
        Ok(block)
    }
}

/// The parts of a node: its depth, and what it points to.
pub(super) enum Node {
    Leaf(Vec<Extent>),
    Index(Vec<u64>),
}

/// Reads a node that this writer has written.
pub(super) fn parse(bytes: &[u8]) -> Node {
    use zerocopy::FromBytes;
    let Ok((header, rest)) = ExtentHeader::read_from_prefix(bytes) else {
        return Node::Leaf(Vec::new());
    };
    let entries = rest.chunks_exact(RECORD).take(usize::from(header.entries.get()));
    if header.depth.get() == 0 {
        let extent = |record: ExtentRecord| Extent {
            logical: record.block.get(),
            physical: u64::from(record.start_hi.get()) << 32 | u64::from(record.start_lo.get()),
            length: record.len.get(),
        };
        Node::Leaf(
            entries
                .filter_map(|bytes| ExtentRecord::read_from_bytes(bytes).ok())
                .map(extent)
                .collect(),
        )
    } else {
        let place = |index: ExtentIndex| {
            u64::from(index.leaf_hi.get()) << 32 | u64::from(index.leaf_lo.get())
        };
        Node::Index(
            entries
                .filter_map(|bytes| ExtentIndex::read_from_bytes(bytes).ok())
                .map(place)
                .collect(),
        )
    }
}

fn record(extent: &Extent) -> ExtentRecord {
    ExtentRecord {
        block: U32::new(extent.logical),
        len: U16::new(extent.length),
        start_hi: U16::new((extent.physical >> 32) as u16),
        start_lo: split(extent.physical).0,
    }
}

fn index(entry: &(u32, u64)) -> ExtentIndex {
    ExtentIndex {
        block: U32::new(entry.0),
        leaf_lo: split(entry.1).0,
        leaf_hi: U16::new((entry.1 >> 32) as u16),
        unused: U16::ZERO,
    }
}

fn node<const N: usize>(depth: u16, maximum: usize, records: &[u8], count: usize) -> [u8; N] {
    let header = ExtentHeader {
        magic: U16::new(0xf30a),
        entries: U16::new(count as u16),
        max: U16::new(maximum as u16),
        depth: U16::new(depth),
        generation: U32::ZERO,
    };
    let mut bytes = [0; N];
    for (place, byte) in bytes.iter_mut().zip(header.as_bytes().iter().chain(records)) {
        *place = *byte;
    }
    bytes
}
