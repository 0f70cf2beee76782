//! `--list`, `--status`, `--version`, `--set-default` of registered distros.

use serde_json::{Value, json};

use crate::support::Home;

const DEBIAN: &str = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11";
const UBUNTU: &str = "b0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11";

const NONE: &str = "There is no default distribution: none is installed.";
const NONE_HINT: &str = "'wslr --list --online' shows what can be installed, \
    'wslr --install NAME' installs it";

/// A home with two registered distros, the second one the default.
pub fn home_with_two() -> Home {
    let home = Home::new();
    let distro = |id: &str, name: &str| {
        json!({
            "id": id, "name": name, "version": 2, "basePath": home.data("distros").join(id),
            "disk": "ext4.img", "state": "Installed",
        })
    };
    let registry = json!({
        "version": 1,
        "default": UBUNTU,
        "distros": [distro(DEBIAN, "Debian"), distro(UBUNTU, "Ubuntu-24.04")],
    });
    home.write(".local/share/wslr/registry.json", registry.to_string());
    home
}

#[test]
fn b034_the_default_stands_first() {
    let home = home_with_two();
    home.wslr(["--list"])
        .stdout("Windows Subsystem for Linux Distributions:\nUbuntu-24.04 (Default)\nDebian\n")
        .run();
    home.wslr(["-l", "-q"]).stdout("Ubuntu-24.04\nDebian\n").run();
    home.wslr(["--list", "--all"])
        .stdout("Windows Subsystem for Linux Distributions:\nUbuntu-24.04 (Default)\nDebian\n")
        .run();
}

#[test]
fn b035_the_verbose_layout() {
    home_with_two()
        .wslr(["-l", "-v"])
        .stdout(
            "  NAME            STATE           VERSION\n\
             * Ubuntu-24.04    Stopped         2\n  \
             Debian          Stopped         2\n",
        )
        .run();
}

#[test]
fn b036_nothing_runs() {
    let home = home_with_two();
    home.wslr(["--list", "--running"])
        .fails("There are no running distributions.", None, None)
        .run();
    home.wslr(["--list", "--running", "-q"]).run();
}

#[test]
fn a_listing_of_nothing() {
    let home = Home::new();
    home.wslr(["--list"]).fails(NONE, Some(NONE_HINT), None).run();
    home.wslr(["--list", "-v"]).fails(NONE, Some(NONE_HINT), None).run();
    home.wslr(["--list", "-q"]).run();
    home.wslr(["--list", "--json"]).stdout("[]\n").run();
}

#[test]
fn a_listing_as_json() {
    let home = home_with_two();
    let output = home.wslr(["--list", "--json"]).stdout("[..]\n".repeat(22)).run();
    let value: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(value[0]["name"], "Ubuntu-24.04");
    assert_eq!(value[0]["default"], true);
    assert_eq!(value[1]["id"], DEBIAN);
    assert_eq!(value[1]["state"], "Stopped");
    assert_eq!(value[1]["version"], 2);
}

#[test]
fn b038_another_default() {
    let home = home_with_two();
    home.wslr(["-s", "debian"]).stdout("The operation completed successfully.\n").run();
    home.wslr(["-l", "-q"]).stdout("Debian\nUbuntu-24.04\n").run();
    home.wslr(["--set-default", "NoSuch"])
        .fails(
            "There is no distribution with the supplied name.",
            Some("'wslr --list' shows the installed distributions"),
            Some("Wsl/Service/WSL_E_DISTRO_NOT_FOUND"),
        )
        .run();
    home.wslr(["-l", "-q"]).stdout("Debian\nUbuntu-24.04\n").run();
}

#[test]
fn b041_status() {
    let home = home_with_two();
    let versions = "Version 1 can run: yes, [..]\nVersion 2 can run: yes\n";
    home.wslr(["--status"])
        .stdout(format!("Default Distribution: Ubuntu-24.04\nDefault Version: 2\n{versions}"))
        .run();
    Home::new().wslr(["--status"]).stdout(format!("Default Version: 2\n{versions}")).run();
}

#[test]
fn the_status_tells_which_versions_can_run_and_why_not() {
    let home = Home::new();
    home.wslr(["--status"])
        .env("WSLR_VERSIONS", "1")
        .stdout(
            "Default Version: 1\n\
             Version 1 can run: yes, [..]\n\
             Version 2 can run: no, WSLR_VERSIONS leaves it out; unset WSLR_VERSIONS\n",
        )
        .run();
    let mut test = home.wslr(["--status", "--json"]).env("WSLR_VERSIONS", "1");
    let output = test.command().output().unwrap();
    let status: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(status["defaultVersion"], 1);
    let [first, second] = status["versions"].as_array().unwrap().as_slice() else {
        panic!("{status}");
    };
    assert_eq!((&first["version"], &first["available"]), (&json!(1), &json!(true)));
    assert!(["own", "range", "single"].contains(&first["users"]["mapping"].as_str().unwrap()));
    let expected = json!({
        "version": 2, "available": false, "reason": "WSLR_VERSIONS leaves it out",
        "remedy": "unset WSLR_VERSIONS", "users": null,
    });
    assert_eq!(second, &expected);
}

#[test]
fn what_this_machine_can_run_is_found_out_by_trying() {
    let home = Home::new();
    let mut test = home.wslr(["--status", "--json"]).env("WSLR_VERSIONS", "");
    let output = test.command().output().unwrap();
    let status: Value = serde_json::from_slice(&output.stdout).unwrap();
    let second = &status["versions"][1];
    let can = wslr::vmm::probe::run();
    assert_eq!(second["available"], can.is_ok(), "{status} {can:?}");
    assert_eq!(second["reason"].is_string(), can.is_err());
    assert_eq!(status["defaultVersion"], if can.is_ok() { 2 } else { 1 });
}

#[test]
fn a_default_version_is_kept_and_shown() {
    let home = home_with_two();
    home.wslr(["--set-default-version", "1"])
        .stdout("The operation completed successfully.\n")
        .run();
    home.wslr(["--status"])
        .stdout("Default Distribution: Ubuntu-24.04\nDefault Version: 1\n[..]yes[..]\n[..]yes\n")
        .run();
    let said = "For information on key differences between the versions please see 'man wslr'\n\
        The operation completed successfully.\n";
    home.wslr(["--set-default-version", "2"]).stdout(said).run();
    home.wslr(["--set-default-version", "2"])
        .env("WSLR_VERSIONS", "1")
        .stdout(said)
        .stderr(
            "wslr: warning: version 2 cannot run here: WSLR_VERSIONS leaves it out; \
             unset WSLR_VERSIONS\n",
        )
        .run();
    home.wslr(["--status"])
        .env("WSLR_VERSIONS", "1")
        .stdout("[..]\nDefault Version: 2\n[..]\n[..]\n")
        .run();
    home.wslr(["-l", "-q"]).stdout("Ubuntu-24.04\nDebian\n").run();
}

#[test]
fn b061_a_conversion_to_the_same_version_or_of_nothing() {
    let home = home_with_two();
    home.wslr(["--set-version", "debian", "2"])
        .fails(
            "The distribution 'Debian' is already version 2.",
            None,
            Some("Wsl/Service/WSL_E_VM_MODE_INVALID_STATE"),
        )
        .run();
    home.wslr(["--set-version", "NoSuch", "1"])
        .fails(
            "There is no distribution with the supplied name.",
            Some("'wslr --list' shows the installed distributions"),
            Some("Wsl/Service/WSL_E_DISTRO_NOT_FOUND"),
        )
        .run();
}
