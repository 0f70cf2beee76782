//! The inode tables: inodes are written when they are complete, in ascending order mostly.
//!
//! A window of inodes is collected and written as one; an inode before the window (a
//! directory's, or one that got another name) is read and written by itself.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, IntoBytes};

use super::checksum;
use super::error::Error;
use super::format::{
    BLOCK_SIZE, EXTRA_INODE_SIZE, FIRST_INODE, INODE_SIZE, INODES_PER_BLOCK, Inode,
};
use super::geometry::Geometry;
use crate::tree::{Metadata, Timestamp};

/// Inodes in a window: a block of them, times sixteen.
const WINDOW: u32 = 16 * INODES_PER_BLOCK;

/// Inodes by number.
pub(super) struct Inodes {
    file: Arc<File>,
    geometry: Arc<Geometry>,
    /// The checksum seed of the file system.
    seed: u32,
    /// The index (number less one) of the window's first inode.
    start: u32,
    window: Vec<u8>,
    /// The next number that was never taken.
    next: u32,
    freed: Vec<u32>,
}

impl Inodes {
    pub(super) fn new(file: Arc<File>, geometry: Arc<Geometry>, seed: u32) -> Self {
        let window = Vec::with_capacity(WINDOW as usize * INODE_SIZE);
        Self { file, geometry, seed, start: 0, window, next: FIRST_INODE, freed: Vec::new() }
    }

    /// Takes a number.
    pub(super) fn allocate(&mut self) -> Result<u32, Error> {
        if let Some(number) = self.freed.pop() {
            return Ok(number);
        }
        let inodes = self.geometry.inodes();
        if self.next > inodes {
            let size = self.geometry.blocks * BLOCK_SIZE as u64;
            return Err(Error::NoInodes { size, inodes });
        }
        self.next += 1;
        Ok(self.next - 1)
    }

    /// Gives a number back and clears its inode.
    pub(super) fn free(&mut self, number: u32) -> Result<(), Error> {
        self.store(number, &[0; INODE_SIZE])?;
        self.freed.push(number);
        Ok(())
    }

    /// The checksum seed of an inode.
    pub(super) fn seed(&self, number: u32) -> u32 {
        checksum::inode(self.seed, number)
    }

    /// Writes an inode with its checksum.
    pub(super) fn write(&mut self, number: u32, inode: &Inode) -> Result<(), Error> {
        let mut inode = inode.clone();
        inode.checksum_lo = U16::ZERO;
        inode.checksum_hi = U16::ZERO;
        let sum = checksum::extend(self.seed(number), inode.as_bytes());
        inode.checksum_lo = U16::new(sum as u16);
        inode.checksum_hi = U16::new((sum >> 16) as u16);
        self.store(number, inode.as_bytes())
    }

    /// Reads an inode that was written.
    pub(super) fn read(&mut self, number: u32) -> Result<Inode, Error> {
        let mut bytes = [0; INODE_SIZE];
        let index = number.saturating_sub(1);
        if let Some(offset) = index.checked_sub(self.start) {
            let offset = offset as usize * INODE_SIZE;
            if let Some(stored) = self.window.get(offset..offset + INODE_SIZE) {
                bytes.copy_from_slice(stored);
            }
        } else {
            let place = self.place(index);
            self.file.read_exact_at(&mut bytes, place).map_err(Error::Write)?;
        }
        Ok(Inode::read_from_bytes(&bytes).unwrap_or_else(|_| Inode::zeroed()))
    }

    /// Writes the window.
    pub(super) fn flush(&mut self) -> Result<(), Error> {
        if !self.window.is_empty() {
            let place = self.place(self.start);
            self.file.write_all_at(&self.window, place).map_err(Error::Write)?;
            self.window.clear();
        }
        Ok(())
    }

    /// The highest number taken, and the numbers below it that are free.
    pub(super) fn taken(&self) -> (u32, &[u32]) {
        (self.next - 1, &self.freed)
    }

    fn store(&mut self, number: u32, bytes: &[u8]) -> Result<(), Error> {
        let index = number.saturating_sub(1);
        if index < self.start {
            let place = self.place(index);
            return self.file.write_all_at(bytes, place).map_err(Error::Write);
        }
        let end = self.window_end();
        if index >= end {
            self.flush()?;
            // Windows never cross a group: both begin at multiples of a block.
            let in_group = index % self.geometry.inodes_per_group;
            self.start = index - in_group % WINDOW;
        }
        let offset = (index - self.start) as usize * INODE_SIZE;
        if self.window.len() < offset + INODE_SIZE {
            self.window.resize(offset + INODE_SIZE, 0);
        }
        if let Some(place) = self.window.get_mut(offset..offset + INODE_SIZE) {
            place.copy_from_slice(bytes);
        }
        Ok(())
    }

    fn window_end(&self) -> u32 {
        let per_group = self.geometry.inodes_per_group;
        let group_end = (self.start / per_group + 1).saturating_mul(per_group);
        self.start.saturating_add(WINDOW).min(group_end)
    }

    /// Where in the image an inode is.
    fn place(&self, index: u32) -> u64 {
        let per_group = self.geometry.inodes_per_group;
        let table = self.geometry.inode_table(index / per_group) * BLOCK_SIZE as u64;
        table + u64::from(index % per_group) * INODE_SIZE as u64
    }
}

/// An inode of the given type with an entry's metadata; it has one name and no content.
pub(super) fn inode(kind: u16, metadata: &Metadata, created: Timestamp) -> Inode {
    let mut inode = Inode::zeroed();
    inode.mode = U16::new(kind | (metadata.mode & 0o7777) as u16);
    inode.uid_lo = U16::new(metadata.uid as u16);
    inode.uid_hi = U16::new((metadata.uid >> 16) as u16);
    inode.gid_lo = U16::new(metadata.gid as u16);
    inode.gid_hi = U16::new((metadata.gid >> 16) as u16);
    inode.links_count = U16::new(1);
    inode.extra_isize = U16::new(EXTRA_INODE_SIZE);
    (inode.mtime, inode.mtime_extra) = time(metadata.modified);
    (inode.atime, inode.atime_extra) = (inode.mtime, inode.mtime_extra);
    (inode.ctime, inode.ctime_extra) = time(created);
    (inode.crtime, inode.crtime_extra) = (inode.ctime, inode.ctime_extra);
    inode
}

/// The low 32 bits, and the two bits above them with the nanoseconds. Times outside 1901
/// to 2446 become the nearest that can be stored.
fn time(time: Timestamp) -> (U32, U32) {
    const FIRST: i64 = i32::MIN as i64;
    const LAST: i64 = i32::MAX as i64 + (3 << 32);
    let seconds = time.seconds.clamp(FIRST, LAST);
    let low = seconds as i32;
    let epoch = ((seconds - i64::from(low)) >> 32) as u32;
    let nanoseconds = time.nanoseconds.min(999_999_999);
    (U32::new(low as u32), U32::new(nanoseconds << 2 | epoch))
}
