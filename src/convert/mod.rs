//! The root of a distro in either of its forms: a disk (version 2) or a directory
//! (version 1), read, written, and made into the other without loss and without a machine.

mod counted;
mod error;
mod source;
mod target;

use std::fs::File;

use uuid::Uuid;

use crate::config::paths::Paths;
use crate::config::wslconfig::WslConfig;
use crate::ext4;
use crate::registry::{Conversion, Distro};
use crate::terminal::interrupt::Guard;
use crate::terminal::progress::{Bar, Progress};
use crate::tree::{CopyError, process};

pub use self::counted::Counted;
pub use self::error::ConvertError;
pub use self::source::{SourceError, open_disk, read_root};
pub use self::target::{Target, TargetError};

/// Converts a stopped distro to the other version and gives its new record.
///
/// The new root is written beside the old one; one replacement of the registry makes it
/// the distro's. A kill at any instant leaves the distro as it was or as it is to be, and
/// what it leaves beside is cleared away by the next installation or conversion.
///
/// # Errors
/// Where there is no such distro, it has that version already or is in use, or one of the
/// roots cannot be read or written. The distro is then as it was.
pub fn convert(
    paths: &Paths,
    id: Uuid,
    version: u32,
    progress: &Progress,
) -> Result<Distro, ConvertError> {
    let conversion = Conversion::begin(paths, id, version)?;
    let _guard = Guard::new(conversion.undo()).map_err(ConvertError::Signals)?;
    let cannot = |source| ConvertError::Open { path: conversion.path(), source };
    let old = conversion.old().try_clone().map_err(cannot)?;
    let new = conversion.new_root().try_clone().map_err(cannot)?;
    // What an installation would give the disk.
    let size = WslConfig::load(paths).default_vhd_size;
    let options = ext4::Options { size, uuid: id, ..ext4::Options::default() };
    let bar = progress.bytes(format!("Converting {}", conversion.record().name), None);
    rewrite(conversion.record(), old, (version, new), options, &bar)?;
    Ok(conversion.finish()?)
}

/// Writes all that is in a distro's root, open for reading, to a new root of that version,
/// and waits until it is on the disk. Gives the bytes of all files. The options are those
/// of a disk.
///
/// # Errors
/// Where one of the roots cannot be read or written.
pub fn rewrite(
    record: &Distro,
    old: File,
    (version, new): (u32, File),
    options: ext4::Options,
    bar: &Bar,
) -> Result<u64, ConvertError> {
    let mut target = Target::new(version, new, options)?;
    let mut counted = Counted::new(&mut target, bar);
    read_root(record, old, &mut counted).map_err(|error| match error {
        CopyError::Source(error) => error.into(),
        CopyError::Sink(error) => unread(error),
    })?;
    let bytes = counted.bytes();
    bar.label("Finishing");
    target.finish()?;
    Ok(bytes)
}

/// A failure to read content comes back from who was to write it.
fn unread(error: TargetError) -> ConvertError {
    let content = match error {
        TargetError::Content(error)
        | TargetError::Disk(ext4::Error::Content(error))
        | TargetError::Process(process::Error::Content(error)) => error,
        error => return error.into(),
    };
    match SourceError::of_content(content) {
        Ok(error) => error.into(),
        Err(error) => TargetError::Content(error).into(),
    }
}
