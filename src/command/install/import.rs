//! `--import` and `--import-in-place` (behaviour reference 1.7 and 1.8).

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use super::content::Content;
use super::disk::{self, REGISTER};
use super::error::InstallError;
use super::{Context, options, prepare, refused};
use crate::command::grammar::Import;
use crate::command::{distro, output, versions};
use crate::config::paths::Paths;
use crate::disk::raw::Raw;
use crate::disk::{self as disks, Disk, Format};
use crate::error::Failure;
use crate::ext4::reader::Image;
use crate::image::observer::Description;
use crate::registry::{self, Details, Installation, Plan, RegistryError};
use crate::terminal::interrupt::Guard;

/// Makes a distro of an archive or of a disk.
pub(super) fn import(paths: &Paths, import: &Import) -> Result<(), Failure> {
    let context = Context::new(paths)?;
    context.config.warnings.iter().for_each(|warning| output::warning(warning));
    let format = Format::of(Path::new(&import.file));
    let (version, source) = if import.vhd {
        if format == Format::Raw {
            return Err(Failure::new(REGISTER, &InstallError::Extension));
        }
        (2, Source::Disk(open(Path::new(&import.file), false)?))
    } else {
        // Its name says what it is, and taken for an archive it could only fail.
        if format != Format::Raw {
            return Err(Failure::plain(
                "This looks like a VHD file. Use --vhd to import a VHD instead of a tar.",
            ));
        }
        let set = distro::load(paths)?.default_version;
        let content = Content::open(&import.file)?;
        let choice = versions::choose(import.version, set)?;
        choice.warn();
        (choice.version, Source::Archive(content))
    };
    let location = place(&import.location)?;
    let disk = (format != Format::Raw).then(|| {
        let extension = if format == Format::Vhd { "vhd" } else { "vhdx" };
        format!("ext4.{extension}")
    });
    let plan = Plan {
        name: Some(import.name.clone()),
        location: Some(location),
        install_path: None,
        version,
        disk,
        is_import: true,
    };
    let installation = Installation::begin(paths, &plan).map_err(|error| refused(&error))?;
    let _guard = Guard::new(installation.undo())
        .map_err(|error| Failure::plain(error.to_string()).with_code("Wsl/E_FAIL"))?;
    let details = match &source {
        Source::Archive(content) => {
            let options = options(&context, &installation, None);
            content.unpack(&context, &installation, options)?
        }
        Source::Disk(file) => copy(&context, &installation, file, format)?,
    };
    installation.finish(details).map_err(|error| refused(&error))?;
    finish(&context, version)
}

enum Source {
    Archive(Content),
    Disk(File),
}

/// Makes a distro of a disk where it lies.
pub(super) fn import_in_place(paths: &Paths, name: &str, file: &Path) -> Result<(), Failure> {
    let context = Context::new(paths)?;
    context.config.warnings.iter().for_each(|warning| output::warning(warning));
    let known = ["vhd", "vhdx", "img", "raw"];
    let extension = file.extension().unwrap_or_default();
    if !known.iter().any(|known| extension.eq_ignore_ascii_case(known)) {
        return Err(Failure::new(REGISTER, &InstallError::Extension));
    }
    let path = fs::canonicalize(file).map_err(|source| unreadable(file, source))?;
    let lock = open(&path, true)?;
    let details = Details { name: name.to_owned(), ..inspect(&lock, Format::of(&path))? };
    registry::adopt(paths, &path, &lock, details).map_err(|error| refused(&error))?;
    finish(&context, 2)
}

/// Gets what the distro needs to run, as far as it can be had.
fn finish(context: &Context<'_>, version: u32) -> Result<(), Failure> {
    if version == 2 {
        if let Err(error) = versions::version_2() {
            output::warning(&format!(
                "version 2 cannot run here: {}; 'wslr --set-version' converts it",
                error.line()
            ));
        } else if let Err(failure) = prepare::kernel(context) {
            output::warning(&format!(
                "no kernel yet, 'wslr --update' fetches it: {}",
                failure.message
            ));
        }
    }
    output::success()
}

/// The directory of a new distro. Only its last part is made (1.7).
fn place(location: &Path) -> Result<PathBuf, Failure> {
    let absolute = std::path::absolute(location);
    let parent = absolute.as_ref().ok().and_then(|path| path.parent()).unwrap_or(Path::new("/"));
    match fs::metadata(parent) {
        Ok(metadata) if metadata.is_dir() => Ok(location.to_owned()),
        result => {
            let source = result.err().unwrap_or_else(|| io::ErrorKind::NotADirectory.into());
            let path = parent.to_owned();
            Err(Failure::new(REGISTER, &InstallError::Io { action: "open", path, source }))
        }
    }
}

fn unreadable(path: &Path, source: io::Error) -> Failure {
    Failure::new("Wsl", &InstallError::Io { action: "read", path: path.to_owned(), source })
}

/// Opens a disk's file for this process alone.
fn open(path: &Path, writable: bool) -> Result<File, Failure> {
    let failed = |source| unreadable(path, source);
    let file = OpenOptions::new().read(true).write(writable).open(path).map_err(failed)?;
    if !file.metadata().map_err(failed)?.is_file() {
        return Err(failed(io::ErrorKind::InvalidInput.into()));
    }
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            let error = RegistryError::InUse { path: path.to_owned() };
            Err(Failure::new("Wsl/Service/RegisterDistro/MountDisk", &error))
        }
        Err(TryLockError::Error(source)) => Err(failed(source)),
    }
}

/// Copies a disk as it is, holes as holes, and looks at what is in it.
fn copy(
    context: &Context<'_>,
    installation: &Installation,
    from: &File,
    format: Format,
) -> Result<Details, Failure> {
    let failed = |source| {
        let path = installation.path();
        Failure::new(REGISTER, &InstallError::Io { action: "write", path, source })
    };
    let metadata = from.metadata().map_err(failed)?;
    disk::check_space(installation, std::os::unix::fs::MetadataExt::blocks(&metadata) * 512)?;
    installation.file().set_len(metadata.len()).map_err(failed)?;
    let source = Raw::new(from.try_clone().map_err(failed)?);
    let target = Raw::new(installation.file().try_clone().map_err(failed)?);
    let bar = context.progress.bytes("Importing", Some(metadata.len()));
    disks::copy(&source, &target, |count| bar.add(count)).map_err(failed)?;
    inspect(installation.file(), format)
}

/// Looks for a file system in a disk, which is repaired where it was not closed (B052).
fn inspect(file: &File, format: Format) -> Result<Details, Failure> {
    let open = || -> Result<Box<dyn Disk>, disks::DiskError> {
        let file = file.try_clone();
        let file = file.map_err(|source| disks::DiskError::Io { action: "open", source })?;
        disks::open(file, format, true)
    };
    let disk = open().map_err(|error| Failure::new(REGISTER, &error))?;
    let failed = |error| Failure::new(REGISTER, &error);
    let description = Description::of_image(&Image::on(disk).map_err(failed)?).map_err(failed)?;
    Ok(disk::details(description, 0))
}
