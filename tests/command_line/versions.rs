//! Which version an installation makes (design section 6), whatever this machine can run.

use std::fs;
use std::process::Command;

use serde_json::Value;

use crate::install::installed;
use crate::support::Home;
use crate::support::tar::Tar;

/// A home with an archive, and no kernel: a version 2 installation would fetch one.
fn home() -> Home {
    let home = Home::new();
    home.write("d.tar", Tar::distro().bytes());
    home
}

const INSTALL: [&str; 6] = ["--install", "-n", "-f", "d.tar", "--name", "D"];

const DIFFERENCES: &str =
    "For information on key differences between the versions please see 'man wslr'\n";

const REFUSED: &str = "version 2 cannot run here: WSLR_VERSIONS leaves it out";

const CODE: Option<&str> = Some("Wsl/Service/RegisterDistro/E_INVALIDARG");

#[track_caller]
fn version_of_d(home: &Home) -> Value {
    let output = home.wslr(["--list", "--json"]).command().output().unwrap();
    let rows: Value = serde_json::from_slice(&output.stdout).unwrap();
    rows[0]["version"].clone()
}

#[test]
fn an_installation_that_names_no_version_falls_to_1_with_one_warning() {
    let home = home();
    home.wslr(INSTALL)
        .env("WSLR_VERSIONS", "1")
        .stdout(installed("d.tar", "D"))
        .stderr(
            "wslr: warning: version 2 cannot run here, so this is version 1, without a virtual \
             machine: WSLR_VERSIONS leaves it out; unset WSLR_VERSIONS\n",
        )
        .run();
    assert_eq!(version_of_d(&home), 1);
    home.wslr(["-l", "-v"])
        .stdout("  NAME    STATE           VERSION\n* D       Stopped         1\n")
        .run();
    let files = home.tree(".local/share/wslr/distros");
    assert!(files.iter().any(|name| name.ends_with("/rootfs/etc/os-release")), "{files:?}");
    assert!(home.tree(".local/share/wslr/kernels").is_empty(), "no kernel is fetched");
    home.wslr(["--unregister", "D"]).stdout("The operation completed successfully.\n").run();
    assert!(home.tree(".local/share/wslr/distros").is_empty());
}

#[test]
fn what_is_asked_for_or_set_comes_first() {
    let home = home();
    let unregister =
        || home.wslr(["--unregister", "D"]).stdout("The operation completed successfully.\n").run();
    let explicit = [INSTALL.as_slice(), &["--version", "1"]].concat();
    home.wslr(&explicit).stdout(installed("d.tar", "D")).run();
    assert_eq!(version_of_d(&home), 1);
    unregister();
    home.wslr(["--set-default-version", "1"])
        .stdout("The operation completed successfully.\n")
        .run();
    home.wslr(INSTALL).stdout(installed("d.tar", "D")).run();
    assert_eq!(version_of_d(&home), 1);
    unregister();
    home.write(".wslconfig", "[wsl2]\nkernel=/nonexistent/vmlinux\n");
    let explicit = [INSTALL.as_slice(), &["--version", "2"]].concat();
    home.wslr(&explicit).stdout(installed("d.tar", "D")).run();
    assert_eq!(version_of_d(&home), 2);
}

#[test]
fn version_2_in_words_is_refused_before_anything_is_fetched() {
    let home = home();
    let instead = "unset WSLR_VERSIONS; '--version 1' needs no virtual machine";
    for words in [
        [INSTALL.as_slice(), &["--version", "2"]].concat(),
        // It would have to be fetched.
        vec!["--install", "Debian", "--version", "2"],
        vec!["--install", "--no-distribution", "--version", "2"],
    ] {
        home.wslr(words).env("WSLR_VERSIONS", "1").fails(REFUSED, Some(instead), CODE).run();
    }
    home.wslr(["--set-default-version", "2"]).stdout("[..]\n[..]\n").run();
    home.wslr(INSTALL)
        .env("WSLR_VERSIONS", "1")
        .fails(
            REFUSED,
            Some("unset WSLR_VERSIONS; 'wslr --set-default-version 1' needs no virtual machine"),
            CODE,
        )
        .run();
    assert!(home.tree(".local/share/wslr/distros").is_empty());
    assert!(home.tree(".cache").is_empty());
}

#[test]
fn a_disk_size_is_of_no_use_without_a_disk() {
    let home = home();
    let words = [INSTALL.as_slice(), &["--vhd-size", "1GB", "--version", "1"]].concat();
    home.wslr(words)
        .fails(
            "Arguments --vhd-size and --version 1 can't be specified at same time.",
            Some("'wslr --help' lists the arguments"),
            Some("Wsl/E_INVALIDARG"),
        )
        .run();
    let words = [INSTALL.as_slice(), &["--vhd-size", "1GB"]].concat();
    home.wslr(words)
        .env("WSLR_VERSIONS", "1")
        .stdout(installed("d.tar", "D"))
        .stderr(
            "wslr: warning: version 2 cannot run here, so this is version 1, without a virtual \
             machine: WSLR_VERSIONS leaves it out; unset WSLR_VERSIONS\n\
             wslr: warning: --vhd-size is ignored: a version 1 distribution has no disk\n",
        )
        .run();
}

#[test]
fn without_a_distribution_and_a_machine_there_is_nothing_to_prepare() {
    Home::new()
        .wslr(["--install", "--no-distribution"])
        .env("WSLR_VERSIONS", "1")
        .stdout("The operation completed successfully.\n")
        .stderr("wslr: warning: version 2 cannot run here, so this is version 1, [..]\n")
        .run();
}

#[test]
fn a_distro_is_converted_and_back() {
    let home = home();
    let words = [INSTALL.as_slice(), &["--version", "1"]].concat();
    home.wslr(words).stdout(installed("d.tar", "D")).run();
    let base = || {
        let output = home.wslr(["--list", "--json"]).command().output().unwrap();
        let rows: Value = serde_json::from_slice(&output.stdout).unwrap();
        rows[0]["basePath"].as_str().unwrap().to_owned()
    };
    let first = fs::read_to_string(format!("{}/rootfs/etc/os-release", base())).unwrap();
    let progress = "Conversion in progress, this may take a few minutes.\n";
    let done = "The operation completed successfully.\n";
    home.wslr(["--set-version", "d", "2"])
        .env("WSLR_VERSIONS", "1")
        .stdout(format!("{progress}{DIFFERENCES}{done}"))
        .stderr(
            "wslr: warning: version 2 cannot run here: WSLR_VERSIONS leaves it out; \
             unset WSLR_VERSIONS\n",
        )
        .run();
    assert_eq!(version_of_d(&home), 2);
    let names = home.tree(".local/share/wslr/distros");
    assert!(names.len() == 2 && names[1].ends_with("/ext4.img"), "{names:?}");
    let disk = format!("{}/ext4.img", base());
    let check = Command::new("/sbin/e2fsck").args(["-fn", &disk]).output().unwrap();
    assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stdout));
    home.wslr(["--set-version", "D", "1"]).stdout(format!("{progress}{done}")).run();
    assert_eq!(version_of_d(&home), 1);
    assert!(!std::path::Path::new(&disk).exists());
    let again = fs::read_to_string(format!("{}/rootfs/etc/os-release", base())).unwrap();
    assert_eq!(again, first);
}
