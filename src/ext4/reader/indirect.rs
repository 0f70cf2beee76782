//! The older map of a file's blocks: twelve pointers, and trees of pointers of one to
//! three levels.

use super::blocks::Blocks;
use super::error::ReadError;
use super::extents::Run;
use super::super_block::word;

/// Pointers in the inode that point to data.
const DIRECT: usize = 12;

/// A block of pointers on the way down.
struct Level {
    bytes: Vec<u8>,
    next: usize,
    /// 0: its pointers point to data.
    height: u32,
}

/// The pointers of a file, from the first on.
pub(super) struct Pointers {
    inode: [u8; 60],
    /// The next pointer of the inode.
    next: usize,
    levels: Vec<Level>,
    logical: u64,
    per_block: u64,
}

impl Pointers {
    pub(super) fn new(inode: &[u8; 60], block_size: usize) -> Self {
        let per_block = block_size as u64 / 4;
        Self { inode: *inode, next: 0, levels: Vec::new(), logical: 0, per_block }
    }

    /// The next data block, with those that follow it in the same block of pointers.
    pub(super) fn next(&mut self, blocks: &Blocks) -> Result<Option<Run>, ReadError> {
        loop {
            let (pointer, height) = match self.levels.last_mut() {
                Some(level) if level.next * 4 < level.bytes.len() => {
                    level.next += 1;
                    (word(&level.bytes, (level.next - 1) * 4), level.height)
                }
                Some(_) => {
                    self.levels.pop();
                    continue;
                }
                None if self.next < DIRECT + 3 => {
                    self.next += 1;
                    let height = self.next.saturating_sub(DIRECT) as u32;
                    (word(&self.inode, (self.next - 1) * 4), height)
                }
                None => return Ok(None),
            };
            if pointer == 0 {
                self.logical = self.logical.saturating_add(self.per_block.saturating_pow(height));
            } else if height == 0 {
                self.logical += 1;
                return Ok(Some(Run {
                    logical: self.logical - 1,
                    physical: pointer.into(),
                    length: 1,
                }));
            } else {
                let bytes = blocks.read(pointer.into())?;
                self.levels.push(Level { bytes, next: 0, height: height - 1 });
            }
        }
    }
}
