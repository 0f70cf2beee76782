//! Listings, the default distro, the status.

use crate::fixture::{OwnHome, home, install};
use crate::support::debian;

crate::as_root_and_as_user! {
    b034_the_default_is_marked
    b038_another_default_is_run
    b040_a_dangling_default_does_not_stop_an_installation
    b041_status_and_version
    b061_a_version_that_it_has_already
    b063_a_failed_installation_leaves_nothing
}

const DONE: &str = "The operation completed successfully.\n";

fn b034_the_default_is_marked() {
    home()
        .wslr(["-l"])
        .stdout("Windows Subsystem for Linux Distributions:\nAlpha (Default)\n")
        .run();
    home().wslr(["--list", "--quiet"]).stdout("Alpha\n").run();
    let listing = home().wslr(["--list", "--json"]).command().output().unwrap();
    let rows: serde_json::Value = serde_json::from_slice(&listing.stdout).unwrap();
    assert_eq!((&rows[0]["version"], &rows[0]["flavor"]), (&1.into(), &"debian".into()));
}

fn b038_another_default_is_run() {
    let home = OwnHome::with_distro("D", "");
    install(&home, "E");
    home.wslr(["-d", "E", "touch", "/root/this-is-e"]).run();
    home.wslr(["ls", "/root"]).run();
    home.wslr(["-s", "e"]).stdout(DONE).run();
    home.wslr(["--list"])
        .stdout("Windows Subsystem for Linux Distributions:\nE (Default)\nD\n")
        .run();
    home.wslr(["ls", "/root"]).stdout("this-is-e\n").run();
    home.wslr(["-s", "NoSuch"])
        .fails(
            "There is no distribution with the supplied name.",
            Some("'wslr --list' shows the installed distributions"),
            Some("Wsl/Service/WSL_E_DISTRO_NOT_FOUND"),
        )
        .run();
}

fn b040_a_dangling_default_does_not_stop_an_installation() {
    let home = OwnHome::with_distro("D", "");
    let registry = std::fs::read_to_string(home.data("registry.json")).unwrap();
    let mut registry: serde_json::Value = serde_json::from_str(&registry).unwrap();
    registry["default"] = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11".into();
    home.write(".local/share/wslr/registry.json", registry.to_string());
    install(&home, "E");
    home.wslr(["-l", "-q"]).stdout("E\nD\n").run();
}

fn b041_status_and_version() {
    // A home of its own: what runs is shown as well.
    let own = OwnHome::with_distro("D", "");
    let status = "Default Distribution: D\n\
                  Default Version: 1\n\
                  Version 1 can run: yes, [..]\n\
                  Version 2 can run: no, WSLR_VERSIONS leaves it out; unset WSLR_VERSIONS\n";
    own.wslr(["--status"]).env("WSLR_VERSIONS", "1").stdout(status).run();
    own.wslr(["true"]).run();
    let status = format!("{status}Running: D (idle)\n");
    own.wslr(["--status"]).env("WSLR_VERSIONS", "1").stdout(&status).run();
    home()
        .wslr(["--version"])
        .stdout("WSL version: [..]\nKernel version: [..]\nHost kernel version: [..]\n")
        .run();
}

fn b061_a_version_that_it_has_already() {
    home()
        .wslr(["--set-version", "alpha", "1"])
        .fails(
            "The distribution 'Alpha' is already version 1.",
            None,
            Some("Wsl/Service/WSL_E_VM_MODE_INVALID_STATE"),
        )
        .run();
}

fn b063_a_failed_installation_leaves_nothing() {
    let home = OwnHome::empty();
    let mut install = home.wslr(["--install", "-n", "--version", "1", "--name", "D", "-f", "-"]);
    // Half an archive.
    let output = std::process::Command::new("head")
        .args(["-c", "40000000"])
        .stdin(debian::archive())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap()
        .stdout
        .unwrap();
    let output = install.command().stdin(output).output().unwrap();
    assert_eq!(output.status.code(), Some(255), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.starts_with("wslr: Importing the distribution failed: "), "{said}");
    assert!(home.tree(".local/share/wslr/distros").is_empty());
    home.wslr(["-l", "-q", "--all"]).run();
}
