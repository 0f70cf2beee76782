//! The writer: one entry after the other, each complete when the next one comes.
//!
//! Directories get their times and the access lists that their content would inherit at
//! the end. Everything is on the disk when [`Writer::finish`] returns, and not before.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::time::{SystemTime, UNIX_EPOCH};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, openat};
use nix::sys::stat::{
    FileStat, Mode, SFlag, UtimensatFlags, fchmod, fchmodat, fstatat, futimens, makedev, mkdirat,
    mknodat, utimensat,
};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchown, fchownat, linkat, symlinkat, syncfs, unlinkat};

use super::error::{Action, Error};
use super::note::{self, Note};
use super::system::{Place, open_directory};
use crate::tree::path::TreePath;
use crate::tree::{Entry, Kind, Metadata, Segment, Sink, Timestamp};

/// Bytes that are read and written at once.
const BUFFER: usize = 256 << 10;

/// The access list that the entries of a directory inherit.
const INHERITED: &[u8] = b"system.posix_acl_default";

/// Fills a directory of this host; entries come in through [`Sink`].
pub struct Writer {
    root: OwnedFd,
    /// The directory of the last entry: the next one is mostly there too.
    recent: Option<(Vec<u8>, OwnedFd)>,
    /// What directories get at the end.
    directories: HashMap<TreePath, Late>,
    buffer: Vec<u8>,
    created: Timestamp,
}

/// What a directory gets when nothing is added to it any more.
struct Late {
    modified: Timestamp,
    inherited: Option<Vec<u8>>,
}

impl Writer {
    /// A writer to an empty, open directory, the root of the tree.
    #[must_use]
    pub fn new(root: OwnedFd) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let created = Timestamp {
            seconds: i64::try_from(now.as_secs()).unwrap_or_default(),
            nanoseconds: now.subsec_nanos(),
        };
        let buffer = vec![0; BUFFER];
        Self { root, recent: None, directories: HashMap::new(), buffer, created }
    }

    /// Completes the directories and waits until all is on the disk.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn finish(mut self) -> Result<(), Error> {
        self.recent = None;
        for (path, late) in &self.directories {
            let directory = match open_directory(&self.root, path.as_bytes()) {
                // Something else has taken its place.
                Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => continue,
                result => result.map_err(|error| Error::io(Action::Set, path, error))?,
            };
            if let Some(list) = &late.inherited {
                set_attribute(path, &Place::Open(&directory), INHERITED, list)?;
            }
            let time = time(late.modified);
            futimens(&directory, &time, &time)
                .map_err(|error| Error::io(Action::Set, path, error))?;
        }
        syncfs(&self.root).map_err(|error| Error::io(Action::Sync, TreePath::root(), error))
    }

    /// Makes the directory `path` and those above it known and present; the last entry's
    /// directory is then at hand in `recent`.
    fn parent(&mut self, path: &TreePath, parent: &[u8]) -> Result<OwnedFd, Error> {
        // A descriptor is taken out while it is used and put back by `done`.
        if let Some((at, directory)) = self.recent.take()
            && at == parent
        {
            return Ok(directory);
        }
        match open_directory(&self.root, parent) {
            Err(Errno::ENOENT) => self.make_parents(path, parent),
            result => result.map_err(|error| not_a_directory(path, error)),
        }
    }

    fn done(&mut self, parent: &[u8], directory: OwnedFd) {
        self.recent = Some((parent.to_vec(), directory));
    }

    fn make_parents(&mut self, path: &TreePath, parent: &[u8]) -> Result<OwnedFd, Error> {
        let mut directory =
            open_directory(&self.root, b"").map_err(|error| not_a_directory(path, error))?;
        let mut end = 0;
        for name in parent.split(|byte| *byte == b'/') {
            end += name.len() + 1;
            directory = match open_directory(&directory, name) {
                Err(Errno::ENOENT) => {
                    let ancestor = TreePath::new(parent.get(..end - 1).unwrap_or_default())
                        .unwrap_or_default();
                    let metadata =
                        Metadata { mode: 0o755, modified: self.created, ..Metadata::default() };
                    self.make_directory(&ancestor, &directory, name, &metadata)?
                }
                result => result.map_err(|error| not_a_directory(path, error))?,
            };
        }
        Ok(directory)
    }

    fn make_directory(
        &mut self,
        path: &TreePath,
        parent: &OwnedFd,
        name: &[u8],
        metadata: &Metadata,
    ) -> Result<OwnedFd, Error> {
        mkdirat(parent, name, Mode::S_IRWXU)
            .map_err(|error| Error::io(Action::Create, path, error))?;
        let directory =
            open_directory(parent, name).map_err(|error| Error::io(Action::Create, path, error))?;
        self.dress_directory(path, &directory, metadata)?;
        Ok(directory)
    }

    /// Gives an open directory its metadata, but for what comes late.
    fn dress_directory(
        &mut self,
        path: &TreePath,
        directory: &OwnedFd,
        metadata: &Metadata,
    ) -> Result<(), Error> {
        dress_open(path, directory, metadata, note::Kind::Directory)?;
        let inherited = metadata.attributes.iter().find(|(name, _)| name == INHERITED);
        let late = Late {
            modified: metadata.modified,
            inherited: inherited.map(|(_, value)| value.clone()),
        };
        self.directories.insert(path.clone(), late);
        Ok(())
    }

    /// A directory entry for one that may exist.
    fn directory(&mut self, path: &TreePath, metadata: &Metadata) -> Result<(), Error> {
        let Some((parent_path, name)) = path.split() else {
            let root =
                open_directory(&self.root, b"").map_err(|error| not_a_directory(path, error))?;
            strip_attributes(path, &root)?;
            return self.dress_directory(path, &root, metadata);
        };
        let parent = self.parent(path, parent_path)?;
        match open_directory(&parent, name) {
            Ok(existing) => {
                strip_attributes(path, &existing)?;
                self.dress_directory(path, &existing, metadata)?;
            }
            Err(Errno::ENOENT) => {
                self.make_directory(path, &parent, name, metadata)?;
            }
            Err(Errno::ENOTDIR | Errno::ELOOP) => {
                remove(path, &parent, name)?;
                self.make_directory(path, &parent, name, metadata)?;
            }
            Err(error) => return Err(not_a_directory(path, error)),
        }
        self.done(parent_path, parent);
        Ok(())
    }

    /// Anything but a directory: what was there is replaced.
    fn leaf(&mut self, entry: Entry<'_>) -> Result<(), Error> {
        let Some((parent_path, name)) = entry.path.split() else {
            return Err(Error::DirectoryInTheWay { path: entry.path.to_string() });
        };
        let parent = self.parent(entry.path, parent_path)?;
        if let Kind::HardLink { target } = &entry.kind {
            self.hard_link(entry.path, &parent, name, target)?;
        } else {
            self.add_leaf(&parent, name, entry)?;
        }
        self.done(parent_path, parent);
        Ok(())
    }

    fn add_leaf(&mut self, parent: &OwnedFd, name: &[u8], entry: Entry<'_>) -> Result<(), Error> {
        let Entry { path, metadata, kind } = entry;
        let special = |this: &Self, kind| this.special(path, parent, name, metadata, kind);
        match kind {
            Kind::File { size, segments, content } => {
                let file = create(path, parent, name)?;
                let file = self.content(path, file, size, segments, content)?;
                dress_open(path, &file, metadata, note::Kind::File)?;
                let time = time(metadata.modified);
                futimens(&file, &time, &time).map_err(|error| Error::io(Action::Set, path, error))
            }
            Kind::SymbolicLink { target } => {
                let link = || symlinkat(target, parent, name);
                replacing(path, parent, name, link)?;
                dress_named(path, parent, name, metadata, Some(note::Kind::Link))
            }
            Kind::BlockDevice { major, minor } => special(self, Special::Block(major, minor)),
            Kind::CharacterDevice { major, minor } => {
                special(self, Special::Character(major, minor))
            }
            Kind::Fifo => special(self, Special::Fifo),
            Kind::Socket => special(self, Special::Socket),
            Kind::Directory | Kind::HardLink { .. } => Ok(()),
        }
    }

    fn special(
        &self,
        path: &TreePath,
        parent: &OwnedFd,
        name: &[u8],
        metadata: &Metadata,
        kind: Special,
    ) -> Result<(), Error> {
        let (flag, device, stands_for) = match kind {
            Special::Fifo => (SFlag::S_IFIFO, 0, None),
            Special::Socket => (SFlag::S_IFSOCK, 0, None),
            Special::Block(major, minor) => (
                SFlag::S_IFBLK,
                makedev(major.into(), minor.into()),
                Some(note::Kind::Block(major, minor)),
            ),
            Special::Character(major, minor) => (
                SFlag::S_IFCHR,
                makedev(major.into(), minor.into()),
                Some(note::Kind::Character(major, minor)),
            ),
        };
        let mode = Mode::S_IRUSR | Mode::S_IWUSR;
        let make = || mknodat(parent, name, flag, mode, device);
        match (replacing(path, parent, name, make), stands_for) {
            (Err(Error::Io { errno: libc::EPERM, .. }), Some(kind)) => {
                let file = create(path, parent, name)?.into();
                stand_in(path, &file, &Note::new(kind, metadata))?;
                let time = time(metadata.modified);
                futimens(&file, &time, &time).map_err(|error| Error::io(Action::Set, path, error))
            }
            (result, _) => {
                result?;
                let noted = match kind {
                    Special::Fifo => Some(note::Kind::Pipe),
                    Special::Socket => Some(note::Kind::Socket),
                    Special::Block(..) | Special::Character(..) => None,
                };
                dress_named(path, parent, name, metadata, noted)
            }
        }
    }

    fn hard_link(
        &mut self,
        path: &TreePath,
        parent: &OwnedFd,
        name: &[u8],
        target: &TreePath,
    ) -> Result<(), Error> {
        let missing = || Error::NoTarget { path: path.to_string(), target: target.to_string() };
        let (target_parent, target_name) = target.split().ok_or_else(missing)?;
        let directory = open_directory(&self.root, target_parent).map_err(|_| missing())?;
        let found = fstatat(&directory, target_name, AtFlags::AT_SYMLINK_NOFOLLOW)
            .map_err(|_| missing())?;
        if is_directory(&found) {
            return Err(missing());
        }
        let existing = fstatat(parent, name, AtFlags::AT_SYMLINK_NOFOLLOW);
        if existing.is_ok_and(|existing| existing.st_ino == found.st_ino) {
            return Ok(());
        }
        let link = || linkat(&directory, target_name, parent, name, AtFlags::empty());
        replacing(path, parent, name, link)
    }

    /// Writes a file's content; gives the file back.
    fn content(
        &mut self,
        path: &TreePath,
        file: File,
        size: u64,
        segments: &[Segment],
        content: &mut dyn Read,
    ) -> Result<OwnedFd, Error> {
        let wrong = || Error::Segments { path: path.to_string() };
        let failed = |error: &_| Error::standard(Action::Write, path, error);
        let mut position = 0_u64;
        for segment in segments {
            let end = segment.offset.checked_add(segment.length).filter(|end| *end <= size);
            let end = end.filter(|_| segment.offset >= position).ok_or_else(wrong)?;
            position = segment.offset;
            while position < end {
                let wanted = usize::try_from(end - position).unwrap_or(usize::MAX);
                let wanted = wanted.min(self.buffer.len());
                let space = self.buffer.get_mut(..wanted).unwrap_or_default();
                let count = match content.read(space) {
                    Ok(0) => {
                        return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
                    }
                    Ok(count) => count,
                    Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                    Err(error) => return Err(error.into()),
                };
                let bytes = space.get(..count).unwrap_or_default();
                file.write_all_at(bytes, position).map_err(|error| failed(&error))?;
                position += count as u64;
            }
        }
        if position < size {
            file.set_len(size).map_err(|error| failed(&error))?;
        }
        Ok(file.into())
    }
}

impl Sink for Writer {
    type Error = Error;

    fn add(&mut self, entry: Entry<'_>) -> Result<(), Error> {
        match entry.kind {
            Kind::Directory => self.directory(entry.path, entry.metadata),
            _ => self.leaf(entry),
        }
    }
}

#[derive(Clone, Copy)]
enum Special {
    Block(u32, u32),
    Character(u32, u32),
    Fifo,
    Socket,
}

fn not_a_directory(path: &TreePath, error: Errno) -> Error {
    match error {
        Errno::ENOTDIR | Errno::ELOOP | Errno::EXDEV => {
            Error::NotADirectory { path: path.to_string() }
        }
        error => Error::io(Action::Create, path, error),
    }
}

fn is_directory(status: &FileStat) -> bool {
    status.st_mode & libc::S_IFMT == libc::S_IFDIR
}

fn time(timestamp: Timestamp) -> TimeSpec {
    TimeSpec::new(timestamp.seconds, timestamp.nanoseconds.into())
}

/// A new, empty file, for its owner only.
fn create(path: &TreePath, parent: &OwnedFd, name: &[u8]) -> Result<File, Error> {
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW;
    let open = || openat(parent, name, flags | OFlag::O_CLOEXEC, Mode::S_IRUSR | Mode::S_IWUSR);
    replacing(path, parent, name, open).map(File::from)
}

/// Makes an entry; what is there already is replaced.
fn replacing<T>(
    path: &TreePath,
    parent: &OwnedFd,
    name: &[u8],
    make: impl Fn() -> Result<T, Errno>,
) -> Result<T, Error> {
    match make() {
        Err(Errno::EEXIST) => {
            remove(path, parent, name)?;
            make()
        }
        result => result,
    }
    .map_err(|error| Error::io(Action::Create, path, error))
}

/// Removes what is in the way of an entry; a directory only where it is empty.
fn remove(path: &TreePath, parent: &OwnedFd, name: &[u8]) -> Result<(), Error> {
    let result = match unlinkat(parent, name, UnlinkatFlags::NoRemoveDir) {
        Err(Errno::EISDIR | Errno::EPERM) => unlinkat(parent, name, UnlinkatFlags::RemoveDir),
        result => result,
    };
    if let Some(attribute) = note::entry(name) {
        let _ = Place::Open(parent).remove_attribute(&attribute);
    }
    match result {
        Err(Errno::ENOTEMPTY | Errno::EEXIST) => {
            Err(Error::DirectoryInTheWay { path: path.to_string() })
        }
        result => result.map_err(|error| Error::io(Action::Delete, path, error)),
    }
}

/// Whether this process may not do it, as opposed to that it failed.
fn is_refused(error: Errno) -> bool {
    // An id or a name that means nothing in this user namespace is an invalid argument.
    matches!(error, Errno::EPERM | Errno::EINVAL | Errno::EOPNOTSUPP)
}

/// Gives an open file or directory its owner, attributes and mode.
fn dress_open(
    path: &TreePath,
    file: &OwnedFd,
    metadata: &Metadata,
    kind: note::Kind,
) -> Result<(), Error> {
    let failed = |error| Error::io(Action::Set, path, error);
    let owner = (Some(Uid::from_raw(metadata.uid)), Some(Gid::from_raw(metadata.gid)));
    let mut mode = metadata.mode & 0o7777;
    let place = Place::Open(file);
    match fchown(file, owner.0, owner.1) {
        Err(error) if is_refused(error) => {
            let value = Note::new(kind, metadata).encode();
            place
                .set_attribute(note::STAT, &value)
                .map_err(|error| Error::io(Action::SetAttribute, path, error))?;
            mode &= 0o1777;
        }
        result => result.map_err(failed)?,
    }
    for (name, value) in &metadata.attributes {
        if name != INHERITED && !note::is_own(name) {
            set_attribute(path, &place, name, value)?;
        }
    }
    // After the owner, whose change takes set-id bits away.
    fchmod(file, Mode::from_bits_truncate(mode)).map_err(failed)
}

/// Makes an open, empty file stand for a device node.
fn stand_in(path: &TreePath, file: &OwnedFd, note: &Note) -> Result<(), Error> {
    Place::Open(file)
        .set_attribute(note::STAT, &note.encode())
        .map_err(|error| Error::io(Action::SetAttribute, path, error))?;
    fchmod(file, Mode::empty()).map_err(|error| Error::io(Action::Set, path, error))
}

/// Gives a link, a device, a pipe or a socket its owner, attributes, mode and time; an
/// owner that it cannot have is noted as that of a `noted`.
fn dress_named(
    path: &TreePath,
    parent: &OwnedFd,
    name: &[u8],
    metadata: &Metadata,
    noted: Option<note::Kind>,
) -> Result<(), Error> {
    let failed = |error| Error::io(Action::Set, path, error);
    let owner = (Some(Uid::from_raw(metadata.uid)), Some(Gid::from_raw(metadata.gid)));
    match fchownat(parent, name, owner.0, owner.1, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Err(error) if is_refused(error) => {
            if let (Some(kind), Some(attribute)) = (noted, note::entry(name)) {
                // As far as there is room: a directory holds some dozens of these.
                let value = Note::new(kind, metadata).encode();
                let _ = Place::Open(parent).set_attribute(&attribute, &value);
            }
        }
        result => result.map_err(failed)?,
    }
    let place = Place::Name(parent, name);
    for (name, value) in &metadata.attributes {
        if note::is_own(name) || note::is_hosts(name) {
            continue;
        }
        match place.set_attribute(name, value) {
            Err(error) if is_refused(error) => {}
            result => {
                result.map_err(|error| Error::io(Action::SetAttribute, path, error))?;
            }
        }
    }
    let status = fstatat(parent, name, AtFlags::AT_SYMLINK_NOFOLLOW).map_err(failed)?;
    if status.st_mode & libc::S_IFMT != libc::S_IFLNK {
        // Nobody else changes the tree, so it is still not a link.
        let at = format!("/proc/self/fd/{}/", parent.as_raw_fd()).into_bytes();
        let at = [at.as_slice(), name].concat();
        let mode = Mode::from_bits_truncate(metadata.mode & 0o7777);
        fchmodat(AT_FDCWD, at.as_slice(), mode, nix::sys::stat::FchmodatFlags::FollowSymlink)
            .map_err(failed)?;
    }
    let time = time(metadata.modified);
    utimensat(parent, name, &time, &time, UtimensatFlags::NoFollowSymlink).map_err(failed)
}

/// Sets an attribute of a file or directory, or puts it aside.
fn set_attribute(
    path: &TreePath,
    place: &Place<'_>,
    name: &[u8],
    value: &[u8],
) -> Result<(), Error> {
    let failed = |error| Error::io(Action::SetAttribute, path, error);
    let set =
        if note::is_hosts(name) { Err(Errno::EPERM) } else { place.set_attribute(name, value) };
    match set {
        Err(error) if is_refused(error) => {
            let aside = note::aside(name).ok_or_else(|| failed(error))?;
            place.set_attribute(&aside, value).map_err(failed)
        }
        result => result.map_err(failed),
    }
}

/// Removes the attributes of a directory that gets others.
fn strip_attributes(path: &TreePath, directory: &OwnedFd) -> Result<(), Error> {
    let place = Place::Open(directory);
    let failed = |error| Error::io(Action::SetAttribute, path, error);
    for name in place.attribute_names().map_err(failed)? {
        if !note::is_hosts(&name) && !note::is_of_entry(&name) {
            place.remove_attribute(&name).map_err(failed)?;
        }
    }
    Ok(())
}
