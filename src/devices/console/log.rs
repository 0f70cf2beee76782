//! Where the guest's console output goes: a file of limited size, and the last lines in
//! memory for the report of a crash.
//!
//! The guest can write without end. The file is kept below [`FILE_LIMIT`]: a full one
//! becomes `<name>.old` and a new one is begun, so that together they hold at least the
//! last [`FILE_LIMIT`] bytes. A log that cannot be written does not disturb the guest.
//!
//! The early console brings its bytes one by one: the file gets them line by line.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The size at which a file is put aside, in bytes.
pub const FILE_LIMIT: u64 = 4 << 20;
/// How much of the end is kept in memory, in bytes.
pub const RECENT_LIMIT: usize = 256 << 10;
/// How much of a machine's log a copy takes, in bytes.
pub const COPY_LIMIT: u64 = 64 << 20;
/// The longest line that is held back, in bytes.
const LINE_LIMIT: usize = 1024;

/// The log.
#[derive(Debug)]
pub struct ConsoleLog {
    path: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Absent after a failure to write, and after the end.
    file: Option<File>,
    written: u64,
    /// The beginning of a line, not yet in the file.
    line: Vec<u8>,
    recent: VecDeque<u8>,
    /// A file of the user's own, and how much more it takes.
    copy: Option<(File, u64)>,
}

impl ConsoleLog {
    /// Begins a log at `path`; an earlier one becomes `<path>.old`. Only the owner may
    /// read it: a kernel's log tells much about a user's machine.
    ///
    /// # Errors
    /// Where the file cannot be made.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = begin(path)?;
        let state = State {
            file: Some(file),
            written: 0,
            line: Vec::new(),
            recent: VecDeque::new(),
            copy: None,
        };
        Ok(Self { path: path.to_owned(), state: Mutex::new(state) })
    }

    /// Appends all that is written, before and from now on, to another file too, which may
    /// become [`COPY_LIMIT`] bytes longer.
    ///
    /// # Errors
    /// Where it cannot be opened.
    pub fn copy_to(&self, path: &Path) -> io::Result<()> {
        let mut options = OpenOptions::new();
        let options = options.append(true).create(true).mode(0o600);
        // A FIFO that nobody reads would hold the machine up.
        let file = options.custom_flags(nix::libc::O_NONBLOCK).open(path)?;
        let mut state = self.lock();
        let before: Vec<u8> = state.recent.iter().copied().collect();
        state.copy = Some((file, COPY_LIMIT));
        // What is held back is in the file as soon as its line is whole.
        let before = before.get(..before.len().saturating_sub(state.line.len()));
        state.append_copy(before.unwrap_or_default());
        Ok(())
    }

    /// Where the log is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Appends what the guest wrote.
    pub fn write(&self, data: &[u8]) {
        let mut state = self.lock();
        let keep = data.get(data.len().saturating_sub(RECENT_LIMIT)..).unwrap_or_default();
        let surplus = (state.recent.len() + keep.len()).saturating_sub(RECENT_LIMIT);
        state.recent.drain(..surplus);
        state.recent.extend(keep);

        state.line.extend_from_slice(data);
        if state.line.len() >= LINE_LIMIT || state.line.contains(&b'\n') {
            state.store(&self.path);
        }
    }

    /// The last output, at most [`RECENT_LIMIT`] bytes.
    pub fn recent(&self) -> Vec<u8> {
        self.lock().recent.iter().copied().collect()
    }

    /// Writes the last output to `path` and waits until the disk has it.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn save_recent(&self, path: &Path) -> io::Result<()> {
        let mut file = options().create_new(true).open(path)?;
        file.write_all(&self.recent())?;
        file.sync_all()
    }

    /// Waits until the disk has the file, and lets go of it. What comes later is kept in
    /// memory only.
    pub fn close(&self) {
        let mut state = self.lock();
        state.store(&self.path);
        if let Some(file) = state.file.take() {
            // A log on a disk that cannot be written is lost like any other.
            let _ = file.sync_data();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn append_copy(&mut self, data: &[u8]) {
        if let Some((file, left)) = &mut self.copy {
            let data = data.get(..usize::try_from(*left).unwrap_or(usize::MAX)).unwrap_or(data);
            *left = left.saturating_sub(data.len() as u64);
            if file.write_all(data).is_err() {
                self.copy = None;
            }
        }
    }

    /// Writes what is held back to the file.
    fn store(&mut self, path: &Path) {
        let data = std::mem::take(&mut self.line);
        self.append_copy(&data);
        if self.file.is_some() && self.written + data.len() as u64 > FILE_LIMIT {
            self.file = begin(path).ok();
            self.written = 0;
        }
        // One write of more than the limit is no line of a kernel.
        let data = data.get(..FILE_LIMIT as usize).unwrap_or(&data);
        self.written += data.len() as u64;
        if let Some(file) = &mut self.file
            && file.write_all(data).is_err()
        {
            self.file = None;
        }
    }
}

fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true).mode(0o600);
    options
}

/// Puts the file at `path` aside and creates a new one.
fn begin(path: &Path) -> io::Result<File> {
    let mut old = OsString::from(path);
    old.push(".old");
    match fs::rename(path, &old) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    options().create_new(true).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_limited_and_the_end_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kernel.log");
        fs::write(&path, "before").unwrap();
        let log = ConsoleLog::open(&path).unwrap();
        assert_eq!(fs::read(folder.path().join("kernel.log.old")).unwrap(), b"before");
        let line = [b'x'; 1000];
        for _ in 0..2 * FILE_LIMIT / 1000 {
            log.write(&line);
        }
        log.write(b"the end");
        log.close();
        assert!(fs::metadata(&path).unwrap().len() <= FILE_LIMIT);
        let old = fs::metadata(folder.path().join("kernel.log.old")).unwrap().len();
        assert!(old <= FILE_LIMIT && old > FILE_LIMIT - 1000);
        let recent = log.recent();
        assert_eq!(recent.len(), RECENT_LIMIT);
        assert!(recent.ends_with(b"xthe end"));
        let report = folder.path().join("report");
        log.save_recent(&report).unwrap();
        assert_eq!(fs::read(&report).unwrap(), recent);
    }

    #[test]
    fn one_huge_write_neither_grows_the_file_nor_the_memory() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kernel.log");
        let log = ConsoleLog::open(&path).unwrap();
        log.write(&vec![b'y'; 3 * FILE_LIMIT as usize]);
        assert_eq!(fs::metadata(&path).unwrap().len(), FILE_LIMIT);
        assert_eq!(log.recent().len(), RECENT_LIMIT);
    }
}
