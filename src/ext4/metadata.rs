//! Bitmaps, group descriptors and superblocks: what is written last.

use std::fs::File;
use std::os::unix::fs::FileExt;

use zerocopy::IntoBytes;
use zerocopy::little_endian::{U16, U32, U64};

use super::allocator::{Allocator, Bitmap};
use super::checksum;
use super::error::Error;
use super::format::{
    BLOCK_SIZE, BLOCKS_PER_GROUP, COMPATIBLE_DIR_INDEX, COMPATIBLE_EXT_ATTR,
    COMPATIBLE_HAS_JOURNAL, EXTRA_INODE_SIZE, FIRST_INODE, GROUP_BLOCK_UNINIT, GROUP_INODE_UNINIT,
    GROUP_INODE_ZEROED, GroupDescriptor, INCOMPATIBLE_64BIT, INCOMPATIBLE_EXTENTS,
    INCOMPATIBLE_FILETYPE, INCOMPATIBLE_FLEX_BG, INODE_SIZE, Inode, JOURNAL, READ_ONLY_DIR_NLINK,
    READ_ONLY_EXTRA_ISIZE, READ_ONLY_HUGE_FILE, READ_ONLY_LARGE_FILE, READ_ONLY_METADATA_CSUM,
    READ_ONLY_SPARSE_SUPER, SuperBlock, split,
};
use super::geometry::{Geometry, LOG_GROUPS_PER_FLEX};
use super::writer::Options;

/// Where the first superblock is, in bytes.
const SUPER_BLOCK_OFFSET: usize = 1024;

/// At most so many blocks are kept for root: 256 MiB.
const MAXIMUM_ROOT_BLOCKS: u64 = 65536;

/// The inodes in use, by number.
pub(super) struct UsedInodes<'a> {
    /// The highest number in use.
    pub(super) last: u32,
    /// Numbers below it that are not in use.
    pub(super) free: &'a [u32],
    /// Those of directories.
    pub(super) directories: &'a [u32],
}

/// The journal's inode and its length in blocks.
pub(super) struct Journal {
    pub(super) inode: Inode,
    pub(super) blocks: u64,
}

/// All that the last step needs.
pub(super) struct Metadata<'a> {
    pub(super) file: &'a File,
    pub(super) geometry: &'a Geometry,
    pub(super) allocator: &'a Allocator,
    pub(super) inodes: UsedInodes<'a>,
    pub(super) journal: Option<&'a Journal>,
    pub(super) options: &'a Options,
}

impl Metadata<'_> {
    /// Writes everything; returns how many blocks and inodes are free.
    pub(super) fn write(&self) -> Result<(u64, u32), Error> {
        let geometry = self.geometry;
        let seed = checksum::file_system(self.options.uuid.as_bytes());
        let mut descriptors =
            vec![0; geometry.descriptor_blocks as usize * BLOCK_SIZE].into_boxed_slice();
        let mut free_blocks = 0;
        let mut free_inodes = 0;
        let size = size_of::<GroupDescriptor>();
        for (group, place) in (0..geometry.groups).zip(descriptors.chunks_exact_mut(size)) {
            let mut descriptor = GroupDescriptor::default();
            free_blocks += self.blocks(group, seed, &mut descriptor)?;
            free_inodes += self.inodes(group, seed, &mut descriptor)?;
            let sum = checksum::extend(seed, &group.to_le_bytes());
            let sum = checksum::extend(sum, descriptor.as_bytes());
            descriptor.checksum = U16::new(sum as u16);
            place.copy_from_slice(descriptor.as_bytes());
        }
        let mut super_block = self.super_block(free_blocks, free_inodes);
        for group in (0..geometry.groups).filter(|group| Geometry::has_copy(*group)) {
            super_block.block_group_nr = U16::new(group as u16);
            super_block.checksum = U32::ZERO;
            let covered = super_block.as_bytes().split_last_chunk::<4>().map(|(bytes, _)| bytes);
            super_block.checksum =
                U32::new(checksum::extend(u32::MAX, covered.unwrap_or_default()));
            let mut first = [0; BLOCK_SIZE];
            let offset = if group == 0 { SUPER_BLOCK_OFFSET } else { 0 };
            if let Some(place) = first.get_mut(offset..offset + size_of::<SuperBlock>()) {
                place.copy_from_slice(super_block.as_bytes());
            }
            let start = geometry.copy(group).start;
            self.put(start, &first)?;
            self.put(start + 1, &descriptors)?;
        }
        Ok((free_blocks, free_inodes))
    }

    /// The block half of a group's descriptor; returns the group's free blocks.
    fn blocks(
        &self,
        group: u32,
        seed: u32,
        descriptor: &mut GroupDescriptor,
    ) -> Result<u64, Error> {
        let geometry = self.geometry;
        let range = geometry.group_blocks(group);
        let copy = geometry.copy(group);
        let place = geometry.block_bitmap(group);
        (descriptor.block_bitmap_lo, descriptor.block_bitmap_hi) = split(place);
        let first = geometry.reserved.partition_point(|run| run.end <= range.start);
        let reserved = geometry.reserved.get(first..).unwrap_or_default();
        let reserved = reserved
            .iter()
            .take_while(|run| run.start < range.end)
            .map(|run| run.start.max(range.start)..run.end.min(range.end));
        let metadata: u64 = reserved.clone().map(|run| run.end - run.start).sum();
        let taken = self.allocator.bitmap(group);
        let is_last = group + 1 == geometry.groups;
        let mut flags = GROUP_INODE_ZEROED;
        let free;
        if taken.is_none() && metadata == copy.end - copy.start && !is_last {
            // The kernel knows where copies are.
            flags |= GROUP_BLOCK_UNINIT;
            free = range.end - range.start - metadata;
        } else {
            let mut bitmap: Bitmap = taken.copied().unwrap_or([0; BLOCK_SIZE]);
            for run in reserved {
                fill(&mut bitmap, (run.start - range.start)..(run.end - range.start));
            }
            // Bits beyond the end of the file system are set.
            fill(&mut bitmap, (range.end - range.start)..u64::from(BLOCKS_PER_GROUP));
            free = bitmap.iter().map(|byte| u64::from(byte.count_zeros())).sum();
            let sum = checksum::extend(seed, &bitmap);
            descriptor.block_bitmap_csum_lo = U16::new(sum as u16);
            descriptor.block_bitmap_csum_hi = U16::new((sum >> 16) as u16);
            self.put(place, &bitmap)?;
        }
        descriptor.flags = U16::new(flags);
        descriptor.free_blocks_count_lo = U16::new(free as u16);
        descriptor.free_blocks_count_hi = U16::new((free >> 16) as u16);
        Ok(free)
    }

    /// The inode half of a group's descriptor; returns the group's free inodes.
    fn inodes(
        &self,
        group: u32,
        seed: u32,
        descriptor: &mut GroupDescriptor,
    ) -> Result<u32, Error> {
        let geometry = self.geometry;
        let per_group = geometry.inodes_per_group;
        let place = geometry.inode_bitmap(group);
        (descriptor.inode_bitmap_lo, descriptor.inode_bitmap_hi) = split(place);
        (descriptor.inode_table_lo, descriptor.inode_table_hi) = split(geometry.inode_table(group));
        let before = group * per_group;
        let used = self.inodes.last.saturating_sub(before).min(per_group);
        let in_group = |number: &&u32| (before + 1..=before + per_group).contains(number);
        let mut free = per_group;
        let mut directories = 0;
        if used == 0 {
            descriptor.flags = U16::new(descriptor.flags.get() | GROUP_INODE_UNINIT);
        } else {
            let mut bitmap: Bitmap = [0; BLOCK_SIZE];
            fill(&mut bitmap, 0..u64::from(used));
            for number in self.inodes.free.iter().filter(in_group) {
                clear(&mut bitmap, number - before - 1);
            }
            directories = self.inodes.directories.iter().filter(in_group).count() as u32;
            free -= bitmap.iter().map(|byte| byte.count_ones()).sum::<u32>();
            // Bits beyond the group's inodes are set; the checksum does not cover them.
            fill(&mut bitmap, u64::from(per_group)..u64::from(BLOCKS_PER_GROUP));
            let covered = bitmap.get(..per_group as usize / 8).unwrap_or_default();
            let sum = checksum::extend(seed, covered);
            descriptor.inode_bitmap_csum_lo = U16::new(sum as u16);
            descriptor.inode_bitmap_csum_hi = U16::new((sum >> 16) as u16);
            self.put(place, &bitmap)?;
        }
        let set = |number: u32| (U16::new(number as u16), U16::new((number >> 16) as u16));
        (descriptor.free_inodes_count_lo, descriptor.free_inodes_count_hi) = set(free);
        (descriptor.itable_unused_lo, descriptor.itable_unused_hi) = set(per_group - used);
        (descriptor.used_dirs_count_lo, descriptor.used_dirs_count_hi) = set(directories);
        Ok(free)
    }

    fn super_block(&self, free_blocks: u64, free_inodes: u32) -> SuperBlock {
        let geometry = self.geometry;
        let options = self.options;
        let created = U32::new(options.created.seconds as u32);
        let mut block = SuperBlock::zeroed();
        block.inodes_count = U32::new(geometry.inodes());
        (block.blocks_count_lo, block.blocks_count_hi) = split(geometry.blocks);
        (block.r_blocks_count_lo, block.r_blocks_count_hi) =
            split((geometry.blocks / 20).min(MAXIMUM_ROOT_BLOCKS));
        (block.free_blocks_count_lo, block.free_blocks_count_hi) = split(free_blocks);
        block.free_inodes_count = U32::new(free_inodes);
        block.log_block_size = U32::new(2);
        block.log_cluster_size = U32::new(2);
        block.blocks_per_group = U32::new(BLOCKS_PER_GROUP);
        block.clusters_per_group = U32::new(BLOCKS_PER_GROUP);
        block.inodes_per_group = U32::new(geometry.inodes_per_group);
        block.wtime = created;
        block.max_mnt_count = U16::new(u16::MAX);
        block.magic = U16::new(0xef53);
        // Unmounted cleanly; on an error, continue.
        block.state = U16::new(1);
        block.errors = U16::new(1);
        block.lastcheck = created;
        block.rev_level = U32::new(1);
        block.first_ino = U32::new(FIRST_INODE);
        block.inode_size = U16::new(INODE_SIZE as u16);
        block.feature_compat = U32::new(
            COMPATIBLE_EXT_ATTR
                | COMPATIBLE_DIR_INDEX
                | self.journal.map_or(0, |_| COMPATIBLE_HAS_JOURNAL),
        );
        block.feature_incompat = U32::new(
            INCOMPATIBLE_FILETYPE
                | INCOMPATIBLE_EXTENTS
                | INCOMPATIBLE_64BIT
                | INCOMPATIBLE_FLEX_BG,
        );
        block.feature_ro_compat = U32::new(
            READ_ONLY_SPARSE_SUPER
                | READ_ONLY_LARGE_FILE
                | READ_ONLY_HUGE_FILE
                | READ_ONLY_DIR_NLINK
                | READ_ONLY_EXTRA_ISIZE
                | READ_ONLY_METADATA_CSUM,
        );
        block.uuid = *options.uuid.as_bytes();
        for (place, byte) in block.volume_name.iter_mut().zip(options.label.bytes()) {
            *place = byte;
        }
        block.hash_seed = options.hash_seed().map(U32::new);
        // half_md4 of unsigned bytes.
        block.def_hash_version = 1;
        block.flags = U32::new(2);
        block.desc_size = U16::new(size_of::<GroupDescriptor>() as u16);
        // user_xattr and acl.
        block.default_mount_opts = U32::new(0xc);
        block.mkfs_time = created;
        block.min_extra_isize = U16::new(EXTRA_INODE_SIZE);
        block.want_extra_isize = U16::new(EXTRA_INODE_SIZE);
        block.log_groups_per_flex = LOG_GROUPS_PER_FLEX;
        // CRC32C.
        block.checksum_type = 1;
        block.kbytes_written = U64::ZERO;
        let mut overhead = geometry.reserved_blocks();
        if let Some(journal) = self.journal {
            overhead += journal.blocks;
            block.journal_inum = U32::new(JOURNAL);
            // A copy of the journal's inode: its block map and its size.
            block.jnl_backup_type = 1;
            for (place, word) in
                block.jnl_blocks.iter_mut().zip(journal.inode.block.as_chunks::<4>().0)
            {
                *place = U32::from_bytes(*word);
            }
            let [.., high, low] = &mut block.jnl_blocks;
            (*low, *high) = (journal.inode.size_lo, journal.inode.size_hi);
        }
        block.overhead_clusters = U32::new(u32::try_from(overhead).unwrap_or(0));
        block
    }

    fn put(&self, block: u64, bytes: &[u8]) -> Result<(), Error> {
        self.file.write_all_at(bytes, block * BLOCK_SIZE as u64).map_err(Error::Write)
    }
}

fn fill(bitmap: &mut Bitmap, bits: std::ops::Range<u64>) {
    for bit in bits {
        if let Some(byte) = bitmap.get_mut(bit as usize / 8) {
            *byte |= 1 << (bit % 8);
        }
    }
}

fn clear(bitmap: &mut Bitmap, bit: u32) {
    if let Some(byte) = bitmap.get_mut(bit as usize / 8) {
        *byte &= !(1 << (bit % 8));
    }
}
