//! A file of the host's settings that is looked at before each use, so that a change is
//! followed by the next one.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

/// Files beyond this are no settings.
const MAXIMUM_LENGTH: u64 = 1 << 20;

/// What tells one state of a file from another: where it is, how long, and its times.
type Seen = (u64, u64, u64, [i64; 4]);

/// The file.
#[derive(Debug)]
pub struct SettingsFile {
    path: PathBuf,
    seen: Option<Seen>,
    looked: bool,
}

impl SettingsFile {
    /// That file, which may be a link and need not be there.
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        Self { path, seen: None, looked: false }
    }

    /// Its text where it is another than at the last look; empty where it is gone.
    pub fn changed(&mut self) -> Option<String> {
        let seen = fs::metadata(&self.path).ok().filter(|file| file.len() <= MAXIMUM_LENGTH);
        let seen = seen.map(|file| {
            let times = [file.mtime(), file.mtime_nsec(), file.ctime(), file.ctime_nsec()];
            (file.dev(), file.ino(), file.len(), times)
        });
        if self.looked && seen == self.seen {
            return None;
        }
        self.looked = true;
        self.seen = seen;
        let text = seen.and_then(|_| fs::read_to_string(&self.path).ok());
        Some(text.unwrap_or_default())
    }

    /// Whether it was there at the last look.
    #[must_use]
    pub fn is_there(&self) -> bool {
        self.seen.is_some()
    }
}
