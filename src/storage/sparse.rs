//! The space that a disk takes on the host: given back, or reserved.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::StorageError;
use crate::config::paths::Paths;
use crate::disk::{self, Disk, DiskError, Format, clone};
use crate::ext4::reader::Image;
use crate::registry::{self, Distro, Registry, RegistryError, lock_root};
use crate::terminal::progress::Progress;

/// What giving space back came to; bytes on the host.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Compacted {
    /// What the disk took.
    pub before: u64,
    /// What it takes.
    pub after: u64,
}

/// Gives the space of a stopped distro's free blocks back to the host. Interrupted at any
/// moment, the disk is as good as before.
///
/// # Errors
/// Where the distro has no disk, it is in use, or it is damaged.
pub fn compact(paths: &Paths, id: Uuid, progress: &Progress) -> Result<Compacted, StorageError> {
    let record = disk_of(paths, id)?;
    let path = record.disk_path();
    let _lock = lock_root(&path)?;
    let bar = progress.bytes(format!("Compacting {}", record.name), None);
    let blocks = || -> Result<u64, StorageError> {
        let metadata = path.metadata();
        let failed = |source| StorageError::Io { path: path.clone(), source };
        Ok(metadata.map_err(failed)?.blocks() * 512)
    };
    let before = blocks()?;
    if !record.reserved {
        free(&path, || false)?;
    }
    drop(bar);
    let after = blocks()?.min(before);
    Ok(Compacted { before, after })
}

/// Does the same for a distro that has just stopped, where it is not in use, nothing is
/// wrong with it and its space is not reserved, for no longer than `limit`; tells how many
/// bytes of its disk came back.
///
/// # Errors
/// As [`compact`].
pub fn trim(record: &Distro, limit: Duration) -> Result<u64, StorageError> {
    if record.version == 1 || record.reserved {
        return Ok(0);
    }
    let path = record.disk_path();
    let _lock = lock_root(&path)?;
    let deadline = Instant::now() + limit;
    free(&path, || Instant::now() >= deadline)
}

fn free(path: &Path, stop: impl FnMut() -> bool) -> Result<u64, StorageError> {
    let file = File::options().read(true).write(true).open(path);
    let file = file.map_err(|source| StorageError::Io { path: path.to_owned(), source })?;
    let disk: Arc<dyn Disk> = disk::open(file, Format::of(path), true)?.into();
    let image = Image::on(Box::new(Arc::clone(&disk)))?;
    Ok(image.trim(disk.as_ref(), stop)?)
}

/// Lets a stopped distro's disk give its free space back by itself, or reserves all of its
/// space and gives none back.
///
/// # Errors
/// Where the distro has no disk, it is in use, or the host has too little room.
pub fn set_sparse(paths: &Paths, id: Uuid, sparse: bool) -> Result<(), StorageError> {
    let record = disk_of(paths, id)?;
    let path = record.disk_path();
    let _lock = lock_root(&path)?;
    let file = File::options().read(true).write(true).open(&path);
    let file = file.map_err(|source| StorageError::Io { path: path.clone(), source })?;
    if sparse {
        if Format::of(&path) == Format::Raw {
            clone::release(&file, &path)?;
        }
        free(&path, || false)?;
    } else if Format::of(&path) != Format::Raw {
        let what = "its space cannot be reserved".to_owned();
        return Err(DiskError::Unsupported { format: Format::of(&path), what }.into());
    } else if let Err(error) = clone::reserve(&file, &path) {
        // What was reserved before the room ran out.
        let _ = clone::release(&file, &path);
        return Err(error.into());
    }
    registry::update::<_, RegistryError>(paths, |registry| {
        registry.record(id).ok_or(RegistryError::NotFound)?.reserved = !sparse;
        Ok(())
    })?;
    Ok(())
}

/// The record of a distro that has a disk.
pub(super) fn disk_of(paths: &Paths, id: Uuid) -> Result<Distro, StorageError> {
    let record = Registry::load(paths)?.by_id(id)?.clone();
    if record.version == 1 { Err(StorageError::NoDisk) } else { Ok(record) }
}
