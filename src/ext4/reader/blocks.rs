//! The image's blocks as they are once the journal is replayed.

use std::collections::HashMap;

use super::error::ReadError;
use crate::disk::Disk;

/// Where a block's current content is, if not at its place.
#[derive(Clone, Copy, Debug)]
pub(super) struct Replacement {
    /// A block of the journal.
    pub(super) block: u64,
    /// Its first four bytes are the journal's magic number, stored as zeros.
    pub(super) is_escaped: bool,
}

/// The blocks of an image.
#[derive(Debug)]
pub(super) struct Blocks {
    disk: Box<dyn Disk>,
    size: usize,
    count: u64,
    replaced: HashMap<u64, Replacement>,
}

impl Blocks {
    pub(super) fn new(disk: Box<dyn Disk>, size: usize, count: u64) -> Self {
        Self { disk, size, count, replaced: HashMap::new() }
    }

    /// Bytes of a block.
    pub(super) fn size(&self) -> usize {
        self.size
    }

    /// Blocks in all.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// Lets blocks of the journal take the place of others.
    pub(super) fn replace(&mut self, replaced: HashMap<u64, Replacement>) {
        self.replaced = replaced;
    }

    /// One block.
    pub(super) fn read(&self, block: u64) -> Result<Vec<u8>, ReadError> {
        let mut bytes = vec![0; self.size];
        self.read_at(block, 0, &mut bytes)?;
        Ok(bytes)
    }

    /// Bytes of consecutive blocks, from a byte of the first one on.
    pub(super) fn read_at(
        &self,
        block: u64,
        offset: usize,
        bytes: &mut [u8],
    ) -> Result<(), ReadError> {
        let size = self.size as u64;
        let start = block.checked_mul(size).and_then(|start| start.checked_add(offset as u64));
        let end = start.and_then(|start| start.checked_add(bytes.len() as u64));
        let (Some(start), Some(_)) = (start, end.filter(|end| *end <= self.count * size)) else {
            return Err(ReadError::damaged(format!("block {block} is beyond the end")));
        };
        self.disk.read_at(bytes, start)?;
        if self.replaced.is_empty() {
            return Ok(());
        }
        let mut position = 0;
        while position < bytes.len() {
            let at = start + position as u64;
            let within = (at % size) as usize;
            let length = (self.size - within).min(bytes.len() - position);
            if let Some(replacement) = self.replaced.get(&(at / size))
                && let Some(part) = bytes.get_mut(position..position + length)
            {
                let place = replacement.block * size + within as u64;
                self.disk.read_at(part, place)?;
                if replacement.is_escaped {
                    let magic = super::journal::MAGIC.to_be_bytes();
                    for (byte, magic) in part.iter_mut().zip(magic.iter().skip(within)) {
                        *byte = *magic;
                    }
                }
            }
            position += length;
        }
        Ok(())
    }
}
