//! The unfinished file of a download, and what a server said about it.
//!
//! Beside `<name>` lie `<name>.partial` and, where the server gave one, its validator in
//! `<name>.validator`. The partial file is locked while one process writes it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::checksum::Hasher;
use super::{DownloadError, Sha256};

/// An unfinished download that this process owns.
#[derive(Debug)]
pub(super) struct Partial {
    file: File,
    path: PathBuf,
    validator_path: PathBuf,
    hasher: Hasher,
    length: u64,
}

impl Partial {
    /// Opens and locks the unfinished file of `destination`, waiting for whoever has it.
    pub(super) fn open(destination: &Path) -> Result<Self, DownloadError> {
        let path = with_suffix(destination, ".partial");
        let error = |source| DownloadError::Write { path: path.clone(), source };
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory)
                .map_err(|source| DownloadError::Write { path: directory.to_owned(), source })?;
        }
        loop {
            let file = OpenOptions::new()
                .create(true)
                .truncate(false)
                .read(true)
                .write(true)
                .open(&path)
                .map_err(error)?;
            file.lock().map_err(error)?;
            // The one who had the lock may have renamed the file away.
            if !is_still_at(&file, &path) {
                continue;
            }
            let mut partial = Self {
                file,
                validator_path: with_suffix(destination, ".validator"),
                hasher: Hasher::default(),
                length: 0,
                path: path.clone(),
            };
            partial.hash_existing().map_err(error)?;
            return Ok(partial);
        }
    }

    fn hash_existing(&mut self) -> io::Result<()> {
        struct Tee<'a>(&'a mut Hasher);
        impl Write for Tee<'_> {
            fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
                self.0.update(buffer);
                Ok(buffer.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        self.file.seek(SeekFrom::Start(0))?;
        self.length = io::copy(&mut self.file, &mut Tee(&mut self.hasher))?;
        Ok(())
    }

    /// How many bytes are there.
    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// What identifies the version that the bytes are of.
    pub(super) fn validator(&self) -> Option<String> {
        fs::read_to_string(&self.validator_path).ok().filter(|text| !text.is_empty())
    }

    /// Starts over, with the validator of what is to come.
    pub(super) fn restart(&mut self, validator: Option<&str>) -> Result<(), DownloadError> {
        self.file.set_len(0).map_err(|source| self.error(source))?;
        self.file.seek(SeekFrom::Start(0)).map_err(|source| self.error(source))?;
        self.hasher = Hasher::default();
        self.length = 0;
        match validator {
            Some(validator) => fs::write(&self.validator_path, validator).map_err(|source| {
                DownloadError::Write { path: self.validator_path.clone(), source }
            }),
            None => {
                // It may never have been there.
                let _ = fs::remove_file(&self.validator_path);
                Ok(())
            }
        }
    }

    /// Appends.
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), DownloadError> {
        self.file.write_all(bytes).map_err(|source| self.error(source))?;
        self.hasher.update(bytes);
        self.length = self.length.saturating_add(bytes.len() as u64);
        Ok(())
    }

    /// The digest of all bytes.
    pub(super) fn digest(&self) -> Sha256 {
        self.hasher.clone().finish()
    }

    /// Gives the file its name.
    pub(super) fn complete(self, destination: &Path) -> Result<(), DownloadError> {
        self.file.sync_all().map_err(|source| self.error(source))?;
        fs::rename(&self.path, destination)
            .map_err(|source| DownloadError::Write { path: destination.to_owned(), source })?;
        // It may never have been there.
        let _ = fs::remove_file(&self.validator_path);
        Ok(())
    }

    /// Removes the file: what it holds is of no use.
    pub(super) fn discard(self) {
        // Left behind, they would only be discarded by the next attempt.
        let _ = fs::remove_file(&self.path);
        let _ = fs::remove_file(&self.validator_path);
    }

    fn error(&self, source: io::Error) -> DownloadError {
        DownloadError::Write { path: self.path.clone(), source }
    }
}

fn is_still_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    match (file.metadata(), fs::metadata(path)) {
        (Ok(open), Ok(named)) => (open.dev(), open.ino()) == (named.dev(), named.ino()),
        _ => false,
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}
