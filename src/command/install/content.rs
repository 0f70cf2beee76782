//! What a distro is made of: an archive of the user's own, or an entry of the manifest.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use nix::sys::statvfs::fstatvfs;

use super::Context;
use super::error::InstallError;
use crate::command::grammar::Install;
use crate::command::output;
use crate::error::{Diagnose, Failure};
use crate::ext4::{self, Writer};
use crate::image;
use crate::image::observer::{Description, Observer};
use crate::registry::{Details, Installation};

const MEGABYTE: u64 = 1 << 20;

/// Where a failure of the content itself happens.
const REGISTER: &str = "Wsl/Service/RegisterDistro";

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
}

impl Content {
    /// Finds what the user asks for.
    pub(super) fn choose(_context: &Context<'_>, install: &Install) -> Result<Self, Failure> {
        match &install.from_file {
            Some(typed) => Self::open(typed),
            None => Err(Failure::plain("not built yet")),
        }
    }

    /// The name it goes by, where that is known before it is read.
    pub(super) fn name(&self) -> Option<&str> {
        match self {
            Self::File { .. } => None,
        }
    }

    /// What is said where neither it nor the user has a name (B077).
    pub(super) fn without_name(&self) -> Failure {
        let Self::File { typed, .. } = self;
        let file = typed.to_string_lossy().into_owned();
        Failure::new(REGISTER, &InstallError::NameNeeded { file })
    }

    /// Writes the disk, and tells what is learned on the way.
    pub(super) fn write(
        &self,
        context: &Context<'_>,
        installation: &Installation,
        options: ext4::Options,
    ) -> Result<Details, Failure> {
        match self {
            Self::File { typed, file, length } => {
                output::print(&format!("Installing: {}\n", typed.display()))?;
                unpack(context, installation, options, file, *length)
            }
        }
    }

    fn open(typed: &OsStr) -> Result<Self, Failure> {
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

/// Makes a disk of an archive of `length` bytes.
fn unpack(
    context: &Context<'_>,
    installation: &Installation,
    options: ext4::Options,
    archive: &File,
    length: Option<u64>,
) -> Result<Details, Failure> {
    // A disk is hardly smaller than the archive it is made of.
    check_space(installation, length.unwrap_or(0))?;
    let mut writer = writer(installation, options)?;
    let bar = context.progress.bytes("Installing", length);
    let mut observer = Observer::new(&mut writer);
    image::tar::read_entries(bar.reader(archive), &mut observer, |path| path)
        .map_err(import_failure)?;
    let description = observer.finish().map_err(|error| Failure::new(REGISTER, &error))?;
    writer.finish().map_err(import_failure)?;
    Ok(details(description, 0))
}

fn details(description: Description, packages: u64) -> Details {
    Details {
        name: description.default_name,
        flavor: description.flavor,
        os_version: description.os_version,
        packages,
    }
}

/// The writer of the installation's disk.
fn writer(installation: &Installation, options: ext4::Options) -> Result<Writer, Failure> {
    let file = installation.file().try_clone().map_err(|source| {
        let path = installation.path();
        Failure::new(REGISTER, &InstallError::Io { action: "write", path, source })
    })?;
    Writer::new(file, options).map_err(|error| Failure::new(REGISTER, &error))
}

/// Checks that the host's disk has room for `needed` bytes.
fn check_space(installation: &Installation, needed: u64) -> Result<(), Failure> {
    let path = installation.path();
    let Ok(status) = fstatvfs(installation.file()) else { return Ok(()) };
    let available = u64::from(status.blocks_available()).saturating_mul(status.fragment_size());
    if available >= needed {
        return Ok(());
    }
    let error = InstallError::Space {
        path: path.parent().unwrap_or(Path::new("/")).to_owned(),
        available: available / MEGABYTE,
        needed: needed.div_ceil(MEGABYTE),
    };
    Err(Failure::new(REGISTER, &error))
}

/// A failure of the archive or the disk while one is made of the other (B053).
fn import_failure(error: impl Diagnose + 'static) -> Failure {
    let (code, hint) = (error.code(), error.hint());
    Failure::new(REGISTER, &InstallError::Import { code, hint, source: Box::new(error) })
}
