//! Which version an installation makes (design section 6), whatever this machine can run.

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
