//! Archives and hosts that an installation has to refuse: one line, a hint, a code, and
//! nothing left or lost.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output};

use tar::EntryType;

use super::install::{home, installed};
use crate::support::Home;
use crate::support::tar::Tar;

const IMPORT_FAILED: &str = "Wsl/Service/RegisterDistro/WSL_E_IMPORT_FAILED";

/// Installs `archive` in vain beside a distro that must come to no harm.
#[track_caller]
fn refused(archive: &[u8], message: &str, hint: &str, code: &str) {
    let home = home();
    home.write("good.tar", Tar::distro().bytes());
    home.wslr(["--install", "-n", "-f", "good.tar", "--name", "Good"])
        .stdout(installed("good.tar", "Good"))
        .run();
    let before = home.tree("");
    let registry = fs::read(home.data("registry.json")).unwrap();
    home.write("d.tar", archive);
    home.wslr(["--install", "-n", "-f", "d.tar", "--name", "Bad"])
        .stdout("Installing: d.tar\n")
        .fails(message, Some(hint), Some(code))
        .run();
    fs::remove_file(home.path("d.tar")).unwrap();
    assert_eq!(home.tree(""), before);
    assert_eq!(fs::read(home.data("registry.json")).unwrap(), registry);
}

const DAMAGED: &str = "the file may be damaged or incomplete: fetch or make it again";

#[test]
fn b053_text_is_no_archive() {
    refused(
        "this is text, and there is a lot of it\n".repeat(40).as_bytes(),
        "Importing the distribution failed: Unrecognized archive format",
        "the file must be a tar archive, plain or compressed with gzip, bzip2, xz or zstd",
        IMPORT_FAILED,
    );
}

#[test]
fn b054_an_empty_file_and_an_empty_archive_are_no_distro() {
    for archive in [Vec::new(), Tar::new().bytes(), Tar::new().file("./x", "x").bytes()] {
        refused(
            &archive,
            "this is not a valid Linux distribution: it has neither /etc nor /bin/sh",
            "the archive must hold a whole root file system, with '/' as its top",
            "Wsl/Service/RegisterDistro/WSL_E_NOT_A_LINUX_DISTRO",
        );
    }
}

#[test]
fn a_truncated_archive() {
    let whole = Tar::distro().file("./large", vec![1; 100_000]).bytes();
    for length in [whole.len() - 60_000, 700] {
        refused(
            &whole[..length],
            "Importing the distribution failed: the archive is truncated: [..]",
            DAMAGED,
            IMPORT_FAILED,
        );
    }
}

#[test]
fn a_corrupt_archive() {
    let mut bytes = Tar::distro().bytes();
    bytes[512 + 10] ^= 1;
    refused(
        &bytes,
        "Importing the distribution failed: the archive is corrupt: [..]",
        DAMAGED,
        IMPORT_FAILED,
    );
}

#[test]
fn names_that_leave_the_tree() {
    let hint = "make the archive again without '..' in its names";
    for path in ["../evil", "./etc/../../evil", "/../evil"] {
        refused(
            &Tar::distro().file(path, "x").bytes(),
            "Importing the distribution failed: the archive is not safe to unpack: \
             path '[..]' has a '..' component",
            hint,
            IMPORT_FAILED,
        );
    }
}

#[test]
fn links_and_loops_that_lead_nowhere() {
    let through_link =
        Tar::distro().entry("./a", EntryType::Symlink, "/etc", b"").file("./a/passwd", "x");
    let loops = Tar::distro().entry("./l", EntryType::Link, "./l", b"");
    let missing = Tar::distro().entry("./l", EntryType::Link, "../../etc/shadow", b"");
    for tar in [through_link, loops, missing] {
        let home = home();
        home.write("d.tar", tar.bytes());
        let output = run(&home, &["--install", "-n", "-f", "d.tar", "--name", "Bad"]);
        assert_eq!(output.status.code(), Some(255));
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(stderr.starts_with("wslr: Importing the distribution failed: "), "{stderr}");
        assert!(stderr.ends_with(&format!("Error code: {IMPORT_FAILED}\n")), "{stderr}");
        assert_eq!(home.tree(".local/share/wslr/distros").len(), 0);
    }
}

#[test]
fn a_file_that_says_it_is_huge() {
    let mut header = tar::Header::new_gnu();
    header.set_path("./huge").unwrap();
    header.set_mode(0o644);
    header.set_size(1 << 62);
    header.set_cksum();
    let mut bytes = Tar::distro().bytes();
    bytes.truncate(bytes.len() - 1024);
    bytes.extend_from_slice(header.as_bytes());
    bytes.extend_from_slice(&[0; 4096]);
    let home = home();
    home.write("d.tar", bytes);
    let output = run(&home, &["--install", "-n", "-f", "d.tar", "--name", "Bad"]);
    assert_eq!(output.status.code(), Some(255));
    assert_eq!(home.tree(".local/share/wslr/distros").len(), 0);
}

#[test]
fn absolute_names_and_devices_stay_inside_the_disk() {
    let home = home();
    let tar =
        Tar::distro().file("/absolute/name", "x").entry("./dev/null", EntryType::Char, "", b"");
    home.write("d.tar", tar.bytes());
    home.wslr(["--install", "-n", "-f", "d.tar", "--name", "D"])
        .stdout(installed("d.tar", "D"))
        .run();
    assert!(!std::path::Path::new("/absolute").exists());
}

#[test]
fn a_file_that_cannot_be_read() {
    let home = home();
    home.wslr(["--install", "-f", "missing.tar"])
        .fails(
            "cannot read 'missing.tar': No such file or directory (os error 2)",
            None,
            Some("Wsl/ERROR_FILE_NOT_FOUND"),
        )
        .run();
    home.wslr(["--install", "-f", "/"])
        .fails("cannot read '/': is a directory", None, Some("Wsl/ERROR_DIRECTORY"))
        .run();
}

#[test]
fn a_disk_that_is_too_small() {
    let home = home();
    home.write("d.tar", Tar::distro().file("./large", vec![1; 30 << 20]).bytes());
    home.wslr(["--install", "-n", "-f", "d.tar", "--name", "D", "--vhd-size", "24MB"])
        .stdout("Installing: d.tar\n")
        .fails(
            "Importing the distribution failed: the disk of 25165824 bytes is full",
            Some("choose a larger disk with --vhd-size"),
            Some("Wsl/Service/RegisterDistro/ERROR_DISK_FULL"),
        )
        .run();
    let output = run(&home, &["--install", "-n", "-f", "d.tar", "--name", "D", "--vhd-size", "0"]);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.ends_with("Error code: Wsl/Service/RegisterDistro/E_INVALIDARG\n"), "{stderr}");
    assert_eq!(home.tree(".local/share/wslr/distros").len(), 0);
}

/// A small file system of the host's, where the tests are allowed to mount one.
struct Small(std::path::PathBuf);

impl Small {
    fn mount(path: std::path::PathBuf, options: &str) -> Option<Self> {
        fs::create_dir_all(&path).unwrap();
        let status = Command::new("mount")
            .args(["-t", "tmpfs", "-o", options, "tmpfs"])
            .arg(&path)
            .status()
            .ok()?;
        status.success().then_some(Self(path))
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_of_the_host() {
    let home = home();
    home.write("d.tar", Tar::distro().file("./large", noise(30 << 20)).bytes());
    let Some(_small) = Small::mount(home.path("small"), "size=34m") else {
        eprintln!("not allowed to mount a file system: the size limit of a process stands in");
        let script = format!(
            "ulimit -f 20000; trap '' XFSZ; exec {} --install -n -f d.tar --name D",
            env!("CARGO_BIN_EXE_wslr")
        );
        let output = Command::new("bash")
            .args(["-c", &script])
            .env("HOME", home.path(""))
            .current_dir(home.path(""))
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(255));
        return;
    };
    home.wslr(["--install", "-n", "-f", "d.tar", "--name", "D", "-l", "small/d"])
        .stdout("Installing: d.tar\n")
        .fails(
            "Importing the distribution failed: [..]No space left on device (os error 28)",
            Some("free some space on the host, or choose another --location"),
            Some("Wsl/Service/RegisterDistro/ERROR_DISK_FULL"),
        )
        .run();
    assert_eq!(home.tree("small").len(), 0);
    fs::write(home.path("small/fill"), noise(16 << 20)).unwrap();
    home.wslr(["--install", "-n", "-f", "d.tar", "--name", "D", "-l", "small/d"])
        .stdout("Installing: d.tar\n")
        .fails(
            "not enough space in '[HOME]/small/d': [..] MB are free, at least 31 MB are needed",
            Some("free some space, or choose another directory with --location"),
            Some("Wsl/Service/RegisterDistro/ERROR_DISK_FULL"),
        )
        .run();
    assert_eq!(home.tree("small"), ["fill"]);
    home.wslr(["--list", "-q"]).run();
}

#[test]
fn a_home_that_cannot_be_written() {
    let home = home();
    home.write("d.tar", Tar::distro().bytes());
    fs::create_dir_all(home.data("")).unwrap();
    let small = Small::mount(home.data(""), "size=1m,ro");
    if small.is_none() {
        fs::set_permissions(home.data(""), fs::Permissions::from_mode(0o500)).unwrap();
    }
    let output = run(&home, &["--install", "-n", "-f", "d.tar", "--name", "D"]);
    assert_eq!(output.status.code(), Some(255));
    let stderr = String::from_utf8(output.stderr).unwrap();
    let code = if small.is_some() { "ERROR_WRITE_PROTECT" } else { "E_ACCESSDENIED" };
    assert!(stderr.starts_with("wslr: cannot open '"), "{stderr}");
    assert!(
        stderr.ends_with(&format!(
            "hint: set WSLR_DATA_DIR to a directory that can be written\n\
             Error code: Wsl/Service/RegisterDistro/{code}\n"
        )),
        "{stderr}"
    );
    home.wslr(["--list", "-q"]).run();
}

fn run(home: &Home, words: &[&str]) -> Output {
    home.wslr(words).command().output().unwrap()
}

/// Bytes without zeros, which a disk would not store.
fn noise(length: usize) -> Vec<u8> {
    (0..length).map(|index| (index % 251 + 1) as u8).collect()
}
