//! `--manage`: what is done with a distro's root while it does not run (B091 to B097, and
//! what is beyond WSL).

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use wslr::disk::{self, Format, vhdx};
use wslr::ext4::reader::Image;
use wslr::tree::path::TreePath;

use crate::install::home;
use crate::support::Home;
use crate::support::tar::Tar;
use crate::support::tree::is_root;

const DONE: &str = "The operation completed successfully.\n";

/// Incompressible content of a file in the distro.
fn content() -> Vec<u8> {
    let mut state = 1_u32;
    let next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    std::iter::repeat_with(next).take(3 << 20).collect()
}

/// Installs a distro with a disk of 256 MB, or a directory.
#[track_caller]
fn install(home: &Home, name: &str, version: &str) {
    home.write("d.tar", Tar::distro().file("./data", content()).bytes());
    let mut words = vec!["--install", "-n", "-f", "d.tar", "--name", name, "--version", version];
    if version == "2" {
        words.extend(["--vhd-size", "256MB"]);
    }
    let output = home.wslr(words).command().output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

#[track_caller]
fn record(home: &Home, name: &str) -> Value {
    let output = home.wslr(["--list", "--json"]).command().output().unwrap();
    let distros: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    distros.into_iter().find(|distro| distro["name"] == name).unwrap()
}

#[track_caller]
fn base(home: &Home, name: &str) -> PathBuf {
    record(home, name)["basePath"].as_str().unwrap().into()
}

/// What is in a directory, sorted.
fn names(path: &Path) -> Vec<String> {
    let entries = fs::read_dir(path).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// The file system in a disk, judged by `e2fsck`, and its size.
#[track_caller]
fn check_disk(path: &Path) -> u64 {
    let disk = disk::open(File::open(path).unwrap(), Format::of(path), false).unwrap();
    let judged = path.with_extension("judged");
    if Format::of(path) == Format::Raw {
        fs::hard_link(path, &judged).unwrap();
    } else {
        let plain = File::options().read(true).write(true).create_new(true).open(&judged).unwrap();
        plain.set_len(disk.length().unwrap()).unwrap();
        disk::copy(disk.as_ref(), &disk::raw::Raw::new(plain), |_| {}).unwrap();
    }
    let output = Command::new("/usr/sbin/e2fsck").arg("-fn").arg(&judged).output().unwrap();
    fs::remove_file(judged).unwrap();
    assert!(output.status.success(), "{output:?}");
    let image = Image::on(disk).unwrap();
    let file = image.find(&TreePath::new(b"data").unwrap()).unwrap().unwrap();
    let mut bytes = vec![0; file.size() as usize];
    assert_eq!(image.read_at(&file, 0, &mut bytes).unwrap(), bytes.len());
    assert!(bytes == content());
    image.health().size
}

#[test]
fn b095_a_distro_moves_to_another_directory() {
    let home = home();
    install(&home, "D", "2");
    install(&home, "Other", "2");
    let old = base(&home, "D");
    home.wslr(["--manage", "D", "--snapshot", "s"]).stdout(DONE).run();
    home.wslr(["--manage", "d", "--move", "there/new"]).stdout(DONE).run();
    let new = home.path("there/new").canonicalize().unwrap();
    assert_eq!(base(&home, "D"), new);
    assert_eq!(names(&new), ["ext4.img", "wslr-snapshots"]);
    assert!(!old.exists());
    check_disk(&new.join("ext4.img"));
    // Taken, by a distro and by a file.
    let code = Some("Wsl/Service/MoveDistro/ERROR_FILE_EXISTS");
    let hint = Some("choose another directory with --location");
    let used = base(&home, "Other");
    home.wslr(["--manage", "D", "-m", used.to_str().unwrap()])
        .fails("The supplied install location is already in use.", hint, code)
        .run();
    home.write("full/ext4.img", "mine");
    let message = "Failed to create disk '[HOME]/full/ext4.img': it exists already";
    home.wslr(["--manage", "D", "--move", "full"]).fails(message, hint, code).run();
    assert_eq!(fs::read(home.path("full/ext4.img")).unwrap(), b"mine");
    assert_eq!(base(&home, "D"), new);
    home.wslr(["--unregister", "D"]).stdout(DONE).run();
    assert!(!new.exists());
}

/// A directory on another file system, where there is one.
fn elsewhere() -> Option<tempfile::TempDir> {
    let directory = tempfile::tempdir_in("/dev/shm").ok()?;
    let here = std::env::temp_dir();
    let is_other = directory.path().metadata().unwrap().dev() != here.metadata().unwrap().dev();
    is_other.then_some(directory)
}

#[test]
fn b095_a_distro_moves_to_another_file_system() {
    let Some(other) = elsewhere() else { return eprintln!("needs a second file system") };
    for version in ["1", "2"] {
        if version == "1" && !is_root() {
            continue;
        }
        let home = home();
        install(&home, "D", version);
        home.wslr(["--manage", "D", "--snapshot", "s"]).stdout(DONE).run();
        let old = base(&home, "D");
        let new = other.path().join(version);
        home.wslr(["--manage", "D", "--move", new.to_str().unwrap()]).stdout(DONE).run();
        assert_eq!(base(&home, "D"), new.canonicalize().unwrap());
        let root = if version == "1" { "rootfs" } else { "ext4.img" };
        assert_eq!(names(&new), [root, "wslr-snapshots"]);
        assert!(!old.exists());
        for root in [new.join(root), new.join("wslr-snapshots/s").join(root)] {
            if version == "1" {
                assert!(fs::read(root.join("data")).unwrap() == content());
            } else {
                check_disk(&root);
                // Holes stay holes.
                assert!(root.metadata().unwrap().blocks() * 512 < 32 << 20);
            }
        }
        home.wslr(["--manage", "D", "--restore", "s"]).stdout(DONE).run();
        home.wslr(["--unregister", "D"]).stdout(DONE).run();
        assert!(!new.exists());
    }
}

#[test]
fn b092_wrong_values_are_named() {
    let home = home();
    install(&home, "D", "2");
    let code = Some("Wsl/E_INVALIDARG");
    let hint = Some("a size is a number and B, KB, MB, GB or TB, e.g. 64GB");
    home.wslr(["--manage", "D", "--resize", "foo"]).fails("Invalid size: foo", hint, code).run();
    let hint = Some("'wslr --help' lists the arguments");
    home.wslr(["--manage", "D", "--set-sparse", "false_"])
        .fails("false_ is not a valid boolean, <true|false>", hint, code)
        .run();
    home.wslr(["--manage", "D", "--compact", "--snapshot", "x"])
        .fails("Arguments --compact and --snapshot can't be specified at same time.", hint, None)
        .run();
    home.wslr(["--manage", "D", "--compact", "--json"])
        .fails("Arguments --compact and --json can't be specified at same time.", hint, None)
        .run();
    home.wslr(["--manage", "--move", "."])
        .fails("Argument --manage is missing a required parameter.", hint, None)
        .run();
    let code = Some("Wsl/Service/WSL_E_DISTRO_NOT_FOUND");
    let hint = Some("'wslr --list' shows the installed distributions");
    home.wslr(["--manage", "nope", "--resize", "10GB"])
        .fails("There is no distribution with the supplied name.", hint, code)
        .run();
}

#[test]
fn b093_a_disk_becomes_larger_and_smaller() {
    let home = home();
    install(&home, "D", "2");
    let disk = base(&home, "D").join("ext4.img");
    assert_eq!(check_disk(&disk), 256 << 20);
    home.wslr(["--manage", "D", "--resize", "1GB"]).stdout(DONE).run();
    assert_eq!(disk.metadata().unwrap().len(), 1 << 30);
    check_disk(&disk);
    // What its file system has not taken yet is let go of at once.
    home.wslr(["--manage", "D", "--resize", "512MB"]).stdout(DONE).run();
    assert_eq!(disk.metadata().unwrap().len(), 512 << 20);
    home.wslr(["--manage", "D", "-r", "64mb"]).stdout(DONE).run();
    assert_eq!(disk.metadata().unwrap().len(), 64 << 20);
    assert_eq!(check_disk(&disk), 64 << 20);
    assert_eq!(names(disk.parent().unwrap()), ["ext4.img"]);
}

#[test]
fn b093_a_vhdx_becomes_larger_and_smaller() {
    let home = home();
    install(&home, "Raw", "2");
    let from = disk::raw::Raw::new(File::open(base(&home, "Raw").join("ext4.img")).unwrap());
    fs::create_dir(home.path("place")).unwrap();
    let path = home.path("place/mine.vhdx");
    let file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
    vhdx::create(&file, &vhdx::Options::new(256 << 20)).unwrap();
    let to = disk::open(file, Format::Vhdx, true).unwrap();
    disk::copy(&from, to.as_ref(), |_| {}).unwrap();
    drop(to);
    let words = ["--import-in-place", "D", path.to_str().unwrap()];
    assert!(home.wslr(words).command().output().unwrap().status.success());
    for (size, bytes) in [("1GB", 1 << 30), ("64MB", 64 << 20)] {
        home.wslr(["--manage", "D", "--resize", size]).stdout(DONE).run();
        let disk = disk::open(File::open(&path).unwrap(), Format::Vhdx, false).unwrap();
        assert_eq!(disk.length().unwrap(), bytes);
        check_disk(&path);
        let judge = Command::new("qemu-img").arg("check").arg(&path).output().unwrap();
        assert!(judge.status.success(), "{judge:?}");
    }
    assert_eq!(names(&home.path("place")), ["mine.vhdx"]);
    home.wslr(["--manage", "D", "--compact"]).stdout(format!("[..] came back; [..]\n{DONE}")).run();
    home.wslr(["--manage", "D", "--set-sparse", "false"])
        .fails(
            "the VHDX disk cannot be used: its space cannot be reserved",
            None,
            Some("Wsl/Service/ERROR_NOT_SUPPORTED"),
        )
        .run();
    check_disk(&path);
}

#[test]
fn b094_a_size_that_is_too_small_leaves_the_disk_as_it_was() {
    let home = home();
    install(&home, "D", "2");
    let disk = base(&home, "D").join("ext4.img");
    let before = fs::read(&disk).unwrap();
    for size in ["1M", "8MB"] {
        let output = home.wslr(["--manage", "D", "--resize", size]).command().output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.starts_with("wslr: Failed to resize disk"), "{said}");
        assert!(said.ends_with("Error code: Wsl/Service/E_FAIL\n"), "{said}");
        assert_eq!(output.status.code(), Some(255));
    }
    assert!(fs::read(&disk).unwrap() == before);
    assert_eq!(names(disk.parent().unwrap()), ["ext4.img"]);
}

#[test]
fn b096_a_distro_whose_root_is_in_use_is_not_changed() {
    let home = home();
    install(&home, "D", "2");
    let lock = File::open(base(&home, "D").join("ext4.img")).unwrap();
    lock.lock().unwrap();
    let target = home.path("there");
    let message = "The distribution 'D' cannot be changed now: it is being installed, exported, \
                   converted or copied, or another process has its disk open.";
    for (words, context) in [
        (["--resize", "1GB"].as_slice(), "Wsl/Service"),
        (&["--set-sparse", "false"], "Wsl/Service"),
        (&["--move", target.to_str().unwrap()], "Wsl/Service/MoveDistro"),
        (&["--snapshot", "x"], "Wsl/Service"),
        (&["--clone", "E"], "Wsl/Service/RegisterDistro"),
    ] {
        let code = format!("{context}/E_ILLEGAL_STATE_CHANGE");
        let words = ["--manage", "D"].iter().chain(words);
        home.wslr(words).fails(message, None, Some(&code)).run();
    }
    assert!(!target.exists());
    assert_eq!(names(&base(&home, "D")), ["ext4.img"]);
    home.wslr(["-l", "-q"]).stdout("D\n").run();
}

#[test]
fn b097_space_is_reserved_and_let_go_of() {
    let home = home();
    install(&home, "D", "2");
    let disk = base(&home, "D").join("ext4.img");
    let taken = || disk.metadata().unwrap().blocks() * 512;
    assert!(taken() < 32 << 20);
    home.wslr(["--manage", "D", "--set-sparse", "false"]).stdout(DONE).run();
    assert!(taken() >= 256 << 20);
    // It stays reserved, whatever is asked for.
    let kept = format!("0 B came back; the disk takes [..] now.\n{DONE}");
    home.wslr(["--manage", "D", "--compact"]).stdout(kept).run();
    home.wslr(["--manage", "D", "--resize", "300MB"]).stdout(DONE).run();
    assert!(taken() >= 300 << 20);
    home.wslr(["--manage", "D", "-s", "true", "--allow-unsafe"]).stdout(DONE).run();
    assert!(taken() < 32 << 20);
    check_disk(&disk);
}

#[test]
fn b100_what_is_free_comes_back_at_once_when_asked_for() {
    let home = home();
    install(&home, "D", "2");
    let disk = base(&home, "D").join("ext4.img");
    let before = disk.metadata().unwrap().blocks();
    // Where nothing is, as a disk from elsewhere has it: what is in use is known from a copy
    // of which everything free is filled.
    let file = File::options().read(true).write(true).open(&disk).unwrap();
    let image = Image::open(File::open(&disk).unwrap()).unwrap();
    let mut filled = 0;
    image
        .free_runs(|run| {
            let noise = vec![0xa5; (run.end - run.start) as usize];
            file.write_all_at(&noise, run.start).unwrap();
            filled += noise.len() as u64;
            Ok(true)
        })
        .unwrap();
    file.sync_all().unwrap();
    assert!(filled > 64 << 20, "{filled}");
    assert!(disk.metadata().unwrap().blocks() > before + filled / 512 - 1000);
    let said = format!("[..] MiB came back; the disk takes [..] MiB now.\n{DONE}");
    home.wslr(["--manage", "D", "--compact"]).stdout(said).run();
    assert!(disk.metadata().unwrap().blocks() <= before + 100);
    check_disk(&disk);
}

#[test]
fn b052_a_disk_without_a_file_system_is_told_so() {
    let home = home();
    install(&home, "D", "2");
    let disk = base(&home, "D").join("ext4.img");
    fs::write(&disk, vec![0; 1 << 20]).unwrap();
    for words in [["--resize", "2GB"].as_slice(), &["--compact"], &["--resize", "32MB"]] {
        let words = ["--manage", "D"].iter().chain(words);
        let code = Some("Wsl/Service/WSL_E_DISK_CORRUPTED");
        home.wslr(words).fails("the disk has no ext4 file system", None, code).run();
    }
}

#[test]
fn a_clone_is_a_distro_of_its_own() {
    for version in ["1", "2"] {
        if version == "1" && !is_root() {
            continue;
        }
        let home = home();
        install(&home, "D", version);
        home.wslr(["--manage", "D", "--clone", "E"]).stdout(DONE).run();
        let place = home.path("place");
        home.wslr(["--manage", "D", "--clone", "F", "--location", "place"]).stdout(DONE).run();
        home.wslr(["-l", "-q"]).stdout("D\nE\nF\n").run();
        assert_eq!(base(&home, "F"), place.canonicalize().unwrap());
        let hint = Some("choose another name with --name");
        let code = Some("Wsl/Service/RegisterDistro/ERROR_ALREADY_EXISTS");
        home.wslr(["--manage", "D", "--clone", "e"])
            .fails("A distribution with the name 'e' already exists.", hint, code)
            .run();
        let (first, second) = (record(&home, "D"), record(&home, "E"));
        assert_ne!(first["id"], second["id"]);
        for same in ["version", "flavor", "osVersion"] {
            assert_eq!(first[same], second[same]);
        }
        home.wslr(["--unregister", "D"]).stdout(DONE).run();
        if version == "1" {
            assert!(fs::read(base(&home, "E").join("rootfs/data")).unwrap() == content());
        } else {
            check_disk(&base(&home, "E").join("ext4.img"));
            check_disk(&place.join("ext4.img"));
        }
    }
}

#[test]
fn a_snapshot_brings_back_what_was() {
    for version in ["1", "2"] {
        if version == "1" && !is_root() {
            continue;
        }
        let home = home();
        install(&home, "D", version);
        let base = base(&home, "D");
        home.wslr(["--manage", "D", "--list-snapshots"])
            .stdout("NAME    CREATED                 SIZE          VERSION\n")
            .run();
        home.wslr(["--manage", "D", "--snapshot", "first"]).stdout(DONE).run();
        let taken = Some("'wslr --manage NAME --delete-snapshot SNAPSHOT' deletes one");
        home.wslr(["--manage", "D", "--snapshot", "first"])
            .fails(
                "a snapshot with the name 'first' already exists",
                taken,
                Some("Wsl/Service/ERROR_ALREADY_EXISTS"),
            )
            .run();
        for wrong in ["", "..", ".hidden", "a/b"] {
            let message = format!("invalid snapshot name: \"{wrong}\"");
            let hint =
                "a name has up to 256 letters, digits, '.', '_' and '-', and no '.' in front";
            home.wslr(["--manage", "D", "--snapshot", wrong])
                .fails(&message, Some(hint), Some("Wsl/Service/E_INVALIDARG"))
                .run();
        }
        home.wslr(["--manage", "D", "--list-snapshots"])
            .stdout(format!(
                "NAME     CREATED                 SIZE          VERSION\n\
                 first    [..] UTC    [..] MiB      {version}\n"
            ))
            .run();
        let output =
            home.wslr(["--manage", "D", "--list-snapshots", "--json"]).command().output().unwrap();
        let listed: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!((&listed[0]["name"], listed.as_array().unwrap().len()), (&"first".into(), 1));
        // Lost, and brought back.
        for _ in 0..2 {
            match version {
                "1" => fs::remove_file(root(&home, "D").join("data")).unwrap(),
                _ => fs::write(root(&home, "D"), "lost").unwrap(),
            }
            home.wslr(["--manage", "D", "--restore", "first"]).stdout(DONE).run();
            let root = root(&home, "D");
            match version {
                "1" => assert!(fs::read(root.join("data")).unwrap() == content()),
                _ => _ = check_disk(&root),
            }
            assert_eq!(names(&base).len(), 2, "{:?}", names(&base));
        }
        let missing = Some("'wslr --manage NAME --list-snapshots' shows them");
        let code = Some("Wsl/Service/ERROR_NOT_FOUND");
        home.wslr(["--manage", "D", "--restore", "../first"])
            .fails("there is no snapshot with the name '../first'", missing, code)
            .run();
        home.wslr(["--manage", "D", "--delete-snapshot", "first"]).stdout(DONE).run();
        home.wslr(["--manage", "D", "--delete-snapshot", "first"])
            .fails("there is no snapshot with the name 'first'", missing, code)
            .run();
        assert_eq!(names(&base).len(), 1);
        home.wslr(["--unregister", "D"]).stdout(DONE).run();
        assert!(!base.exists());
    }
}

#[test]
fn a_snapshot_of_the_other_version_brings_that_back() {
    if !is_root() {
        return eprintln!("needs root: a directory with owners");
    }
    let home = home();
    install(&home, "D", "1");
    home.wslr(["--manage", "D", "--snapshot", "s"]).stdout(DONE).run();
    let output = home.wslr(["--set-version", "D", "2"]).command().output().unwrap();
    assert!(output.status.success(), "{output:?}");
    home.wslr(["--manage", "D", "--snapshot", "two"]).stdout(DONE).run();
    home.wslr(["--manage", "D", "--restore", "s"]).stdout(DONE).run();
    assert_eq!(record(&home, "D")["version"], 1);
    assert!(fs::read(base(&home, "D").join("rootfs/data")).unwrap() == content());
    home.wslr(["--manage", "D", "--restore", "two"]).stdout(DONE).run();
    assert_eq!(record(&home, "D")["version"], 2);
    check_disk(&base(&home, "D").join("ext4.img"));
    assert_eq!(names(&base(&home, "D")), ["ext4.img", "wslr-snapshots"]);
    // A directory has no disk to do this with.
    home.wslr(["--manage", "D", "--restore", "s"]).stdout(DONE).run();
    for words in [["--resize", "2GB"].as_slice(), &["--compact"], &["--set-sparse", "true"]] {
        home.wslr(["--manage", "D"].iter().chain(words))
            .fails(
                "This operation is only supported by WSL2.",
                Some("'wslr --set-version NAME 2' gives a distribution a disk"),
                Some("Wsl/Service/WSL_E_WSL2_NEEDED"),
            )
            .run();
    }
}

/// Kills each action at moments all over the time that it takes; the distro is whole after
/// each, and nothing is left in the end.
#[test]
fn a_kill_at_any_moment_leaves_the_distro_whole() {
    let other = elsewhere();
    for version in ["1", "2"] {
        if version == "1" && !is_root() {
            continue;
        }
        let home = home();
        install(&home, "D", version);
        home.wslr(["--manage", "D", "--snapshot", "kept"]).stdout(DONE).run();
        let first = base(&home, "D");
        let places: Vec<PathBuf> = match &other {
            Some(other) => vec![other.path().join(format!("v{version}")), first.clone()],
            None => vec![home.path("new"), first.clone()],
        };
        let places: Vec<&str> = places.iter().map(|place| place.to_str().unwrap()).collect();
        let mut actions = vec![
            vec!["--snapshot", "new"],
            vec!["--restore", "kept"],
            vec!["--clone", "E"],
            vec!["--move", places[0]],
            vec!["--move", places[1]],
        ];
        if version == "2" {
            actions.extend([vec!["--resize", "128MB"], vec!["--resize", "256MB"]]);
            actions.push(vec!["--compact"]);
        }
        for action in actions {
            let words: Vec<&str> = ["--manage", "D"].into_iter().chain(action).collect();
            let mut limit = Duration::from_millis(1);
            for _ in 0..4 {
                let mut test = home.wslr(&words);
                let command = test.command().stdout(Stdio::null()).stderr(Stdio::null());
                let started = Instant::now();
                let mut child = command.spawn().unwrap();
                thread::sleep(limit);
                let _ = child.kill();
                let done = child.wait().unwrap().success();
                let root = root(&home, "D");
                match version {
                    "1" => assert!(fs::read(root.join("data")).unwrap() == content(), "{words:?}"),
                    _ => _ = check_disk(&root),
                }
                limit = if done { started.elapsed() / 2 } else { limit * 3 };
            }
        }
        for words in [
            ["--unregister", "E"].as_slice(),
            &["--manage", "D", "--delete-snapshot", "new"],
            &["--manage", "D", "--delete-snapshot", "kept"],
        ] {
            // Those that were not killed are there.
            let _ = home.wslr(words).command().output().unwrap();
        }
        // What was left is cleared away by whatever comes next.
        home.wslr(["--manage", "D", "--clone", "F"]).stdout(DONE).run();
        assert_eq!(names(&base(&home, "D")).len(), 1, "{:?}", names(&base(&home, "D")));
        home.wslr(["--unregister", "F"]).stdout(DONE).run();
        home.wslr(["--unregister", "D"]).stdout(DONE).run();
        assert_eq!(home.tree(".local/share/wslr/distros"), [""; 0]);
    }
}

/// A distro's root by its record: a kill may have left others beside it.
fn root(home: &Home, name: &str) -> PathBuf {
    let base = base(home, name);
    let bytes = fs::read(home.data("registry.json")).unwrap();
    let registry: Value = serde_json::from_slice(&bytes).unwrap();
    let distros = registry["distros"].as_array().unwrap();
    let record = distros.iter().find(|distro| distro["name"] == name).unwrap();
    base.join(record["disk"].as_str().unwrap())
}
