//! A disk whose bytes stand in the file as they are, alone or with a footer after them.

use std::fs::File;
use std::io::{self, Seek as _, SeekFrom};
use std::os::unix::fs::FileExt as _;

use nix::fcntl::{FallocateFlags, fallocate};

use super::bytes::{Destination, Source};
use super::{Disk, Extent, check_range, writeback};

/// A file, or a block device, that holds the disk's bytes as they are.
#[derive(Debug)]
pub struct Raw {
    file: File,
    /// The disk's length where it is not the file's.
    length: Option<u64>,
    /// The file keeps all of its blocks.
    reserved: bool,
}

impl Raw {
    /// Takes over the file. Locking it is the caller's; the lock ends with the file.
    #[must_use]
    pub fn new(file: File) -> Self {
        Self { file, length: None, reserved: false }
    }

    /// A disk that is only the first `length` bytes of the file.
    #[must_use]
    pub fn with_length(file: File, length: u64) -> Self {
        Self { file, length: Some(length), reserved: false }
    }

    /// A disk whose file keeps all of its blocks: what is discarded reads as zeroes, and
    /// nothing is given back.
    #[must_use]
    pub fn reserved(file: File) -> Self {
        Self { file, length: None, reserved: true }
    }
}

impl Disk for Raw {
    fn length(&self) -> io::Result<u64> {
        match self.length {
            Some(length) => Ok(length),
            // Unlike `fstat`, seeking knows the length of a block device. Nothing else
            // uses the file's position.
            None => (&self.file).seek(SeekFrom::End(0)),
        }
    }

    fn read(&self, into: &mut dyn Destination, offset: u64, wait: bool) -> io::Result<()> {
        self.check(offset, into.left())?;
        into.fill(&self.file, offset, into.left(), wait)
    }

    fn write(&self, from: &mut dyn Source, offset: u64) -> io::Result<()> {
        self.check(offset, from.left())?;
        from.drain(&self.file, offset, from.left())
    }

    fn flush(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn start_flush(&self) {
        writeback::start(&self.file, 0, 0);
    }

    fn discard(&self, offset: u64, length: u64) -> io::Result<()> {
        if let Some(end) = self.length {
            check_range(offset, length, end)?;
        }
        if self.reserved {
            return zero(&self.file, offset, length);
        }
        punch(&self.file, offset, length)
    }

    fn extent(&self, offset: u64) -> io::Result<Extent> {
        let end = self.length()?;
        data_or_hole(&self.file, offset, end)
    }
}

impl Raw {
    /// Keeps a footer from being reached; a file's own end needs no guard.
    fn check(&self, offset: u64, count: usize) -> io::Result<()> {
        match self.length {
            Some(length) => check_range(offset, count as u64, length),
            None => Ok(()),
        }
    }
}

/// Makes a range of a file read as zeroes and gives its blocks back where the file system
/// can.
///
/// # Errors
/// Where part of the range may be unchanged.
pub(super) fn punch(file: &File, offset: u64, length: u64) -> io::Result<()> {
    let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    clear(file, offset, length, flags)
}

/// Makes a range of a file read as zeroes and keeps its blocks.
fn zero(file: &File, offset: u64, length: u64) -> io::Result<()> {
    let flags = FallocateFlags::FALLOC_FL_ZERO_RANGE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    clear(file, offset, length, flags)
}

fn clear(file: &File, offset: u64, length: u64, flags: FallocateFlags) -> io::Result<()> {
    if length == 0 {
        return Ok(());
    }
    let out_of_range = || io::Error::from(io::ErrorKind::InvalidInput);
    let start = i64::try_from(offset).map_err(|_| out_of_range())?;
    let count = i64::try_from(length).map_err(|_| out_of_range())?;
    match fallocate(file, flags, start, count) {
        Err(nix::errno::Errno::EOPNOTSUPP | nix::errno::Errno::ENOSYS) => {
            write_zeroes(file, offset, length)
        }
        result => Ok(result?),
    }
}

fn write_zeroes(file: &File, mut offset: u64, length: u64) -> io::Result<()> {
    const CHUNK: u64 = 1 << 20;
    let zeroes = vec![0; CHUNK.min(length) as usize];
    let end = offset.saturating_add(length);
    while offset < end {
        let count = CHUNK.min(end - offset) as usize;
        file.write_all_at(zeroes.get(..count).unwrap_or(&zeroes), offset)?;
        offset += count as u64;
    }
    Ok(())
}

/// Whether the file's bytes from `offset` are data or a hole, and up to where, at most
/// `end`. All is data where the file system does not tell.
pub(super) fn data_or_hole(file: &File, offset: u64, end: u64) -> io::Result<Extent> {
    use nix::unistd::{Whence, lseek};
    if offset >= end {
        return Ok(Extent { length: 0, data: false });
    }
    let start = i64::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
    let found = |position: i64| u64::try_from(position).unwrap_or(end).min(end);
    let data = match lseek(file, start, Whence::SeekData) {
        Ok(position) => found(position),
        Err(nix::errno::Errno::ENXIO) => end,
        Err(_) => return Ok(Extent { length: end - offset, data: true }),
    };
    if data > offset {
        return Ok(Extent { length: data - offset, data: false });
    }
    let hole = lseek(file, start, Whence::SeekHole).map_or(end, found);
    Ok(Extent { length: hole.max(offset + 1) - offset, data: true })
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
        let disk = Raw::new(file);
        disk.discard(4096, (1 << 20) - 8192).unwrap();
        assert!(disk.file.metadata().unwrap().blocks() < before / 4);
        assert_eq!(disk.length().unwrap(), 1 << 20);
        let mut byte = [0; 1];
        for (offset, expected) in [(4095, 7), (4096, 0), ((1 << 20) - 4097, 0)] {
            disk.read_at(&mut byte, offset).unwrap();
            assert_eq!(byte, [expected]);
        }
    }

    #[test]
    fn a_reserved_disk_keeps_what_is_discarded() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&vec![7; 1 << 20], 0).unwrap();
        file.sync_all().unwrap();
        let before = file.metadata().unwrap().blocks();
        let disk = Raw::reserved(file);
        disk.discard(0, 1 << 20).unwrap();
        assert!(disk.file.metadata().unwrap().blocks() >= before);
        let mut byte = [1; 1];
        disk.read_at(&mut byte, 4096).unwrap();
        assert_eq!(byte, [0]);
    }

    #[test]
    fn zeroes_are_written_where_holes_cannot_be_made() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&vec![7; 3 << 20], 0).unwrap();
        write_zeroes(&file, 1, (2 << 20) + 5).unwrap();
        let mut content = vec![1; 3 << 20];
        file.read_exact_at(&mut content, 0).unwrap();
        let zeroes = content.iter().filter(|byte| **byte == 0).count();
        assert_eq!((content[0], zeroes, content[(2 << 20) + 6]), (7, (2 << 20) + 5, 7));
    }

    #[test]
    fn a_footer_is_out_of_reach() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&[7; 1536], 0).unwrap();
        let disk = Raw::with_length(file, 1024);
        assert_eq!(disk.length().unwrap(), 1024);
        disk.write_at(&[1; 512], 512).unwrap();
        assert!(disk.write_at(&[1; 513], 512).is_err());
        assert!(disk.read_at(&mut [1; 513], 512).is_err());
    }
}
