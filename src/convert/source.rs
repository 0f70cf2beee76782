//! What a distro's root is read by, whatever its version, without a machine.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use crate::disk::{self, Disk, DiskError, Format};
use crate::error::{Diagnose, io_code};
use crate::ext4::reader::{Image, ReadError};
use crate::namespaces::user::Mapping;
use crate::registry::Distro;
use crate::tree::{CopyError, Sink, directory, process};

/// Why a root cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The root directory.
    #[error("cannot read the distribution's files")]
    Directory(#[source] directory::Error),
    /// The disk cannot be opened.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The root cannot be opened.
    #[error("cannot open '{}'", path.display())]
    Open {
        /// Where it is.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The root directory, in a user namespace.
    #[error("cannot read the distribution's files")]
    Process(#[source] process::Error),
    /// The disk's file system.
    #[error(transparent)]
    Read(#[from] ReadError),
}

impl Diagnose for SourceError {
    fn code(&self) -> &'static str {
        match self {
            Self::Directory(error) => error.code(),
            Self::Disk(error) => error.code(),
            Self::Open { source, .. } => io_code(source),
            Self::Process(error) => error.code(),
            Self::Read(error) => error.code(),
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Directory(error) => error.hint(),
            Self::Disk(error) => error.hint(),
            Self::Open { .. } => None,
            Self::Process(error) => error.hint(),
            Self::Read(error) => error.hint(),
        }
    }
}

impl SourceError {
    /// The same, where a sink gives it back as a failure to read content.
    ///
    /// # Errors
    /// A failure that is none of the disk's file system.
    pub fn of_content(error: io::Error) -> Result<Self, io::Error> {
        error.downcast::<ReadError>().map(Self::Read)
    }
}

/// Reads a distro's root, open for reading, into a sink.
///
/// # Errors
/// [`CopyError::Source`] where something cannot be read, [`CopyError::Sink`] where the sink
/// refuses an entry, or a file's content cannot be read.
pub fn read_root<S: Sink>(
    record: &Distro,
    root: File,
    sink: &mut S,
) -> Result<(), CopyError<SourceError, S::Error>> {
    if record.version != 1 {
        let disk = open_disk(record, root)?;
        let image = Image::on(disk).map_err(SourceError::Read)?;
        return image.read_tree(sink).map_err(|error| as_source(error, SourceError::Read));
    }
    let root = OwnedFd::from(root);
    let mapping = Mapping::of_this_user();
    if mapping.is_namespace() {
        process::read(&mapping, root, sink).map_err(|error| as_source(error, SourceError::Process))
    } else {
        directory::read(&root, sink).map_err(|error| as_source(error, SourceError::Directory))
    }
}

fn as_source<E: std::error::Error, W: std::error::Error>(
    error: CopyError<E, W>,
    wrap: impl FnOnce(E) -> SourceError,
) -> CopyError<SourceError, W> {
    match error {
        CopyError::Source(error) => CopyError::Source(wrap(error)),
        CopyError::Sink(error) => CopyError::Sink(error),
    }
}

/// Opens the disk of a version 2 distro, whose file is open for reading. One with a log is
/// repaired where it was not closed, for which it has to be open for writing.
///
/// # Errors
/// Where it cannot be opened or is damaged.
pub fn open_disk(record: &Distro, root: File) -> Result<Box<dyn Disk>, SourceError> {
    let path = record.disk_path();
    let format = Format::of(&path);
    let file = match format {
        Format::Raw => root,
        _ => {
            let file = File::options().read(true).write(true).open(&path);
            file.map_err(|source| SourceError::Open { path, source })?
        }
    };
    Ok(disk::open(file, format, true)?)
}
