//! What can be done with the root of a distro that does not run: moved, cloned, kept as a
//! snapshot and brought back, made larger or smaller, its free space given back.
//!
//! Everything holds the root's lock, leaves the distro as it was until one rename or one
//! replacement of the registry makes it what it is to be, and can be interrupted or killed
//! at any moment. Whoever comes after clears away what a kill left.

mod copy;
mod error;
mod resize;
mod snapshot;
mod sparse;

use std::path::{Path, PathBuf};

use uuid::Uuid;

use crate::config::paths::Paths;
use crate::disk::Format;
use crate::registry::{
    Details, Distro, Installation, Plan, Registry, Relocation, lock_root, root_name, snapshots,
};
use crate::terminal::interrupt::Guard;
use crate::terminal::progress::Progress;

pub use self::error::StorageError;
pub use self::resize::{grow_running, resize};
pub use self::snapshot::{restore, take};
pub use self::sparse::{compact, set_sparse, trim};

/// Moves a distro with its snapshots to another directory (B095): at once within a file
/// system, else copied.
///
/// # Errors
/// Where it is in use, the directory is taken, or something cannot be copied.
pub fn relocate(
    paths: &Paths,
    id: Uuid,
    to: &Path,
    progress: &Progress,
) -> Result<(), StorageError> {
    let mut relocation = Relocation::begin(paths, id, to)?;
    let _guard = Guard::new(relocation.undo()).map_err(StorageError::Signals)?;
    if relocation.rename()? {
        return Ok(());
    }
    let record = relocation.record();
    let bar = progress.bytes(format!("Moving {}", record.name), None);
    let root = relocation.root()?;
    let path = relocation.to().join(&record.disk);
    copy::root(record, relocation.old(), &root, &path, &bar)?;
    for snapshot in snapshots(record)? {
        let path = snapshot.path(record);
        let old = lock_root(&path)?;
        let new = relocation.snapshot_root(&snapshot)?;
        copy::root(&of_snapshot(record, snapshot.version), &old, &new, &path, &bar)?;
    }
    Ok(relocation.finish(&root)?)
}

/// Makes another distro with the same files. It is beside the others, unless `location` is
/// its directory.
///
/// # Errors
/// Where the distro is in use, the name or the directory is taken, or something cannot be
/// copied.
pub fn duplicate(
    paths: &Paths,
    id: Uuid,
    name: &str,
    location: Option<PathBuf>,
    progress: &Progress,
) -> Result<Distro, StorageError> {
    let record = Registry::load(paths)?.by_id(id)?.clone();
    let plan = Plan {
        name: Some(name.to_owned()),
        location,
        install_path: None,
        version: record.version,
        disk: Some(new_name(&record)),
        is_import: true,
    };
    let mut installation = Installation::begin(paths, &plan)?;
    let _guard = Guard::new(installation.undo()).map_err(StorageError::Signals)?;
    let old = lock_root(&record.disk_path())?;
    installation.inherit(&record);
    let bar = progress.bytes(format!("Cloning {}", record.name), None);
    copy::root(&record, &old, installation.file(), &installation.path(), &bar)?;
    let details = Details {
        name: name.to_owned(),
        flavor: record.flavor.clone(),
        os_version: record.os_version.clone(),
        packages: if record.configured { 0 } else { record.packages.max(1) },
    };
    Ok(installation.finish(details)?)
}

/// The name of a new root of the same form.
fn new_name(record: &Distro) -> String {
    let usual = root_name(record.version);
    match Format::of(Path::new(&record.disk)) {
        _ if record.version == 1 => usual.to_owned(),
        Format::Raw => usual.to_owned(),
        Format::Vhd => "ext4.vhd".to_owned(),
        Format::Vhdx => "ext4.vhdx".to_owned(),
    }
}

/// A record that stands for the root of a snapshot.
fn of_snapshot(record: &Distro, version: u32) -> Distro {
    Distro { version, ..record.clone() }
}
