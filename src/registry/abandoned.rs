//! What became of installers, converters and removers that died, and clearing up after them.
//!
//! Whoever works on a distro holds the lock of a root of it, so a root or a record without
//! one that says otherwise is abandoned. The next change of the registry clears it away.

use std::fs;
use std::path::PathBuf;

use uuid::Uuid;

use super::conversion::clear_strays;
use super::distro::{partial, root_name};
use super::lock::is_locked;
use super::relocation::clear_elsewhere;
use super::removal::{delete_disk, delete_root, remove_directory, roots};
use super::snapshots::clear_snapshots;
use super::{Distro, Registry, State};
use crate::config::paths::Paths;

/// Clears away what installers, converters and removers left that do not live any more,
/// as far as it can be deleted. The registry's lock is held, so none is between two of
/// its steps.
pub(super) fn clear_abandoned(registry: &mut Registry, paths: &Paths) {
    registry.distros.retain(|distro| !distro.is_abandoned() || delete_disk(distro).is_err());
    for distro in &mut registry.distros {
        clear_leftover(distro);
        if distro.state == State::Installed && distro.leftover.is_none() {
            clear_strays(distro, &distro.base_path);
        }
        distro.activity = distro.held_for();
        clear_elsewhere(distro);
        clear_snapshots(distro);
    }
    // A directory that never came to a record.
    let Ok(directories) = fs::read_dir(paths.distros()) else { return };
    for directory in directories.flatten() {
        let id = directory.file_name().to_str().and_then(|name| Uuid::try_parse(name).ok());
        let unknown = |id: &Uuid| registry.distros.iter().all(|distro| distro.id != *id);
        if id.filter(unknown).is_some() {
            let partial = |version| directory.path().join(partial(root_name(version)));
            if delete_root(&partial(1)).is_ok() && delete_root(&partial(2)).is_ok() {
                remove_directory(&directory.path());
            }
        }
    }
}

/// Deletes what a conversion left that does not live any more.
fn clear_leftover(distro: &mut Distro) {
    let Some(name) = &distro.leftover else { return };
    let mut left = vec![partial(name)];
    // A file that was to take the root's place has its name.
    if *name != distro.disk {
        left.push(name.clone());
    }
    let left: Vec<PathBuf> = left.iter().map(|name| distro.base_path.join(name)).collect();
    // A conversion holds one of them until the record is right.
    if left.iter().any(|path| is_locked(path)) {
        return;
    }
    if left.iter().all(|path| delete_root(path).is_ok()) {
        distro.leftover = None;
    }
}

impl Distro {
    /// Whether somebody converts it to the other version now.
    #[must_use]
    pub fn is_converting(&self) -> bool {
        let path = |name: &String| self.base_path.join(partial(name));
        self.leftover.as_ref().is_some_and(|name| is_locked(&path(name)))
    }

    /// Whether whoever installed or removed it has died. The next installation clears it
    /// away.
    #[must_use]
    pub fn is_abandoned(&self) -> bool {
        match self.state {
            State::Installed => false,
            // Whoever installs or removes it holds the lock of its root.
            State::Installing | State::Uninstalling => {
                !roots(self).iter().any(|path| is_locked(path))
            }
        }
    }
}
