//! The memory that a disk's bytes go to or come from.
//!
//! A disk's format says where in the file a byte is; these move it. For a guest's memory
//! the kernel moves the bytes itself, without a copy in between.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt as _;

use crate::devices::buffers::Buffers;

/// Memory that is filled from its front.
pub trait Destination {
    /// The bytes left.
    fn left(&self) -> usize;

    /// Fills the next `count` bytes, at most those left, from `offset` of the file. With
    /// `wait` false, fails with `WouldBlock` instead of waiting for the host's storage.
    ///
    /// # Errors
    /// Where not all could be read; the file's end is `UnexpectedEof`.
    fn fill(&mut self, file: &File, offset: u64, count: usize, wait: bool) -> io::Result<()>;

    /// Fills the next `count` bytes, at most those left, with zeroes.
    fn zero(&mut self, count: usize);
}

/// Memory that is used up from its front.
pub trait Source {
    /// The bytes left.
    fn left(&self) -> usize;

    /// Writes the next `count` bytes, at most those left, at `offset` of the file.
    ///
    /// # Errors
    /// Where not all could be written.
    fn drain(&mut self, file: &File, offset: u64, count: usize) -> io::Result<()>;
}

impl Destination for Buffers<'_> {
    fn left(&self) -> usize {
        self.length()
    }

    fn fill(&mut self, file: &File, mut offset: u64, count: usize, wait: bool) -> io::Result<()> {
        let flags = if wait { 0 } else { libc::RWF_NOWAIT };
        let mut front = self.take(count);
        while !front.is_empty() {
            match front.read_at(file.as_fd(), offset, flags) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => offset = offset.saturating_add(count as u64),
                Err(error) if !wait && error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
                    return Err(io::ErrorKind::WouldBlock.into());
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn zero(&mut self, count: usize) {
        Buffers::zero(&mut self.take(count));
    }
}

impl Source for Buffers<'_> {
    fn left(&self) -> usize {
        self.length()
    }

    fn drain(&mut self, file: &File, mut offset: u64, count: usize) -> io::Result<()> {
        let mut front = self.take(count);
        while !front.is_empty() {
            match front.write_at(file.as_fd(), offset, 0)? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                count => offset = offset.saturating_add(count as u64),
            }
        }
        Ok(())
    }
}

impl Destination for &mut [u8] {
    fn left(&self) -> usize {
        self.len()
    }

    fn fill(&mut self, file: &File, offset: u64, count: usize, wait: bool) -> io::Result<()> {
        if !wait {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let count = count.min(self.len());
        let (front, rest) = std::mem::take(self).split_at_mut(count);
        *self = rest;
        file.read_exact_at(front, offset)
    }

    fn zero(&mut self, count: usize) {
        let count = count.min(self.len());
        let (front, rest) = std::mem::take(self).split_at_mut(count);
        *self = rest;
        front.fill(0);
    }
}

impl Source for &[u8] {
    fn left(&self) -> usize {
        self.len()
    }

    fn drain(&mut self, file: &File, offset: u64, count: usize) -> io::Result<()> {
        let (front, rest) = self.split_at(count.min(self.len()));
        *self = rest;
        file.write_all_at(front, offset)
    }
}
