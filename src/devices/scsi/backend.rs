//! Where a disk's bytes are.

use std::fmt;
use std::fs::File;
use std::io;

use crate::devices::buffers::Buffers;
use crate::disk::Disk;
use crate::disk::raw::Raw;

/// A disk's content. Calls come from several threads at once.
pub trait Backend: fmt::Debug + Send + Sync {
    /// The length in bytes.
    ///
    /// # Errors
    /// Where it cannot be determined.
    fn length(&self) -> io::Result<u64>;

    /// Fills `into` from `offset`. With `wait` false, fails with `WouldBlock` instead of
    /// waiting for a device; part of `into` may then be consumed.
    ///
    /// # Errors
    /// Where not all could be read.
    fn read(&self, into: &mut Buffers<'_>, offset: u64, wait: bool) -> io::Result<()>;

    /// Writes all of `from` at `offset`.
    ///
    /// # Errors
    /// Where not all could be written.
    fn write(&self, from: &mut Buffers<'_>, offset: u64) -> io::Result<()>;

    /// Writes host memory at `offset`.
    ///
    /// # Errors
    /// Where not all could be written.
    fn write_bytes(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Returns when all writes that have returned are on stable storage.
    ///
    /// # Errors
    /// Where any of them may be lost.
    fn flush(&self) -> io::Result<()>;

    /// Makes a range read as zeroes and gives its space back where it can.
    ///
    /// # Errors
    /// Where part of the range may be unchanged.
    fn discard(&self, offset: u64, length: u64) -> io::Result<()>;
}

/// A disk in a file of any format.
#[derive(Debug)]
pub struct Volume {
    disk: Box<dyn Disk>,
}

impl Volume {
    /// A disk that was opened. Locking its file is the caller's; the lock ends with the
    /// file, which is closed when the disk is detached.
    #[must_use]
    pub fn new(disk: Box<dyn Disk>) -> Self {
        Self { disk }
    }

    /// A file, or a block device, that holds the disk's bytes as they are.
    #[must_use]
    pub fn raw(file: File) -> Self {
        Self::new(Box::new(Raw::new(file)))
    }
}

impl Backend for Volume {
    fn length(&self) -> io::Result<u64> {
        self.disk.length()
    }

    fn read(&self, into: &mut Buffers<'_>, offset: u64, wait: bool) -> io::Result<()> {
        self.disk.read(into, offset, wait)
    }

    fn write(&self, from: &mut Buffers<'_>, offset: u64) -> io::Result<()> {
        self.disk.write(from, offset)
    }

    fn write_bytes(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.disk.write_at(bytes, offset)
    }

    fn flush(&self) -> io::Result<()> {
        self.disk.flush()
    }

    fn discard(&self, offset: u64, length: u64) -> io::Result<()> {
        self.disk.discard(offset, length)
    }
}
