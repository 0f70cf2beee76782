//! What a distro is made of: an archive of the user's own, or an entry of the manifest.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;

use super::disk::{self, REGISTER};
use super::error::InstallError;
use super::{Context, source};
use crate::command::grammar::Install;
use crate::command::output;
use crate::error::Failure;
use crate::ext4;
use crate::manifest::{self, Catalog};
use crate::registry::{Details, Installation};

/// Where the content comes from.
pub(super) enum Content {
    /// An archive of the user's own.
    File {
        /// As typed.
        typed: OsString,
        /// Open for reading.
        file: File,
        /// In bytes; `None` for a stream.
        length: Option<u64>,
    },
    /// An entry of the manifest.
    Entry(manifest::Distro),
}

impl Content {
    /// Finds what the user asks for.
    pub(super) fn choose(context: &Context<'_>, install: &Install) -> Result<Self, Failure> {
        if let Some(typed) = &install.from_file {
            return Self::open(typed);
        }
        let failed = |error| Failure::new("Wsl/InstallDistro", &error);
        let settings = manifest::Settings::from_environment();
        let catalog = Catalog::load(&settings, &context.fetcher).map_err(failed)?;
        let entry = catalog.resolve(install.distro.as_deref()).map_err(failed)?;
        if entry.is_override {
            let name = &entry.name;
            output::warning(&format!("'{name}' is provided by an override manifest"));
        }
        Ok(Self::Entry(entry.clone()))
    }

    /// The name it goes by, where that is known before it is read.
    pub(super) fn name(&self) -> Option<&str> {
        match self {
            Self::File { .. } => None,
            Self::Entry(entry) => Some(&entry.name),
        }
    }

    /// What is said where neither it nor the user has a name (B077).
    pub(super) fn without_name(&self) -> Failure {
        let file = match self {
            Self::File { typed, .. } => typed.to_string_lossy().into_owned(),
            Self::Entry(entry) => entry.friendly_name.clone(),
        };
        Failure::new(REGISTER, &InstallError::NameNeeded { file })
    }

    /// Writes the disk, and tells what is learned on the way.
    pub(super) fn write(
        &self,
        context: &Context<'_>,
        installation: &Installation,
        options: ext4::Options,
    ) -> Result<Details, Failure> {
        if let Self::File { typed, .. } = self {
            output::print(&format!("Installing: {}\n", typed.display()))?;
        }
        self.unpack(context, installation, options)
    }

    /// The same without a word of what is installed.
    pub(super) fn unpack(
        &self,
        context: &Context<'_>,
        installation: &Installation,
        options: ext4::Options,
    ) -> Result<Details, Failure> {
        match self {
            Self::File { file, length, .. } => {
                disk::unpack(context, installation, options, file, *length)
            }
            Self::Entry(entry) => source::write(context, installation, options, entry),
        }
    }

    /// Opens an archive; `-` is standard input.
    pub(super) fn open(typed: &OsStr) -> Result<Self, Failure> {
        let failed = |source| {
            let path = PathBuf::from(typed);
            Failure::new("Wsl", &InstallError::Io { action: "read", path, source })
        };
        if typed == "-" {
            let stdin = io::stdin().as_fd().try_clone_to_owned().map_err(failed)?;
            return Ok(Self::File { typed: typed.to_owned(), file: stdin.into(), length: None });
        }
        let file = File::open(typed).map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        if metadata.is_dir() {
            return Err(failed(io::ErrorKind::IsADirectory.into()));
        }
        let length = metadata.is_file().then_some(metadata.len());
        Ok(Self::File { typed: typed.to_owned(), file, length })
    }
}
