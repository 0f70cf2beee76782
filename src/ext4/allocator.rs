//! Which blocks are taken.
//!
//! Blocks are given out in ascending order, so that the image is written front to back;
//! what replaced files gave back is given out again only when the end is reached.

use std::ops::Range;

use super::error::Error;
use super::format::{BLOCK_SIZE, BLOCKS_PER_GROUP};
use super::geometry::Geometry;

/// One bit per block of a group.
pub(super) type Bitmap = [u8; BLOCK_SIZE];

/// The blocks for content and for metadata that has no fixed place.
#[derive(Debug)]
pub(super) struct Allocator {
    blocks: u64,
    /// The next block to try.
    cursor: u64,
    /// Metadata runs that `cursor` has not passed, the next one last.
    reserved: Vec<Range<u64>>,
    /// Runs given back.
    freed: Vec<Range<u64>>,
    bitmaps: Vec<Option<Box<Bitmap>>>,
}

impl Allocator {
    pub(super) fn new(geometry: &Geometry) -> Self {
        Self {
            blocks: geometry.blocks,
            cursor: 0,
            reserved: geometry.reserved.iter().rev().cloned().collect(),
            freed: Vec::new(),
            bitmaps: vec![None; geometry.groups as usize],
        }
    }

    /// Takes one block.
    pub(super) fn allocate(&mut self) -> Result<u64, Error> {
        while let Some(run) = self.reserved.pop_if(|run| run.start <= self.cursor) {
            self.cursor = run.end;
        }
        let block = if self.cursor < self.blocks {
            self.cursor += 1;
            self.cursor - 1
        } else {
            self.reuse().ok_or(Error::NoSpace { size: self.blocks * BLOCK_SIZE as u64 })?
        };
        self.set(block, true);
        Ok(block)
    }

    /// Gives a block back.
    pub(super) fn free(&mut self, block: u64) {
        self.set(block, false);
        match self.freed.last_mut().filter(|run| run.end == block) {
            Some(run) => run.end += 1,
            None => self.freed.push(block..block + 1),
        }
    }

    /// Runs that were given back and not taken again.
    pub(super) fn freed(&self) -> &[Range<u64>] {
        &self.freed
    }

    /// The bitmap of a group; `None` where nothing was ever taken there.
    pub(super) fn bitmap(&self, group: u32) -> Option<&Bitmap> {
        self.bitmaps.get(group as usize)?.as_deref()
    }

    fn reuse(&mut self) -> Option<u64> {
        let run = self.freed.last_mut()?;
        let block = run.start;
        run.start += 1;
        if run.is_empty() {
            self.freed.pop();
        }
        Some(block)
    }

    fn set(&mut self, block: u64, taken: bool) {
        let per_group = u64::from(BLOCKS_PER_GROUP);
        let (group, bit) = ((block / per_group) as usize, (block % per_group) as usize);
        let Some(bitmap) = self.bitmaps.get_mut(group) else { return };
        let bitmap = bitmap.get_or_insert_with(|| Box::new([0; BLOCK_SIZE]));
        if let Some(byte) = bitmap.get_mut(bit / 8) {
            if taken {
                *byte |= 1 << (bit % 8);
            } else {
                *byte &= !(1 << (bit % 8));
            }
        }
    }
}
