//! What a distro's root is written by, whatever its version.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;

use crate::error::Diagnose;
use crate::ext4;
use crate::namespaces::user::Mapping;
use crate::tree::{Entry, Sink, directory, process};

/// Writes the root of a distro.
pub enum Target {
    /// The disk of a version 2 distro.
    Disk(Box<ext4::Writer>),
    /// The root directory of a version 1 distro of root's.
    Directory(directory::Writer),
    /// The root directory of a version 1 distro of an ordinary user's.
    Process(process::Writer),
}

/// Why a root could not be written.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// A file's content could not be read.
    #[error("cannot read a file's content")]
    Content(#[from] io::Error),
    /// A directory.
    #[error(transparent)]
    Directory(directory::Error),
    /// A disk.
    #[error(transparent)]
    Disk(ext4::Error),
    /// A directory in a user namespace.
    #[error(transparent)]
    Process(process::Error),
}

impl Target {
    /// A writer of a root of that version to an empty file or an empty, open directory.
    /// The options are those of a disk.
    ///
    /// # Errors
    /// Where the disk cannot have that size, or the process cannot be started.
    pub fn new(version: u32, root: File, options: ext4::Options) -> Result<Self, TargetError> {
        if version != 1 {
            let writer = ext4::Writer::new(root, options).map_err(TargetError::Disk)?;
            return Ok(Self::Disk(Box::new(writer)));
        }
        let mapping = Mapping::of_this_user();
        let root = OwnedFd::from(root);
        if mapping.is_namespace() {
            process::Writer::new(&mapping, root).map(Self::Process).map_err(TargetError::Process)
        } else {
            Ok(Self::Directory(directory::Writer::new(root)))
        }
    }

    /// Completes the root and waits until all is on the disk.
    ///
    /// # Errors
    /// Where something could not be written.
    pub fn finish(self) -> Result<(), TargetError> {
        match self {
            Self::Disk(writer) => writer.finish().map(drop).map_err(TargetError::Disk),
            Self::Directory(writer) => writer.finish().map_err(TargetError::Directory),
            Self::Process(writer) => writer.finish().map_err(TargetError::Process),
        }
    }
}

impl Sink for Target {
    type Error = TargetError;

    fn add(&mut self, entry: Entry<'_>) -> Result<(), TargetError> {
        match self {
            Self::Disk(writer) => writer.add(entry).map_err(TargetError::Disk),
            Self::Directory(writer) => writer.add(entry).map_err(TargetError::Directory),
            Self::Process(writer) => writer.add(entry).map_err(TargetError::Process),
        }
    }
}

impl Diagnose for TargetError {
    fn code(&self) -> &'static str {
        match self {
            Self::Content(_) => "WSL_E_IMPORT_FAILED",
            Self::Directory(error) => error.code(),
            Self::Disk(error) => error.code(),
            Self::Process(error) => error.code(),
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Content(_) => None,
            Self::Directory(error) => error.hint(),
            Self::Disk(error) => error.hint(),
            Self::Process(error) => error.hint(),
        }
    }
}
