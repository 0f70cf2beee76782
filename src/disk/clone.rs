//! A file copied as cheaply as the host's file system can: its blocks shared, else its
//! data copied inside the kernel and its holes left out.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::statvfs::fstatvfs;

use super::raw::{data_or_hole, punch};
use crate::error::{Diagnose, io_code};

/// How much is copied at a time, between two reports.
const CHUNK: usize = 16 << 20;

mod ioctl {
    // FICLONE of <linux/fs.h>.
    nix::ioctl_write_int_bad!(share, nix::request_code_write!(0x94, 9, size_of::<libc::c_int>()));
}

/// Why a file cannot be copied.
#[derive(Debug, thiserror::Error)]
pub enum CloneError {
    /// The host's disk has too little room.
    #[error(
        "'{}' has {} MB free, and {} MB are needed",
        path.display(), available >> 20, needed.div_ceil(1 << 20)
    )]
    Space {
        /// Where.
        path: PathBuf,
        /// In bytes.
        available: u64,
        /// In bytes.
        needed: u64,
    },
    /// A system call failed.
    #[error("cannot write '{}'", path.display())]
    Io {
        /// What is written.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl Diagnose for CloneError {
    fn code(&self) -> &'static str {
        match self {
            Self::Space { .. } => "ERROR_DISK_FULL",
            Self::Io { source, .. } => io_code(source),
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Space { .. } => Some("free some space".to_owned()),
            Self::Io { .. } => None,
        }
    }
}

/// Makes the empty file `to`, which is at `path`, a copy of `from`. `moved` is told of
/// every run of bytes that is done. The caller syncs it.
///
/// # Errors
/// Where the host's disk has too little room, or a file cannot be read or written.
pub fn clone(
    from: &File,
    to: &File,
    path: &Path,
    mut moved: impl FnMut(u64),
) -> Result<(), CloneError> {
    let metadata = from.metadata().map_err(|source| failed(path, source))?;
    if share(from, to) {
        moved(metadata.len());
        return Ok(());
    }
    check_space(to, path, metadata.blocks() * 512)?;
    copy(from, to, metadata.len(), &mut moved).map_err(|source| failed(path, source))
}

/// Checks that the file system of an open file has room for `needed` bytes.
///
/// # Errors
/// [`CloneError::Space`].
pub fn check_space(on: &File, path: &Path, needed: u64) -> Result<(), CloneError> {
    let Ok(status) = fstatvfs(on) else { return Ok(()) };
    let available = status.blocks_available().saturating_mul(status.fragment_size());
    if available >= needed {
        return Ok(());
    }
    let path = path.parent().unwrap_or(Path::new("/")).to_owned();
    Err(CloneError::Space { path, available, needed })
}

fn failed(path: &Path, source: io::Error) -> CloneError {
    CloneError::Io { path: path.to_owned(), source }
}

/// Lets `to` have the blocks of `from`. False where the file system cannot.
fn share(from: &File, to: &File) -> bool {
    // SAFETY: both descriptors are open for as long as the call takes, and it takes no
    // pointer.
    unsafe { ioctl::share(to.as_raw_fd(), from.as_raw_fd()) }.is_ok()
}

/// Copies the data, and leaves holes where there is none.
fn copy(from: &File, to: &File, length: u64, moved: &mut impl FnMut(u64)) -> io::Result<()> {
    to.set_len(length)?;
    let mut offset = 0;
    while offset < length {
        let extent = data_or_hole(from, offset, length)?;
        if extent.length == 0 {
            break;
        }
        let end = offset + extent.length;
        while extent.data && offset < end {
            let count = copy_range(from, to, offset, (end - offset).min(CHUNK as u64) as usize)?;
            offset += count;
            moved(count);
        }
        if !extent.data {
            moved(extent.length);
        }
        offset = end;
    }
    Ok(())
}

/// Copies at most `count` bytes at `offset`; gives how many.
fn copy_range(from: &File, to: &File, offset: u64, count: usize) -> io::Result<u64> {
    let place = i64::try_from(offset).map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))?;
    let (mut source, mut target) = (place, place);
    match nix::fcntl::copy_file_range(from, Some(&mut source), to, Some(&mut target), count) {
        Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
        Ok(copied) => Ok(copied as u64),
        Err(Errno::EXDEV | Errno::EINVAL | Errno::ENOSYS | Errno::EOPNOTSUPP) => {
            copy_bytes(from, to, offset, count)
        }
        Err(error) => Err(error.into()),
    }
}

/// The same where the kernel does not copy between the two file systems.
fn copy_bytes(from: &File, to: &File, offset: u64, count: usize) -> io::Result<u64> {
    use std::os::unix::fs::FileExt as _;
    let mut buffer = vec![0; count.min(1 << 20)];
    from.read_exact_at(&mut buffer, offset)?;
    to.write_all_at(&buffer, offset)?;
    Ok(buffer.len() as u64)
}

/// Reserves all blocks of a file of the disk's, so that no write to it can fail for want of
/// space.
///
/// # Errors
/// Where the host's disk has too little room, or cannot reserve.
pub fn reserve(file: &File, path: &Path) -> Result<(), CloneError> {
    let metadata = file.metadata().map_err(|source| failed(path, source))?;
    check_space(file, path, metadata.len().saturating_sub(metadata.blocks() * 512))?;
    let length = i64::try_from(metadata.len()).unwrap_or(i64::MAX);
    let flags = nix::fcntl::FallocateFlags::empty();
    nix::fcntl::fallocate(file, flags, 0, length)
        .map_err(|error| failed(path, io::Error::from(error)))
}

/// Gives back all blocks of a file that hold nothing but zeroes because nothing was ever
/// written to them.
///
/// # Errors
/// Where it cannot be read or written.
pub fn release(file: &File, path: &Path) -> Result<(), CloneError> {
    let work = || -> io::Result<()> {
        let length = file.metadata()?.len();
        let mut offset = 0;
        while offset < length {
            let extent = data_or_hole(file, offset, length)?;
            if extent.length == 0 {
                break;
            }
            if !extent.data {
                punch(file, offset, extent.length)?;
            }
            offset += extent.length;
        }
        Ok(())
    };
    work().map_err(|source| failed(path, source))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt as _;

    use super::*;

    /// A file with data at both ends and a hole between.
    fn holed() -> File {
        let file = tempfile::tempfile().unwrap();
        file.set_len(64 << 20).unwrap();
        file.write_all_at(&[7; 10_000], 0).unwrap();
        file.write_all_at(&[8; 3], (64 << 20) - 3).unwrap();
        file.sync_all().unwrap();
        file
    }

    #[test]
    fn a_copy_has_the_same_data_and_the_same_holes() {
        let (from, to) = (holed(), tempfile::tempfile().unwrap());
        let mut told = 0;
        copy(&from, &to, 64 << 20, &mut |count| told += count).unwrap();
        to.sync_all().unwrap();
        assert_eq!(told, 64 << 20);
        assert!(to.metadata().unwrap().blocks() < 1000);
        let mut bytes = vec![0; 10_001];
        to.read_exact_at(&mut bytes, 0).unwrap();
        assert_eq!((bytes[9_999], bytes[10_000]), (7, 0));
        to.read_exact_at(&mut bytes[..4], (64 << 20) - 4).unwrap();
        assert_eq!(bytes[..4], [0, 8, 8, 8]);
    }

    #[test]
    fn bytes_are_copied_where_the_kernel_does_not() {
        let (from, to) = (holed(), tempfile::tempfile().unwrap());
        assert_eq!(copy_bytes(&from, &to, 9_000, 500).unwrap(), 500);
        let mut bytes = [0; 500];
        to.read_exact_at(&mut bytes, 9_000).unwrap();
        assert_eq!(bytes, [7; 500]);
    }

    #[test]
    fn what_does_not_fit_is_refused_before_it_is_begun() {
        let file = tempfile::tempfile().unwrap();
        let error = check_space(&file, Path::new("/x/disk"), u64::MAX).unwrap_err();
        assert_eq!(error.code(), "ERROR_DISK_FULL");
        assert!(error.to_string().starts_with("'/x' has "), "{error}");
    }

    #[test]
    fn reserved_blocks_are_given_back() {
        let file = holed();
        reserve(&file, Path::new("disk")).unwrap();
        assert!(file.metadata().unwrap().blocks() >= (64 << 20) / 512);
        release(&file, Path::new("disk")).unwrap();
        assert!(file.metadata().unwrap().blocks() < 1000);
    }
}
