//! The ext4 writer against independent readers: `e2fsck`, the kernel, `debugfs`, and GNU
//! tar as the truth of what an archive holds.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail by panicking")]

mod support;

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use support::tree::{Mount, NASTY, assert_same_tree, check, is_root, run, shell};
use wslr::error::Diagnose;
use wslr::ext4::{Error, Options, Summary, Writer};
use wslr::image::tar::read_entries;
use wslr::tree::path::TreePath;
use wslr::tree::{Entry, Kind, Metadata, Segment, Sink, Timestamp};

/// An image of `size` bytes from an archive.
fn image(directory: &Path, archive: &Path, size: u64) -> (PathBuf, Summary) {
    let path = directory.join("image");
    let file = File::options().read(true).write(true).create(true).truncate(false).open(&path);
    let options = Options { size, ..Options::default() };
    let mut writer = Writer::new(file.unwrap(), options).unwrap();
    read_entries(File::open(archive).unwrap(), &mut writer, |path| path).unwrap();
    (path, writer.finish().unwrap())
}

/// Compares a mounted image with a directory, `lost+found` aside.
fn assert_same(image: &Path, truth: &Path) {
    let mount = Mount::new(image, "ro,loop");
    assert_same_tree(mount.path(), truth);
}

#[test]
fn an_empty_image_is_small_and_clean_at_every_size() {
    let directory = tempfile::tempdir().unwrap();
    let archive = directory.path().join("empty.tar");
    fs::write(&archive, b"").unwrap();
    for size in [2 << 20, 100 << 20, 128 << 20, 129 << 20, 5 << 30, 1 << 40, (3 << 40) + 12345] {
        let (path, summary) = image(directory.path(), &archive, size);
        check(&path);
        assert!(fs::metadata(&path).unwrap().blocks() * 512 < 64 << 20, "{size}");
        assert!(summary.free_blocks > 0);
    }
    let (path, _) = image(directory.path(), &archive, 1 << 40);
    assert!(fs::metadata(&path).unwrap().blocks() * 512 < 16 << 20);
}

#[test]
fn a_nasty_tree_comes_back_as_tar_unpacks_it() {
    if !is_root() {
        eprintln!("needs root: device nodes, owners and a loop mount");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let tree = directory.path().join("tree");
    fs::create_dir(&tree).unwrap();
    shell(&tree, NASTY);
    let archive = directory.path().join("archive.tar");
    for format in ["posix", "gnu"] {
        let script = format!(
            "tar -C tree -cf archive.tar -S --sort=name --numeric-owner --format={format} {} . ",
            if format == "posix" { "--xattrs --acls" } else { "" },
        );
        shell(directory.path(), &script);
        let truth = directory.path().join(format!("truth-{format}"));
        fs::create_dir(&truth).unwrap();
        let script = format!(
            "tar -C truth-{format} -xpf archive.tar --numeric-owner --xattrs --xattrs-include='*' --acls",
        );
        shell(directory.path(), &script);
        let (path, _) = image(directory.path(), &archive, 1 << 40);
        check(&path);
        assert_same(&path, &truth);
    }
}

#[test]
fn a_folder_of_a_hundred_thousand_files_is_indexed_and_found() {
    let directory = tempfile::tempdir().unwrap();
    let archive = directory.path().join("many.tar");
    let mut builder = tar::Builder::new(File::create(&archive).unwrap());
    for index in 0..100_000 {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(0);
        header.set_cksum();
        let name = format!("many/file-{index}-{}", "long".repeat(index % 40));
        builder.append_data(&mut header, name, std::io::empty()).unwrap();
    }
    builder.finish().unwrap();
    let (path, summary) = image(directory.path(), &archive, 4 << 30);
    assert_eq!(summary.inodes - summary.free_inodes, 10 + 1 + 1 + 100_000);
    check(&path);
    if is_root() {
        let mount = Mount::new(&path, "loop");
        let many = mount.path().join("many");
        assert_eq!(fs::read_dir(&many).unwrap().count(), 100_000);
        for index in (0..100_000).step_by(997) {
            let name = format!("file-{index}-{}", "long".repeat(index % 40));
            assert!(fs::symlink_metadata(many.join(name)).is_ok(), "{index}");
        }
        // The kernel can go on with what it finds.
        for index in 0..2000 {
            fs::write(many.join(format!("new-{index}")), b"new").unwrap();
        }
        fs::remove_file(many.join("file-0-")).unwrap();
        drop(mount);
        check(&path);
    }
}

#[test]
fn later_entries_replace_earlier_ones() {
    let directory = tempfile::tempdir().unwrap();
    let archive = directory.path().join("archive.tar");
    let tree = directory.path().join("tree");
    fs::create_dir(&tree).unwrap();
    let script = r#"
        cd tree; mkdir dir; head -c 3000000 /dev/urandom > a; head -c 100000 /dev/urandom > b; ln b c
        mkdir empty; setfattr -n user.x -v "$(printf 'z%.0s' {1..3000})" a b 2>/dev/null || true
        tar --xattrs -cf ../archive.tar . ; tar --xattrs -rf ../archive.tar ./a ./b ./c
        rm a; ln -s b a; rm c; echo c > c; rmdir empty; echo file > empty; chmod 700 dir
        tar -rf ../archive.tar ./a ./c ./empty ./dir
    "#;
    shell(directory.path(), script);
    let truth = directory.path().join("truth");
    fs::create_dir(&truth).unwrap();
    shell(
        directory.path(),
        "tar -C truth -xpf archive.tar --numeric-owner --xattrs --xattrs-include='*'",
    );
    let (path, _) = image(directory.path(), &archive, 1 << 30);
    check(&path);
    if is_root() {
        assert_same(&path, &truth);
    }
    // What was replaced takes no space on the host.
    assert!(fs::metadata(&path).unwrap().blocks() * 512 < 2_000_000);
}

/// Adds an entry by hand.
macro_rules! add {
    ($writer:expr, $path:expr, $kind:expr) => {{
        let path = TreePath::new($path.as_bytes()).unwrap();
        let metadata = Metadata { mode: 0o644, ..Metadata::default() };
        $writer.add(Entry { path: &path, metadata: &metadata, kind: $kind })
    }};
}

fn add_file(writer: &mut Writer, path: &str, content: &[u8]) -> Result<(), Error> {
    let size = content.len() as u64;
    let segments = [Segment { offset: 0, length: size }];
    add!(writer, path, Kind::File { size, segments: &segments, content: &mut &*content })
}

fn writer(directory: &Path, size: u64) -> (PathBuf, Writer) {
    let path = directory.join("image");
    let file = File::options().read(true).write(true).create(true).truncate(true).open(&path);
    (path, Writer::new(file.unwrap(), Options { size, ..Options::default() }).unwrap())
}

#[test]
fn a_full_disk_is_an_error_with_its_size() {
    let directory = tempfile::tempdir().unwrap();
    let (_, mut sink) = writer(directory.path(), 32 << 20);
    let noise: Vec<u8> = (0..1 << 20).map(|index: u32| (index % 251) as u8 + 1).collect();
    let error = (0..64).find_map(|n| add_file(&mut sink, &format!("f{n}"), &noise).err()).unwrap();
    assert!(matches!(error, Error::NoSpace { size } if size == 32 << 20), "{error}");
    assert_eq!(error.code(), "ERROR_DISK_FULL");
    let (_, mut sink) = writer(directory.path(), 32 << 20);
    let error = (0..10_000).find_map(|n| add_file(&mut sink, &format!("f{n}"), b"").err()).unwrap();
    assert!(matches!(error, Error::NoInodes { inodes: 2048, .. }), "{error}");
}

#[test]
fn a_disk_filled_to_the_last_block_is_clean_and_reuses_what_was_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let (path, mut sink) = writer(directory.path(), 32 << 20);
    let noise: Vec<u8> = (0..1 << 20).map(|index: u32| (index % 251) as u8 + 1).collect();
    let other: Vec<u8> = noise.iter().rev().copied().collect();
    // Each takes the space of the one it replaces once the end is reached.
    for round in 0..100 {
        let content = if round % 2 == 0 { &noise } else { &other };
        add_file(&mut sink, &format!("f{}", round % 10), content).unwrap();
    }
    let summary = sink.finish().unwrap();
    assert!(summary.written > 100 << 20);
    check(&path);
    if is_root() {
        let mount = Mount::new(&path, "ro,loop");
        for index in 0..10 {
            let content = if index % 2 == 0 { &noise } else { &other };
            assert!(fs::read(mount.path().join(format!("f{index}"))).unwrap() == *content);
        }
    }
}

#[test]
fn what_contradicts_the_tree_is_an_error() {
    let directory = tempfile::tempdir().unwrap();
    let (_, mut sink) = writer(directory.path(), 1 << 30);
    let path = |path: &str| TreePath::new(path.as_bytes()).unwrap();
    add_file(&mut sink, "etc/passwd", b"x").unwrap();
    add!(sink, "lib", Kind::SymbolicLink { target: b"usr/lib" }).unwrap();
    let through = add_file(&mut sink, "lib/x", b"").unwrap_err();
    assert!(matches!(&through, Error::NotADirectory { ancestor, .. } if ancestor == "/lib"));
    assert!(matches!(
        add_file(&mut sink, "etc/passwd/x/y", b"").unwrap_err(),
        Error::NotADirectory { ancestor, .. } if ancestor == "/etc/passwd"
    ));
    assert!(matches!(
        add_file(&mut sink, "etc", b"").unwrap_err(),
        Error::DirectoryInTheWay { .. }
    ));
    assert!(matches!(add_file(&mut sink, ".", b"").unwrap_err(), Error::DirectoryInTheWay { .. }));
    let target = path("etc/shadow");
    let missing = add!(sink, "link", Kind::HardLink { target: &target }).unwrap_err();
    assert!(matches!(missing, Error::NoTarget { .. }));
    let target = path("etc");
    let directory = add!(sink, "link", Kind::HardLink { target: &target }).unwrap_err();
    assert!(matches!(directory, Error::TargetIsDirectory { .. }));
    for target in [b"".as_slice(), &[b'x'; 4096], b"a\0b"] {
        let error = add!(sink, "s", Kind::SymbolicLink { target }).unwrap_err();
        assert!(matches!(error, Error::SymbolicLink { .. }));
    }
    let device = Kind::BlockDevice { major: 1 << 12, minor: 0 };
    assert!(matches!(add!(sink, "d", device).unwrap_err(), Error::Device { .. }));
    for segments in [
        &[Segment { offset: 5, length: 6 }] as &[Segment],
        &[Segment { offset: 5, length: 1 }, Segment { offset: 4, length: 1 }],
        &[Segment { offset: u64::MAX, length: 2 }],
    ] {
        let mut content: &[u8] = &[1; 100];
        let kind = Kind::File { size: 10, segments, content: &mut content };
        assert!(matches!(add!(sink, "f", kind).unwrap_err(), Error::Segments { .. }));
    }
    let kind = Kind::File { size: 1 << 60, segments: &[], content: &mut std::io::empty() };
    assert!(matches!(add!(sink, "f", kind).unwrap_err(), Error::FileTooLarge { .. }));
    let metadata =
        Metadata { attributes: vec![(b"user.x".to_vec(), vec![1; 5000])], ..Metadata::default() };
    let kind = Kind::Fifo;
    let error = sink.add(Entry { path: &path("p"), metadata: &metadata, kind }).unwrap_err();
    assert!(matches!(error, Error::Attributes { .. }));
}

#[test]
fn a_file_has_at_most_65000_names() {
    let directory = tempfile::tempdir().unwrap();
    let (path, mut sink) = writer(directory.path(), 1 << 30);
    add_file(&mut sink, "file", b"x").unwrap();
    let target = TreePath::new(b"file").unwrap();
    for index in 1..65_000 {
        add!(sink, format!("d/{index}"), Kind::HardLink { target: &target }).unwrap();
    }
    let error = add!(sink, "one-more", Kind::HardLink { target: &target }).unwrap_err();
    assert!(matches!(error, Error::TooManyLinks { .. }));
    sink.finish().unwrap();
    check(&path);
}

#[test]
fn a_directory_may_have_more_subdirectories_than_links_count() {
    let directory = tempfile::tempdir().unwrap();
    let (path, mut sink) = writer(directory.path(), 2 << 30);
    for index in 0..65_100 {
        add!(sink, format!("d/{index}"), Kind::Directory).unwrap();
    }
    sink.finish().unwrap();
    check(&path);
}

#[test]
fn equal_input_gives_equal_images() {
    let directory = tempfile::tempdir().unwrap();
    let mut sums = Vec::new();
    for _ in 0..2 {
        let path = directory.path().join("image");
        let file = File::options().read(true).write(true).create(true).truncate(true).open(&path);
        let options = Options {
            size: 64 << 20,
            uuid: uuid::Uuid::from_u128(1),
            hash_seed: uuid::Uuid::from_u128(2),
            created: Timestamp::default(),
            ..Options::default()
        };
        let mut sink = Writer::new(file.unwrap(), options).unwrap();
        for index in 0..500 {
            add_file(&mut sink, &format!("{}/{index}-{}", index % 3, "x".repeat(60)), b"y")
                .unwrap();
        }
        sink.finish().unwrap();
        sums.push(Sha256::digest(fs::read(&path).unwrap()));
    }
    assert_eq!(sums[0], sums[1]);
}

#[test]
fn an_image_without_a_journal_is_clean_and_mounts_read_only() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("image");
    let file = File::options().read(true).write(true).create(true).truncate(true).open(&path);
    let label = "a-label-longer-than-sixteen".to_owned();
    let options = Options { size: 64 << 20, journal: false, label, ..Options::default() };
    let mut sink = Writer::new(file.unwrap(), options).unwrap();
    add_file(&mut sink, "file", b"content").unwrap();
    sink.finish().unwrap();
    check(&path);
    assert_eq!(run("e2label", &[path.as_os_str()]).trim(), "a-label-longer-t");
    if is_root() {
        let mount = Mount::new(&path, "ro,loop");
        assert_eq!(fs::read(mount.path().join("file")).unwrap(), b"content");
    }
}

#[test]
fn an_image_grows_and_shrinks() {
    let directory = tempfile::tempdir().unwrap();
    let (path, mut sink) = writer(directory.path(), 1 << 30);
    for index in 0..1000 {
        add_file(&mut sink, &format!("{}/{index}", index % 7), &[index as u8; 9000]).unwrap();
    }
    sink.finish().unwrap();
    for size in ["3G", "20G", "2G"] {
        run("resize2fs", &[path.as_os_str(), size.as_ref()]);
        check(&path);
    }
    if is_root() {
        let mount = Mount::new(&path, "loop");
        for index in 0..1000 {
            let content = fs::read(mount.path().join(format!("{}/{index}", index % 7))).unwrap();
            assert_eq!(content, [index as u8; 9000]);
        }
        fs::write(mount.path().join("new"), vec![1; 10 << 20]).unwrap();
        drop(mount);
        check(&path);
    }
}

#[test]
fn a_full_host_disk_is_told_apart_from_a_full_image() {
    if !is_root() {
        eprintln!("needs root: a small file system");
        return;
    }
    let point = tempfile::tempdir().unwrap();
    let arguments = ["-t", "tmpfs", "-o", "size=16m", "none"].map(OsStr::new);
    run("mount", &[&arguments[..], &[point.path().as_os_str()]].concat());
    let mount = Mount(point);
    let (_, mut sink) = writer(mount.path(), 1 << 40);
    let noise: Vec<u8> = (0..1 << 20).map(|index: u32| (index % 251) as u8 + 1).collect();
    let error = (0..64)
        .find_map(|index| add_file(&mut sink, &format!("f{index}"), &noise).err())
        .unwrap_or_else(|| sink.finish().unwrap_err());
    assert!(matches!(error, Error::Write(_)), "{error}");
    assert_eq!(error.code(), "ERROR_DISK_FULL");
    assert!(error.hint().unwrap().contains("host"));
}
