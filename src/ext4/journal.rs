//! The journal of a new file system: a superblock, and zeros (`fs/jbd2/`).

use super::format::{BLOCK_SIZE, Block, ZERO_BLOCK};

const MAGIC: u32 = 0xc03b_3998;
const SUPERBLOCK_VERSION_2: u32 = 4;

/// The fewest blocks that the kernel accepts.
pub(super) const MINIMUM_BLOCKS: u64 = 1024;

/// 128 MiB: a larger one only makes recovery longer.
const MAXIMUM_BLOCKS: u64 = 32768;

/// How many blocks the journal of a file system of `blocks` has; none where it is too
/// small for one.
pub(super) fn size(blocks: u64) -> u64 {
    if blocks < 2 * MINIMUM_BLOCKS {
        return 0;
    }
    (blocks / 64).clamp(MINIMUM_BLOCKS, MAXIMUM_BLOCKS)
}

/// The journal's first block.
pub(super) fn super_block(blocks: u64) -> Block {
    let mut block = ZERO_BLOCK;
    let first_sequence = 1;
    let first_block = 1;
    let fields = [
        MAGIC,
        SUPERBLOCK_VERSION_2,
        0,
        BLOCK_SIZE as u32,
        blocks as u32,
        first_block,
        first_sequence,
    ];
    for (place, field) in block.chunks_exact_mut(4).zip(fields) {
        place.copy_from_slice(&field.to_be_bytes());
    }
    // The number of file systems that use it.
    if let Some(users) = block.get_mut(64..68) {
        users.copy_from_slice(&1_u32.to_be_bytes());
    }
    block
}
