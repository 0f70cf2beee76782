//! `--export` (B042 to B048, B096): the words, the files, and what a failure leaves.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::install::home;
use crate::support::tar::Tar;
use crate::support::tree::is_root;
use crate::support::{Home, wait_for};

const DONE: &str = "The operation completed successfully.\n";

const HINT: Option<&str> = Some("'wslr --help' lists the arguments");

/// Bytes that do not compress.
fn noise(count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    File::open("/dev/urandom").unwrap().read_exact(&mut bytes).unwrap();
    bytes
}

/// Imports a distro with a large file under a name.
fn import(home: &Home, name: &str, version: &str, large: usize) {
    home.write("d.tar", Tar::distro().file("./large", noise(large)).bytes());
    home.wslr(["--import", name, name, "d.tar", "--version", version]).stdout(DONE).run();
}

fn output(home: &Home, words: &[&str]) -> Output {
    let output = home.wslr(words).into_command().output().unwrap();
    assert!(output.status.success(), "{output:?}");
    output
}

/// The names of what an archive holds, as GNU tar tells them.
fn names(archive: &Path) -> String {
    let output = Command::new("tar").arg("-tf").arg(archive).output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn b042_b045_an_archive_of_either_version_has_relative_names() {
    let home = home();
    for version in ["1", "2"] {
        import(&home, version, version, 10);
        home.wslr(["--export", version, "x.tar"]).stdout(DONE).run();
        let mut listed: Vec<String> =
            names(&home.path("x.tar")).lines().map(str::to_owned).collect();
        listed.sort();
        assert_eq!(listed, ["./", "./bin/", "./bin/sh", "./etc/", "./etc/os-release", "./large"]);
        // There is a password file in most of them.
        let mode = fs::metadata(home.path("x.tar")).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o600);
    }
}

#[test]
fn b043_b044_an_export_to_standard_output_is_nothing_but_the_archive() {
    let home = home();
    import(&home, "A", "2", 100_000);
    home.wslr(["--export", "A", "a.tar"]).stdout(DONE).run();
    let streamed = output(&home, &["--export", "A", "-"]);
    assert!(streamed.stderr.is_empty());
    assert_eq!(streamed.stdout, fs::read(home.path("a.tar")).unwrap());
    let mut export = home.wslr(["--export", "A", "-"]).into_command();
    let mut export = export.stdout(Stdio::piped()).spawn().unwrap();
    let mut import = home.wslr(["--import", "B", ".", "-"]).into_command();
    let imported = import.stdin(export.stdout.take().unwrap()).output().unwrap();
    assert!(export.wait().unwrap().success() && imported.status.success(), "{imported:?}");
    assert_eq!(String::from_utf8_lossy(&imported.stdout), DONE);
    assert_eq!(output(&home, &["--export", "B", "-"]).stdout, streamed.stdout);
    let rows: Value = serde_json::from_slice(&output(&home, &["--list", "--json"]).stdout).unwrap();
    assert_eq!(rows[1]["basePath"], home.path("").to_str().unwrap().trim_end_matches('/'));
}

#[test]
fn b047_each_format_is_told_by_its_name_and_imported_without_it() {
    let home = home();
    import(&home, "A", "2", 300_000);
    let plain = output(&home, &["--export", "A", "-", "--format", "tar"]).stdout;
    let magics: [(&str, &[u8]); 3] =
        [("tar.gz", b"\x1f\x8b"), ("tar.xz", b"\xfd7zXZ\0"), ("tar.zst", b"\x28\xb5\x2f\xfd")];
    for (format, magic) in magics {
        let file = format!("a.{format}");
        home.wslr(["--export", "A", &file, "--format", format]).stdout(DONE).run();
        assert!(fs::read(home.path(&file)).unwrap().starts_with(magic), "{format}");
        home.wslr(["--import", format, format, &file]).stdout(DONE).run();
        assert_eq!(output(&home, &["--export", format, "-"]).stdout, plain, "{format}");
    }
    let bz2 = Command::new("bzip2").arg("-kz").arg(home.path("d.tar")).status();
    if bz2.is_ok_and(|status| status.success()) {
        home.wslr(["--import", "bz2", "bz2", "d.tar.bz2"]).stdout(DONE).run();
        assert_eq!(output(&home, &["--export", "bz2", "-"]).stdout, plain);
    }
}

#[test]
fn b047_words_that_make_no_export() {
    let home = home();
    import(&home, "A", "2", 10);
    home.wslr(["--export", "A", "a", "--format", "zip"])
        .fails(
            "Invalid format: zip",
            Some("a format is tar, tar.gz, tar.xz, tar.zst or vhd"),
            Some("Wsl/E_INVALIDARG"),
        )
        .run();
    home.wslr(["--export", "A", "a", "--format", "tar.gz", "--vhd"])
        .fails("Arguments --format and --vhd can't be specified at same time.", HINT, None)
        .run();
    home.wslr(["--export", "A"])
        .fails("Argument --export is missing a required parameter.", HINT, None)
        .run();
    home.wslr(["--export", "nope", "a"])
        .fails(
            "There is no distribution with the supplied name.",
            Some("'wslr --list' shows the installed distributions"),
            Some("Wsl/Service/WSL_E_DISTRO_NOT_FOUND"),
        )
        .run();
    home.wslr(["--export", "A", "-", "--vhd"])
        .fails(
            "a disk cannot be written to standard output",
            Some("name a file, .vhdx or .vhd"),
            Some("Wsl/E_INVALIDARG"),
        )
        .run();
    assert!(!home.path("a").exists());
}

#[test]
fn b048_a_disk_is_told_by_its_extension() {
    let home = home();
    home.write(".wslconfig", "[wsl2]\nkernel=/nonexistent/vmlinux\ndefaultVhdSize=64MB\n");
    import(&home, "A", "2", 1_000_000);
    import(&home, "One", "1", 10);
    for (words, message, hint, code) in [
        (
            ["--export", "A", "x.img", "--vhd"],
            "The specified file must have the .vhdx or .vhd file extension.",
            None,
            "Wsl/Service/WSL_E_EXPORT_FAILED",
        ),
        (
            ["--export", "One", "x.vhdx", "--vhd"],
            "a version 1 distribution has no disk",
            Some("leave out --vhd for an archive, or convert it first"),
            "Wsl/Service/WSL_E_WSL2_NEEDED",
        ),
    ] {
        home.wslr(words).fails(message, hint, Some(code)).run();
    }
    let disk = home.path("A/ext4.img");
    for (name, format, subformat) in [("x.vhdx", "vhdx", "dynamic"), ("x.VHD", "vpc", "fixed")] {
        home.wslr(["--export", "A", name, "--format", "vhd"]).stdout(DONE).run();
        let path = home.path(name);
        let qemu = |words: &[&str]| {
            let output = Command::new("qemu-img").args(words).output().unwrap();
            assert!(output.status.success(), "{output:?}");
            String::from_utf8(output.stdout).unwrap()
        };
        let (disk, path) = (disk.to_str().unwrap(), path.to_str().unwrap());
        if format == "vhdx" {
            qemu(&["check", "-f", format, path]);
        }
        qemu(&["compare", "-f", "raw", "-F", format, disk, path]);
        let size = fs::metadata(path).unwrap().len();
        let is_fixed = size == (64 << 20) + 512;
        assert_eq!(subformat == "fixed", is_fixed, "{size}");
        // Blocks that were never written are not there.
        assert!(is_fixed || size < 40 << 20, "{size}");
    }
}

#[test]
fn b044_an_export_that_fails_leaves_nothing_and_what_was_there() {
    let home = home();
    import(&home, "A", "2", 10);
    home.write("kept.tar", "mine");
    let image = home.path("A/ext4.img");
    let file = File::options().write(true).open(&image).unwrap();
    // The block with the groups' descriptors.
    std::os::unix::fs::FileExt::write_all_at(&file, &[7; 4096], 4096).unwrap();
    let before = home.tree("");
    for name in ["kept.tar", "new.tar"] {
        home.wslr(["--export", "A", name])
            .fails(
                "the disk's file system is damaged: [..]",
                Some("'e2fsck -f' on the disk image may repair it"),
                Some("Wsl/Service/WSL_E_DISK_CORRUPTED"),
            )
            .run();
    }
    assert_eq!(fs::read(home.path("kept.tar")).unwrap(), b"mine");
    assert_eq!(home.tree(""), before);
    home.wslr(["--export", "A", "no/such/x.tar"])
        .fails(
            "cannot create 'no/such/x.tar': No such file or directory (os error 2)",
            None,
            Some("Wsl/ERROR_FILE_NOT_FOUND"),
        )
        .run();
}

#[test]
fn an_existing_file_is_replaced_and_a_link_to_it_is_kept() {
    let home = home();
    import(&home, "A", "2", 10);
    let kept = home.write("kept.tar", "mine");
    fs::set_permissions(&kept, fs::Permissions::from_mode(0o640)).unwrap();
    std::os::unix::fs::symlink("kept.tar", home.path("link")).unwrap();
    home.wslr(["--export", "A", "link"]).stdout(DONE).run();
    assert!(home.path("link").is_symlink());
    assert!(names(&kept).contains("./large\n"));
    assert_eq!(fs::metadata(&kept).unwrap().permissions().mode() & 0o7777, 0o640);
    // A device is written, not replaced.
    home.wslr(["--export", "A", "/dev/null"]).stdout(DONE).run();
    assert!(fs::metadata("/dev/null").unwrap().file_type().is_char_device());
}

/// Starts an export that nobody reads until its distro is seen to be exported.
fn start_blocked(home: &Home) -> Child {
    let mut export = home.wslr(["--export", "A", "-"]).into_command();
    let child = export.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    wait_for("the export to be seen", || {
        let listed = output(home, &["--list", "--verbose"]).stdout;
        String::from_utf8(listed).unwrap().contains("* A       Exporting       2\n")
    });
    child
}

#[test]
fn b096_a_distro_being_exported_is_locked() {
    let home = home();
    import(&home, "A", "2", 4 << 20);
    import(&home, "B", "2", 10);
    let mut child = start_blocked(&home);
    home.wslr(["--list", "--quiet"]).stdout("B\n").run();
    home.wslr(["--list", "--quiet", "--all"]).stdout("A\nB\n").run();
    let message = "The distribution 'A' cannot be used now: it is being exported.";
    let code = "E_ILLEGAL_STATE_CHANGE";
    for (words, context) in [
        (["--export", "A", "x.tar"].as_slice(), "Wsl/Service"),
        (&["--unregister", "A"], "Wsl/Service/UnregisterDistro"),
    ] {
        home.wslr(words).fails(message, None, Some(&format!("{context}/{code}"))).run();
    }
    for words in [
        ["--set-version", "A", "1"].as_slice(),
        &["--manage", "A", "--resize", "8GB"],
        &["--manage", "A", "--set-sparse", "false"],
        &["--manage", "A", "--move", "elsewhere"],
        &["--manage", "A", "--clone", "C"],
    ] {
        let output = home.wslr(words).into_command().output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(255), "{said}");
        assert!(said.contains("/E_ILLEGAL_STATE_CHANGE\n"), "{words:?}: {said}");
    }
    // It goes on where its reader does, and the distro is free then.
    let mut archive = Vec::new();
    child.stdout.take().unwrap().read_to_end(&mut archive).unwrap();
    assert!(child.wait().unwrap().success() && archive.len() > 4 << 20);
    home.wslr(["--list", "--quiet"]).stdout("A\nB\n").run();
}

#[test]
fn an_export_whose_reader_or_process_is_gone_frees_the_distro() {
    let home = home();
    import(&home, "A", "2", 4 << 20);
    let mut child = start_blocked(&home);
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(255));
    home.wslr(["--list", "--quiet"]).stdout("A\n").run();
    for signal in [Signal::SIGKILL, Signal::SIGINT] {
        let mut child = start_blocked(&home);
        kill(Pid::from_raw(child.id() as i32), signal).unwrap();
        child.wait().unwrap();
        home.wslr(["--list", "--quiet"]).stdout("A\n").run();
        home.wslr(["--export", "A", "/dev/null"]).stdout(DONE).run();
    }
}

#[test]
fn a_signal_leaves_nothing_of_an_export() {
    let home = home();
    // xz takes seconds for that.
    import(&home, "A", "2", 24 << 20);
    let before = home.tree("");
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let mut child = home.wslr(["--export", "A", "x.tar.xz", "--format", "tar.xz"]).spawn();
        wait_for("the export to write", || {
            let listed = output(&home, &["--list", "--verbose"]).stdout;
            String::from_utf8(listed).unwrap().contains("Exporting")
        });
        kill(Pid::from_raw(child.id() as i32), signal).unwrap();
        child.wait().unwrap();
        let after = home.tree("");
        assert_eq!(after, before);
    }
}

#[test]
fn b044_an_export_that_has_no_room_is_refused_before_it_writes() {
    if !is_root() {
        eprintln!("needs root: a small file system");
        return;
    }
    let home = home();
    import(&home, "A", "2", 4 << 20);
    let small = home.path("small");
    fs::create_dir(&small).unwrap();
    let words = ["-t", "tmpfs", "-o", "size=2m", "tmpfs"];
    assert!(Command::new("mount").args(words).arg(&small).status().unwrap().success());
    let test = home.wslr(["--export", "A", "small/x.tar"]).fails(
        "not enough space in '[HOME]/small': 2 MB are free, 5 MB are needed",
        Some("free some space, or write it somewhere else"),
        Some("Wsl/Service/ERROR_DISK_FULL"),
    );
    let full = home.wslr(["--export", "A", "small/x.tar.gz", "--format", "tar.gz"]).fails(
        "cannot write the archive: No space left on device (os error 28)",
        Some("free some space, or write the archive somewhere else"),
        Some("Wsl/Service/ERROR_DISK_FULL"),
    );
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        test.run();
        full.run();
        assert_eq!(home.tree("small"), [""; 0]);
    }));
    assert!(Command::new("umount").arg(&small).status().unwrap().success());
    result.unwrap();
}
