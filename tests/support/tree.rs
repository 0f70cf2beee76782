//! Trees of files for tests: made by a shell script, told apart by everything that can be
//! told of a file.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use sha2::{Digest, Sha256};
use tempfile::TempDir;

/// A script that makes, as root, one of everything that is hard to keep.
pub const NASTY: &str = r#"
        echo hello > plain; chmod 4755 plain; chown 70000:4000000000 plain
        touch -d '1960-01-01 00:00:00.123456789' plain
        touch -d '2100-05-05 05:05:05.987654321' later
        ln plain second; mkdir -p d/e; ln plain d/e/third
        ln -s plain short; ln -s "$(printf 'x%.0s' {1..59})" s59; ln -s "$(printf 'x%.0s' {1..60})" s60
        ln -s "$(printf 'y%.0s' {1..4000})" s4000
        mknod null c 1 3; mknod big b 300 70000; mkfifo pipe
        mkdir -m 1777 sticky; chown 5:6 sticky
        printf a > $'new\nline'; printf b > $'\xff\xfe'; printf c > "$(printf 'n%.0s' {1..255})"
        dd if=/dev/urandom of=random bs=1000 count=3333 status=none
        dd if=/dev/zero of=zeros bs=1M count=3 status=none
        truncate -s 5G hole; printf end | dd of=hole bs=1 seek=5368709000 conv=notrunc status=none
        truncate -s 10M frag; for i in $(seq 1 2 799); do printf x | dd of=frag bs=1 seek=$((i*4096)) conv=notrunc status=none; done
        setcap cap_net_raw+ep random
        setfattr -n user.one -v 1 plain
        setfattr -n user.large -v "$(printf 'z%.0s' {1..3000})" later
        setfattr -n user.large -v "$(printf 'z%.0s' {1..3000})" zeros
        setfattr -n user.empty frag
        setfacl -m u:1234:rw,g:99:r d d/e random; setfacl -d -m u:7:rwx sticky
        mkdir many; seq -f 'many/a-file-with-number-%06g' 1 600 | xargs touch
"#;

/// Runs a tool that must succeed; its output.
pub fn run(program: &str, arguments: &[&OsStr]) -> String {
    let output = Command::new(program).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}\n{text}\n{errors}");
    text
}

/// Runs a script of bash in a directory.
pub fn shell(directory: &Path, script: &str) {
    let output = Command::new("bash")
        .arg("-euc")
        .arg(script)
        .current_dir(directory)
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .output()
        .unwrap();
    assert!(output.status.success(), "{script}\n{}", String::from_utf8_lossy(&output.stderr));
}

/// Whether this is root.
pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Lets `e2fsck` look.
pub fn check(image: &Path) {
    run("e2fsck", &["-fn".as_ref(), image.as_os_str()]);
}

/// A loop mount, taken down when dropped.
pub struct Mount(pub TempDir);

impl Mount {
    /// Mounts an image.
    pub fn new(image: &Path, options: &str) -> Self {
        let point = tempfile::tempdir().unwrap();
        let arguments =
            ["-o".as_ref(), options.as_ref(), image.as_os_str(), point.path().as_os_str()];
        run("mount", &arguments);
        Self(point)
    }

    /// Where.
    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // It can be busy for a moment: somebody copies the mounts, or looks at them all.
        let unmounted = (0..50).any(|_| {
            let status = Command::new("umount").arg(self.0.path()).status();
            let done = status.is_ok_and(|status| status.success());
            if !done {
                std::thread::sleep(std::time::Duration::from_millis(100));
            }
            done
        });
        assert!(unmounted || std::thread::panicking());
    }
}

/// All that can be told about one file.
#[derive(Debug, Eq, PartialEq)]
pub struct Facts {
    pub mode: u32,
    pub owner: (u32, u32),
    pub modified: (i64, i64),
    pub size: u64,
    pub device: u64,
    pub links: u64,
    pub target: Option<PathBuf>,
    /// A hash of the content.
    pub content: String,
}

/// Everything below a directory, by relative path. Hard links are compared through
/// `groups`: the paths that share an inode.
pub fn facts(root: &Path) -> (BTreeMap<PathBuf, Facts>, Vec<Vec<PathBuf>>) {
    let mut all = BTreeMap::new();
    let mut inodes: BTreeMap<u64, Vec<PathBuf>> = BTreeMap::new();
    let mut pending = vec![root.to_owned()];
    while let Some(path) = pending.pop() {
        let metadata = fs::symlink_metadata(&path).unwrap();
        let relative = path.strip_prefix(root).unwrap().to_owned();
        let kind = metadata.file_type();
        let is_special =
            kind.is_fifo() || kind.is_socket() || kind.is_char_device() || kind.is_block_device();
        if kind.is_dir() {
            pending.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else {
            inodes.entry(metadata.ino()).or_default().push(relative.clone());
        }
        let is_sparse_giant = metadata.len() > 1 << 30;
        let content = if kind.is_file() && is_sparse_giant {
            data_ranges(&path)
        } else if kind.is_file() {
            format!("{:x?}", Sha256::digest(fs::read(&path).unwrap()))
        } else {
            String::new()
        };
        let facts = Facts {
            mode: metadata.mode(),
            owner: (metadata.uid(), metadata.gid()),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            size: if kind.is_dir() { 0 } else { metadata.len() },
            device: if is_special { metadata.rdev() } else { 0 },
            links: metadata.nlink(),
            target: kind.is_symlink().then(|| fs::read_link(&path).unwrap()),
            content,
        };
        all.insert(relative, facts);
    }
    let mut groups: Vec<_> = inodes
        .into_values()
        .map(|mut paths| {
            paths.sort();
            paths
        })
        .collect();
    groups.sort();
    (all, groups)
}

/// The data of a file that is mostly a hole: its nonzero blocks.
fn data_ranges(path: &Path) -> String {
    let file = File::open(path).unwrap();
    let mut text = String::new();
    let mut offset = 0;
    while let Ok(start) = nix::unistd::lseek(&file, offset, nix::unistd::Whence::SeekData) {
        let end = nix::unistd::lseek(&file, start, nix::unistd::Whence::SeekHole).unwrap();
        for block in (start..end).step_by(4096) {
            let mut bytes = [0; 4096];
            let count = file.read_at(&mut bytes, block as u64).unwrap();
            if bytes[..count].iter().any(|byte| *byte != 0) {
                text.push_str(&format!("{block} {bytes:?}\n"));
            }
        }
        offset = end;
    }
    text
}

/// All extended attributes below a directory, by the path as `getfattr` shows it.
pub fn attributes(root: &Path) -> BTreeMap<String, BTreeMap<String, String>> {
    let script = "getfattr -R -P -h -d -m - -e hex .";
    let output = Command::new("bash").args(["-c", script]).current_dir(root).output().unwrap();
    assert!(output.status.success());
    let mut all: BTreeMap<_, BTreeMap<_, _>> = BTreeMap::new();
    let mut path = String::new();
    for line in String::from_utf8(output.stdout).unwrap().lines() {
        if let Some(name) = line.strip_prefix("# file: ") {
            path = name.to_owned();
        } else if let Some((name, value)) = line.split_once('=') {
            all.entry(path.clone()).or_default().insert(name.to_owned(), value.to_owned());
        }
    }
    all
}

/// Compares a directory with another; of the roots, which are the test's own, only the mode.
pub fn assert_same_tree(found: &Path, truth: &Path) {
    let (mut all, mut found_groups) = facts(found);
    let (mut expected, mut expected_groups) = facts(truth);
    all.remove(Path::new("lost+found"));
    expected.remove(Path::new("lost+found"));
    let (root, true_root) = (all.remove(Path::new("")), expected.remove(Path::new("")));
    assert_eq!(root.unwrap().mode, true_root.unwrap().mode);
    let names = |facts: &BTreeMap<PathBuf, Facts>| facts.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&all), names(&expected));
    for (path, facts) in &mut all {
        let truth = &expected[path];
        if facts.mode & 0o170_000 == 0o040_000 {
            // File systems count directories' links differently.
            facts.links = truth.links;
        }
        assert_eq!(facts, truth, "{}", path.display());
    }
    found_groups.sort();
    expected_groups.sort();
    assert_eq!(found_groups, expected_groups);
    assert_eq!(attributes(found), attributes(truth));
}
