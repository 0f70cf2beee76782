//! The file that an export goes to. One that stays is written beside its name and renamed
//! when it is on the disk: until then what was there is there.

use std::fs::{self, File, OpenOptions};
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::sys::statvfs::fstatvfs;
use tempfile::{NamedTempFile, TempPath};

use super::error::ExportError;

/// The name of the file that is being written, for who ends the process in between.
#[derive(Clone, Default)]
pub(super) struct Written(Arc<Mutex<Option<PathBuf>>>);

impl Written {
    /// What is to be done when the process is told to end.
    pub(super) fn undo(&self) -> impl FnOnce() + Send + 'static {
        let written = self.clone();
        move || {
            let _ = written.name().take().map(fs::remove_file);
        }
    }

    /// Locked while the file is made.
    fn name(&self) -> MutexGuard<'_, Option<PathBuf>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where an export goes to. Dropped unfinished, it leaves nothing.
pub(super) struct Target {
    file: File,
    /// The name it is written under and the one it gets, both in one directory.
    names: Option<(TempPath, PathBuf)>,
}

impl Target {
    /// Standard output.
    pub(super) fn standard_output() -> Result<Self, ExportError> {
        if io::stdout().is_terminal() {
            return Err(ExportError::Terminal);
        }
        let file = io::stdout().as_fd().try_clone_to_owned();
        let path = PathBuf::from("-");
        let failed = |source| ExportError::Io { action: "write", path, source };
        Ok(Self { file: file.map_err(failed)?.into(), names: None })
    }

    /// A file. What is no regular file, a pipe for example, is written as it is.
    pub(super) fn file(path: &Path, written: &Written) -> Result<Self, ExportError> {
        let failed =
            |action| move |source| ExportError::Io { action, path: path.to_owned(), source };
        let existing = match fs::metadata(path) {
            Ok(existing) => Some(existing),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(failed("create")(error)),
        };
        if let Some(existing) = existing.as_ref().filter(|existing| !existing.is_file()) {
            let kind = existing.file_type();
            if existing.is_dir() || kind.is_block_device() {
                let kind = if existing.is_dir() {
                    io::ErrorKind::IsADirectory
                } else {
                    io::ErrorKind::InvalidInput
                };
                return Err(failed("create")(kind.into()));
            }
            let file = OpenOptions::new().write(true).open(path).map_err(failed("open"))?;
            return Ok(Self { file, names: None });
        }
        // Through links: they stay, and what they name is replaced.
        let path = match &existing {
            Some(_) => path.canonicalize().map_err(failed("open"))?,
            None => std::path::absolute(path).map_err(failed("create"))?,
        };
        let parent = path.parent().unwrap_or(Path::new("/"));
        fs::metadata(parent).map_err(failed("create"))?;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let short: String = name.chars().take(40).collect();
        let mut known = written.name();
        let written = NamedTempFile::with_prefix_in(format!(".{short}."), parent)
            .map_err(failed("create"))?;
        *known = Some(written.path().to_owned());
        drop(known);
        if let Some(existing) = &existing {
            written.as_file().set_permissions(existing.permissions()).map_err(failed("create"))?;
        }
        let (file, written) = written.into_parts();
        Ok(Self { file, names: Some((written, path)) })
    }

    /// What is written to.
    pub(super) fn stream(&self) -> &File {
        &self.file
    }

    /// Checks that there is room for `needed` bytes.
    pub(super) fn check_space(&self, needed: u64) -> Result<(), ExportError> {
        const MEGABYTE: u64 = 1 << 20;
        let (Some(available), Some((_, path))) = (self.available(), &self.names) else {
            return Ok(());
        };
        if needed <= available {
            return Ok(());
        }
        Err(ExportError::Space {
            path: path.parent().unwrap_or(Path::new("/")).to_owned(),
            available: available / MEGABYTE,
            needed: needed.div_ceil(MEGABYTE),
        })
    }

    /// How many bytes can be written; `None` where nobody knows.
    pub(super) fn available(&self) -> Option<u64> {
        let status = fstatvfs(&self.file).ok().filter(|_| self.names.is_some())?;
        Some(status.blocks_available().saturating_mul(status.fragment_size()))
    }

    /// Gives the file its name, once it is on the disk.
    pub(super) fn finish(self) -> Result<(), ExportError> {
        let Some((written, path)) = self.names else { return Ok(()) };
        let failed = |source| ExportError::Io { action: "write", path: path.clone(), source };
        self.file.sync_all().map_err(failed)?;
        written.persist(&path).map_err(|error| failed(error.error))?;
        let parent = path.parent().unwrap_or(Path::new("/"));
        File::open(parent).and_then(|parent| parent.sync_all()).map_err(failed)
    }
}
