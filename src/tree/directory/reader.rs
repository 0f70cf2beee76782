//! The reader: a directory as entries, in the order of names, directories before what is
//! in them.
//!
//! It takes memory for the names of the directories on the way down and for the files
//! with more than one name. A mount point in the tree is an empty directory to it.

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, readlinkat};
use nix::sys::stat::{FileStat, Mode, fstat, fstatat, major, minor};
use nix::unistd::{Whence, getegid, geteuid, lseek};

use super::error::{Action, Error};
use super::note::{self, Note};
use super::system::{Place, open_directory};
use crate::tree::path::TreePath;
use crate::tree::segments::SegmentReader;
use crate::tree::{CopyError, Entry, Kind, Metadata, Segment, Sink, Timestamp};

/// How many directories are kept open on the way down.
const DEPTH: usize = 64;

/// How many parts of a file are told apart; what is behind the last is one part.
const SEGMENTS: usize = 1 << 16;

/// A directory on the way down.
struct Level {
    path: TreePath,
    /// `None` where it is so deep that it is opened again when it is needed.
    directory: Option<OwnedFd>,
    /// Descending: the next is the last.
    names: Vec<Vec<u8>>,
}

/// Reads the tree below an open directory into a sink, the directory itself first.
///
/// # Errors
/// [`CopyError::Source`] where something cannot be read, [`CopyError::Sink`] where the
/// sink refuses an entry.
pub fn read<S: Sink>(root: &OwnedFd, sink: &mut S) -> Result<(), CopyError<Error, S::Error>> {
    let mut reader = Reader { root, links: HashMap::new() };
    let directory = reader.open(&TreePath::root())?;
    let status = fstat(&directory).map_err(|error| failed(&TreePath::root(), error))?;
    let metadata = metadata(&TreePath::root(), &Place::Open(&directory), &status)?.0;
    let path = TreePath::root();
    sink.add(Entry { path: &path, metadata: &metadata, kind: Kind::Directory })
        .map_err(CopyError::Sink)?;
    let names = names(&path, &directory)?;
    let mut stack = vec![Level { path, directory: Some(directory), names }];
    while let Some(level) = stack.last_mut() {
        let Some(name) = level.names.pop() else {
            stack.pop();
            continue;
        };
        let directory = match level.directory.take() {
            Some(directory) => directory,
            None => reader.open(&level.path)?,
        };
        let below = reader.entry(&level.path, &directory, &name, sink)?;
        let depth = stack.len();
        if let Some(level) = stack.last_mut()
            && depth <= DEPTH
        {
            level.directory = Some(directory);
        }
        stack.extend(below);
    }
    Ok(())
}

struct Reader<'a> {
    root: &'a OwnedFd,
    /// The first path of each file with more than one name.
    links: HashMap<(u64, u64), TreePath>,
}

impl Reader<'_> {
    fn open(&self, path: &TreePath) -> Result<OwnedFd, Error> {
        open_directory(self.root, path.as_bytes()).map_err(|error| failed(path, error))
    }

    /// Passes one entry on; gives the directory to go down into.
    fn entry<S: Sink>(
        &mut self,
        parent: &TreePath,
        directory: &OwnedFd,
        name: &[u8],
        sink: &mut S,
    ) -> Result<Option<Level>, CopyError<Error, S::Error>> {
        let bytes = match parent.is_root() {
            true => name.to_vec(),
            false => [parent.as_bytes(), b"/", name].concat(),
        };
        let too_long = |_| Error::PathTooLong { path: parent.to_string() };
        let path = TreePath::new(&bytes).map_err(too_long)?;
        let status = fstatat(directory, name, AtFlags::AT_SYMLINK_NOFOLLOW)
            .map_err(|error| failed(&path, error))?;
        let format = status.st_mode & libc::S_IFMT;
        if format == libc::S_IFDIR {
            return self.directory(path, directory, name, &status, sink);
        }
        if status.st_nlink > 1 {
            if let Some(target) = self.links.get(&(status.st_dev, status.st_ino)) {
                let metadata = Metadata::default();
                let entry =
                    Entry { path: &path, metadata: &metadata, kind: Kind::HardLink { target } };
                sink.add(entry).map_err(CopyError::Sink)?;
                return Ok(None);
            }
            self.links.insert((status.st_dev, status.st_ino), path.clone());
        }
        if format == libc::S_IFREG {
            file(&path, directory, name, &status, sink)?;
            return Ok(None);
        }
        let target;
        let (mut metadata, _) = metadata(&path, &Place::Name(directory, name), &status)?;
        if let Some(note) = note_of_entry(directory, name, &status) {
            (metadata.uid, metadata.gid) = (note.uid, note.gid);
        }
        let device = (major(status.st_rdev) as u32, minor(status.st_rdev) as u32);
        let kind = match format {
            libc::S_IFLNK => {
                target = readlinkat(directory, name).map_err(|error| failed(&path, error))?;
                Kind::SymbolicLink { target: target.as_bytes() }
            }
            libc::S_IFBLK => Kind::BlockDevice { major: device.0, minor: device.1 },
            libc::S_IFCHR => Kind::CharacterDevice { major: device.0, minor: device.1 },
            libc::S_IFIFO => Kind::Fifo,
            _ => Kind::Socket,
        };
        sink.add(Entry { path: &path, metadata: &metadata, kind }).map_err(CopyError::Sink)?;
        Ok(None)
    }

    fn directory<S: Sink>(
        &self,
        path: TreePath,
        parent: &OwnedFd,
        name: &[u8],
        status: &FileStat,
        sink: &mut S,
    ) -> Result<Option<Level>, CopyError<Error, S::Error>> {
        let open = match open_directory(parent, name) {
            Err(Errno::EXDEV) => None,
            result => Some(result.map_err(|error| failed(&path, error))?),
        };
        let metadata = match &open {
            Some(directory) => metadata(&path, &Place::Open(directory), status)?.0,
            None => basic_metadata(status),
        };
        sink.add(Entry { path: &path, metadata: &metadata, kind: Kind::Directory })
            .map_err(CopyError::Sink)?;
        let Some(directory) = open else { return Ok(None) };
        let names = names(&path, &directory)?;
        Ok(Some(Level { path, directory: Some(directory), names }))
    }
}

/// Passes a regular file on, or the device that it stands for.
fn file<S: Sink>(
    path: &TreePath,
    directory: &OwnedFd,
    name: &[u8],
    status: &FileStat,
    sink: &mut S,
) -> Result<(), CopyError<Error, S::Error>> {
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let open =
        openat(directory, name, flags, Mode::empty()).map_err(|error| failed(path, error))?;
    let opened = fstat(&open).map_err(|error| failed(path, error))?;
    if (opened.st_dev, opened.st_ino) != (status.st_dev, status.st_ino) {
        return Err(failed(path, Errno::EBUSY).into());
    }
    let (mut metadata, device) = metadata(path, &Place::Open(&open), &opened)?;
    if let Some(note) = device {
        (metadata.mode, metadata.uid, metadata.gid) = (note.mode, note.uid, note.gid);
        let kind = match note.kind {
            note::Kind::Block(major, minor) => Kind::BlockDevice { major, minor },
            note::Kind::Character(major, minor) => Kind::CharacterDevice { major, minor },
            _ => return Ok(()),
        };
        return sink.add(Entry { path, metadata: &metadata, kind }).map_err(CopyError::Sink);
    }
    let size = opened.st_size.unsigned_abs();
    let segments = segments(&open, size).map_err(|error| failed(path, error))?;
    let file = File::from(open);
    let mut content = SegmentReader::new(&segments, |space, offset| file.read_at(space, offset));
    let kind = Kind::File { size, segments: &segments, content: &mut content };
    sink.add(Entry { path, metadata: &metadata, kind }).map_err(CopyError::Sink)
}

/// The names in a directory, descending.
fn names(path: &TreePath, directory: &OwnedFd) -> Result<Vec<Vec<u8>>, Error> {
    let list = || -> Result<_, Errno> {
        let mut names = Vec::new();
        for entry in Dir::from_fd(open_directory(directory, b"")?)?.iter() {
            let name = entry?.file_name().to_bytes().to_vec();
            if name != b"." && name != b".." {
                names.push(name);
            }
        }
        names.sort_unstable_by(|a, b| b.cmp(a));
        Ok(names)
    };
    list().map_err(|error| failed(path, error))
}

fn failed(path: &TreePath, error: Errno) -> Error {
    Error::io(Action::Read, path, error)
}

/// Owner, mode and time as the file has them.
fn basic_metadata(status: &FileStat) -> Metadata {
    Metadata {
        mode: status.st_mode & 0o7777,
        uid: status.st_uid,
        gid: status.st_gid,
        modified: Timestamp {
            seconds: status.st_mtime,
            nanoseconds: u32::try_from(status.st_mtime_nsec).unwrap_or_default(),
        },
        attributes: Vec::new(),
    }
}

/// Whether a file is root's in the distro.
fn is_roots(status: &FileStat) -> bool {
    status.st_uid == geteuid().as_raw() && status.st_gid == getegid().as_raw()
}

/// The owner of a link, a pipe or a socket, where it is noted on its directory.
fn note_of_entry(directory: &OwnedFd, name: &[u8], status: &FileStat) -> Option<Note> {
    let kind = match status.st_mode & libc::S_IFMT {
        libc::S_IFLNK => note::Kind::Link,
        libc::S_IFIFO => note::Kind::Pipe,
        libc::S_IFSOCK => note::Kind::Socket,
        _ => return None,
    };
    if !is_roots(status) || !fstat(directory).is_ok_and(|directory| is_roots(&directory)) {
        return None;
    }
    let value = Place::Open(directory).attribute(&note::entry(name)?).ok()?;
    Note::decode(&value).filter(|note| note.kind == kind)
}

/// All metadata, what is noted of the file included; and the note of a device that an
/// empty file stands for.
fn metadata(
    path: &TreePath,
    place: &Place<'_>,
    status: &FileStat,
) -> Result<(Metadata, Option<Note>), Error> {
    let mut metadata = basic_metadata(status);
    let mut found = None;
    for name in place.attribute_names().map_err(|error| failed(path, error))? {
        if note::is_hosts(&name) {
            continue;
        }
        let value = match place.attribute(&name) {
            // Listed, but not for this process.
            Err(Errno::ENODATA | Errno::EPERM | Errno::EOPNOTSUPP) => continue,
            value => value.map_err(|error| failed(path, error))?,
        };
        if let Some(name) = note::put_aside(&name) {
            metadata.attributes.push((name.to_vec(), value));
        } else if name == note::STAT {
            found = Note::decode(&value);
        } else if !note::is_own(&name) {
            metadata.attributes.push((name, value));
        }
    }
    metadata.attributes.sort_unstable();
    metadata.attributes.dedup_by(|a, b| a.0 == b.0);
    let note = found.filter(|_| is_roots(status));
    let mut device = None;
    match note.map(|note| (note, note.kind, status.st_mode & libc::S_IFMT)) {
        Some((note, note::Kind::File, libc::S_IFREG))
        | Some((note, note::Kind::Directory, libc::S_IFDIR)) => {
            metadata.mode |= note.mode & 0o6000;
            (metadata.uid, metadata.gid) = (note.uid, note.gid);
        }
        Some((note, note::Kind::Block(..) | note::Kind::Character(..), libc::S_IFREG))
            if status.st_mode & 0o7777 == 0 && status.st_size == 0 =>
        {
            device = Some(note);
        }
        _ => {}
    }
    Ok((metadata, device))
}

/// The parts of a file that hold data.
fn segments(file: &OwnedFd, size: u64) -> Result<Vec<Segment>, Errno> {
    let end = i64::try_from(size).map_err(|_| Errno::EFBIG)?;
    let mut segments = Vec::new();
    let mut position = 0_i64;
    while position < end {
        let start = match lseek(file, position, Whence::SeekData) {
            Err(Errno::ENXIO) => break,
            Err(Errno::EINVAL) => position,
            start => start?.min(end),
        };
        let stop = match lseek(file, start, Whence::SeekHole) {
            _ if segments.len() + 1 >= SEGMENTS => end,
            Err(Errno::EINVAL | Errno::ENXIO) => end,
            stop => stop?.min(end),
        };
        if stop <= start {
            break;
        }
        segments.push(Segment { offset: start.unsigned_abs(), length: stop.abs_diff(start) });
        position = stop;
    }
    Ok(segments)
}
