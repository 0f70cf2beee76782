//! A root copied as it is: a disk's file by blocks, a directory by its entries, inside the
//! user namespace where there is one.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::StorageError;
use crate::convert;
use crate::disk::clone;
use crate::ext4;
use crate::registry::Distro;
use crate::terminal::progress::Bar;

/// Copies a root, open for reading, to an empty one, which is at `path`, and waits until it
/// is on the disk. Gives the bytes that the content takes.
pub(super) fn root(
    record: &Distro,
    old: &File,
    new: &File,
    path: &Path,
    bar: &Bar,
) -> Result<u64, StorageError> {
    let failed = |source| StorageError::Io { path: path.to_owned(), source };
    if record.version == 1 {
        let (old, new) = (old.try_clone().map_err(failed)?, new.try_clone().map_err(failed)?);
        return Ok(convert::rewrite(record, old, (1, new), ext4::Options::default(), bar)?);
    }
    bar.set_total(old.metadata().map_err(failed)?.len());
    clone::clone(old, new, path, |count| bar.add(count))?;
    bar.label("Finishing");
    new.sync_all().map_err(failed)?;
    Ok(old.metadata().map_err(failed)?.blocks() * 512)
}
