//! From content to a distro's root, a disk or a directory.

use std::fs::File;
use std::path::Path;

use nix::sys::statvfs::fstatvfs;

use super::Context;
use super::error::InstallError;
use crate::archive::Repository;
use crate::archive::assemble::assemble;
use crate::convert::Target;
use crate::error::{Diagnose, Failure};
use crate::ext4;
use crate::image;
use crate::image::observer::{Description, Observer};
use crate::registry::{Details, Installation};

const MEGABYTE: u64 = 1 << 20;

/// Where a failure of the content itself happens.
pub(super) const REGISTER: &str = "Wsl/Service/RegisterDistro";

/// Makes a root of an archive file of `length` bytes.
pub(super) fn unpack(
    context: &Context<'_>,
    installation: &Installation,
    options: ext4::Options,
    archive: &File,
    length: Option<u64>,
) -> Result<Details, Failure> {
    // A root is hardly smaller than the archive it is made of.
    check_space(installation, length.unwrap_or(0))?;
    let mut writer = target(installation, options)?;
    let bar = context.progress.bytes("Installing", length);
    let mut observer = Observer::new(&mut writer);
    image::unpack(bar.reader(archive), &mut observer).map_err(import_failure)?;
    let description = observer.finish().map_err(|error| Failure::new(REGISTER, &error))?;
    bar.label("Finishing");
    writer.finish().map_err(import_failure)?;
    Ok(details(description, 0))
}

/// Makes a root of packages.
pub(super) fn put_together(
    installation: &Installation,
    options: ext4::Options,
    repository: &Repository<'_>,
    name: &str,
) -> Result<Details, Failure> {
    let mut writer = target(installation, options)?;
    let mut observer = Observer::new(&mut writer);
    let assembled = assemble(repository, name, &mut observer)
        .map_err(|error| Failure::new("Wsl/InstallDistro", &error))?;
    let description = observer.finish().map_err(|error| Failure::new(REGISTER, &error))?;
    writer.finish().map_err(import_failure)?;
    Ok(details(description, assembled.packages.len() as u64))
}

/// Checks that the host's disk has room for `needed` bytes.
pub(super) fn check_space(installation: &Installation, needed: u64) -> Result<(), Failure> {
    let path = installation.path();
    let Ok(status) = fstatvfs(installation.file()) else { return Ok(()) };
    let available = status.blocks_available().saturating_mul(status.fragment_size());
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

/// What the installation's root is written by.
fn target(installation: &Installation, options: ext4::Options) -> Result<Target, Failure> {
    let file = installation.file().try_clone().map_err(|source| {
        let path = installation.path();
        Failure::new(REGISTER, &InstallError::Io { action: "write", path, source })
    })?;
    Target::new(installation.version(), file, options)
        .map_err(|error| Failure::new(REGISTER, &error))
}

pub(super) fn details(description: Description, packages: u64) -> Details {
    Details {
        name: description.default_name,
        flavor: description.flavor,
        os_version: description.os_version,
        packages,
    }
}

/// A failure of the archive or the disk while one is made of the other (B053).
fn import_failure(error: impl Diagnose + 'static) -> Failure {
    let (code, hint) = (error.code(), error.hint());
    Failure::new(REGISTER, &InstallError::Import { code, hint, source: Box::new(error) })
}
