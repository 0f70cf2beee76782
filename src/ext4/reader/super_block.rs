//! What the superblock says, checked once, so that nobody else need doubt it.

use zerocopy::FromBytes;

use super::super::checksum;
use super::super::format::{
    GroupDescriptor, INCOMPATIBLE_64BIT, INCOMPATIBLE_EXTENTS, INCOMPATIBLE_FILETYPE,
    INCOMPATIBLE_FLEX_BG, READ_ONLY_METADATA_CSUM, SuperBlock,
};
use super::super::geometry::Geometry;
use super::error::ReadError;

/// Where the superblock is, in bytes.
pub(super) const OFFSET: u64 = 1024;

/// Its size, in bytes.
pub(super) const SIZE: usize = 1024;

const MAGIC: u16 = 0xef53;

/// Where the seed of all checksums is stored, where it is.
const CHECKSUM_SEED: usize = 0x270;

/// Where the superblock's own checksum is.
const CHECKSUM: usize = 0x3fc;

/// The state of a file system in which the kernel has met an error.
const STATE_ERRORS: u16 = 2;

const READ_ONLY_BIGALLOC: u32 = 0x200;
const COMPATIBLE_HAS_JOURNAL: u32 = super::super::format::COMPATIBLE_HAS_JOURNAL;
const COMPATIBLE_FAST_COMMIT: u32 = 0x400;
const INCOMPATIBLE_RECOVER: u32 = 0x4;
const INCOMPATIBLE_META_BG: u32 = 0x10;
const INCOMPATIBLE_MMP: u32 = 0x100;
const INCOMPATIBLE_CSUM_SEED: u32 = 0x2000;
const INCOMPATIBLE_LARGEDIR: u32 = 0x4000;
const INCOMPATIBLE_INLINE_DATA: u32 = 0x8000;
const INCOMPATIBLE_CASEFOLD: u32 = 0x2_0000;

/// What a reader may meet and still read right.
const SUPPORTED: u32 = INCOMPATIBLE_FILETYPE
    | INCOMPATIBLE_RECOVER
    | INCOMPATIBLE_META_BG
    | INCOMPATIBLE_EXTENTS
    | INCOMPATIBLE_64BIT
    | INCOMPATIBLE_MMP
    | INCOMPATIBLE_FLEX_BG
    | INCOMPATIBLE_CSUM_SEED
    | INCOMPATIBLE_LARGEDIR
    | INCOMPATIBLE_INLINE_DATA
    | INCOMPATIBLE_CASEFOLD;

/// The names of the others.
const UNSUPPORTED: [(u32, &str); 5] = [
    (0x1, "compression"),
    (0x8, "journal_dev"),
    (0x400, "ea_inode"),
    (0x1000, "dirdata"),
    (0x1_0000, "encrypt"),
];

/// The file system's layout.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    /// Bytes of a block: 1024 to 65536.
    pub(super) block_size: usize,
    /// Blocks in all.
    pub(super) blocks: u64,
    /// Inodes in all.
    pub(super) inodes: u32,
    /// Bytes of an inode: 128 to a block.
    pub(super) inode_size: usize,
    /// What all checksums begin with; `None` where there are none.
    pub(super) seed: Option<u32>,
    /// The journal's inode, where it must be replayed.
    pub(super) journal: Option<u32>,
    /// The kernel has met an error in it that nobody has repaired.
    pub(super) has_errors: bool,
    /// Its bitmaps count clusters of several blocks.
    pub(super) has_clusters: bool,
    /// Groups in all.
    pub(super) groups: u64,
    /// Blocks of a group but the last.
    pub(super) blocks_per_group: u64,
    /// The first block of the first group.
    pub(super) first_block: u64,
    inodes_per_group: u32,
    descriptor_size: usize,
    first_meta_group: Option<u64>,
}

impl Layout {
    /// Reads a superblock of an image of `length` bytes.
    pub(super) fn new(bytes: &[u8], length: u64) -> Result<Self, ReadError> {
        let block = SuperBlock::read_from_bytes(bytes).map_err(|_| ReadError::NotExt4)?;
        if block.magic.get() != MAGIC {
            return Err(ReadError::NotExt4);
        }
        let incompatible = block.feature_incompat.get();
        refuse(incompatible)?;
        let wrong = |what: &str| ReadError::damaged(format!("the superblock has a wrong {what}"));
        let has_checksums = block.feature_ro_compat.get() & READ_ONLY_METADATA_CSUM != 0;
        let seed = has_checksums.then(|| match incompatible & INCOMPATIBLE_CSUM_SEED {
            0 => checksum::file_system(&block.uuid),
            _ => word(bytes, CHECKSUM_SEED),
        });
        let covered = bytes.get(..CHECKSUM).unwrap_or_default();
        if has_checksums && checksum::extend(u32::MAX, covered) != block.checksum.get() {
            return Err(wrong("checksum"));
        }
        let block_size = match block.log_block_size.get() {
            shift @ 0..=6 => 1024_usize << shift,
            _ => return Err(wrong("block size")),
        };
        let is_large = incompatible & INCOMPATIBLE_64BIT != 0;
        let high = if is_large { block.blocks_count_hi.get() } else { 0 };
        let blocks = u64::from(high) << 32 | u64::from(block.blocks_count_lo.get());
        if blocks.checked_mul(block_size as u64).is_none_or(|size| size > length) {
            return Err(wrong(&format!(
                "size: {blocks} blocks of {block_size} bytes in an image of {length} bytes"
            )));
        }
        let inode_size = match block.rev_level.get() {
            0 => 128,
            _ => usize::from(block.inode_size.get()),
        };
        if !(128..=block_size).contains(&inode_size) || !inode_size.is_power_of_two() {
            return Err(wrong("inode size"));
        }
        let descriptor_size = if is_large { usize::from(block.desc_size.get()) } else { 32 };
        if !(32..=block_size).contains(&descriptor_size) || !descriptor_size.is_power_of_two() {
            return Err(wrong("descriptor size"));
        }
        let inodes_per_group = block.inodes_per_group.get();
        let blocks_per_group = u64::from(block.blocks_per_group.get());
        let first_block = u64::from(block.first_data_block.get());
        if inodes_per_group == 0 || blocks_per_group == 0 || first_block >= blocks {
            return Err(wrong("group"));
        }
        let groups = (blocks - first_block).div_ceil(blocks_per_group);
        let inodes = block.inodes_count.get();
        if u64::from(inodes) > groups.saturating_mul(u64::from(inodes_per_group)) {
            return Err(wrong("number of inodes"));
        }
        let needs_replay = incompatible & INCOMPATIBLE_RECOVER != 0;
        let compatible = block.feature_compat.get();
        let journal = (needs_replay && compatible & COMPATIBLE_HAS_JOURNAL != 0)
            .then(|| block.journal_inum.get());
        if journal == Some(0) {
            return Err(ReadError::Unsupported { features: "journal_dev".to_owned() });
        }
        if journal.is_some() && compatible & COMPATIBLE_FAST_COMMIT != 0 {
            let features = "fast_commit of a disk that was not unmounted".to_owned();
            return Err(ReadError::Unsupported { features });
        }
        let first_meta_group = (incompatible & INCOMPATIBLE_META_BG != 0)
            .then(|| u64::from(block.first_meta_bg.get()));
        Ok(Self {
            block_size,
            blocks,
            inodes,
            inode_size,
            seed,
            journal,
            has_errors: block.state.get() & STATE_ERRORS != 0,
            has_clusters: block.feature_ro_compat.get() & READ_ONLY_BIGALLOC != 0,
            inodes_per_group,
            blocks_per_group,
            first_block,
            groups,
            descriptor_size,
            first_meta_group,
        })
    }

    /// The group of an inode, and its index there.
    pub(super) fn place(&self, inode: u32) -> Result<(u64, u32), ReadError> {
        if inode == 0 || inode > self.inodes {
            return Err(ReadError::damaged(format!("there is no inode {inode}")));
        }
        let index = inode - 1;
        Ok((u64::from(index / self.inodes_per_group), index % self.inodes_per_group))
    }

    /// The block of a group's descriptor, and the descriptor's offset in it.
    pub(super) fn descriptor_place(&self, group: u64) -> (u64, usize) {
        let per_block = (self.block_size / self.descriptor_size) as u64;
        let index = group / per_block;
        let offset = (group % per_block) as usize * self.descriptor_size;
        let block = match self.first_meta_group {
            Some(first) if index >= first => {
                let leader = index * per_block;
                let has_copy = u32::try_from(leader).is_ok_and(Geometry::has_copy);
                self.first_block + leader * self.blocks_per_group + u64::from(has_copy)
            }
            _ => self.first_block + 1 + index,
        };
        (block, offset)
    }

    /// A group's descriptor, out of the block that has it.
    pub(super) fn descriptor(
        &self,
        group: u64,
        block: &[u8],
        offset: usize,
    ) -> Result<GroupDescriptor, ReadError> {
        let damaged = |what: &str| ReadError::damaged(format!("group {group} has a wrong {what}"));
        let bytes = block.get(offset..offset + self.descriptor_size);
        let bytes = bytes.filter(|_| group < self.groups).ok_or_else(|| damaged("number"))?;
        let mut padded = [0; size_of::<GroupDescriptor>()];
        for (place, byte) in padded.iter_mut().zip(bytes) {
            *place = *byte;
        }
        let descriptor =
            GroupDescriptor::read_from_bytes(&padded).map_err(|_| damaged("descriptor"))?;
        if let Some(seed) = self.seed {
            // The checksum's own place, at 0x1e, counts as zeros.
            let sum = checksum::extend(seed, &(group as u32).to_le_bytes());
            let (before, after) = (bytes.get(..0x1e), bytes.get(0x20..));
            let sum = checksum::extend(sum, before.unwrap_or_default());
            let sum = checksum::extend(checksum::extend(sum, &[0, 0]), after.unwrap_or_default());
            if sum as u16 != descriptor.checksum.get() {
                return Err(damaged("checksum"));
            }
        }
        Ok(descriptor)
    }

    /// The first block of a group's inode table, out of the block with its descriptor.
    pub(super) fn inode_table(
        &self,
        group: u64,
        block: &[u8],
        offset: usize,
    ) -> Result<u64, ReadError> {
        let descriptor = self.descriptor(group, block, offset)?;
        Ok(u64::from(descriptor.inode_table_hi.get()) << 32
            | u64::from(descriptor.inode_table_lo.get()))
    }

    /// Whether descriptors have the upper halves of their numbers.
    pub(super) fn has_large_descriptors(&self) -> bool {
        self.descriptor_size >= size_of::<GroupDescriptor>()
    }
}

/// A little-endian word; zero beyond the end.
pub(super) fn word(bytes: &[u8], at: usize) -> u32 {
    let bytes = bytes.get(at..).and_then(|rest| rest.first_chunk::<4>());
    bytes.map_or(0, |bytes| u32::from_le_bytes(*bytes))
}

/// Refuses features that change what blocks mean, by name.
fn refuse(incompatible: u32) -> Result<(), ReadError> {
    let unknown = incompatible & !SUPPORTED;
    if unknown == 0 {
        return Ok(());
    }
    let mut names: Vec<String> = UNSUPPORTED
        .iter()
        .filter(|(bit, _)| unknown & bit != 0)
        .map(|(_, name)| (*name).to_owned())
        .collect();
    let named = UNSUPPORTED.iter().fold(0, |bits, (bit, _)| bits | bit);
    if unknown & !named != 0 {
        names.push(format!("{:#x}", unknown & !named));
    }
    Err(ReadError::Unsupported { features: names.join(", ") })
}
