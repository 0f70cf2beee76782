//! A tree sink that writes to a directory of the host. It needs root for owners and device
//! nodes, and serves tests only: nothing stops a link from leading out.

#![allow(clippy::unwrap_used, reason = "a test's helper")]

use std::fs::{self, File};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use nix::fcntl::AT_FDCWD;
use nix::sys::stat::{Mode, SFlag, UtimensatFlags, makedev, mknod, utimensat};
use nix::sys::time::TimeSpec;
use wslr::tree::path::TreePath;
use wslr::tree::{Entry, Kind, Metadata, Sink};

/// The sink.
pub struct Directory {
    root: PathBuf,
    /// Times of directories, which change while they are filled.
    times: Vec<(PathBuf, TimeSpec)>,
}

impl Directory {
    /// A sink that fills `root`.
    pub fn new(root: &Path) -> Self {
        fs::create_dir_all(root).unwrap();
        Self { root: root.to_owned(), times: Vec::new() }
    }

    /// Sets what only the end can set.
    pub fn finish(self) {
        for (path, time) in self.times.into_iter().rev() {
            utimensat(AT_FDCWD, &path, &time, &time, UtimensatFlags::NoFollowSymlink).unwrap();
        }
    }

    fn path(&self, path: &TreePath) -> PathBuf {
        self.root.join(std::ffi::OsStr::from_bytes(path.as_bytes()))
    }

    fn dress(&mut self, path: &Path, metadata: &Metadata) -> io::Result<()> {
        let kind = path.symlink_metadata()?.file_type();
        std::os::unix::fs::lchown(path, Some(metadata.uid), Some(metadata.gid))?;
        if !kind.is_symlink() {
            fs::set_permissions(path, fs::Permissions::from_mode(metadata.mode))?;
        }
        let time =
            TimeSpec::new(metadata.modified.seconds, i64::from(metadata.modified.nanoseconds));
        if kind.is_dir() {
            self.times.push((path.to_owned(), time));
        }
        utimensat(AT_FDCWD, path, &time, &time, UtimensatFlags::NoFollowSymlink)?;
        Ok(())
    }
}

impl Sink for Directory {
    type Error = io::Error;

    fn add(&mut self, entry: Entry<'_>) -> io::Result<()> {
        let path = self.path(entry.path);
        if let Some(parent) = path.parent().filter(|parent| parent.starts_with(&self.root)) {
            fs::create_dir_all(parent)?;
        }
        if !matches!(entry.kind, Kind::Directory) && path.symlink_metadata().is_ok() {
            fs::remove_file(&path)?;
        }
        let node = |kind, major: u32, minor: u32| {
            mknod(&path, kind, Mode::empty(), makedev(major.into(), minor.into()))
        };
        match entry.kind {
            Kind::BlockDevice { major, minor } => node(SFlag::S_IFBLK, major, minor)?,
            Kind::CharacterDevice { major, minor } => node(SFlag::S_IFCHR, major, minor)?,
            Kind::Directory => fs::create_dir_all(&path)?,
            Kind::Fifo => node(SFlag::S_IFIFO, 0, 0)?,
            Kind::File { size, segments, content } => {
                let mut file = File::create(&path)?;
                file.set_len(size)?;
                for segment in segments {
                    file.seek(SeekFrom::Start(segment.offset))?;
                    let mut part = io::Read::take(&mut *content, segment.length);
                    io::copy(&mut part, &mut file)?;
                }
            }
            Kind::HardLink { target } => return fs::hard_link(self.path(target), &path),
            Kind::Socket => node(SFlag::S_IFSOCK, 0, 0)?,
            Kind::SymbolicLink { target } => {
                std::os::unix::fs::symlink(std::ffi::OsStr::from_bytes(target), &path)?;
            }
        }
        self.dress(&path, entry.metadata)
    }
}
