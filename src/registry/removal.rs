//! A distro on its way out of the registry.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::Path;

use uuid::Uuid;

use super::{Distro, RegistryError, State, update};
use crate::config::paths::Paths;

/// Removes a distro and deletes its disk, then its directory where that is empty (B058).
/// Another distro becomes the default (B039).
///
/// The record is marked before the disk is deleted: a removal that is interrupted leaves
/// no distro that looks usable, and is completed by the next removal or installation.
///
/// # Errors
/// Where there is no such distro, its disk is in use, or a file cannot be deleted.
pub fn remove(paths: &Paths, id: Uuid) -> Result<(), RegistryError> {
    let record = update::<_, RegistryError>(paths, |registry| {
        let record = registry.record(id).ok_or(RegistryError::NotFound)?;
        check_unused(&record.disk_path())?;
        check_unused(&record.partial_disk_path())?;
        record.state = State::Uninstalling;
        Ok(record.clone())
    })?;
    update(paths, |registry| {
        delete_disk(&record)?;
        registry.distros.retain(|distro| distro.id != id);
        if registry.default == Some(id) {
            let next = registry.usable().next().map(|distro| distro.id);
            registry.default = next;
        }
        Ok(())
    })
}

/// Deletes the disk, complete or not, and the directory where that is then empty.
pub(super) fn delete_disk(distro: &Distro) -> Result<(), RegistryError> {
    for path in [distro.partial_disk_path(), distro.disk_path()] {
        match fs::remove_file(&path) {
            Err(error) if is_absent(&error) => {}
            Err(source) => return Err(RegistryError::Io { action: "delete", path, source }),
            Ok(()) => {}
        }
    }
    remove_directory(&distro.base_path);
    Ok(())
}

/// Deletes a directory where it is empty; one with other files in it is its owner's.
pub(super) fn remove_directory(path: &Path) {
    let _ = fs::remove_dir(path);
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// Whoever uses a disk holds its lock.
fn check_unused(path: &Path) -> Result<(), RegistryError> {
    let Ok(file) = File::open(path) else { return Ok(()) };
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => Err(RegistryError::InUse { path: path.to_owned() }),
        _ => Ok(()),
    }
}
