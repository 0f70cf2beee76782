//! The memory images of processes that crashed in the virtual machine (B161): files of the
//! user's, of limited size and number.
//!
//! A dump is written beside its name and gets it when it is whole; only then the oldest one
//! goes. Files that are not named as dumps are never touched. Whoever can run a program in a
//! distro can send one, so everything in it is bounded.

use std::fmt;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, FileExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::log;
use crate::protocol::frame;
use crate::protocol::guest::CrashDump;

/// What the name of a dump begins and ends with.
const PREFIX: &str = "wsl-crash-";
const SUFFIX: &str = ".dmp";

/// What the name of one that is not whole begins with.
const PART: &str = ".wsl-crash-";

/// The largest dump in bytes; a larger one is cut there.
const SIZE_LIMIT: u64 = 1 << 30;

/// The longest piece of a dump in bytes.
const PIECE_LIMIT: usize = 1 << 20;

/// How many dumps are taken at once.
const CONCURRENCY: usize = 4;

/// How long one may take, and how long nothing may come.
const TIME_LIMIT: Duration = Duration::from_secs(600);
const SILENCE_LIMIT: Duration = Duration::from_secs(60);

/// How many lines a machine's crashes are worth in the service's log.
const LOG_LIMIT: usize = 200;

/// The longest name of a program in the name of a dump.
const NAME_LIMIT: usize = 64;

/// Where dumps go.
#[derive(Debug)]
pub struct CrashDumps {
    folder: PathBuf,
    /// How many are kept.
    count: usize,
    size_limit: u64,
    under_way: AtomicUsize,
    /// Lines that have been logged.
    logged: AtomicUsize,
}

/// Gives its place back.
struct UnderWay(Arc<CrashDumps>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

impl CrashDumps {
    /// Dumps in a folder, which is made when there is one.
    #[must_use]
    pub fn new(folder: PathBuf, count: usize) -> Arc<Self> {
        let (under_way, logged) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Arc::new(Self { folder, count, size_limit: SIZE_LIMIT, under_way, logged })
    }

    /// Takes a dump in a thread of its own; one too many at once is refused.
    pub fn accept(self: &Arc<Self>, stream: UnixStream) {
        let others = self.under_way.fetch_add(1, Ordering::Relaxed);
        let under_way = UnderWay(Arc::clone(self));
        if others >= CONCURRENCY {
            return self.log(format_args!("a crash dump is refused: {others} are being written"));
        }
        let work = move || match under_way.0.take(stream) {
            Ok(path) => under_way.0.log(format_args!("a process crashed: {}", path.display())),
            Err(error) => {
                let folder = under_way.0.folder.display();
                under_way.0.log(format_args!("a crash dump is not written in '{folder}': {error}"));
            }
        };
        if let Err(failure) = super::spawn("crash-dump", work) {
            log(format_args!("{failure}"));
        }
    }

    /// Writes a line to the service's log; a guest that has nothing else to do cannot fill it.
    fn log(&self, text: fmt::Arguments<'_>) {
        if self.logged.fetch_add(1, Ordering::Relaxed) < LOG_LIMIT {
            log(text);
        }
    }

    fn take(&self, mut stream: UnixStream) -> io::Result<PathBuf> {
        stream.set_read_timeout(Some(SILENCE_LIMIT))?;
        let crash: CrashDump = frame::read(&mut stream).map_err(io::Error::other)?;
        DirBuilder::new().recursive(true).mode(0o700).create(&self.folder)?;
        self.clear_parts()?;
        // Only the user may read it: it holds all that the process knew.
        let part = tempfile::Builder::new().prefix(PART).tempfile_in(&self.folder)?;
        part.as_file().lock()?;
        self.write(&mut stream, part.as_file())?;
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let name = file_name(seconds, &crash);
        self.make_room()?;
        let path = self.folder.join(name);
        part.persist(&path).map_err(|error| error.error)?;
        Ok(path)
    }

    /// Writes pieces to the end of the dump, zeroes as holes.
    fn write(&self, stream: &mut UnixStream, file: &File) -> io::Result<()> {
        let deadline = Instant::now() + TIME_LIMIT;
        let mut piece = Vec::new();
        let mut end = 0;
        while end < self.size_limit {
            let mut length = [0; 4];
            stream.read_exact(&mut length)?;
            let length = u32::from_le_bytes(length) as usize;
            if length == 0 {
                break;
            }
            if length > PIECE_LIMIT {
                return Err(io::Error::other(format!("a piece of {length} bytes")));
            }
            piece.resize(length, 0);
            stream.read_exact(&mut piece)?;
            if Instant::now() > deadline {
                return Err(io::ErrorKind::TimedOut.into());
            }
            piece.truncate(usize::try_from(self.size_limit - end).unwrap_or(PIECE_LIMIT));
            if piece.iter().any(|byte| *byte != 0) {
                file.write_all_at(&piece, end)?;
            }
            end += piece.len() as u64;
        }
        file.set_len(end)
    }

    /// Deletes the oldest dumps, so that with one more they are no more than are kept.
    fn make_room(&self) -> io::Result<()> {
        let mut dumps = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            let metadata = entry.metadata()?;
            if metadata.is_file() && entry.file_name().to_str().is_some_and(is_dump) {
                dumps.push((metadata.modified()?, entry.path()));
            }
        }
        dumps.sort();
        let surplus = (dumps.len() + 1).saturating_sub(self.count);
        dumps.iter().take(surplus).try_for_each(|(_, path)| fs::remove_file(path))
    }

    /// Deletes what a service that was killed has left.
    fn clear_parts(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            let is_part = entry.file_name().to_str().is_some_and(|name| name.starts_with(PART));
            if is_part && entry.file_type()?.is_file() && is_left(&entry.path()) {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }
}

/// Whether nobody writes to that file.
fn is_left(path: &Path) -> bool {
    File::open(path).is_ok_and(|file| file.try_lock().is_ok())
}

fn file_name(seconds: u64, crash: &CrashDump) -> String {
    // The kernel gives a path with its slashes replaced.
    let name = crash.executable.rsplit(['!', '/']).next().unwrap_or_default();
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "._+".contains(letter);
    let name: String = name
        .chars()
        .take(NAME_LIMIT)
        .map(|letter| if is_plain(letter) { letter } else { '_' })
        .collect();
    format!("{PREFIX}{seconds}-{}-{name}-{}{SUFFIX}", crash.process, crash.signal)
}

/// Whether a file of that name is a dump.
fn is_dump(name: &str) -> bool {
    let inner = name.strip_prefix(PREFIX).and_then(|rest| rest.strip_suffix(SUFFIX));
    let mut parts = inner.unwrap_or_default().splitn(3, '-');
    let is_number = |part: Option<&str>| {
        part.is_some_and(|part| !part.is_empty() && part.parse::<u64>().is_ok())
    };
    is_number(parts.next()) && is_number(parts.next()) && parts.next().is_some()
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use super::*;

    fn crash(process: u32) -> CrashDump {
        CrashDump { process, signal: 11, executable: "!usr!bin!a b-c".to_owned() }
    }

    /// Sends a dump of these pieces, with its end or without.
    fn send(
        dumps: &CrashDumps,
        process: u32,
        pieces: &[&[u8]],
        whole: bool,
    ) -> io::Result<PathBuf> {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        std::thread::scope(|scope| {
            let taken = scope.spawn(|| dumps.take(theirs));
            frame::write(&mut ours, &crash(process)).unwrap();
            for piece in pieces {
                // Once the dump is long enough nobody listens any more.
                let _ = ours.write_all(&(piece.len() as u32).to_le_bytes());
                let _ = ours.write_all(piece);
            }
            if whole {
                let _ = ours.write_all(&[0; 4]);
            }
            drop(ours);
            taken.join().unwrap()
        })
    }

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn b161_a_dump_is_a_file_of_the_users_and_the_oldest_makes_room() {
        let directory = tempfile::tempdir().unwrap();
        let folder = directory.path().join("crashes");
        let dumps = CrashDumps::new(folder.clone(), 2);
        let first = send(&dumps, 7, &[b"\x7fELF", &[0; 8192], b"end"], true).unwrap();
        assert_eq!(fs::read(&first).unwrap(), [&b"\x7fELF"[..], &[0; 8192], b"end"].concat());
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&folder), mode(&first)), (0o700, 0o600));
        let name = first.file_name().unwrap().to_str().unwrap();
        assert!(name.starts_with("wsl-crash-") && name.ends_with("-7-a_b_c-11.dmp"), "{name}");

        for foreign in ["notes.txt", "wsl-crash-mine.dmp", "wsl-crash-1-2-x-11.dmp.bak"] {
            fs::write(folder.join(foreign), "kept").unwrap();
        }
        // Of a service that was killed.
        fs::write(folder.join(".wsl-crash-left"), "half").unwrap();
        let old = SystemTime::now() - Duration::from_secs(100);
        File::options().write(true).open(&first).unwrap().set_modified(old).unwrap();
        let second = send(&dumps, 8, &[b"2"], true).unwrap();
        assert!(first.exists());
        let third = send(&dumps, 9, &[b"3"], true).unwrap();
        assert!(!first.exists() && second.exists() && third.exists());
        assert_eq!(names(&folder).len(), 5, "{:?}", names(&folder));
        // One of many is one at last.
        let dumps = CrashDumps::new(folder.clone(), 1);
        send(&dumps, 10, &[b"4"], true).unwrap();
        assert_eq!(names(&folder).len(), 4, "{:?}", names(&folder));
    }

    #[test]
    fn half_a_dump_leaves_nothing_and_a_large_one_is_cut() {
        let directory = tempfile::tempdir().unwrap();
        let mut dumps = CrashDumps::new(directory.path().to_owned(), 2);
        assert!(send(&dumps, 1, &[b"half"], false).is_err());
        assert_eq!(names(directory.path()), [""; 0]);
        Arc::get_mut(&mut dumps).unwrap().size_limit = 10 << 10;
        let path = send(&dumps, 2, &[&[0; 8 << 10], &[1; 8 << 10], &[1; 8 << 10]], true).unwrap();
        let metadata = fs::metadata(path).unwrap();
        assert_eq!(metadata.len(), 10 << 10);
        assert!(metadata.blocks() * 512 < 8 << 10, "{} blocks", metadata.blocks());
    }

    #[test]
    fn a_guest_that_lies_gets_nowhere() {
        let directory = tempfile::tempdir().unwrap();
        let dumps = CrashDumps::new(directory.path().to_owned(), 2);
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        frame::write(&mut ours, &crash(1)).unwrap();
        ours.write_all(&u32::MAX.to_le_bytes()).unwrap();
        assert!(dumps.take(theirs).is_err());
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        ours.write_all(b"no frame at all").unwrap();
        drop(ours);
        assert!(dumps.take(theirs).is_err());
        assert_eq!(names(directory.path()), [""; 0]);
        for executable in ["../../etc/passwd", "..", "", "!..!\n\u{202e}", &"x".repeat(5000)] {
            let crash = CrashDump { executable: executable.to_owned(), ..crash(1) };
            let name = file_name(1, &crash);
            assert!(is_dump(&name) && name.len() < 120 && !name.contains('/'), "{name}");
        }
    }
}
