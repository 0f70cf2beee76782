//! Directory trees against independent judges: GNU tar as the truth of what an archive
//! holds, and the kernel.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail by panicking")]

mod support;

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use support::tree::{NASTY, assert_same_tree, is_root, shell};
use wslr::image::tar::read_entries;
use wslr::tree::directory::{self, Error, Writer};
use wslr::tree::path::TreePath;
use wslr::tree::{Entry, Kind, Metadata, Segment, Sink, wire};

/// A new directory and a writer to it.
fn writer(directory: &Path, name: &str) -> (PathBuf, Writer) {
    let path = directory.join(name);
    fs::create_dir(&path).unwrap();
    let root = OwnedFd::from(File::open(&path).unwrap());
    (path, Writer::new(root))
}

fn open(path: &Path) -> OwnedFd {
    File::open(path).unwrap().into()
}

/// A tree from an archive made of `tree` in `directory`, and what tar makes of it.
fn truth(directory: &Path) -> (PathBuf, PathBuf) {
    let script = "tar -C tree -cf archive.tar -S --sort=name --numeric-owner --format=posix \
         --xattrs --acls . ; mkdir truth; tar -C truth -xpf archive.tar --numeric-owner \
         --xattrs --xattrs-include='*' --acls";
    shell(directory, script);
    (directory.join("archive.tar"), directory.join("truth"))
}

#[test]
fn a_nasty_tree_comes_out_as_tar_unpacks_it_and_is_read_back_the_same() {
    if !is_root() {
        eprintln!("needs root: device nodes and owners");
        return;
    }
    let home = tempfile::tempdir().unwrap();
    fs::create_dir(home.path().join("tree")).unwrap();
    shell(&home.path().join("tree"), NASTY);
    let (archive, truth) = truth(home.path());
    let (unpacked, mut sink) = writer(home.path(), "unpacked");
    read_entries(File::open(archive).unwrap(), &mut sink, |path| path).unwrap();
    sink.finish().unwrap();
    assert_same_tree(&unpacked, &truth);
    // From there by way of a stream.
    let (copy, mut sink) = writer(home.path(), "copy");
    let mut stream = Vec::new();
    let mut sender = wire::Sender::new(&mut stream);
    directory::read(&open(&unpacked), &mut sender).unwrap();
    sender.finish().unwrap();
    wire::receive(&mut stream.as_slice(), &mut sink).unwrap();
    sink.finish().unwrap();
    assert_same_tree(&copy, &truth);
    directory::remove(&open(home.path()), b"copy").unwrap();
    assert!(!copy.exists());
}

/// Adds an entry. A macro, since a kind's content is borrowed for as long as the rest.
macro_rules! add {
    ($sink:expr, $path:expr, $kind:expr) => {{
        let path = TreePath::new($path.as_bytes()).unwrap();
        let metadata = Metadata { mode: 0o644, ..Metadata::default() };
        $sink.add(Entry { path: &path, metadata: &metadata, kind: $kind })
    }};
}

fn add_file(sink: &mut Writer, path: &str, content: &[u8]) -> Result<(), Error> {
    let size = content.len() as u64;
    let segments = [Segment { offset: 0, length: size }];
    add!(sink, path, Kind::File { size, segments: &segments, content: &mut &*content })
}

#[test]
fn an_archive_cannot_write_outside_of_its_tree() {
    let home = tempfile::tempdir().unwrap();
    let outside = home.path().join("outside");
    fs::create_dir(&outside).unwrap();
    let (root, mut sink) = writer(home.path(), "root");
    let target = outside.as_os_str().as_encoded_bytes();
    add!(sink, "link", Kind::SymbolicLink { target }).unwrap();
    add!(sink, "up", Kind::SymbolicLink { target: b".." }).unwrap();
    for path in ["link/file", "up/outside/file", "link/a/b"] {
        let error = add_file(&mut sink, path, b"x").unwrap_err();
        assert!(matches!(error, Error::NotADirectory { .. }), "{error}");
    }
    let through = TreePath::new(b"link/file").unwrap();
    fs::write(outside.join("file"), "secret").unwrap();
    let error = add!(sink, "hard", Kind::HardLink { target: &through }).unwrap_err();
    assert!(matches!(error, Error::NoTarget { .. }), "{error}");
    // A link where a file is to be is replaced, not followed.
    let victim = outside.join("file").into_os_string().into_encoded_bytes();
    add!(sink, "file", Kind::SymbolicLink { target: &victim }).unwrap();
    add_file(&mut sink, "file", b"new").unwrap();
    sink.finish().unwrap();
    assert_eq!(fs::read(outside.join("file")).unwrap(), b"secret");
    assert_eq!(fs::read(root.join("file")).unwrap(), b"new");
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
}

#[test]
fn later_entries_replace_earlier_ones() {
    let home = tempfile::tempdir().unwrap();
    let (root, mut sink) = writer(home.path(), "root");
    add_file(&mut sink, "a", b"one").unwrap();
    add!(sink, "b", Kind::HardLink { target: &TreePath::new(b"a").unwrap() }).unwrap();
    add_file(&mut sink, "a", b"two").unwrap();
    add_file(&mut sink, "d/file", b"x").unwrap();
    let error = add_file(&mut sink, "d", b"x").unwrap_err();
    assert!(matches!(error, Error::DirectoryInTheWay { .. }), "{error}");
    add!(sink, "empty", Kind::Directory).unwrap();
    add_file(&mut sink, "empty", b"file").unwrap();
    add!(sink, "a", Kind::Directory).unwrap();
    add_file(&mut sink, "a/inside", b"x").unwrap();
    add!(sink, "d", Kind::Directory).unwrap();
    assert!(add_file(&mut sink, "empty/below", b"x").is_err());
    sink.finish().unwrap();
    assert_eq!(fs::read(root.join("b")).unwrap(), b"one");
    assert!(root.join("d/file").exists() && root.join("a/inside").exists());
    assert_eq!(fs::read(root.join("empty")).unwrap(), b"file");
}

#[test]
fn segments_that_contradict_the_size_and_content_that_ends_early_are_refused() {
    let home = tempfile::tempdir().unwrap();
    let (_, mut sink) = writer(home.path(), "root");
    for segments in [
        [Segment { offset: 5, length: 6 }, Segment { offset: 0, length: 0 }],
        [Segment { offset: 2, length: 2 }, Segment { offset: 3, length: 1 }],
        [Segment { offset: u64::MAX, length: 2 }, Segment { offset: 0, length: 0 }],
    ] {
        let mut content = std::io::repeat(1);
        let kind = Kind::File { size: 10, segments: &segments, content: &mut content };
        assert!(matches!(add!(sink, "file", kind), Err(Error::Segments { .. })));
    }
    let segments = [Segment { offset: 0, length: 10 }];
    let mut content = b"short".take(5);
    let kind = Kind::File { size: 10, segments: &segments, content: &mut content };
    assert!(add!(sink, "file", kind).is_err());
}

#[test]
fn a_tree_deeper_than_any_path_is_deleted() {
    let home = tempfile::tempdir().unwrap();
    let script = "mkdir deep; cd deep; n=$(printf 'n%.0s' {1..200}); \
         for i in $(seq 300); do mkdir $n; echo x > file; cd $n; done";
    shell(home.path(), script);
    directory::remove(&open(home.path()), b"deep").unwrap();
    assert_eq!(fs::read_dir(home.path()).unwrap().count(), 0);
}

#[test]
fn a_mount_in_a_tree_is_neither_read_nor_deleted() {
    if !is_root() {
        eprintln!("needs root: a mount");
        return;
    }
    let home = tempfile::tempdir().unwrap();
    shell(
        home.path(),
        "mkdir -p tree/point other; echo x > other/file; mount --bind other tree/point",
    );
    let (copy, mut sink) = writer(home.path(), "copy");
    let read = directory::read(&open(&home.path().join("tree")), &mut sink);
    let removed = directory::remove(&open(home.path()), b"tree");
    shell(home.path(), "umount tree/point");
    read.unwrap();
    sink.finish().unwrap();
    assert_eq!(fs::read_dir(copy.join("point")).unwrap().count(), 0);
    assert!(removed.is_err());
    assert!(home.path().join("other/file").exists());
}

#[test]
fn a_full_disk_is_told_as_one() {
    if !is_root() {
        eprintln!("needs root: a small file system");
        return;
    }
    let home = tempfile::tempdir().unwrap();
    shell(home.path(), "mkdir small; mount -t tmpfs -o size=1m none small");
    let mut sink = Writer::new(open(&home.path().join("small")));
    let error = add_file(&mut sink, "file", &vec![1; 2 << 20]).unwrap_err();
    drop(sink);
    shell(home.path(), "umount small");
    assert_eq!(wslr::error::Diagnose::code(&error), "ERROR_DISK_FULL");
    assert!(wslr::error::Diagnose::hint(&error).unwrap().contains("host"));
}
