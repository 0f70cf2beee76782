//! Snapshots: taken, and brought back.

use uuid::Uuid;

use super::{StorageError, copy, new_name, of_snapshot};
use crate::config::paths::Paths;
use crate::registry::{Conversion, Distro, NewSnapshot, Registry, find_snapshot, lock_root};
use crate::terminal::interrupt::Guard;
use crate::terminal::progress::Progress;

/// Keeps a distro's root as it is under a name.
///
/// # Errors
/// Where the distro is in use, the name is taken, or the root cannot be copied. Nothing is
/// then left.
pub fn take(paths: &Paths, id: Uuid, name: &str, progress: &Progress) -> Result<(), StorageError> {
    let snapshot = NewSnapshot::begin(paths, id, name)?;
    let _guard = Guard::new(snapshot.undo()).map_err(StorageError::Signals)?;
    let bar = progress.bytes(format!("Snapshot of {}", snapshot.record().name), None);
    let (old, new) = (snapshot.old(), snapshot.new_root());
    let size = copy::root(snapshot.record(), old, new, &snapshot.path(), &bar)?;
    Ok(snapshot.finish(size)?)
}

/// Makes a distro's root what it was when a snapshot was taken, with the version and the
/// default user that the distro had. The snapshot stays.
///
/// # Errors
/// Where the distro is in use, there is no such snapshot, or it cannot be copied. The
/// distro is then as it was.
pub fn restore(
    paths: &Paths,
    id: Uuid,
    name: &str,
    progress: &Progress,
) -> Result<Distro, StorageError> {
    let record = Registry::load(paths)?.by_id(id)?.clone();
    let snapshot = find_snapshot(&record, name)?;
    let path = snapshot.path(&record);
    let old = lock_root(&path)?;
    let disk = (snapshot.version != 1).then(|| {
        // The disk's own name where its format is the same: it may be the user's file.
        let then = Distro { disk: snapshot.disk.clone(), ..of_snapshot(&record, 2) };
        let is_alike = record.version != 1 && new_name(&record) == new_name(&then);
        if is_alike { record.disk.clone() } else { new_name(&then) }
    });
    let conversion = Conversion::replace(paths, id, disk.as_deref())?;
    let _guard = Guard::new(conversion.undo()).map_err(StorageError::Signals)?;
    let bar = progress.bytes(format!("Restoring {}", record.name), None);
    let new = conversion.new_root();
    copy::root(&of_snapshot(&record, snapshot.version), &old, new, &conversion.path(), &bar)?;
    Ok(conversion.finish_with(|record| snapshot.apply(record))?)
}
