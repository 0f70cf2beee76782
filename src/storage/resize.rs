//! A disk made larger or smaller.
//!
//! A larger disk is a longer file, and a file system smaller than its disk grows when it is
//! next mounted: the kernel does it in an instant, on every file system that it mounts. A
//! smaller one is written anew, beside the old one, and takes its place when it is
//! complete.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use uuid::Uuid;

use super::StorageError;
use super::sparse::disk_of;
use crate::config::paths::Paths;
use crate::convert::{self, ConvertError, TargetError};
use crate::disk::raw::Raw;
use crate::disk::{self, Disk, Format, clone, vhd, vhdx};
use crate::error::chain;
use crate::ext4::{self, reader::Image};
use crate::registry::{Conversion, Distro, lock_root};
use crate::terminal::interrupt::Guard;
use crate::terminal::progress::{Bar, Progress};

/// What disks' lengths are multiples of.
const UNIT: u64 = 1 << 20;

/// The largest disk: the most that WSL gives one.
const MAXIMUM: u64 = 64 << 40;

/// Makes a stopped distro's disk `size` bytes long, rounded up to a whole number of
/// megabytes.
///
/// # Errors
/// Where the distro has no disk, it is in use or damaged, or its files do not fit. The
/// distro is then as it was.
pub fn resize(paths: &Paths, id: Uuid, size: u64, progress: &Progress) -> Result<(), StorageError> {
    let record = disk_of(paths, id)?;
    let path = record.disk_path();
    let failed = |source| StorageError::Io { path: path.clone(), source };
    let size = whole(size)?;
    let lock = lock_root(&path)?;
    let format = Format::of(&path);
    let file = File::options().read(true).write(true).open(&path).map_err(failed)?;
    let disk = disk::open(file.try_clone().map_err(failed)?, format, true)?;
    let length = disk.length().map_err(failed)?;
    let image = Image::on(disk)?;
    if image.health().has_errors {
        return Err(crate::ext4::reader::ReadError::Damaged {
            what: "the kernel has met errors in it".to_owned(),
        }
        .into());
    }
    let (used, taken) = (image.used()?, image.health().size);
    drop(image);
    if size >= taken && format == Format::Raw {
        // Longer, or shorter by what the file system never had.
        return set_length(&record, &file, size);
    }
    if size == length {
        return Ok(());
    }
    if size < used {
        let (used, size) = (used.div_ceil(UNIT), size / UNIT);
        return Err(refused(&format!("{used} MB of it are in use, and {size} MB were asked for")));
    }
    clone::check_space(&file, &path, file.metadata().map_err(failed)?.blocks() * 512)?;
    drop((lock, file));
    let conversion = Conversion::replace(paths, id, Some(&record.disk))?;
    let _guard = Guard::new(conversion.undo()).map_err(StorageError::Signals)?;
    let bar = progress.bytes(format!("Resizing {}", record.name), None);
    write(&record, &conversion, size, size < length, &bar)?;
    let new = conversion.new_root();
    if record.reserved {
        clone::reserve(new, &conversion.path())?;
    }
    conversion.finish()?;
    Ok(())
}

/// Gives a raw disk's file another length.
fn set_length(record: &Distro, file: &File, size: u64) -> Result<(), StorageError> {
    let path = record.disk_path();
    let failed = |source| StorageError::Io { path: path.clone(), source };
    let old = file.metadata().map_err(failed)?.len();
    file.set_len(size).map_err(failed)?;
    if record.reserved
        && let Err(error) = clone::reserve(file, &path)
    {
        let _ = file.set_len(old);
        return Err(error.into());
    }
    file.sync_all().map_err(failed)
}

/// Writes the disk that takes the old one's place.
fn write(
    record: &Distro,
    conversion: &Conversion,
    size: u64,
    is_smaller: bool,
    bar: &Bar,
) -> Result<(), StorageError> {
    let path = conversion.path();
    let failed = |source| StorageError::Io { path: path.clone(), source };
    let format = Format::of(Path::new(&record.disk));
    let new = conversion.new_root().try_clone().map_err(failed)?;
    let old = conversion.old().try_clone().map_err(failed)?;
    if !is_smaller {
        let from = disk::open(old, format, false)?;
        bar.set_total(from.length().map_err(failed)?);
        return fill(from.as_ref(), new, format, size, |count| bar.add(count)).map_err(failed_disk);
    }
    let options = ext4::Options { size, uuid: record.id, ..ext4::Options::default() };
    if format == Format::Raw {
        convert::rewrite(record, old, (2, new), options, bar).map_err(not_fitting)?;
        return Ok(());
    }
    // The writer wants a file of its own; it has no name, so that nothing is left of it.
    let plain = tempfile::tempfile_in(&record.base_path).map_err(failed)?;
    let writable = plain.try_clone().map_err(failed)?;
    convert::rewrite(record, old, (2, writable), options, bar).map_err(not_fitting)?;
    fill(&Raw::new(plain), new, format, size, |_| {}).map_err(failed_disk)
}

/// Makes a disk of a format in an empty file, with the content of another one.
fn fill(
    from: &dyn Disk,
    new: File,
    format: Format,
    size: u64,
    moved: impl FnMut(u64),
) -> Result<(), disk::DiskError> {
    match format {
        Format::Vhd => vhd::create(&new, &vhd::Options { size, fixed: false })?,
        _ => vhdx::create(&new, &vhdx::Options::new(size))?,
    }
    let to = disk::open(new, format, true)?;
    disk::copy(from, to.as_ref(), moved)
        .map_err(|source| disk::DiskError::Io { action: "write", source })
}

fn failed_disk(error: disk::DiskError) -> StorageError {
    match error {
        disk::DiskError::Size { .. } => refused(&chain(&error)),
        error => error.into(),
    }
}

/// The failure of a rewrite; where the new file system is too small, that of its size.
fn not_fitting(error: ConvertError) -> StorageError {
    match &error {
        ConvertError::Write(TargetError::Disk(
            reason @ (ext4::Error::NoSpace { .. }
            | ext4::Error::NoInodes { .. }
            | ext4::Error::Size { .. }),
        )) => refused(&reason.to_string()),
        _ => error.into(),
    }
}

fn refused(reason: &str) -> StorageError {
    StorageError::Resize { reason: reason.to_owned() }
}

/// Makes the disk of a running distro longer; the caller's machine has the lock.
///
/// # Errors
/// Where it is no raw disk, shorter is asked for, or the file cannot be made longer.
pub fn grow_running(record: &Distro, size: u64) -> Result<(), StorageError> {
    let path = record.disk_path();
    let failed = |source| StorageError::Io { path: path.clone(), source };
    let size = whole(size)?;
    if record.version == 1 || Format::of(&path) != Format::Raw {
        return Err(refused("only a raw disk can become larger while it is in use"));
    }
    let file = File::options().read(true).write(true).open(&path).map_err(failed)?;
    if size < file.metadata().map_err(failed)?.len() {
        return Err(refused("a disk in use cannot become smaller"));
    }
    set_length(record, &file, size)
}

/// A size in whole units that a disk can have.
fn whole(size: u64) -> Result<u64, StorageError> {
    let size = size.checked_next_multiple_of(UNIT).filter(|size| (1..=MAXIMUM).contains(size));
    size.ok_or_else(|| refused("it can have up to 64 TB"))
}
