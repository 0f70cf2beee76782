//! The disk that the machine swaps to: `swap` and `swapFile` of `.wslconfig` (B098, B099).
//!
//! Without a name it is a file that nobody else can see and that takes only what is swapped
//! out; it goes with the machine. A file of the user's own is made or resized and kept.
//! Whatever is wrong is a warning, and the machine runs without.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use uuid::Uuid;

use crate::disk::{self, Disk, DiskError, Format, vhdx};
use crate::error::chain;

/// What a page is to the kernel of an x86-64.
const PAGE: u64 = 4096;

/// The smallest swap that the kernel takes, in bytes.
const MINIMUM: u64 = 10 * PAGE;

/// The last bytes of the first page of a swap disk (`union swap_header`).
const SIGNATURE: &[u8; 10] = b"SWAPSPACE2";

#[derive(Debug, thiserror::Error)]
enum SwapError {
    #[error(transparent)]
    Disk(#[from] DiskError),
    #[error("it holds something else than a swap disk")]
    Foreign,
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("another machine uses it")]
    InUse,
}

/// Prepares a disk of `size` bytes: in `file`, else in a nameless file in `directory`. None
/// where none is wanted.
///
/// # Errors
/// The warning.
pub fn prepare(
    size: u64,
    file: Option<&Path>,
    directory: &Path,
) -> Result<Option<Box<dyn Disk>>, String> {
    let size = size / PAGE * PAGE;
    if size < MINIMUM {
        return Ok(None);
    }
    let (made, place) = match file {
        Some(path) => (of_user(path, size), path),
        None => (nameless(directory, size), directory),
    };
    made.map(Some).map_err(|error| {
        format!("Failed to create the swap disk in '{}': {}", place.display(), chain(&error))
    })
}

fn nameless(directory: &Path, size: u64) -> Result<Box<dyn Disk>, SwapError> {
    let file = tempfile::tempfile_in(directory)?;
    file.set_len(size)?;
    format(disk::open(file, Format::Raw, true)?, size)
}

fn of_user(path: &Path, size: u64) -> Result<Box<dyn Disk>, SwapError> {
    let mut options = OpenOptions::new();
    let options = options.read(true).write(true).create(true).truncate(false).mode(0o600);
    // A FIFO must not hold the start up.
    let file = options.custom_flags(libc::O_NONBLOCK).open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(SwapError::Foreign);
    }
    file.try_lock().map_err(|_| SwapError::InUse)?;
    let kind = Format::of(path);
    if metadata.len() > 0 && !is_swap(disk::open(file.try_clone()?, kind, false)?.as_ref()) {
        return Err(SwapError::Foreign);
    }
    match kind {
        Format::Raw => file.set_len(size)?,
        // What was swapped out is worth nothing any more.
        Format::Vhdx => {
            file.set_len(0)?;
            vhdx::create(&file, &vhdx::Options::new(size))?;
        }
        Format::Vhd => return Err(SwapError::Foreign),
    }
    format(disk::open(file, kind, true)?, size)
}

fn is_swap(disk: &dyn Disk) -> bool {
    let mut found = [0; SIGNATURE.len()];
    disk.length().is_ok_and(|length| length >= PAGE)
        && disk.read_at(&mut found, PAGE - SIGNATURE.len() as u64).is_ok()
        && found == *SIGNATURE
}

/// Writes the header of an empty swap.
fn format(disk: Box<dyn Disk>, size: u64) -> Result<Box<dyn Disk>, SwapError> {
    let last = u32::try_from(size / PAGE - 1).unwrap_or(u32::MAX);
    // After the boot sector's room: version, last page, bad pages, identity.
    let mut header = [1_u32.to_le_bytes(), last.to_le_bytes(), 0_u32.to_le_bytes()].concat();
    header.extend_from_slice(Uuid::new_v4().as_bytes());
    disk.write_at(&header, 1024)?;
    disk.write_at(SIGNATURE, PAGE - SIGNATURE.len() as u64)?;
    Ok(disk)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// The size in pages that the header tells.
    fn pages(disk: &dyn Disk) -> u32 {
        let mut bytes = [0; 4];
        disk.read_at(&mut bytes, 1028).unwrap();
        u32::from_le_bytes(bytes) + 1
    }

    #[test]
    fn b098_a_file_of_the_users_own_is_resized_and_kept() {
        let directory = tempfile::tempdir().unwrap();
        for name in ["swap.img", "swap.vhdx"] {
            let path = directory.path().join(name);
            for size in [100 << 20, 256 << 20, 200 << 20] {
                let disk = prepare(size, Some(&path), directory.path()).unwrap().unwrap();
                assert_eq!(
                    (disk.length().unwrap(), u64::from(pages(disk.as_ref()))),
                    (size, size / PAGE)
                );
                let error = prepare(size, Some(&path), directory.path()).unwrap_err();
                assert!(error.ends_with("another machine uses it"), "{error}");
            }
            assert!(path.exists());
        }
    }

    #[test]
    fn b099_no_swap_and_one_that_cannot_be_made() {
        let directory = tempfile::tempdir().unwrap();
        assert!(prepare(0, None, directory.path()).unwrap().is_none());
        let path = directory.path().join("none/swap");
        let error = prepare(200 << 20, Some(&path), directory.path()).unwrap_err();
        let wanted = format!("Failed to create the swap disk in '{}': ", path.display());
        assert!(error.starts_with(&wanted), "{error}");
        // Nothing that is not a swap is written to.
        let path = directory.path().join("letter");
        fs::write(&path, vec![7; 8192]).unwrap();
        prepare(200 << 20, Some(&path), directory.path()).unwrap_err();
        assert_eq!(fs::read(&path).unwrap(), vec![7; 8192]);
        prepare(200 << 20, Some(directory.path()), directory.path()).unwrap_err();
    }

    #[test]
    fn a_nameless_disk_takes_no_room_and_has_no_name() {
        let directory = tempfile::tempdir().unwrap();
        let disk = prepare((1 << 30) + 5, None, directory.path()).unwrap().unwrap();
        assert_eq!(disk.length().unwrap(), 1 << 30);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}
