//! The structures of ext4 as they are on disk.
//!
//! Field names are those of `fs/ext4/ext4.h` without their prefixes; a `_lo` and a `_hi`
//! field are one number.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Bytes of a block.
pub(super) const BLOCK_SIZE: usize = 4096;
/// Blocks of a group: as many as one bitmap block has bits.
pub(super) const BLOCKS_PER_GROUP: u32 = 32768;
/// Bytes of an inode.
pub(super) const INODE_SIZE: usize = 256;
/// Inodes in a block.
pub(super) const INODES_PER_BLOCK: u32 = 16;
/// Bytes of an inode's fields beyond the original 128.
pub(super) const EXTRA_INODE_SIZE: u16 = 32;

/// The inode of the root directory.
pub(super) const ROOT: u32 = 2;
/// The inode of the journal.
pub(super) const JOURNAL: u32 = 8;
/// The first inode that is not reserved: `lost+found`.
pub(super) const FIRST_INODE: u32 = 11;

/// The most names of one inode.
pub(super) const MAXIMUM_LINKS: u16 = 65000;

pub(super) const COMPATIBLE_HAS_JOURNAL: u32 = 0x4;
pub(super) const COMPATIBLE_EXT_ATTR: u32 = 0x8;
pub(super) const COMPATIBLE_DIR_INDEX: u32 = 0x20;

pub(super) const INCOMPATIBLE_FILETYPE: u32 = 0x2;
pub(super) const INCOMPATIBLE_EXTENTS: u32 = 0x40;
pub(super) const INCOMPATIBLE_64BIT: u32 = 0x80;
pub(super) const INCOMPATIBLE_FLEX_BG: u32 = 0x200;

pub(super) const READ_ONLY_SPARSE_SUPER: u32 = 0x1;
pub(super) const READ_ONLY_LARGE_FILE: u32 = 0x2;
pub(super) const READ_ONLY_HUGE_FILE: u32 = 0x8;
pub(super) const READ_ONLY_DIR_NLINK: u32 = 0x20;
pub(super) const READ_ONLY_EXTRA_ISIZE: u32 = 0x40;
pub(super) const READ_ONLY_METADATA_CSUM: u32 = 0x400;

pub(super) const GROUP_INODE_UNINIT: u16 = 0x1;
pub(super) const GROUP_BLOCK_UNINIT: u16 = 0x2;
pub(super) const GROUP_INODE_ZEROED: u16 = 0x4;

pub(super) const INODE_INDEX: u32 = 0x1000;
pub(super) const INODE_EXTENTS: u32 = 0x8_0000;

pub(super) const MODE_FIFO: u16 = 0o010_000;
pub(super) const MODE_CHARACTER_DEVICE: u16 = 0o020_000;
pub(super) const MODE_DIRECTORY: u16 = 0o040_000;
pub(super) const MODE_BLOCK_DEVICE: u16 = 0o060_000;
pub(super) const MODE_FILE: u16 = 0o100_000;
pub(super) const MODE_SYMBOLIC_LINK: u16 = 0o120_000;
pub(super) const MODE_SOCKET: u16 = 0o140_000;

/// One block in memory.
pub(super) type Block = [u8; BLOCK_SIZE];

/// A block of zeros.
pub(super) const ZERO_BLOCK: Block = [0; BLOCK_SIZE];

/// `struct ext4_super_block`.
#[derive(Clone, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub(super) struct SuperBlock {
    pub(super) inodes_count: U32,
    pub(super) blocks_count_lo: U32,
    pub(super) r_blocks_count_lo: U32,
    pub(super) free_blocks_count_lo: U32,
    pub(super) free_inodes_count: U32,
    pub(super) first_data_block: U32,
    pub(super) log_block_size: U32,
    pub(super) log_cluster_size: U32,
    pub(super) blocks_per_group: U32,
    pub(super) clusters_per_group: U32,
    pub(super) inodes_per_group: U32,
    pub(super) mtime: U32,
    pub(super) wtime: U32,
    pub(super) mnt_count: U16,
    pub(super) max_mnt_count: U16,
    pub(super) magic: U16,
    pub(super) state: U16,
    pub(super) errors: U16,
    pub(super) minor_rev_level: U16,
    pub(super) lastcheck: U32,
    pub(super) checkinterval: U32,
    pub(super) creator_os: U32,
    pub(super) rev_level: U32,
    pub(super) def_resuid: U16,
    pub(super) def_resgid: U16,
    pub(super) first_ino: U32,
    pub(super) inode_size: U16,
    pub(super) block_group_nr: U16,
    pub(super) feature_compat: U32,
    pub(super) feature_incompat: U32,
    pub(super) feature_ro_compat: U32,
    pub(super) uuid: [u8; 16],
    pub(super) volume_name: [u8; 16],
    pub(super) last_mounted: [u8; 64],
    pub(super) algorithm_usage_bitmap: U32,
    pub(super) prealloc_blocks: u8,
    pub(super) prealloc_dir_blocks: u8,
    pub(super) reserved_gdt_blocks: U16,
    pub(super) journal_uuid: [u8; 16],
    pub(super) journal_inum: U32,
    pub(super) journal_dev: U32,
    pub(super) last_orphan: U32,
    pub(super) hash_seed: [U32; 4],
    pub(super) def_hash_version: u8,
    pub(super) jnl_backup_type: u8,
    pub(super) desc_size: U16,
    pub(super) default_mount_opts: U32,
    pub(super) first_meta_bg: U32,
    pub(super) mkfs_time: U32,
    pub(super) jnl_blocks: [U32; 17],
    pub(super) blocks_count_hi: U32,
    pub(super) r_blocks_count_hi: U32,
    pub(super) free_blocks_count_hi: U32,
    pub(super) min_extra_isize: U16,
    pub(super) want_extra_isize: U16,
    pub(super) flags: U32,
    pub(super) raid_stride: U16,
    pub(super) mmp_update_interval: U16,
    pub(super) mmp_block: U64,
    pub(super) raid_stripe_width: U32,
    pub(super) log_groups_per_flex: u8,
    pub(super) checksum_type: u8,
    pub(super) reserved_pad: U16,
    pub(super) kbytes_written: U64,
    /// Snapshots, errors and mount options: zero in a new file system.
    pub(super) unused: [u8; 0x248 - 0x180],
    pub(super) overhead_clusters: U32,
    pub(super) reserved: [u8; 0x3fc - 0x24c],
    pub(super) checksum: U32,
}

/// `struct ext4_group_desc` of a file system with the `64bit` feature.
#[derive(Clone, Default, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub(super) struct GroupDescriptor {
    pub(super) block_bitmap_lo: U32,
    pub(super) inode_bitmap_lo: U32,
    pub(super) inode_table_lo: U32,
    pub(super) free_blocks_count_lo: U16,
    pub(super) free_inodes_count_lo: U16,
    pub(super) used_dirs_count_lo: U16,
    pub(super) flags: U16,
    pub(super) exclude_bitmap_lo: U32,
    pub(super) block_bitmap_csum_lo: U16,
    pub(super) inode_bitmap_csum_lo: U16,
    pub(super) itable_unused_lo: U16,
    pub(super) checksum: U16,
    pub(super) block_bitmap_hi: U32,
    pub(super) inode_bitmap_hi: U32,
    pub(super) inode_table_hi: U32,
    pub(super) free_blocks_count_hi: U16,
    pub(super) free_inodes_count_hi: U16,
    pub(super) used_dirs_count_hi: U16,
    pub(super) itable_unused_hi: U16,
    pub(super) exclude_bitmap_hi: U32,
    pub(super) block_bitmap_csum_hi: U16,
    pub(super) inode_bitmap_csum_hi: U16,
    pub(super) reserved: U32,
}

/// `struct ext4_inode` and the attribute space behind it.
#[derive(Clone, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub(super) struct Inode {
    pub(super) mode: U16,
    pub(super) uid_lo: U16,
    pub(super) size_lo: U32,
    pub(super) atime: U32,
    pub(super) ctime: U32,
    pub(super) mtime: U32,
    pub(super) dtime: U32,
    pub(super) gid_lo: U16,
    pub(super) links_count: U16,
    pub(super) blocks_lo: U32,
    pub(super) flags: U32,
    pub(super) version: U32,
    pub(super) block: [u8; 60],
    pub(super) generation: U32,
    pub(super) file_acl_lo: U32,
    pub(super) size_hi: U32,
    pub(super) obso_faddr: U32,
    pub(super) blocks_hi: U16,
    pub(super) file_acl_hi: U16,
    pub(super) uid_hi: U16,
    pub(super) gid_hi: U16,
    pub(super) checksum_lo: U16,
    pub(super) reserved: U16,
    pub(super) extra_isize: U16,
    pub(super) checksum_hi: U16,
    pub(super) ctime_extra: U32,
    pub(super) mtime_extra: U32,
    pub(super) atime_extra: U32,
    pub(super) crtime: U32,
    pub(super) crtime_extra: U32,
    pub(super) version_hi: U32,
    pub(super) projid: U32,
    pub(super) attributes: [u8; ATTRIBUTE_SPACE],
}

/// Bytes for attributes inside an inode.
pub(super) const ATTRIBUTE_SPACE: usize = INODE_SIZE - 128 - EXTRA_INODE_SIZE as usize;

/// `struct ext4_extent_header`.
#[derive(Clone, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub(super) struct ExtentHeader {
    pub(super) magic: U16,
    pub(super) entries: U16,
    pub(super) max: U16,
    pub(super) depth: U16,
    pub(super) generation: U32,
}

/// `struct ext4_extent`: blocks in a row.
#[derive(Clone, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub(super) struct ExtentRecord {
    pub(super) block: U32,
    pub(super) len: U16,
    pub(super) start_hi: U16,
    pub(super) start_lo: U32,
}

/// `struct ext4_extent_idx`: a node below.
#[derive(Clone, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub(super) struct ExtentIndex {
    pub(super) block: U32,
    pub(super) leaf_lo: U32,
    pub(super) leaf_hi: U16,
    pub(super) unused: U16,
}

/// `struct ext4_xattr_entry`, without the name that follows it.
#[derive(Clone, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub(super) struct AttributeEntry {
    pub(super) name_len: u8,
    pub(super) name_index: u8,
    pub(super) value_offs: U16,
    pub(super) value_inum: U32,
    pub(super) value_size: U32,
    pub(super) hash: U32,
}

/// `struct ext4_xattr_header`, at the start of an attribute block.
#[derive(Clone, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub(super) struct AttributeHeader {
    pub(super) magic: U32,
    pub(super) refcount: U32,
    pub(super) blocks: U32,
    pub(super) hash: U32,
    pub(super) checksum: U32,
    pub(super) reserved: [U32; 3],
}

const _: () = assert!(size_of::<SuperBlock>() == 1024);
const _: () = assert!(size_of::<GroupDescriptor>() == 64);
const _: () = assert!(size_of::<Inode>() == INODE_SIZE);

impl SuperBlock {
    /// All fields zero.
    pub(super) fn zeroed() -> Self {
        zerocopy::FromZeros::new_zeroed()
    }
}

impl Inode {
    /// All fields zero.
    pub(super) fn zeroed() -> Self {
        zerocopy::FromZeros::new_zeroed()
    }

    pub(super) fn set_size(&mut self, size: u64) {
        (self.size_lo, self.size_hi) = split(size);
    }

    /// Sets the number of blocks taken, counted in sectors of 512 bytes.
    pub(super) fn set_blocks(&mut self, blocks: u64) {
        let sectors = blocks * (BLOCK_SIZE as u64 / 512);
        self.blocks_lo = split(sectors).0;
        self.blocks_hi = U16::new((sectors >> 32) as u16);
    }

    pub(super) fn blocks(&self) -> u64 {
        (u64::from(self.blocks_hi.get()) << 32 | u64::from(self.blocks_lo.get()))
            / (BLOCK_SIZE as u64 / 512)
    }

    pub(super) fn attribute_block(&self) -> u64 {
        u64::from(self.file_acl_hi.get()) << 32 | u64::from(self.file_acl_lo.get())
    }

    pub(super) fn set_attribute_block(&mut self, block: u64) {
        self.file_acl_lo = split(block).0;
        self.file_acl_hi = U16::new((block >> 32) as u16);
    }
}

/// The low and the high half.
pub(super) fn split(number: u64) -> (U32, U32) {
    (U32::new(number as u32), U32::new((number >> 32) as u32))
}
