//! The files that hold disks: raw images, VHD and VHDX.
//!
//! A [`Disk`] is a run of bytes that can be read, written, flushed and given back, whatever
//! the [`Format`] of its file. A disk can be used live: a file that is opened after a crash at any instant has all that was
//! flushed, and every byte written after that is old or new. Formats that keep their blocks
//! in a table share [`blocks`]. Everything in a file is hostile.

mod blocks;
pub mod bytes;
pub mod clone;
mod copy;
mod error;
pub mod raw;
pub mod vhd;
pub mod vhdx;
pub mod writeback;

use std::fmt;
use std::fs::File;
use std::io;
use std::path::Path;

use self::bytes::{Destination, Source};
pub use self::copy::copy;
pub use self::error::DiskError;

/// A disk's content. Calls come from several threads at once.
pub trait Disk: fmt::Debug + Send + Sync {
    /// The length in bytes.
    ///
    /// # Errors
    /// Where it cannot be determined.
    fn length(&self) -> io::Result<u64>;

    /// Fills `into` from `offset`. With `wait` false, fails with `WouldBlock` instead of
    /// waiting for the host's storage; part of `into` may then be consumed.
    ///
    /// # Errors
    /// Where not all could be read.
    fn read(&self, into: &mut dyn Destination, offset: u64, wait: bool) -> io::Result<()>;

    /// Writes all of `from` at `offset`.
    ///
    /// # Errors
    /// Where not all could be written.
    fn write(&self, from: &mut dyn Source, offset: u64) -> io::Result<()>;

    /// Returns when all writes that have returned are on stable storage.
    ///
    /// # Errors
    /// Where any of them may be lost.
    fn flush(&self) -> io::Result<()>;

    /// Lets the host begin to write what a flush will wait for.
    fn start_flush(&self);

    /// Makes a range read as zeroes and gives its space back where it can.
    ///
    /// # Errors
    /// Where part of the range may be unchanged.
    fn discard(&self, offset: u64, length: u64) -> io::Result<()>;

    /// Whether there is data at `offset` or only zeroes, and up to where.
    ///
    /// # Errors
    /// Where it cannot be determined.
    fn extent(&self, offset: u64) -> io::Result<Extent>;

    /// [`Disk::read`] into a slice.
    ///
    /// # Errors
    /// As [`Disk::read`].
    fn read_at(&self, mut into: &mut [u8], offset: u64) -> io::Result<()> {
        self.read(&mut into, offset, true)
    }

    /// [`Disk::write`] from a slice.
    ///
    /// # Errors
    /// As [`Disk::write`].
    fn write_at(&self, mut from: &[u8], offset: u64) -> io::Result<()> {
        self.write(&mut from, offset)
    }
}

impl<D: Disk + ?Sized> Disk for std::sync::Arc<D> {
    fn length(&self) -> io::Result<u64> {
        (**self).length()
    }

    fn read(&self, into: &mut dyn Destination, offset: u64, wait: bool) -> io::Result<()> {
        (**self).read(into, offset, wait)
    }

    fn write(&self, from: &mut dyn Source, offset: u64) -> io::Result<()> {
        (**self).write(from, offset)
    }

    fn flush(&self) -> io::Result<()> {
        (**self).flush()
    }

    fn start_flush(&self) {
        (**self).start_flush();
    }

    fn discard(&self, offset: u64, length: u64) -> io::Result<()> {
        (**self).discard(offset, length)
    }

    fn extent(&self, offset: u64) -> io::Result<Extent> {
        (**self).extent(offset)
    }
}

/// A run of a disk's bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Extent {
    /// Its length in bytes; 0 at the disk's end.
    pub length: u64,
    /// Whether it may hold anything but zeroes.
    pub data: bool,
}

/// How a file holds a disk.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Format {
    /// As it is.
    Raw,
    /// As Virtual PC and older Hyper-V keep it.
    Vhd,
    /// As Hyper-V and WSL keep it.
    Vhdx,
}

impl fmt::Display for Format {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Raw => "raw",
            Self::Vhd => "VHD",
            Self::Vhdx => "VHDX",
        })
    }
}

impl Format {
    /// The format that a file's name tells. Not its content does: that of a raw disk is its
    /// guest's, who could make it look like any format.
    #[must_use]
    pub fn of(path: &Path) -> Self {
        match path.extension() {
            Some(extension) if extension.eq_ignore_ascii_case("vhd") => Self::Vhd,
            Some(extension) if extension.eq_ignore_ascii_case("vhdx") => Self::Vhdx,
            _ => Self::Raw,
        }
    }
}

/// Opens the disk in a file. The file's lock is the caller's. With `writable` false nothing
/// is written to the file, and writing to the disk fails.
///
/// # Errors
/// [`DiskError`], where the file is damaged or needs another one.
pub fn open(file: File, format: Format, writable: bool) -> Result<Box<dyn Disk>, DiskError> {
    match format {
        Format::Raw => Ok(Box::new(raw::Raw::new(file))),
        Format::Vhd => vhd::open(file, writable),
        Format::Vhdx => vhdx::open(file, writable),
    }
}

/// Fails where a range is not within a disk of `size` bytes.
fn check_range(offset: u64, length: u64, size: u64) -> io::Result<()> {
    match offset.checked_add(length) {
        Some(end) if end <= size => Ok(()),
        _ => Err(io::ErrorKind::InvalidInput.into()),
    }
}

/// A number from a run of bytes that the caller knows to be long enough; shorter ones read
/// as zero.
macro_rules! number {
    ($name:ident, $kind:ty, $from:ident) => {
        pub(super) fn $name(bytes: &[u8], at: usize) -> $kind {
            let end = at.saturating_add(size_of::<$kind>());
            let found = bytes.get(at..end).and_then(|bytes| bytes.try_into().ok());
            found.map_or(0, <$kind>::$from)
        }
    };
}
use number;

/// Copies `bytes` to `at` of a buffer that the caller made long enough.
fn put(buffer: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(place) = buffer.get_mut(at..at.saturating_add(bytes.len())) {
        place.copy_from_slice(bytes);
    }
}
