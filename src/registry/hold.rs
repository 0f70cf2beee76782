//! A distro that is used as a whole, stopped, for one thing.
//!
//! The lock of its root keeps others out; the record tells them why. A record that says so
//! without the lock is of somebody who died, and means nothing.

use std::fs::File;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::lock::{is_locked, lock_root};
use super::{Distro, RegistryError, update};
use crate::config::paths::Paths;

/// What is done with a distro while nobody else can use it.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum Activity {
    /// It is read into an archive or a disk.
    Exporting,
    /// What a newer version does.
    #[serde(other)]
    Other,
}

/// A stopped distro that nobody else can use until this is dropped.
#[derive(Debug)]
pub struct Hold {
    paths: Paths,
    record: Distro,
    root: File,
}

impl Hold {
    /// Locks the root of a distro and records what for.
    ///
    /// # Errors
    /// Where there is no such distro, it is in use, or its root cannot be opened.
    pub fn begin(paths: &Paths, id: Uuid, activity: Activity) -> Result<Self, RegistryError> {
        update(paths, |registry| {
            let record = registry.record(id).ok_or(RegistryError::NotFound)?;
            let root = lock_distro(record)?;
            record.activity = Some(activity);
            Ok(Self { paths: paths.clone(), record: record.clone(), root })
        })
    }

    /// The distro.
    #[must_use]
    pub fn record(&self) -> &Distro {
        &self.record
    }

    /// Its root, open for reading.
    #[must_use]
    pub fn root(&self) -> &File {
        &self.root
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        release(&self.paths, self.record.id);
    }
}

/// Forgets what was done. Where it cannot be written, it ends with the lock.
fn release(paths: &Paths, id: Uuid) {
    let _ = update::<_, RegistryError>(paths, |registry| {
        if let Some(record) = registry.record(id) {
            record.activity = None;
        }
        Ok(())
    });
}

/// Locks the root of a distro.
///
/// # Errors
/// [`RegistryError::Held`] where somebody holds it for something that takes its time, and
/// those of [`lock_root`].
pub(super) fn lock_distro(record: &Distro) -> Result<File, RegistryError> {
    lock_root(&record.disk_path()).map_err(|error| match error {
        RegistryError::InUse { .. } => record.held_error().unwrap_or(error),
        error => error,
    })
}

impl Distro {
    /// What whoever wants to use it now is told, where it is held.
    pub(super) fn held_error(&self) -> Option<RegistryError> {
        let activity = self.held_for()?;
        Some(RegistryError::Held { name: self.name.clone(), activity })
    }

    /// What is done with it now while nobody else can use it. A distro that runs is not
    /// held.
    #[must_use]
    pub fn held_for(&self) -> Option<Activity> {
        self.activity.filter(|_| is_locked(&self.disk_path()))
    }
}
