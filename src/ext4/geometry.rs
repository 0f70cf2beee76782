//! Where everything but content is: fixed by the size alone, before the first byte.
//!
//! All groups of a flexible group (4096 of them, as WSL's own disks have) keep their
//! bitmaps and inode tables in one run at the flexible group's start; copies of the
//! superblock and the descriptors are at groups 0, 1 and the powers of 3, 5 and 7.

use std::ops::Range;

use super::error::Error;
use super::format::{BLOCK_SIZE, BLOCKS_PER_GROUP, GroupDescriptor, INODES_PER_BLOCK};

/// Base-2 logarithm of the groups in a flexible group.
pub(super) const LOG_GROUPS_PER_FLEX: u8 = 12;

/// The largest size, in bytes: the most that WSL gives a disk.
pub(super) const MAXIMUM_SIZE: u64 = (64 << 40) - (1 << 30);

/// One inode for so many blocks: one for 16 KiB.
const BLOCKS_PER_INODE: u32 = 4;

/// A last group with fewer blocks than this for content is left out.
const MINIMUM_CONTENT: u64 = 64;

/// The layout of one file system.
#[derive(Debug)]
pub(super) struct Geometry {
    /// Blocks in all.
    pub(super) blocks: u64,
    /// Groups in all.
    pub(super) groups: u32,
    /// Inodes in each group.
    pub(super) inodes_per_group: u32,
    /// Blocks of the descriptors, in each copy.
    pub(super) descriptor_blocks: u32,
    /// Metadata blocks in ascending runs.
    pub(super) reserved: Vec<Range<u64>>,
    block_bitmaps: Vec<u64>,
    inode_bitmaps: Vec<u64>,
    inode_tables: Vec<u64>,
}

impl Geometry {
    /// The layout of `size` bytes.
    pub(super) fn new(size: u64) -> Result<Self, Error> {
        if size > MAXIMUM_SIZE {
            return Err(Error::Size { size, minimum: 0, maximum: MAXIMUM_SIZE });
        }
        let group = u64::from(BLOCKS_PER_GROUP);
        let mut blocks = size / BLOCK_SIZE as u64;
        let wanted = blocks.min(group) as u32 / BLOCKS_PER_INODE;
        let inodes_per_group = wanted.max(64).next_multiple_of(INODES_PER_BLOCK);
        let table = u64::from(inodes_per_group / INODES_PER_BLOCK);
        loop {
            let groups = blocks.div_ceil(group) as u32;
            let descriptor_blocks =
                (groups as usize * size_of::<GroupDescriptor>()).div_ceil(BLOCK_SIZE) as u32;
            let last = blocks - u64::from(groups.saturating_sub(1)) * group;
            let copy = 1 + u64::from(descriptor_blocks);
            if last < copy + table + 2 + MINIMUM_CONTENT {
                if groups <= 1 {
                    let minimum = (copy + table + 2 + MINIMUM_CONTENT) * BLOCK_SIZE as u64;
                    return Err(Error::Size { size, minimum, maximum: MAXIMUM_SIZE });
                }
                blocks -= last;
                continue;
            }
            let mut geometry = Self {
                blocks,
                groups,
                inodes_per_group,
                descriptor_blocks,
                reserved: Vec::new(),
                block_bitmaps: Vec::with_capacity(groups as usize),
                inode_bitmaps: Vec::with_capacity(groups as usize),
                inode_tables: Vec::with_capacity(groups as usize),
            };
            geometry.place();
            return Ok(geometry);
        }
    }

    /// Whether a group begins with a copy of the superblock and the descriptors.
    pub(super) fn has_copy(group: u32) -> bool {
        let power_of = |base: u32| {
            let mut power = base;
            while power < group {
                match power.checked_mul(base) {
                    Some(next) => power = next,
                    None => return false,
                }
            }
            power == group
        };
        group <= 1 || power_of(3) || power_of(5) || power_of(7)
    }

    /// The group's blocks.
    pub(super) fn group_blocks(&self, group: u32) -> Range<u64> {
        let start = u64::from(group) * u64::from(BLOCKS_PER_GROUP);
        start..(start + u64::from(BLOCKS_PER_GROUP)).min(self.blocks)
    }

    /// The copy of the superblock and the descriptors in the group, maybe none.
    pub(super) fn copy(&self, group: u32) -> Range<u64> {
        let start = self.group_blocks(group).start;
        let length = if Self::has_copy(group) { 1 + self.descriptor_blocks } else { 0 };
        start..start + u64::from(length)
    }

    /// The block of the group's block bitmap.
    pub(super) fn block_bitmap(&self, group: u32) -> u64 {
        self.block_bitmaps.get(group as usize).copied().unwrap_or_default()
    }

    /// The block of the group's inode bitmap.
    pub(super) fn inode_bitmap(&self, group: u32) -> u64 {
        self.inode_bitmaps.get(group as usize).copied().unwrap_or_default()
    }

    /// The first block of the group's inode table.
    pub(super) fn inode_table(&self, group: u32) -> u64 {
        self.inode_tables.get(group as usize).copied().unwrap_or_default()
    }

    /// Inodes in all.
    pub(super) fn inodes(&self) -> u32 {
        self.groups.saturating_mul(self.inodes_per_group)
    }

    /// Blocks of metadata in all.
    pub(super) fn reserved_blocks(&self) -> u64 {
        self.reserved.iter().map(|run| run.end - run.start).sum()
    }

    fn place(&mut self) {
        let copies: Vec<_> =
            (0..self.groups).filter(|group| Self::has_copy(*group)).map(|g| self.copy(g)).collect();
        let mut runs = copies.clone();
        let per_flex = 1_u32 << LOG_GROUPS_PER_FLEX;
        let mut first = 0;
        while first < self.groups {
            let count = per_flex.min(self.groups - first);
            let mut cursor = self.group_blocks(first).start;
            let mut take = |length: u64| {
                // Copies are sorted and never longer than a group.
                for copy in &copies {
                    if copy.start < cursor + length && cursor < copy.end {
                        cursor = copy.end;
                    }
                }
                runs.push(cursor..cursor + length);
                cursor += length;
                cursor - length
            };
            self.block_bitmaps.extend((0..count).map(|_| take(1)));
            self.inode_bitmaps.extend((0..count).map(|_| take(1)));
            let table = u64::from(self.inodes_per_group / INODES_PER_BLOCK);
            self.inode_tables.extend((0..count).map(|_| take(table)));
            first += count;
        }
        runs.sort_unstable_by_key(|run| run.start);
        for run in runs {
            match self.reserved.last_mut().filter(|last| last.end == run.start) {
                Some(last) => last.end = run.end,
                None => self.reserved.push(run),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_are_where_sparse_super_wants_them() {
        let groups: Vec<_> = (0..100).filter(|group| Geometry::has_copy(*group)).collect();
        assert_eq!(groups, [0, 1, 3, 5, 7, 9, 25, 27, 49, 81]);
    }

    #[test]
    fn metadata_runs_ascend_and_stay_inside() {
        for size in [1 << 20, 10 << 20, 128 << 20, 129 << 20, 1 << 30, 1 << 40, MAXIMUM_SIZE] {
            let geometry = Geometry::new(size).unwrap();
            for pair in geometry.reserved.windows(2) {
                assert!(pair[0].end < pair[1].start, "{size}");
            }
            assert!(geometry.reserved.last().unwrap().end <= geometry.blocks);
            let table = u64::from(geometry.inodes_per_group / INODES_PER_BLOCK) + 2;
            let copies: u64 = (0..geometry.groups)
                .map(|g| geometry.copy(g))
                .map(|copy| copy.end - copy.start)
                .sum();
            let metadata = u64::from(geometry.groups) * table + copies;
            assert_eq!(geometry.reserved_blocks(), metadata, "{size}");
        }
    }

    #[test]
    fn a_size_without_room_for_content_is_refused() {
        assert!(matches!(Geometry::new(100_000), Err(Error::Size { .. })));
        assert!(matches!(Geometry::new(u64::MAX), Err(Error::Size { .. })));
    }
}
