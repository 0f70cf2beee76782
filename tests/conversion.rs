//! `--set-version` on a tree of everything that is hard to keep: nothing is lost, and a
//! kill at any moment leaves a distro that can be used. No machine and no session is
//! needed.

#![allow(clippy::panic, clippy::unwrap_used, reason = "these are tests")]

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use support::Home;
use support::nasty::Tree;
use support::tree::{Mount, assert_same_tree, check, is_root};
use support::users::{SINGLE, ordinary_user};

/// The only distro's directory and version.
fn distro(home: &Home) -> (PathBuf, u64) {
    let output = home.wslr(["--list", "--all", "--json"]).command().output().unwrap();
    let rows: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(rows.as_array().map(Vec::len), Some(1), "{output:?}");
    let row = &rows[0];
    (row["basePath"].as_str().unwrap().into(), row["version"].as_u64().unwrap())
}

#[track_caller]
fn convert(home: &Home, version: &str) {
    let output = home.wslr(["--set-version", "D", version]).command().output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

/// Compares the disk with the truth.
#[track_caller]
fn assert_disk(base: &Path, truth: &Path) {
    let disk = base.join("ext4.img");
    check(&disk);
    let mount = Mount::new(&disk, "ro,loop");
    assert_same_tree(mount.path(), truth);
}

/// What is beside the root in the distro's directory.
fn names(base: &Path) -> Vec<String> {
    let names = fs::read_dir(base).unwrap();
    names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn nothing_of_roots_distro_is_lost_on_the_way_to_version_2_and_back() {
    if !is_root() {
        eprintln!("needs root: device nodes, owners and a loop mount");
        return;
    }
    let tree = Tree::new(3000);
    let home = Home::new();
    tree.install(&home);
    let (base, version) = distro(&home);
    assert_eq!(version, 1);
    assert_same_tree(&base.join("rootfs"), &tree.truth());
    convert(&home, "2");
    assert_disk(&base, &tree.truth());
    convert(&home, "1");
    assert_eq!((distro(&home).1, names(&base)), (1, vec!["rootfs".to_owned()]));
    assert_same_tree(&base.join("rootfs"), &tree.truth());
}

/// Owners that a user cannot give and device nodes that he cannot make come back on the
/// disk, twice.
fn nothing_is_lost_by(home: &Home) {
    let tree = Tree::new(500);
    tree.install(home);
    let (base, _) = distro(home);
    convert(home, "2");
    assert_disk(&base, &tree.truth());
    convert(home, "1");
    assert_eq!(names(&base), ["rootfs"]);
    // Set-user-ID programs in it are nobody else's to run.
    assert_eq!(fs::metadata(&base).unwrap().permissions().mode() & 0o7777, 0o700);
    convert(home, "2");
    assert_disk(&base, &tree.truth());
    let output = home.wslr(["--unregister", "D"]).command().output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(!base.exists());
}

#[test]
fn nothing_of_a_users_distro_is_lost() {
    if !is_root() {
        eprintln!("needs root: another user and a loop mount");
        return;
    }
    let (uid, gid) = ordinary_user();
    nothing_is_lost_by(&Home::new().owned_by(uid, gid));
}

#[test]
fn nothing_of_a_single_users_distro_is_lost() {
    if !is_root() {
        eprintln!("needs root: another user and a loop mount");
        return;
    }
    nothing_is_lost_by(&Home::new().owned_by(SINGLE.0, SINGLE.1));
}

/// Kills conversions, both ways, at moments all over the time that one takes.
fn survives_kills(home: &Home) {
    let tree = Tree::new(1500);
    tree.install(home);
    let (base, mut version) = distro(home);
    let started = Instant::now();
    convert(home, "2");
    let whole = started.elapsed();
    convert(home, "1");
    let mut moved = 0;
    for moment in 0..10 {
        let other = if version == 1 { "2" } else { "1" };
        let mut conversion = home.wslr(["--set-version", "D", other]);
        let conversion = conversion.command().stdout(Stdio::null()).stderr(Stdio::null());
        let mut conversion = conversion.spawn().unwrap();
        thread::sleep(whole * moment / 9 + Duration::from_millis(1));
        let _ = conversion.kill();
        conversion.wait().unwrap();
        let (_, now) = distro(home);
        moved += u32::from(now != version);
        version = now;
        // A user's helper process may take a moment to see that it is alone.
        thread::sleep(Duration::from_millis(200));
        match version {
            2 => assert_disk(&base, &tree.truth()),
            _ if home.owner().is_none() => {
                assert_same_tree(&base.join("rootfs"), &tree.truth());
            }
            _ => assert!(base.join("rootfs/etc/os-release").exists()),
        }
    }
    println!("{moved} of 10 conversions were done when they were killed; one takes {whole:?}");
    // The next one clears what is left, and works.
    let other = if version == 1 { "2" } else { "1" };
    convert(home, other);
    assert_eq!(names(&base).len(), 1, "{:?}", names(&base));
    if other == "1" {
        convert(home, "2");
    }
    assert_disk(&base, &tree.truth());
}

#[test]
fn a_kill_at_any_moment_leaves_roots_distro_usable() {
    if !is_root() {
        eprintln!("needs root: device nodes, owners and a loop mount");
        return;
    }
    survives_kills(&Home::new());
}

#[test]
fn a_kill_at_any_moment_leaves_a_users_distro_usable() {
    if !is_root() {
        eprintln!("needs root: another user and a loop mount");
        return;
    }
    let (uid, gid) = ordinary_user();
    survives_kills(&Home::new().owned_by(uid, gid));
}

#[test]
#[ignore = "a hundred thousand files: half a minute"]
fn a_hundred_thousand_files_are_kept() {
    let tree = Tree::new(100_000);
    let home = Home::new();
    let step = |what: &str, work: &dyn Fn()| {
        let started = Instant::now();
        work();
        println!("{what}: {:?}", started.elapsed());
    };
    step("install", &|| tree.install(&home));
    let (base, _) = distro(&home);
    step("to version 2", &|| convert(&home, "2"));
    assert_disk(&base, &tree.truth());
    step("to version 1", &|| convert(&home, "1"));
    assert_same_tree(&base.join("rootfs"), &tree.truth());
}
