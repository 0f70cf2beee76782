//! A distro's snapshots: copies of its root beside it, each in a directory of its own with
//! a description.
//!
//! One that is being made or deleted has a name that begins with a dot, and no snapshot of
//! that name exists for anybody: becoming one, or ceasing to be one, is one rename. What a
//! kill leaves is cleared away by whoever comes after.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::abandoned::clear_abandoned;
use super::distro::partial;
use super::hold::lock_distro;
use super::installation::make_private;
use super::lock::{failed, is_locked, lock_root, make_root};
use super::removal::{delete_root, remove_directory};
use super::{Distro, RegistryError, check_name, update};
use crate::config::paths::Paths;

/// The file that describes a snapshot.
const DESCRIPTION: &str = "snapshot.json";

/// One snapshot.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Snapshot {
    /// Unique among those of the distro.
    pub name: String,
    /// When it was made, in seconds since 1970.
    pub created: u64,
    /// The bytes that its content takes on the host where none are shared.
    pub size: u64,
    /// The version that the distro had.
    pub version: u32,
    /// The name of the disk or of the root directory in the snapshot's directory.
    pub disk: String,
    /// As the distro's record had it.
    pub default_uid: u32,
    /// As the distro's record had it.
    #[serde(rename = "runOOBE")]
    pub run_oobe: bool,
    /// As the distro's record had it.
    pub configured: bool,
    /// As the distro's record had it.
    pub packages: u64,
}

impl Snapshot {
    /// Its disk or root directory. Whoever uses it holds its `flock`.
    #[must_use]
    pub fn path(&self, distro: &Distro) -> PathBuf {
        distro.snapshots_path().join(&self.name).join(&self.disk)
    }

    /// Changes a record to what the distro was then.
    pub fn apply(&self, record: &mut Distro) {
        record.default_uid = self.default_uid;
        record.run_oobe = self.run_oobe;
        record.configured = self.configured;
        record.packages = self.packages;
    }
}

/// The snapshots of a distro, the oldest first.
///
/// # Errors
/// Where one cannot be read.
pub fn snapshots(distro: &Distro) -> Result<Vec<Snapshot>, RegistryError> {
    let directory = distro.snapshots_path();
    let entries = match fs::read_dir(&directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(|source| failed("read", &directory, source))?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|source| failed("read", &directory, source))?;
        if !entry.file_name().to_string_lossy().starts_with('.') {
            found.push(read(&entry.path())?);
        }
    }
    found.sort_by(|a, b| (a.created, &a.name).cmp(&(b.created, &b.name)));
    Ok(found)
}

/// The snapshot in a directory.
fn read(directory: &Path) -> Result<Snapshot, RegistryError> {
    let path = directory.join(DESCRIPTION);
    let bytes = fs::read(&path).map_err(|source| failed("read", &path, source))?;
    let snapshot: Snapshot =
        serde_json::from_slice(&bytes).map_err(|error| RegistryError::Damaged {
            path: path.clone(),
            line: error.line(),
            reason: error.to_string().split(" at line ").next().unwrap_or_default().to_owned(),
        })?;
    // Where its directory was renamed by hand, that is its name.
    let name = directory.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let is_plain = Path::new(&snapshot.disk).file_name() == Some(snapshot.disk.as_ref());
    if !is_plain {
        let reason = format!("'{}' is not a file's name", snapshot.disk);
        return Err(RegistryError::Damaged { path, line: 0, reason });
    }
    Ok(Snapshot { name, ..snapshot })
}

/// Writes a snapshot's description to another directory.
pub(super) fn copy_description(
    distro: &Distro,
    snapshot: &Snapshot,
    to: &Path,
) -> Result<(), RegistryError> {
    let from = distro.snapshots_path().join(&snapshot.name).join(DESCRIPTION);
    fs::copy(&from, to.join(DESCRIPTION))
        .and_then(|_| File::open(to.join(DESCRIPTION))?.sync_all())
        .map_err(|source| failed("write", to, source))
}

/// A snapshot being made. Dropped unfinished, it leaves nothing.
#[derive(Debug)]
pub struct NewSnapshot {
    paths: Paths,
    record: Distro,
    name: String,
    old: File,
    new: File,
    finished: bool,
}

impl NewSnapshot {
    /// Locks the distro's root and makes an empty one in the snapshot's directory.
    ///
    /// # Errors
    /// Where there is no such distro, it is in use, or the name is taken or no name.
    pub fn begin(paths: &Paths, id: Uuid, name: &str) -> Result<Self, RegistryError> {
        // A name with a dot in front would be one that is being made.
        if check_name(name).is_err() || name.starts_with('.') {
            return Err(RegistryError::SnapshotName { name: name.to_owned() });
        }
        update(paths, |registry| {
            clear_abandoned(registry, paths);
            let record = registry.by_id(id)?.clone();
            let old = lock_distro(&record)?;
            let all = record.snapshots_path();
            if all.join(name).symlink_metadata().is_ok() {
                return Err(RegistryError::SnapshotExists { name: name.to_owned() });
            }
            let directory = all.join(hidden(name));
            fs::create_dir_all(&directory)
                .map_err(|source| failed("create", &directory, source))?;
            make_private(&all)?;
            let new = make_root(&directory.join(&record.disk), record.version == 1)?;
            Ok(Self {
                paths: paths.clone(),
                record,
                name: name.to_owned(),
                old,
                new,
                finished: false,
            })
        })
    }

    /// The distro.
    #[must_use]
    pub fn record(&self) -> &Distro {
        &self.record
    }

    /// Its root, open for reading.
    #[must_use]
    pub fn old(&self) -> &File {
        &self.old
    }

    /// What the snapshot's root is written to: a file, or an empty directory.
    #[must_use]
    pub fn new_root(&self) -> &File {
        &self.new
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.directory().join(&self.record.disk)
    }

    fn directory(&self) -> PathBuf {
        self.record.snapshots_path().join(hidden(&self.name))
    }

    /// Makes it a snapshot, whose content takes `size` bytes.
    ///
    /// # Errors
    /// Where a file cannot be written, or another one took its name. Nothing is then left.
    pub fn finish(mut self, size: u64) -> Result<(), RegistryError> {
        let path = self.path();
        self.new.sync_all().map_err(|source| failed("write", &path, source))?;
        let record = &self.record;
        let snapshot = Snapshot {
            name: self.name.clone(),
            created: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
            size,
            version: record.version,
            disk: record.disk.clone(),
            default_uid: record.default_uid,
            run_oobe: record.run_oobe,
            configured: record.configured,
            packages: record.packages,
        };
        let directory = self.directory();
        let description = directory.join(DESCRIPTION);
        serde_json::to_vec_pretty(&snapshot)
            .map_err(io::Error::other)
            .and_then(|bytes| fs::write(&description, bytes))
            .and_then(|()| File::open(&description)?.sync_all())
            .and_then(|()| File::open(&directory)?.sync_all())
            .map_err(|source| failed("write", &description, source))?;
        let all = self.record.snapshots_path();
        update::<_, RegistryError>(&self.paths, |_| {
            let new = all.join(&self.name);
            if new.symlink_metadata().is_ok() {
                return Err(RegistryError::SnapshotExists { name: self.name.clone() });
            }
            fs::rename(&directory, &new)
                .and_then(|()| File::open(&all)?.sync_all())
                .map_err(|source| failed("create", &new, source))
        })?;
        self.finished = true;
        Ok(())
    }

    /// What undoes this when the process is told to end.
    pub fn undo(&self) -> impl FnOnce() + Send + 'static {
        let (paths, directory) = (self.paths.clone(), self.directory());
        move || undo(&paths, &directory)
    }
}

impl Drop for NewSnapshot {
    fn drop(&mut self) {
        if !self.finished {
            undo(&self.paths, &self.directory());
        }
    }
}

/// Deletes a snapshot that has not become one.
fn undo(paths: &Paths, directory: &Path) {
    let _ = update::<_, RegistryError>(paths, |_| {
        delete_root(directory)?;
        if let Some(all) = directory.parent() {
            remove_directory(all);
        }
        Ok(())
    });
}

/// Deletes a distro's snapshot.
///
/// # Errors
/// Where there is none of that name, it is in use, or it cannot be deleted.
pub fn delete_snapshot(paths: &Paths, id: Uuid, name: &str) -> Result<(), RegistryError> {
    let (directory, lock) = update::<_, RegistryError>(paths, |registry| {
        let record = registry.by_id(id)?;
        let snapshot = find_snapshot(record, name)?;
        let lock = match lock_root(&snapshot.path(record)) {
            Ok(lock) => Some(lock),
            Err(error @ RegistryError::InUse { .. }) => return Err(error),
            // Not there, or broken: it is deleted as it is.
            Err(_) => None,
        };
        let all = record.snapshots_path();
        let directory = all.join(hidden(name));
        delete_root(&directory)?;
        fs::rename(all.join(name), &directory)
            .and_then(|()| File::open(&all)?.sync_all())
            .map_err(|source| failed("delete", &all.join(name), source))?;
        Ok((directory, lock))
    })?;
    // Outside of the registry's lock: a directory of many files takes its time.
    delete_root(&directory)?;
    drop(lock);
    if let Some(all) = directory.parent() {
        remove_directory(all);
    }
    Ok(())
}

/// The snapshot of that name.
///
/// # Errors
/// Where there is none, or it cannot be read.
pub fn find_snapshot(distro: &Distro, name: &str) -> Result<Snapshot, RegistryError> {
    let not_found = || RegistryError::SnapshotNotFound { name: name.to_owned() };
    if check_name(name).is_err() || name.starts_with('.') {
        return Err(not_found());
    }
    let directory = distro.snapshots_path().join(name);
    if directory.symlink_metadata().is_err() {
        return Err(not_found());
    }
    read(&directory)
}

/// Clears away what is not a snapshot yet or any more, and nobody works on.
pub(super) fn clear_snapshots(distro: &Distro) {
    let directory = distro.snapshots_path();
    for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
        if !entry.file_name().to_string_lossy().starts_with('.') {
            continue;
        }
        let roots = fs::read_dir(entry.path()).into_iter().flatten().flatten();
        if !roots.map(|root| root.path()).any(|root| is_locked(&root)) {
            let _ = delete_root(&entry.path());
        }
    }
    remove_directory(&directory);
}

/// The name of what is not a snapshot yet, or any more.
fn hidden(name: &str) -> String {
    format!(".{}", partial(name))
}
