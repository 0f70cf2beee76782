//! `--export` (behaviour reference 1.6): a distro's root, read on the host without a machine,
//! as an archive or a disk.

mod disk;
mod error;
mod target;

use std::fs::File;
use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::path::Path;
use std::thread;

use super::grammar::{Export, ExportFormat};
use super::{distro, output};
use crate::config::paths::Paths;
use crate::convert::{Counted, SourceError, read_root};
use crate::disk::Format;
use crate::error::Failure;
use crate::image::compressor::{Compression, Compressor};
use crate::image::tar::{Measure, WriteError, Writer};
use crate::registry::{Activity, Hold, RegistryError};
use crate::terminal::interrupt::Guard;
use crate::terminal::progress::{Bar, Progress};
use crate::tree::CopyError;

use self::error::ExportError;
use self::target::{Target, Written};

/// The code path of everything that goes wrong.
const SERVICE: &str = "Wsl/Service";

/// Writes an archive or a disk of a distro, which is ended first.
pub(super) fn export(paths: &Paths, export: &Export) -> Result<(), Failure> {
    let failed = |error: ExportError| Failure::new(SERVICE, &error);
    let record = distro::load(paths)?.find(&export.name).map_err(distro::service)?.clone();
    let is_stream = export.file == "-";
    let path = Path::new(&export.file);
    if export.format == ExportFormat::Disk {
        if is_stream {
            return Err(Failure::new("Wsl", &ExportError::NoStream));
        }
        if record.version == 1 {
            return Err(failed(ExportError::NoDisk));
        }
        if Format::of(path) == Format::Raw {
            return Err(failed(ExportError::Extension));
        }
    }
    let written = Written::default();
    let _guard = Guard::new(written.undo())
        .map_err(|error| Failure::plain(error.to_string()).with_code("Wsl/E_FAIL"))?;
    let target = if is_stream { Target::standard_output() } else { Target::file(path, &written) };
    let target = target.map_err(|error| Failure::new("Wsl", &error))?;
    let is_busy = |error: &RegistryError| matches!(error, RegistryError::InUse { .. });
    let hold = distro::once_ended(paths, record.id, SERVICE, is_busy, || {
        Hold::begin(paths, record.id, Activity::Exporting)
    })?;
    let bar = Progress::on_terminal().bytes(format!("Exporting {}", record.name), None);
    match export.format {
        ExportFormat::Archive(compression) => archive(&hold, &target, compression, &bar),
        ExportFormat::Disk => disk::write(&hold, &target, Format::of(path), &bar),
    }
    .map_err(failed)?;
    bar.label("Finishing");
    target.finish().map_err(failed)?;
    drop(bar);
    drop(hold);
    if is_stream { Ok(()) } else { output::success() }
}

/// Writes the tree as an archive.
fn archive(
    hold: &Hold,
    target: &Target,
    compression: Compression,
    bar: &Bar,
) -> Result<(), ExportError> {
    check_space(hold, target, compression)?;
    let threads = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let stream = Compressor::new(compression, threads, target.stream());
    let mut writer = Writer::new(stream.map_err(WriteError::Stream)?);
    read_root(hold.record(), root(hold)?, &mut Counted::new(&mut writer, bar)).map_err(cause)?;
    let compressor = writer.finish()?;
    let mut stream = compressor.finish().map_err(WriteError::Stream)?;
    Ok(stream.flush().map_err(WriteError::Stream)?)
}

/// What went wrong: a failure to read content comes back from who was to write it.
fn cause(error: CopyError<SourceError, WriteError>) -> ExportError {
    match error {
        CopyError::Source(error) => error.into(),
        CopyError::Sink(WriteError::Content(error)) => match SourceError::of_content(error) {
            Ok(error) => error.into(),
            Err(error) => WriteError::Content(error).into(),
        },
        CopyError::Sink(error) => error.into(),
    }
}

/// Checks that there is room for an archive, whose length is found exactly where there may
/// not be. How far a compression gets nobody knows before.
fn check_space(hold: &Hold, target: &Target, compression: Compression) -> Result<(), ExportError> {
    let Some(available) = target.available().filter(|_| compression == Compression::None) else {
        return Ok(());
    };
    // Headers take a quarter of a tree of small files.
    let enough = |used: u64| available / 5 * 4 > used;
    if used(hold).is_some_and(enough) {
        return Ok(());
    }
    let mut measure = Measure::default();
    read_root(hold.record(), root(hold)?, &mut measure).map_err(cause)?;
    target.check_space(measure.length)
}

/// At least as many bytes as the distro's files have on the host's disk.
fn used(hold: &Hold) -> Option<u64> {
    use std::os::unix::fs::MetadataExt;
    if hold.record().version != 1 {
        return Some(hold.root().metadata().ok()?.blocks().saturating_mul(512));
    }
    let status = nix::sys::statvfs::fstatvfs(hold.root()).ok()?;
    let used = status.blocks().saturating_sub(status.blocks_free());
    Some(used.saturating_mul(status.fragment_size()))
}

/// The distro's root once more.
fn root(hold: &Hold) -> Result<File, ExportError> {
    hold.root().try_clone().map_err(|source: io::Error| {
        let path = hold.record().disk_path();
        ExportError::Io { action: "open", path, source }
    })
}
