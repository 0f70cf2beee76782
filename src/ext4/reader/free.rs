//! The blocks that no file uses, as the bitmaps tell, and the space that they take on the
//! host.

use std::ops::Range;

use super::super::checksum;
use super::super::format::{GROUP_BLOCK_UNINIT, GroupDescriptor};
use super::Image;
use super::error::ReadError;
use crate::disk::Disk;

impl Image {
    /// Bytes of blocks that are not free.
    ///
    /// # Errors
    /// Where a group's descriptor is damaged or cannot be read.
    pub fn used(&self) -> Result<u64, ReadError> {
        let mut free = 0_u64;
        for group in 0..self.layout.groups {
            let descriptor = self.descriptor(group)?;
            let high = descriptor.free_blocks_count_hi.get();
            let low = descriptor.free_blocks_count_lo.get();
            free += u64::from(high) << 16 | u64::from(low);
        }
        Ok(self.layout.blocks.saturating_sub(free) * self.layout.block_size as u64)
    }

    /// Passes every run of free bytes to `each`, ascending, until it says that it is
    /// enough. Groups whose bitmap was never written are left out: nothing else of them
    /// was.
    ///
    /// # Errors
    /// Where a bitmap is damaged or cannot be read, what `each` fails with, and
    /// [`ReadError::Unsupported`] where bitmaps do not count blocks.
    pub fn free_runs(
        &self,
        mut each: impl FnMut(Range<u64>) -> Result<bool, ReadError>,
    ) -> Result<(), ReadError> {
        if self.layout.has_clusters {
            return Err(ReadError::Unsupported { features: "bigalloc".to_owned() });
        }
        let size = self.layout.block_size as u64;
        // As few as `mke2fs` allows, as many as a bitmap has bits.
        let per_group = self.layout.blocks_per_group;
        if !(256..=size * 8).contains(&per_group) || !per_group.is_multiple_of(8) {
            return Err(ReadError::damaged(format!("its groups have {per_group} blocks")));
        }
        let mut run = 0..0;
        for group in 0..self.layout.groups {
            let start = self.layout.first_block + group * per_group;
            let end = (start + per_group).min(self.layout.blocks);
            let bitmap = self.block_bitmap(group)?;
            let mut block = start;
            while block < end {
                let (is_free, length) = match &bitmap {
                    Some(bitmap) => same_bits(bitmap, block - start, end - start),
                    None => (false, end - start),
                };
                if is_free {
                    if run.end != block * size {
                        if !run.is_empty() && !each(run)? {
                            return Ok(());
                        }
                        run = block * size..block * size;
                    }
                    run.end = (block + length) * size;
                }
                block += length;
            }
        }
        if !run.is_empty() {
            each(run)?;
        }
        Ok(())
    }

    fn descriptor(&self, group: u64) -> Result<GroupDescriptor, ReadError> {
        let (block, offset) = self.layout.descriptor_place(group);
        self.layout.descriptor(group, &self.blocks.read(block)?, offset)
    }

    /// The bitmap of a group's blocks; `None` where it was never written.
    fn block_bitmap(&self, group: u64) -> Result<Option<Vec<u8>>, ReadError> {
        let layout = &self.layout;
        let descriptor = self.descriptor(group)?;
        if descriptor.flags.get() & GROUP_BLOCK_UNINIT != 0 {
            return Ok(None);
        }
        let place = u64::from(descriptor.block_bitmap_hi.get()) << 32
            | u64::from(descriptor.block_bitmap_lo.get());
        let bitmap = self.blocks.read(place)?;
        let damaged =
            |what: &str| ReadError::damaged(format!("the block bitmap of group {group} {what}"));
        let covered = bitmap.get(..layout.blocks_per_group as usize / 8);
        let covered = covered.ok_or_else(|| damaged("is too short"))?;
        if let Some(seed) = layout.seed {
            let sum = checksum::extend(seed, covered);
            let is_right = sum as u16 == descriptor.block_bitmap_csum_lo.get()
                && (!layout.has_large_descriptors()
                    || (sum >> 16) as u16 == descriptor.block_bitmap_csum_hi.get());
            if !is_right {
                return Err(damaged("has a wrong checksum"));
            }
        }
        Ok(Some(bitmap))
    }

    /// Gives the host's space of free blocks back, on the disk that this image is of, until
    /// `stop` says so; tells how many bytes held something. Nothing of a damaged file system
    /// is touched.
    ///
    /// # Errors
    /// As [`Image::free_runs`], and where the disk cannot be written.
    pub fn trim(&self, disk: &dyn Disk, mut stop: impl FnMut() -> bool) -> Result<u64, ReadError> {
        if self.layout.has_errors {
            return Err(ReadError::damaged("the kernel has met errors in it"));
        }
        let mut given_back = 0;
        self.free_runs(|run| {
            let mut offset = run.start;
            while offset < run.end {
                let extent = disk.extent(offset)?;
                let length = extent.length.min(run.end - offset);
                if length == 0 {
                    break;
                }
                if extent.data {
                    disk.discard(offset, length)?;
                    given_back += length;
                }
                offset += length;
            }
            Ok(!stop())
        })?;
        disk.flush()?;
        Ok(given_back)
    }
}

/// Whether the bit at `from` is clear, and how many from there on, before `end`, are like
/// it.
fn same_bits(bitmap: &[u8], from: u64, end: u64) -> (bool, u64) {
    let is_set = |bit: u64| bitmap.get((bit / 8) as usize).is_none_or(|b| b >> (bit % 8) & 1 != 0);
    let first = is_set(from);
    let whole = if first { 0xff } else { 0 };
    let mut bit = from + 1;
    while bit < end && is_set(bit) == first {
        // Eight at once where they are alike.
        let aligned = bit.is_multiple_of(8) && bit + 8 <= end;
        let alike = aligned && bitmap.get((bit / 8) as usize) == Some(&whole);
        bit += if alike { 8 } else { 1 };
    }
    (!first, bit - from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_of_bits_end_where_the_bits_change() {
        let bitmap = [0b0000_0111, 0xff, 0xff, 0b0000_0001, 0, 0];
        assert_eq!(same_bits(&bitmap, 0, 48), (false, 3));
        assert_eq!(same_bits(&bitmap, 3, 48), (true, 5));
        assert_eq!(same_bits(&bitmap, 8, 48), (false, 17));
        assert_eq!(same_bits(&bitmap, 25, 48), (true, 23));
        assert_eq!(same_bits(&bitmap, 25, 30), (true, 5));
    }
}
