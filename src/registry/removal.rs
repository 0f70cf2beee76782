//! A distro on its way out of the registry.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use uuid::Uuid;

use super::conversion::clear_strays;
use super::distro::partial;
use super::lock::{failed, lock_root};
use super::relocation::delete_elsewhere;
use super::{Distro, RegistryError, State, update};
use crate::config::paths::Paths;
use crate::namespaces::user::Mapping;
use crate::tree::process;

/// Removes a distro and deletes its root, then its directory where that is empty (B058).
/// Another distro becomes the default (B039).
///
/// The record is marked before anything is deleted: a removal that is interrupted leaves
/// no distro that looks usable, and is completed by the next removal or installation.
///
/// # Errors
/// Where there is no such distro, its root is in use, or a file cannot be deleted.
pub fn remove(paths: &Paths, id: Uuid) -> Result<(), RegistryError> {
    let (record, locks) = update::<_, RegistryError>(paths, |registry| {
        let record = registry.record(id).ok_or(RegistryError::NotFound)?;
        let mut locks = Vec::new();
        for path in roots(record) {
            match lock_root(&path) {
                Ok(lock) => locks.push(lock),
                Err(error @ RegistryError::InUse { .. }) => {
                    return Err(record.held_error().unwrap_or(error));
                }
                // Not there, or broken: it is deleted as it is.
                Err(_) => {}
            }
        }
        record.state = State::Uninstalling;
        Ok((record.clone(), locks))
    })?;
    // Outside of the registry's lock: a directory of many files takes its time.
    delete_disk(&record)?;
    drop(locks);
    update(paths, |registry| {
        registry.distros.retain(|distro| distro.id != id);
        if registry.default == Some(id) {
            let next = registry.usable().next().map(|distro| distro.id);
            registry.default = next;
        }
        Ok(())
    })
}

/// All that a distro can have in its directory.
pub(super) fn roots(distro: &Distro) -> Vec<PathBuf> {
    let names = [Some(&distro.disk), distro.leftover.as_ref()];
    let both = |name: &String| [partial(name), name.clone()];
    names.into_iter().flatten().flat_map(both).map(|name| distro.base_path.join(name)).collect()
}

/// Deletes the root, complete or not, with its snapshots, what a conversion or a move left,
/// and the directory where that is then empty.
pub(super) fn delete_disk(distro: &Distro) -> Result<(), RegistryError> {
    for path in roots(distro).into_iter().chain([distro.snapshots_path()]) {
        delete_root(&path)?;
    }
    clear_strays(distro, &distro.base_path);
    remove_directory(&distro.base_path);
    delete_elsewhere(distro)
}

/// Deletes a disk or a root directory, if it is there.
pub(super) fn delete_root(path: &Path) -> Result<(), RegistryError> {
    let metadata = match fs::symlink_metadata(path) {
        Err(error) if is_absent(&error) => return Ok(()),
        metadata => metadata.map_err(|source| failed("delete", path, source))?,
    };
    if !metadata.is_dir() {
        return match fs::remove_file(path) {
            Err(error) if is_absent(&error) => Ok(()),
            result => result.map_err(|source| failed("delete", path, source)),
        };
    }
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Ok(()) };
    process::remove(&Mapping::of_this_user(), parent, name)
        .map_err(|source| RegistryError::Tree { path: path.to_owned(), source })
}

/// Deletes a directory where it is empty; one with other files in it is its owner's.
pub(super) fn remove_directory(path: &Path) {
    let _ = fs::remove_dir(path);
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}
