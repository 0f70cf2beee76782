//! The archive client against Debian's own archive, by way of the configured mirror: a
//! distro's packages are compared with apt's choice, assembled onto a disk, compared with what
//! `dpkg-deb` and `tar` unpack, and configured.
//!
//! These tests need the network, root, loop devices, apt, dpkg and e2fsprogs, so `cargo test`
//! leaves them out; `tests/run` runs them with `--ignored`.

#![allow(clippy::panic, clippy::unwrap_used, reason = "these are tests")]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tempfile::TempDir;
use wslr::archive::assemble::{self, CONFIGURE, assemble};
use wslr::archive::{ArchiveError, Options, Repository, Source, closure, deb, minimal};
use wslr::download::{Fetcher, Sha256};
use wslr::ext4;
use wslr::terminal::progress::Progress;

fn cache() -> PathBuf {
    std::env::var_os("WSLR_TEST_CACHE")
        .map_or_else(|| std::env::temp_dir().join("wslr-test-cache"), PathBuf::from)
}

/// Opens a suite and hands it to `use_it`.
fn open<T>(suite: &str, use_it: impl FnOnce(&Repository<'_>) -> T) -> T {
    let (fetcher, cache, progress) = (Fetcher::new().unwrap(), cache(), Progress::hidden());
    let source = Source::debian(suite).with_configured_mirror(None);
    let open = |now| {
        let (cache, fetcher, progress) = (&cache, &fetcher, &progress);
        Repository::open_with(&source, Options { cache, fetcher, keyring: None, now, progress })
    };
    let repository = match open(SystemTime::now()) {
        // A mirror may lag behind; what this test is about is not that.
        Err(ArchiveError::Stale { url, until }) => {
            eprintln!("note: '{url}' is out of date, the test plays at its time");
            open(UNIX_EPOCH + Duration::from_secs(until))
        }
        opened => opened,
    };
    use_it(&repository.unwrap())
}

#[track_caller]
fn run(program: &str, arguments: &[&str]) -> Output {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {}\n{}{}",
        output.status,
        text(&output.stdout),
        text(&output.stderr)
    );
    output
}

#[test]
#[ignore = "needs Debian's archive"]
fn the_current_kernel_is_found_verified_and_fetched() {
    open("trixie", |repository| {
        let meta = repository.package("linux-image-cloud-amd64").unwrap();
        let clause = &meta.dependencies().unwrap()[0];
        let image = repository.package(&clause.alternatives[0].name).unwrap();
        assert!(image.name().starts_with("linux-image-"), "{}", image.name());
        let files = repository.download(&[image]).unwrap();
        let package = deb::open(&files[0]).unwrap();
        let control = package.control().unwrap();
        assert_eq!(control.fields.get("Package"), Some(image.name()));
        assert_eq!(control.fields.get("Version"), Some(image.version()));
        let mut data = tar::Archive::new(package.data().unwrap());
        let kernel = data
            .entries()
            .unwrap()
            .map(Result::unwrap)
            .find(|entry| entry.path_bytes().starts_with(b"./boot/vmlinuz-"));
        assert!(kernel.unwrap().size() > 1 << 20);
    });
}

#[test]
#[ignore = "needs Debian's archive and root"]
fn trixie_is_unpacked_and_configured() {
    check("trixie");
}

#[test]
#[ignore = "needs Debian's archive and root"]
fn bookworm_is_unpacked_and_configured() {
    check("bookworm");
}

#[test]
#[ignore = "needs Debian's archive and root"]
fn sid_is_unpacked_and_configured() {
    check("sid");
}

/// The names of the packages that apt would install into an empty system.
fn chosen_by_apt(suite: &str, repository: &Repository<'_>) -> Vec<String> {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    for name in ["etc/apt/sources.list.d", "var/lib/apt/lists/partial", "var/lib/dpkg"] {
        fs::create_dir_all(root.join(name)).unwrap();
    }
    fs::write(root.join("var/lib/dpkg/status"), "").unwrap();
    let keyring = concat!(env!("CARGO_MANIFEST_DIR"), "/src/archive/keyrings/debian.gpg");
    let sources: String = repository
        .source()
        .locations()
        .map(|(mirror, suite)| format!("deb [signed-by={keyring}] {mirror} {suite} main\n"))
        .collect();
    fs::write(root.join("etc/apt/sources.list"), sources).unwrap();
    let settings = [
        format!("Dir={}", root.display()),
        format!("Dir::State::status={}/var/lib/dpkg/status", root.display()),
        "Acquire::Check-Valid-Until=false".to_owned(),
        "Acquire::Languages=none".to_owned(),
        "APT::Install-Recommends=false".to_owned(),
        "APT::Sandbox::User=root".to_owned(),
    ];
    let apt = |arguments: &[&str]| {
        let mut all: Vec<&str> = settings.iter().flat_map(|set| ["-o", set.as_str()]).collect();
        all.extend_from_slice(arguments);
        String::from_utf8(run("apt-get", &all).stdout).unwrap()
    };
    apt(&["-q", "update"]);
    let mut wanted: Vec<&str> = closure::base(repository.index()).collect();
    wanted.extend_from_slice(minimal::PACKAGES);
    // As debootstrap chooses between two that are equal in what is new here.
    wanted.extend((suite == "bookworm").then_some("usr-is-merged"));
    let plan = apt(&[["-s", "install"].as_slice(), &wanted].concat());
    let installed = plan.lines().filter_map(|line| line.strip_prefix("Inst "));
    let mut names: Vec<String> =
        installed.filter_map(|line| line.split(' ').next()).map(str::to_owned).collect();
    names.sort();
    names
}

fn check(suite: &str) {
    let directory = tempfile::tempdir().unwrap();
    let image = directory.path().join("ext4.img");
    let (packages, debs) = open(suite, |repository| {
        let packages = assemble::packages(repository).unwrap();
        let names: Vec<_> = packages.iter().map(|package| package.name()).collect();
        assert_eq!(names, chosen_by_apt(suite, repository));
        let debs = repository.download(&packages).unwrap();
        let start = Instant::now();
        let file = File::options().read(true).write(true).create_new(true).open(&image).unwrap();
        let mut writer = ext4::Writer::new(file, ext4::Options::default()).unwrap();
        let assembled = assemble(repository, "Test", &mut writer).unwrap();
        writer.finish().unwrap();
        eprintln!("{suite}: {} packages in {:?}", assembled.packages.len(), start.elapsed());
        (assembled.packages.into_iter().map(|(name, _)| name).collect::<Vec<_>>(), debs)
    });
    let image = image.to_str().unwrap();
    run("e2fsck", &["-fn", image]);
    let disk = Mount::new(image);
    compare(&truth(&packages, &debs), disk.path());
    configure(disk.path(), packages.len());
    drop(disk);
    run("e2fsck", &["-fn", image]);
}

/// A mounted image.
struct Mount(TempDir);

impl Mount {
    fn new(image: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        run("mount", &["-o", "loop,nobarrier", image, directory.path().to_str().unwrap()]);
        Self(directory)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // A failure would show in the next `e2fsck`.
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}

/// What `dpkg-deb` and `tar` make of the packages, in a merged-`/usr` layout.
fn truth(packages: &[String], debs: &[PathBuf]) -> TempDir {
    let truth = tempfile::tempdir().unwrap();
    let root = truth.path().to_str().unwrap();
    for name in ["bin", "lib", "lib64", "sbin"] {
        fs::create_dir_all(truth.path().join("usr").join(name)).unwrap();
        std::os::unix::fs::symlink(format!("usr/{name}"), truth.path().join(name)).unwrap();
    }
    let mut order: Vec<_> = packages.iter().zip(debs).collect();
    order.sort_by_key(|(name, _)| *name != "base-files");
    let script = "set -e
        dpkg-deb --fsys-tarfile \"$1\" |
            tar -xp --numeric-owner --keep-directory-symlink --no-overwrite-dir -C \"$2\"
        dpkg-deb --ctrl-tarfile \"$1\" | tar -xO ./conffiles 2>/dev/null | grep ^/ |
            while read -r file; do mv \"$2$file\" \"$2$file.dpkg-new\"; done || :";
    for (_, deb) in order {
        run("bash", &["-o", "pipefail", "-c", script, "unpack", deb.to_str().unwrap(), root]);
    }
    truth
}

/// All that can be told of a path: kind, mode, owner, links, size, time, target, content.
/// A directory's size, time and links depend on the file system and on what was added.
fn describe(path: &Path) -> String {
    let metadata = path.symlink_metadata().unwrap();
    let kind = metadata.file_type();
    let mut text = format!("{:o} {}:{}", metadata.mode(), metadata.uid(), metadata.gid());
    if !kind.is_dir() {
        text += &format!(
            " links {} size {} at {}.{} device {}",
            metadata.nlink(),
            metadata.size(),
            metadata.mtime(),
            metadata.mtime_nsec(),
            metadata.rdev()
        );
    }
    if kind.is_symlink() {
        text += &format!(" -> {}", fs::read_link(path).unwrap().display());
    } else if kind.is_file() {
        text += &format!(" {}", Sha256::of(&mut File::open(path).unwrap()).unwrap());
    }
    text
}

fn describe_all(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut all = BTreeMap::new();
    let mut directories = vec![root.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && !path.is_symlink() {
                directories.push(path.clone());
            }
            all.insert(path.strip_prefix(root).unwrap().to_owned(), describe(&path));
        }
    }
    all
}

/// Everything of the packages is there, equal; what is there besides is ours.
fn compare(truth: &TempDir, actual: &Path) {
    let (expected, actual) = (describe_all(truth.path()), describe_all(actual));
    assert!(expected.len() > 5000, "{}", expected.len());
    for (path, description) in &expected {
        // The links of the layout have the time of the archive.
        if !["bin", "lib", "lib64", "sbin"].contains(&path.to_str().unwrap_or_default()) {
            assert_eq!(actual.get(path), Some(description), "{}", path.display());
        }
    }
    let ours = |path: &Path| {
        let files = [
            "etc/apt/sources.list.d/debian.sources",
            "etc/default/locale",
            "etc/fstab",
            "etc/hosts",
            "etc/locale.conf",
            "etc/wsl-distribution.conf",
            "etc/wsl.conf",
            "lost+found",
            "usr/sbin/policy-rc.d",
            "var/lib/apt/extended_states",
        ];
        files.iter().any(|file| path == Path::new(file))
            || path.starts_with("var/lib/dpkg")
            || path.starts_with("usr/lib/wslr")
    };
    for path in actual.keys().filter(|path| !expected.contains_key(*path)) {
        assert!(ours(path), "{}", path.display());
    }
}

/// Runs the first start's script to its end, killed at several moments before, and looks at
/// the result.
fn configure(root: &Path, packages: usize) {
    let enter = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/archive_debian/enter.sh");
    let root_text = root.to_str().unwrap();
    let script = format!("/{CONFIGURE}");
    let mut set_up = String::new();
    for seconds in ["0.3", "1.5", "3", "2", "900"] {
        let output = Command::new("timeout")
            .args(["-s", "KILL", seconds, "unshare", "-mupf", "--kill-child", enter, root_text])
            .arg(&script)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        set_up += &String::from_utf8_lossy(&output.stdout);
        // It removes itself last: one that is gone has done its work, killed or not.
        if output.status.success() || !root.join(CONFIGURE).exists() {
            break;
        }
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_ne!(seconds, "900", "{set_up}\n{errors}");
    }
    let lines = set_up.lines().filter(|line| line.starts_with("Setting up ")).count();
    assert!(lines >= packages, "{lines} {packages}");
    assert!(!root.join("usr/lib/wslr").exists());
    assert!(!root.join("usr/sbin/policy-rc.d").exists());
    let inside = |command: &str| {
        let output = run("unshare", &["-mupf", enter, root_text, "/bin/sh", "-c", command]);
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(inside("dpkg --audit"), "");
    let installed = inside("dpkg-query -W -f '${db:Status-Abbrev}\\n'");
    assert_eq!(installed.lines().filter(|line| *line == "ii ").count(), packages);
    assert_eq!(installed.lines().count(), packages);
    assert_eq!(inside("dpkg --verify"), "");
    assert_eq!(inside("find / -xdev -name '*.dpkg-*'"), "");
    inside("apt-get check");
    assert!(inside("apt-get -s autoremove | tail -1").starts_with("0 upgraded, 0 newly"));
    assert_eq!(inside("sudo -n id -u 2>/dev/null"), "0\n");
    assert!(inside("systemctl --version").starts_with("systemd "));
    assert_eq!(inside("LC_ALL=C.UTF-8 locale charmap"), "UTF-8\n");
    assert!(inside("su -l -c locale").starts_with("LANG=C.UTF-8\n"));
    inside("test -s /etc/machine-id && test -s /etc/ssl/certs/ca-certificates.crt");
    inside("ip -V && less -V && nano -V && ps -V");
}
