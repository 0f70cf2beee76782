//! Random trees through the ext4 writer: `e2fsck` finds nothing, and the kernel reads what
//! a plain model of the tree says.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use wslr::ext4::{Options, Writer};
use wslr::tree::path::TreePath;
use wslr::tree::{Entry, Kind, Metadata, Segment, Sink, Timestamp};

/// One step of building a tree.
#[derive(Clone, Debug)]
enum Step {
    Directory(String, Owner),
    File(String, Owner, u64, Vec<(u64, Vec<u8>)>),
    HardLink(String, String),
    SymbolicLink(String, String),
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Owner {
    mode: u32,
    uid: u32,
    gid: u32,
    seconds: i64,
    nanoseconds: u32,
}

/// What is at a path; files of the same number are the same file.
#[derive(Clone, Debug, PartialEq)]
enum Node {
    Directory(Option<Owner>),
    File(usize),
    SymbolicLink(String),
}

/// The tree as it must come out.
#[derive(Default)]
struct Model {
    nodes: BTreeMap<String, Node>,
    files: Vec<(Owner, Vec<u8>)>,
}

impl Model {
    /// Applies a step; `false` where the writer must refuse it.
    fn apply(&mut self, step: &Step) -> bool {
        let (Step::Directory(path, _)
        | Step::File(path, ..)
        | Step::HardLink(path, _)
        | Step::SymbolicLink(path, _)) = step;
        let node = match step {
            Step::Directory(_, owner) => Node::Directory(Some(owner.clone())),
            Step::File(_, owner, size, segments) => {
                let mut content = vec![0; *size as usize];
                for (offset, bytes) in segments {
                    content[*offset as usize..*offset as usize + bytes.len()]
                        .copy_from_slice(bytes);
                }
                self.files.push((owner.clone(), content));
                Node::File(self.files.len() - 1)
            }
            Step::SymbolicLink(_, target) => Node::SymbolicLink(target.clone()),
            Step::HardLink(_, target) => match self.nodes.get(target) {
                Some(Node::Directory(_)) | None => return false,
                Some(node) => node.clone(),
            },
        };
        let mut parents: Vec<_> =
            path.match_indices('/').map(|(slash, _)| &path[..slash]).collect();
        parents.retain(|parent| !matches!(self.nodes.get(*parent), Some(Node::Directory(_))));
        if parents.iter().any(|parent| self.nodes.contains_key(*parent)) {
            return false;
        }
        let below = format!("{path}/");
        let has_content =
            self.nodes.range(below.clone()..).next().is_some_and(|(p, _)| p.starts_with(&below));
        if has_content && !matches!(node, Node::Directory(_)) {
            return false;
        }
        for parent in parents {
            self.nodes.insert(parent.to_owned(), Node::Directory(None));
        }
        self.nodes.insert(path.clone(), node);
        true
    }
}

fn apply(writer: &mut Writer, step: &Step) {
    let path = |path: &str| TreePath::new(path.as_bytes()).unwrap();
    let metadata = |owner: &Owner| Metadata {
        mode: owner.mode,
        uid: owner.uid,
        gid: owner.gid,
        modified: Timestamp { seconds: owner.seconds, nanoseconds: owner.nanoseconds },
        attributes: Vec::new(),
    };
    match step {
        Step::Directory(at, owner) => {
            let entry =
                Entry { path: &path(at), metadata: &metadata(owner), kind: Kind::Directory };
            writer.add(entry).unwrap();
        }
        Step::File(at, owner, size, segments) => {
            let bytes = segments.iter().flat_map(|(_, bytes)| bytes.clone()).collect::<Vec<_>>();
            let segments: Vec<_> = segments
                .iter()
                .map(|(offset, bytes)| Segment { offset: *offset, length: bytes.len() as u64 })
                .collect();
            // In odd pieces, as a decompressor gives them.
            let mut content = Pieces(&bytes, 1);
            let kind = Kind::File { size: *size, segments: &segments, content: &mut content };
            writer.add(Entry { path: &path(at), metadata: &metadata(owner), kind }).unwrap();
        }
        Step::HardLink(at, target) => {
            let kind = Kind::HardLink { target: &path(target) };
            let metadata = Metadata::default();
            writer.add(Entry { path: &path(at), metadata: &metadata, kind }).unwrap();
        }
        Step::SymbolicLink(at, target) => {
            let kind = Kind::SymbolicLink { target: target.as_bytes() };
            let metadata = Metadata::default();
            writer.add(Entry { path: &path(at), metadata: &metadata, kind }).unwrap();
        }
    }
}

struct Pieces<'a>(&'a [u8], usize);

impl std::io::Read for Pieces<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.1 = self.1 * 3 % 8191;
        let count = self.0.len().min(buffer.len()).min(self.1);
        buffer[..count].copy_from_slice(&self.0[..count]);
        self.0 = &self.0[count..];
        Ok(count)
    }
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let path = proptest::collection::vec("[a-d]", 1..5).prop_map(|parts| parts.join("/"));
    let owner = (0_u32..0o10_000, any::<u32>(), any::<u32>(), -2_000_000_000_i64..15_000_000_000)
        .prop_flat_map(|(mode, uid, gid, seconds)| {
            (0_u32..1_000_000_000).prop_map(move |nanoseconds| Owner {
                mode,
                uid,
                gid,
                seconds,
                nanoseconds,
            })
        });
    let data = prop_oneof![
        (1_usize..20_000, 1_u8..255).prop_map(|(length, byte)| vec![byte; length]),
        (1_usize..30_000).prop_map(|length| vec![0; length]),
        proptest::collection::vec(any::<u8>(), 1..300),
    ];
    let segments = proptest::collection::vec((0_u64..20_000, data), 0..6);
    let file = (segments, 0_u64..20_000).prop_map(|(gaps, tail)| {
        let mut end = 0;
        let mut segments = Vec::new();
        for (gap, bytes) in gaps {
            let offset = end + gap;
            end = offset + bytes.len() as u64;
            segments.push((offset, bytes));
        }
        (end + tail, segments)
    });
    let step = prop_oneof![
        (path.clone(), owner.clone()).prop_map(|(path, owner)| Step::Directory(path, owner)),
        (path.clone(), owner.clone(), file.clone())
            .prop_map(|(path, owner, (size, parts))| Step::File(path, owner, size, parts)),
        (path.clone(), owner, file)
            .prop_map(|(path, owner, (size, parts))| Step::File(path, owner, size, parts)),
        (path.clone(), path.clone()).prop_map(|(path, target)| Step::HardLink(path, target)),
        (path, "[a-z/]{1,200}").prop_map(|(path, target)| Step::SymbolicLink(path, target)),
    ];
    proptest::collection::vec(step, 0..60)
}

fn compare(root: &Path, model: &Model) {
    let mut found = BTreeSet::new();
    let mut pending = vec![PathBuf::new()];
    while let Some(directory) = pending.pop() {
        for entry in fs::read_dir(root.join(&directory)).unwrap() {
            let path = directory.join(entry.unwrap().file_name());
            if path != Path::new("lost+found") {
                if fs::symlink_metadata(root.join(&path)).unwrap().is_dir() {
                    pending.push(path.clone());
                }
                found.insert(path.to_str().unwrap().to_owned());
            }
        }
    }
    assert_eq!(found, model.nodes.keys().cloned().collect());
    let mut inodes = BTreeMap::new();
    for (path, node) in &model.nodes {
        let metadata = fs::symlink_metadata(root.join(path)).unwrap();
        let owner = Owner {
            mode: metadata.mode() & 0o7777,
            uid: metadata.uid(),
            gid: metadata.gid(),
            seconds: metadata.mtime(),
            nanoseconds: metadata.mtime_nsec() as u32,
        };
        match node {
            Node::Directory(expected) => {
                assert!(metadata.is_dir(), "{path}");
                assert!(expected.as_ref().is_none_or(|expected| *expected == owner), "{path}");
            }
            Node::File(number) => {
                let (expected, content) = &model.files[*number];
                assert_eq!(&owner, expected, "{path}");
                assert!(fs::read(root.join(path)).unwrap() == *content, "{path}");
                let names = model.nodes.values().filter(|other| *other == node).count();
                assert_eq!(metadata.nlink(), names as u64, "{path}");
                assert_eq!(*inodes.entry(number).or_insert(metadata.ino()), metadata.ino());
            }
            Node::SymbolicLink(target) => {
                assert_eq!(fs::read_link(root.join(path)).unwrap(), Path::new(target));
            }
        }
    }
}

#[test]
fn every_tree_is_clean_and_reads_back() {
    let is_root = nix::unistd::geteuid().is_root();
    let directory = tempfile::tempdir().unwrap();
    let image = directory.path().join("image");
    let mount = directory.path().join("mount");
    fs::create_dir(&mount).unwrap();
    let mut runner =
        TestRunner::new(Config { cases: 48, failure_persistence: None, ..Config::default() });
    let result = runner.run(&steps(), |steps| {
        let file = File::options().read(true).write(true).create(true).truncate(true).open(&image);
        let options = Options { size: 64 << 20, ..Options::default() };
        let mut writer = Writer::new(file.unwrap(), options).unwrap();
        let mut model = Model::default();
        for step in &steps {
            if model.apply(step) {
                apply(&mut writer, step);
            }
        }
        writer.finish().unwrap();
        let output = Command::new("e2fsck").arg("-fn").arg(&image).output().unwrap();
        prop_assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        if is_root {
            let status =
                Command::new("mount").args(["-o", "ro,loop"]).args([&image, &mount]).status();
            assert!(status.unwrap().success());
            let compared = std::panic::catch_unwind(|| compare(&mount, &model));
            assert!(Command::new("umount").arg(&mount).status().unwrap().success());
            prop_assert!(compared.is_ok());
        }
        Ok(())
    });
    result.unwrap();
}
