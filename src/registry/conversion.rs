//! A distro on its way from one root to another: of the other version, of a snapshot, of
//! another size.
//!
//! The old root stays what it is until the new one is complete and on the disk; one
//! replacement of the registry then changes what the distro is. The record names what is
//! no part of the distro, the new root before that instant and the old one after it, so
//! that whoever comes after a kill can tell them apart and clears the right one away.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use uuid::Uuid;

use super::abandoned::clear_abandoned;
use super::distro::{partial, root_name};
use super::hold::lock_distro;
use super::lock::{failed, is_locked, make_root};
use super::removal::delete_root;
use super::{Distro, Registry, RegistryError, update};
use crate::config::paths::Paths;

/// The name of a root directory that takes the place of one of the usual name.
const SECOND_DIRECTORY: &str = "rootfs-2";

/// A distro being converted. Dropped unfinished, it leaves the distro as it was.
#[derive(Debug)]
pub struct Conversion {
    paths: Paths,
    /// As it was.
    record: Distro,
    version: u32,
    /// The new root's name; that of the old one where a file takes its place.
    name: String,
    /// The lock of the old root.
    old: File,
    /// The new root, locked.
    new: File,
    finished: bool,
}

impl Conversion {
    /// Locks the distro's root and makes an empty one of the other sort.
    ///
    /// # Errors
    /// Where there is no such distro, it has that version already, it is in use, or
    /// something of the new root's name is there.
    pub fn begin(paths: &Paths, id: Uuid, version: u32) -> Result<Self, RegistryError> {
        Self::begin_as(paths, id, |record| {
            if record.version == version {
                return Err(RegistryError::SameVersion { name: record.name.clone(), version });
            }
            Ok((version, root_name(version).to_owned()))
        })
    }

    /// The same for a root of any version: a disk of the name `disk` (version 2), or a
    /// directory where there is none. A disk of the name that the old one has takes its
    /// place.
    ///
    /// # Errors
    /// As [`Conversion::begin`].
    pub fn replace(paths: &Paths, id: Uuid, disk: Option<&str>) -> Result<Self, RegistryError> {
        Self::begin_as(paths, id, |record| {
            Ok(match disk {
                Some(name) => (2, name.to_owned()),
                None if record.disk == root_name(1) => (1, SECOND_DIRECTORY.to_owned()),
                None => (1, root_name(1).to_owned()),
            })
        })
    }

    fn begin_as(
        paths: &Paths,
        id: Uuid,
        choose: impl FnOnce(&Distro) -> Result<(u32, String), RegistryError>,
    ) -> Result<Self, RegistryError> {
        update(paths, |registry| {
            clear_abandoned(registry, paths);
            let record = registry.by_id(id)?.clone();
            let (version, name) = choose(&record)?;
            let old = lock_distro(&record)?;
            let new = record.base_path.join(&name);
            if name != record.disk && new.symlink_metadata().is_ok() {
                return Err(RegistryError::DiskExists { path: new });
            }
            if version == 1 {
                super::installation::make_private(&record.base_path)?;
            }
            let new = make_root(&record.base_path.join(partial(&name)), version == 1)?;
            if let Some(record) = registry.record(id) {
                record.leftover = Some(name.clone());
            }
            Ok(Self { paths: paths.clone(), record, version, name, old, new, finished: false })
        })
    }

    /// The distro as it was.
    #[must_use]
    pub fn record(&self) -> &Distro {
        &self.record
    }

    /// The old root, open for reading.
    #[must_use]
    pub fn old(&self) -> &File {
        &self.old
    }

    /// What the new root is written to: a file, or an empty directory.
    #[must_use]
    pub fn new_root(&self) -> &File {
        &self.new
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.record.base_path.join(partial(&self.name))
    }

    /// Makes the new root the distro's and deletes the old one; one that cannot be deleted
    /// now is cleared away by the next installation or conversion.
    ///
    /// # Errors
    /// Where a file cannot be written. The distro is then as it was.
    pub fn finish(self) -> Result<Distro, RegistryError> {
        self.finish_with(|_| {})
    }

    /// The same, with whatever else changes of the record.
    ///
    /// # Errors
    /// As [`Conversion::finish`].
    pub fn finish_with(
        mut self,
        change: impl FnOnce(&mut Distro),
    ) -> Result<Distro, RegistryError> {
        let path = self.path();
        let name = self.name.clone();
        self.new.sync_all().map_err(|source| failed("write", &path, source))?;
        let id = self.record.id;
        let record = update::<_, RegistryError>(&self.paths, |registry| {
            let record = registry.record(id).ok_or(RegistryError::NotFound)?;
            let new = record.base_path.join(&name);
            fs::rename(&path, &new)
                .and_then(|()| File::open(&record.base_path)?.sync_all())
                .map_err(|source| failed("create", &new, source))?;
            record.version = self.version;
            let old = std::mem::replace(&mut record.disk, name);
            record.leftover = Some(old).filter(|old| *old != record.disk);
            change(record);
            Ok(record.clone())
        })?;
        self.finished = true;
        if record.leftover.is_some() && delete_root(&self.record.disk_path()).is_ok() {
            // Else it is deleted again, which is no harm.
            let _ = update::<_, RegistryError>(&self.paths, |registry| {
                forget_leftover(registry, id);
                Ok(())
            });
        }
        Ok(Distro { leftover: None, ..record })
    }

    /// What undoes this conversion when the process is told to end.
    pub fn undo(&self) -> impl FnOnce() + Send + 'static {
        let (paths, record, name) = (self.paths.clone(), self.record.clone(), self.name.clone());
        move || undo(&paths, &record, &name)
    }
}

#[cfg(test)]
impl Conversion {
    /// What `kill -9` leaves.
    pub(super) fn kill(self) {
        let conversion = std::mem::ManuallyDrop::new(self);
        conversion.old.unlock().unwrap();
        conversion.new.unlock().unwrap();
    }
}

impl Drop for Conversion {
    fn drop(&mut self) {
        if !self.finished {
            undo(&self.paths, &self.record, &self.name);
        }
    }
}

/// Deletes what a conversion of a distro in that directory made and was killed before it was
/// recorded.
pub(super) fn clear_strays(distro: &Distro, directory: &Path) {
    for name in [root_name(1), SECOND_DIRECTORY, root_name(2), distro.disk.as_str()] {
        let path = directory.join(partial(name));
        if path.symlink_metadata().is_ok() && !is_locked(&path) {
            let _ = delete_root(&path);
        }
    }
}

/// Takes back a conversion that has not happened.
fn undo(paths: &Paths, record: &Distro, name: &str) {
    let _ = update::<_, RegistryError>(paths, |registry| {
        let unchanged = registry.by_id(record.id).is_ok_and(|now| now.disk == record.disk);
        if unchanged {
            delete_root(&record.base_path.join(partial(name)))?;
            if name != record.disk {
                delete_root(&record.base_path.join(name))?;
            }
            forget_leftover(registry, record.id);
        }
        Ok(())
    });
}

fn forget_leftover(registry: &mut Registry, id: Uuid) {
    if let Some(record) = registry.record(id) {
        record.leftover = None;
    }
}
