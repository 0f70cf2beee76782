//! `--export` and `--import` of a tree of everything that is hard to keep: nothing is lost
//! through archives of all formats and disks, in both versions, as root and as ordinary
//! users (B045, B047 to B049). No machine and no session is needed.

#![allow(clippy::panic, clippy::unwrap_used, reason = "these are tests")]

mod support;

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use support::Home;
use support::nasty::Tree;
use support::tree::{Mount, assert_same_tree, check, is_root, run};
use support::users::{SINGLE, ordinary_user};

const FORMATS: [&str; 4] = ["tar", "tar.gz", "tar.xz", "tar.zst"];

#[track_caller]
fn wslr(home: &Home, words: &[&str]) -> Vec<u8> {
    let started = Instant::now();
    let output = home.wslr(words).into_command().output().unwrap();
    assert!(output.status.success(), "{words:?}: {output:?}");
    println!("{words:?}: {:?}", started.elapsed());
    output.stdout
}

/// Unpacks an archive as GNU tar does and compares with the truth.
#[track_caller]
fn assert_archive(archive: &Path, truth: &Path) {
    let directory = tempfile::tempdir().unwrap();
    let options = ["--numeric-owner", "--xattrs", "--xattrs-include=*", "--acls", "-xpf"];
    let mut tar = Command::new("tar");
    let output = tar.arg("-C").arg(directory.path()).args(options).arg(archive).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_same_tree(directory.path(), truth);
}

/// The one through a pipe into the other.
#[track_caller]
fn pipe(home: &Home, from: &str, format: &str, to: &str, version: &str) {
    let mut export = home.wslr(["--export", from, "-", "--format", format]).into_command();
    let mut export = export.stdout(Stdio::piped()).spawn().unwrap();
    let mut import = home.wslr(["--import", to, to, "-", "--version", version]).into_command();
    let output = import.stdin(export.stdout.take().unwrap()).output().unwrap();
    assert!(export.wait().unwrap().success() && output.status.success(), "{output:?}");
}

/// Through every format and both versions and back.
fn nothing_is_lost_by(home: &Home, tree: &Tree, size: &str) {
    tree.install(home);
    // The tools that judge take long for more.
    home.write(".wslconfig", format!("[wsl2]\ndefaultVhdSize={size}\n"));
    let archive = home.path("d.tar");
    wslr(home, &["--export", "D", "d.tar"]);
    assert_archive(&archive, &tree.truth());
    let mut from = "D";
    for (format, to, version) in [
        ("tar.gz", "gz", "2"),
        ("tar.xz", "xz", "1"),
        ("tar.zst", "zst", "2"),
        ("tar", "plain", "2"),
    ] {
        pipe(home, from, format, to, version);
        from = to;
    }
    wslr(home, &["--export", from, "last.tar", "--format", "tar"]);
    assert_archive(&home.path("last.tar"), &tree.truth());
    let disk = home.path("plain/ext4.img");
    check(&disk);
    assert_same_tree(Mount::new(&disk, "ro,loop").path(), &tree.truth());
}

/// Through disks that `qemu-img` makes and that are made for it.
fn nothing_is_lost_by_disks(home: &Home, tree: &Tree) {
    let plain = wslr(home, &["--export", "plain", "-"]);
    let qemu =
        |words: &[&str]| run("qemu-img", &words.iter().map(AsRef::as_ref).collect::<Vec<_>>());
    let path = |name: &str| home.path(name).to_str().unwrap().to_owned();
    for (file, format) in [("x.vhdx", "vhdx"), ("x.vhd", "vpc")] {
        wslr(home, &["--export", "plain", file, "--format", "vhd"]);
        if format == "vhdx" {
            qemu(&["check", "-f", format, &path(file)]);
        }
        qemu(&["convert", "-f", format, "-O", "raw", &path(file), &path("raw.img")]);
        qemu(&["compare", "-f", "raw", "-F", format, &path("raw.img"), &path(file)]);
        check(&home.path("raw.img"));
        assert_same_tree(Mount::new(&home.path("raw.img"), "ro,loop").path(), &tree.truth());
        let theirs = format!("qemu-{file}");
        qemu(&["convert", "-f", "raw", "-O", format, &path("raw.img"), &path(&theirs)]);
        wslr(home, &["--import", format, format, &theirs, "--vhd"]);
        assert!(wslr(home, &["--export", format, "-"]) == plain, "{format}");
        // A disk in that format is exported as the other one.
        let other = format!("of-{format}.vhdx");
        wslr(home, &["--export", format, &other, "--vhd"]);
        qemu(&["check", "-f", "vhdx", &path(&other)]);
        qemu(&["compare", "-f", "raw", "-F", "vhdx", &path("raw.img"), &path(&other)]);
    }
}

#[test]
fn b045_nothing_of_roots_distro_is_lost() {
    if !is_root() {
        eprintln!("needs root: device nodes, owners and a loop mount");
        return;
    }
    let (home, tree) = (Home::new(), Tree::new(1500));
    nothing_is_lost_by(&home, &tree, "1GB");
    nothing_is_lost_by_disks(&home, &tree);
}

#[test]
fn b045_nothing_of_a_users_distro_is_lost() {
    if !is_root() {
        eprintln!("needs root: another user and a loop mount");
        return;
    }
    let (uid, gid) = ordinary_user();
    nothing_is_lost_by(&Home::new().owned_by(uid, gid), &Tree::new(500), "1GB");
}

#[test]
fn b045_nothing_of_a_single_users_distro_is_lost() {
    if !is_root() {
        eprintln!("needs root: another user and a loop mount");
        return;
    }
    nothing_is_lost_by(&Home::new().owned_by(SINGLE.0, SINGLE.1), &Tree::new(500), "1GB");
}

#[test]
fn b047_all_formats_hold_the_same_bytes_every_time() {
    if !is_root() {
        eprintln!("needs root: device nodes");
        return;
    }
    let (home, tree) = (Home::new(), Tree::new(500));
    tree.install(&home);
    let mut all = Vec::new();
    for format in FORMATS {
        let mut archive =
            std::io::Cursor::new(wslr(&home, &["--export", "D", "-", "--format", format]));
        let mut plain = Vec::new();
        let mut reader = wslr::image::compression::decompressed(&mut archive).unwrap();
        std::io::Read::read_to_end(&mut reader, &mut plain).unwrap();
        all.push(plain);
    }
    assert!(all.windows(2).all(|pair| pair[0] == pair[1]));
}

#[test]
#[ignore = "a Debian with a hundred thousand files more: minutes"]
fn b045_a_debian_with_a_hundred_thousand_files_is_kept() {
    let (home, tree) = (Home::new(), Tree::in_debian(100_000));
    nothing_is_lost_by(&home, &tree, "4GB");
    nothing_is_lost_by_disks(&home, &tree);
}
