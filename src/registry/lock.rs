//! The lock of a distro's root: whoever uses, writes or deletes it holds it.
//!
//! It is an `flock` on the disk's file or the root directory itself, so it follows a
//! rename and ends with the last process that has the descriptor.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use super::RegistryError;

/// Opens and locks the root of a distro, a disk or a directory, for reading.
///
/// # Errors
/// [`RegistryError::InUse`], and where it cannot be opened.
pub fn lock_root(path: &Path) -> Result<File, RegistryError> {
    let file = lock(File::open(path).map_err(|source| failed("open", path, source))?, path)?;
    if is_at(&file, path) {
        return Ok(file);
    }
    // It was replaced between the two steps.
    Err(RegistryError::InUse { path: path.to_owned() })
}

/// Whether an open root is still what a path leads to: another one may have taken its
/// place while it was waited for.
pub fn is_at(root: &File, path: &Path) -> bool {
    match (root.metadata(), fs::metadata(path)) {
        (Ok(open), Ok(found)) => (open.dev(), open.ino()) == (found.dev(), found.ino()),
        _ => false,
    }
}

/// Makes and locks what a new root is written to, empty: a directory or a file. What an
/// installer that died left there is used again.
pub(super) fn make_root(path: &Path, is_directory: bool) -> Result<File, RegistryError> {
    let create = |source| failed("create", path, source);
    if is_directory {
        match DirBuilder::new().mode(0o755).create(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            result => result.map_err(create)?,
        }
        let directory = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW)
            .open(path)
            .map_err(create)?;
        let directory = lock(directory, path)?;
        if fs::read_dir(path).map_err(create)?.next().is_some() {
            return Err(RegistryError::DiskExists { path: path.to_owned() });
        }
        // Whatever the mask of this process: it is the root of everybody in the distro.
        directory.set_permissions(Permissions::from_mode(0o755)).map_err(create)?;
        return Ok(directory);
    }
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        // A distro's secrets are in it.
        .mode(0o600)
        .open(path)
        .map_err(create)?;
    let file = lock(file, path)?;
    file.set_len(0).map_err(|source| failed("write", path, source))?;
    Ok(file)
}

/// Whether somebody holds the lock of a root.
pub(super) fn is_locked(path: &Path) -> bool {
    let Ok(file) = File::open(path) else { return false };
    matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock))
}

fn lock(file: File, path: &Path) -> Result<File, RegistryError> {
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(RegistryError::InUse { path: path.to_owned() }),
        Err(TryLockError::Error(source)) => Err(failed("lock", path, source)),
    }
}

pub(super) fn failed(action: &'static str, path: &Path, source: io::Error) -> RegistryError {
    RegistryError::Io { action, path: path.to_owned(), source }
}
