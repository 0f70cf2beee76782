//! Where a disk's bytes are.

use std::fmt;
use std::fs::File;
use std::io::{self, Seek as _, SeekFrom};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt as _;

use nix::fcntl::{FallocateFlags, fallocate};

use crate::devices::buffers::Buffers;

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

/// A file, or a block device, that holds the disk's bytes as they are.
#[derive(Debug)]
pub struct RawFile {
    file: File,
}

impl RawFile {
    /// Takes over the file. Locking it is the caller's; the lock ends with the file,
    /// which is closed when the disk is detached.
    #[must_use]
    pub fn new(file: File) -> Self {
        Self { file }
    }

    fn write_zeroes(&self, mut offset: u64, length: u64) -> io::Result<()> {
        const CHUNK: u64 = 1 << 20;
        let zeroes = vec![0; CHUNK.min(length) as usize];
        let end = offset.saturating_add(length);
        while offset < end {
            let count = CHUNK.min(end - offset) as usize;
            self.file.write_all_at(zeroes.get(..count).unwrap_or(&zeroes), offset)?;
            offset += count as u64;
        }
        Ok(())
    }
}

impl Backend for RawFile {
    fn length(&self) -> io::Result<u64> {
        // Unlike `fstat`, seeking knows the length of a block device. Nothing else uses
        // the file's position.
        (&self.file).seek(SeekFrom::End(0))
    }

    fn read(&self, into: &mut Buffers<'_>, mut offset: u64, wait: bool) -> io::Result<()> {
        let flags = if wait { 0 } else { libc::RWF_NOWAIT };
        while !into.is_empty() {
            match into.read_at(self.file.as_fd(), offset, flags) {
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

    fn write(&self, from: &mut Buffers<'_>, mut offset: u64) -> io::Result<()> {
        while !from.is_empty() {
            match from.write_at(self.file.as_fd(), offset, 0)? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                count => offset = offset.saturating_add(count as u64),
            }
        }
        Ok(())
    }

    fn write_bytes(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)
    }

    fn flush(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn discard(&self, offset: u64, length: u64) -> io::Result<()> {
        if length == 0 {
            return Ok(());
        }
        let out_of_range = || io::Error::from(io::ErrorKind::InvalidInput);
        let start = i64::try_from(offset).map_err(|_| out_of_range())?;
        let count = i64::try_from(length).map_err(|_| out_of_range())?;
        let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        match fallocate(&self.file, flags, start, count) {
            Err(nix::errno::Errno::EOPNOTSUPP | nix::errno::Errno::ENOSYS) => {
                self.write_zeroes(offset, length)
            }
            result => Ok(result?),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    #[test]
    fn discarding_gives_the_space_back_and_reads_zero() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&vec![7; 1 << 20], 0).unwrap();
        file.sync_all().unwrap();
        let before = file.metadata().unwrap().blocks();
        let disk = RawFile::new(file);
        disk.discard(4096, (1 << 20) - 8192).unwrap();
        assert!(disk.file.metadata().unwrap().blocks() < before / 4);
        assert_eq!(disk.length().unwrap(), 1 << 20);
        let mut byte = [0; 1];
        for (offset, expected) in [(4095, 7), (4096, 0), ((1 << 20) - 4097, 0)] {
            disk.file.read_exact_at(&mut byte, offset).unwrap();
            assert_eq!(byte, [expected]);
        }
    }

    #[test]
    fn zeroes_are_written_where_holes_cannot_be_made() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&vec![7; 3 << 20], 0).unwrap();
        let disk = RawFile::new(file);
        disk.write_zeroes(1, (2 << 20) + 5).unwrap();
        let mut content = vec![1; 3 << 20];
        disk.file.read_exact_at(&mut content, 0).unwrap();
        let zeroes = content.iter().filter(|byte| **byte == 0).count();
        assert_eq!((content[0], zeroes, content[(2 << 20) + 6]), (7, (2 << 20) + 5, 7));
    }
}
