//! A root copied as it is: a disk's file by blocks, a directory by its entries, inside the
//! user namespace where there is one.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

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
        clone::check_space(new, path, taken(&directory_path(old)))?;
        let (old, new) = (old.try_clone().map_err(failed)?, new.try_clone().map_err(failed)?);
        return Ok(convert::rewrite(record, old, (1, new), ext4::Options::default(), bar)?);
    }
    bar.set_total(old.metadata().map_err(failed)?.len());
    clone::clone(old, new, path, |count| bar.add(count))?;
    bar.label("Finishing");
    new.sync_all().map_err(failed)?;
    Ok(old.metadata().map_err(failed)?.blocks() * 512)
}

/// The path of an open directory, whatever it is called.
fn directory_path(directory: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd()))
}

/// The bytes that a tree takes on the host, without what cannot be looked into.
fn taken(root: &Path) -> u64 {
    let mut total = 0;
    let mut todo = vec![root.to_owned()];
    while let Some(directory) = todo.pop() {
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.is_dir() {
                todo.push(entry.path());
            } else {
                // Each name of a file has its share.
                total += metadata.blocks() * 512 / metadata.nlink().max(1);
            }
        }
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_takes_what_its_files_take_once() {
        let directory = tempfile::tempdir().unwrap();
        let inner = directory.path().join("a/b");
        fs::create_dir_all(&inner).unwrap();
        fs::write(inner.join("file"), vec![7; 1 << 20]).unwrap();
        fs::hard_link(inner.join("file"), directory.path().join("link")).unwrap();
        File::open(inner.join("file")).unwrap().sync_all().unwrap();
        let open = File::open(directory.path()).unwrap();
        let bytes = taken(&directory_path(&open));
        assert!((1 << 20..2 << 20).contains(&bytes), "{bytes}");
    }
}
