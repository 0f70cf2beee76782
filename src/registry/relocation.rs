//! A distro on its way to another directory.
//!
//! The record names the other directory from before the first step to after the last one,
//! and of two directories the one that has the root is the distro's ([`Distro::settle`]).
//! On one file system a rename is the instant; across two the new directory becomes the
//! distro's when its copy is complete. A kill leaves at most a copy that whoever comes
//! after clears away.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use uuid::Uuid;

use super::abandoned::clear_abandoned;
use super::conversion::clear_strays;
use super::distro::{SNAPSHOTS, partial};
use super::hold::lock_distro;
use super::installation::make_private;
use super::lock::{failed, is_locked, make_root};
use super::removal::{delete_root, remove_directory};
use super::snapshots::{Snapshot, copy_description};
use super::{Distro, RegistryError, update};
use crate::config::paths::Paths;

/// A distro being moved. Dropped unfinished, it leaves the distro where it was.
#[derive(Debug)]
pub struct Relocation {
    paths: Paths,
    /// As it was.
    record: Distro,
    to: PathBuf,
    /// The lock of the root.
    old: File,
    finished: bool,
}

impl Relocation {
    /// Locks the distro's root and makes the new directory (B095).
    ///
    /// # Errors
    /// Where there is no such distro, it is in use, or the directory cannot be had or has
    /// something of the names that the distro's parts will have.
    pub fn begin(paths: &Paths, id: Uuid, to: &Path) -> Result<Self, RegistryError> {
        update(paths, |registry| {
            clear_abandoned(registry, paths);
            let record = registry.by_id(id)?.clone();
            let old = lock_distro(&record)?;
            let is_new = to.symlink_metadata().is_err();
            fs::create_dir_all(to).map_err(|source| failed("create", to, source))?;
            let to = to.canonicalize().map_err(|source| failed("open", to, source))?;
            let checked = check(registry.distros.iter(), &record, &to)
                .and_then(|()| if record.version == 1 { make_private(&to) } else { Ok(()) });
            if let Err(error) = checked {
                if is_new {
                    remove_directory(&to);
                }
                return Err(error);
            }
            if let Some(record) = registry.record(id) {
                record.elsewhere = Some(to.clone());
            }
            Ok(Self { paths: paths.clone(), record, to, old, finished: false })
        })
    }

    /// The distro as it was.
    #[must_use]
    pub fn record(&self) -> &Distro {
        &self.record
    }

    /// Where it goes.
    #[must_use]
    pub fn to(&self) -> &Path {
        &self.to
    }

    /// Its root, open for reading.
    #[must_use]
    pub fn old(&self) -> &File {
        &self.old
    }

    /// Moves everything at once. False where the new directory is on another file system,
    /// to which it must be copied.
    ///
    /// # Errors
    /// Where it cannot be moved.
    pub fn rename(&mut self) -> Result<bool, RegistryError> {
        let from = self.record.disk_path();
        let new = self.to.join(&self.record.disk);
        match fs::rename(&from, &new) {
            Err(error) if error.kind() == io::ErrorKind::CrossesDevices => return Ok(false),
            result => result.map_err(|source| failed("move", &from, source))?,
        }
        for directory in [&self.to, &self.record.base_path] {
            let synced = File::open(directory).and_then(|directory| directory.sync_all());
            synced.map_err(|source| failed("write", directory, source))?;
        }
        self.finished = true;
        self.switch()?;
        Ok(true)
    }

    /// Makes the empty, locked root that is copied to.
    ///
    /// # Errors
    /// Where it cannot be made.
    pub fn root(&self) -> Result<File, RegistryError> {
        make_root(&self.to.join(partial(&self.record.disk)), self.record.version == 1)
    }

    /// Makes the empty root that a snapshot's is copied to.
    ///
    /// # Errors
    /// Where it cannot be made.
    pub fn snapshot_root(&self, snapshot: &Snapshot) -> Result<File, RegistryError> {
        let directory = self.to.join(partial(SNAPSHOTS)).join(&snapshot.name);
        fs::create_dir_all(&directory).map_err(|source| failed("create", &directory, source))?;
        make_private(&directory)?;
        copy_description(&self.record, snapshot, &directory)?;
        make_root(&directory.join(&snapshot.disk), snapshot.version == 1)
    }

    /// Makes the copy the distro and deletes what it was copied from; what cannot be
    /// deleted now is cleared away by the next installation or move.
    ///
    /// # Errors
    /// Where a file cannot be written. The distro is then where it was.
    pub fn finish(mut self, root: &File) -> Result<(), RegistryError> {
        let path = self.to.join(partial(&self.record.disk));
        root.sync_all().map_err(|source| failed("write", &path, source))?;
        let snapshots = self.to.join(partial(SNAPSHOTS));
        if snapshots.exists() {
            let new = self.to.join(SNAPSHOTS);
            make_private(&snapshots)?;
            fs::rename(&snapshots, &new).map_err(|source| failed("create", &new, source))?;
        }
        let new = self.to.join(&self.record.disk);
        fs::rename(&path, &new)
            .and_then(|()| File::open(&self.to)?.sync_all())
            .map_err(|source| failed("create", &new, source))?;
        self.switch()?;
        self.finished = true;
        Ok(())
    }

    /// What undoes this move when the process is told to end.
    pub fn undo(&self) -> impl FnOnce() + Send + 'static {
        let (paths, id, to) = (self.paths.clone(), self.record.id, self.to.clone());
        move || undo(&paths, id, &to)
    }

    /// Records where the root now is, and brings or deletes the rest.
    fn switch(&self) -> Result<(), RegistryError> {
        let id = self.record.id;
        update::<_, RegistryError>(&self.paths, |registry| {
            let record = registry.record(id).ok_or(RegistryError::NotFound)?;
            // The registry may have found out by itself.
            if record.base_path != self.to {
                record.elsewhere = Some(std::mem::replace(&mut record.base_path, self.to.clone()));
            }
            Ok(())
        })?;
        update::<_, RegistryError>(&self.paths, |registry| {
            if let Some(record) = registry.record(id) {
                tidy(record);
            }
            Ok(())
        })
    }
}

#[cfg(test)]
impl Relocation {
    /// What `kill -9` leaves.
    pub(super) fn kill(self) {
        let relocation = std::mem::ManuallyDrop::new(self);
        relocation.old.unlock().unwrap();
    }
}

impl Drop for Relocation {
    fn drop(&mut self) {
        if !self.finished {
            undo(&self.paths, self.record.id, &self.to);
        }
    }
}

/// Takes back a move that has not happened.
fn undo(paths: &Paths, id: Uuid, to: &Path) {
    let _ = update::<_, RegistryError>(paths, |registry| {
        if let Some(record) = registry.record(id)
            && record.elsewhere.as_deref() == Some(to)
        {
            tidy(record);
        }
        Ok(())
    });
}

/// Checks that a directory can be a distro's.
fn check<'a>(
    mut distros: impl Iterator<Item = &'a Distro>,
    record: &Distro,
    to: &Path,
) -> Result<(), RegistryError> {
    if distros.any(|other| other.base_path == to || other.elsewhere.as_deref() == Some(to)) {
        return Err(RegistryError::LocationInUse { path: to.to_owned() });
    }
    let partials = [partial(&record.disk), partial(SNAPSHOTS)];
    let names = [record.disk.as_str(), "ext4.vhdx", SNAPSHOTS];
    for name in names.into_iter().chain(partials.iter().map(String::as_str)) {
        let path = to.join(name);
        if path.symlink_metadata().is_ok() {
            return Err(RegistryError::DiskExists { path });
        }
    }
    Ok(())
}

/// Clears away what a move left that does not live any more.
pub(super) fn clear_elsewhere(distro: &mut Distro) {
    if distro.elsewhere.is_some() && !is_locked(&distro.disk_path()) {
        tidy(distro);
    }
}

/// Brings a distro's snapshots to its root, and deletes all else that is elsewhere.
fn tidy(distro: &mut Distro) {
    let Some(elsewhere) = distro.elsewhere.clone() else { return };
    // Without a root here what is elsewhere may be all there is.
    if distro.disk_path().symlink_metadata().is_err() {
        return;
    }
    let (theirs, ours) = (elsewhere.join(SNAPSHOTS), distro.snapshots_path());
    if theirs.exists() && !ours.exists() {
        let _ = fs::rename(&theirs, &ours);
    }
    if delete_elsewhere(distro).is_ok() {
        distro.elsewhere = None;
    }
}

/// Deletes what is elsewhere and no part of the distro.
pub(super) fn delete_elsewhere(distro: &Distro) -> Result<(), RegistryError> {
    let Some(elsewhere) = &distro.elsewhere else { return Ok(()) };
    let names =
        [partial(&distro.disk), distro.disk.clone(), partial(SNAPSHOTS), SNAPSHOTS.to_owned()];
    for name in names {
        delete_root(&elsewhere.join(name))?;
    }
    clear_strays(distro, elsewhere);
    remove_directory(elsewhere);
    Ok(())
}
