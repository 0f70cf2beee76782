//! `--install --from-file`, `--unregister`, and installations that are killed.

use std::fs;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::Home;
use crate::support::tar::Tar;

/// What `--install -n` writes to standard output.
pub fn installed(what: &str, name: &str) -> String {
    format!(
        "Installing: {what}\n\
         Distribution successfully installed. It can be launched via 'wslr -d {name}'\n"
    )
}

/// A home whose `.wslconfig` names a kernel, so that an installation fetches none.
pub fn home() -> Home {
    let home = Home::new();
    home.write(".wslconfig", "[wsl2]\nkernel=/nonexistent/vmlinux\n");
    home
}

#[track_caller]
fn install(home: &Home, name: &str) {
    home.write("r.tar", Tar::distro().bytes());
    home.wslr(["--install", "-n", "-f", "r.tar", "--name", name])
        .stdout(installed("r.tar", name))
        .run();
}

fn distros(home: &Home) -> Vec<Value> {
    let output = home.wslr(["--list", "--json"]).command().output().unwrap();
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn b076_a_file_is_installed_under_its_own_or_the_given_name() {
    let home = home();
    let file = home.write("d.tar", Tar::named_distro("Mine").bytes());
    home.wslr(["--install", "--no-launch", "--from-file", "d.tar"])
        .stdout(installed("d.tar", "Mine"))
        .run();
    let typed = file.to_str().unwrap();
    home.wslr(["--install", "-n", "--name", "Other", "-f", typed])
        .stdout(installed(typed, "Other"))
        .run();
    home.wslr(["--install", "-n", "--name", "third", "-f", "-"])
        .stdin(Tar::distro().bytes())
        .stdout(installed("-", "third"))
        .run();
    home.wslr(["-l", "-q"]).stdout("Mine\nOther\nthird\n").run();
    let distros = distros(&home);
    assert_eq!(distros[0]["flavor"], "test");
    assert_eq!(distros[0]["osVersion"], "1.0");
}

#[test]
fn a_disk_is_a_sound_file_system_of_the_size_asked_for() {
    let home = home();
    home.write("d.tar", Tar::distro().bytes());
    let words = ["--install", "-n", "-f", "d.tar", "--name", "D", "--vhd-size", "1GB"];
    home.wslr(words).stdout(installed("d.tar", "D")).run();
    let base = distros(&home)[0]["basePath"].as_str().unwrap().to_owned();
    let disk = format!("{base}/ext4.img");
    assert_eq!(fs::metadata(&disk).unwrap().len(), 1 << 30);
    let check = Command::new("/sbin/e2fsck").args(["-fn", &disk]).output().unwrap();
    assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stdout));
    let cat =
        Command::new("/sbin/debugfs").args(["-R", "cat /etc/os-release", &disk]).output().unwrap();
    assert_eq!(String::from_utf8(cat.stdout).unwrap(), "ID=test\nVERSION_ID=\"1.0\"\n");
}

#[test]
fn b077_names_from_a_file_that_cannot_be() {
    let home = home();
    install(&home, "Mine");
    for (tar, message, hint, code) in [
        (
            Tar::distro(),
            "'d.tar' doesn't contain a default name",
            "use --name to specify one",
            "WSL_E_DISTRIBUTION_NAME_NEEDED",
        ),
        (
            Tar::named_distro("mine"),
            "A distribution with the name 'mine' already exists.",
            "choose another name with --name",
            "ERROR_ALREADY_EXISTS",
        ),
        (
            Tar::named_distro("invalid!"),
            "Invalid distribution name: \"invalid!\".",
            "a name has up to 256 letters, digits, '.', '_' and '-'",
            "E_INVALIDARG",
        ),
    ] {
        home.write("d.tar", tar.bytes());
        home.wslr(["--install", "-n", "-f", "d.tar"])
            .stdout("Installing: d.tar\n")
            .fails(message, Some(hint), Some(&format!("Wsl/Service/RegisterDistro/{code}")))
            .run();
    }
    assert_eq!(distros(&home).len(), 1);
    assert_eq!(home.tree(".local/share/wslr/distros").len(), 2, "one directory with one disk");
}

#[test]
fn b078_a_location_is_used_exactly_and_an_install_path_for_all() {
    let home = home();
    home.write("d.tar", Tar::distro().bytes());
    home.wslr(["--install", "-n", "-f", "d.tar", "--name", "A", "--location", "deep/place"])
        .stdout(installed("d.tar", "A"))
        .run();
    assert_eq!(home.tree("deep"), ["place", "place/ext4.img"]);
    home.wslr(["--install", "-n", "-f", "d.tar", "--name", "B", "--location", "deep/place"])
        .stdout("")
        .fails(
            "The supplied install location is already in use.",
            Some("choose another directory with --location"),
            Some("Wsl/Service/RegisterDistro/ERROR_FILE_EXISTS"),
        )
        .run();
    home.write(".wslconfig", "[wsl2]\nkernel=/x\n[general]\ndistributionInstallPath=~/all\n");
    home.wslr(["--install", "-n", "-f", "d.tar", "--name", "C"])
        .stdout(installed("d.tar", "C"))
        .run();
    assert_eq!(home.tree("all").len(), 2);
    for name in ["A", "C"] {
        home.wslr(["--unregister", name]).stdout("The operation completed successfully.\n").run();
    }
    assert_eq!((home.tree("all").len(), home.tree("deep").len()), (0, 0));
}

#[test]
fn b039_unregistering_promotes_another_default_until_none_is_left() {
    let home = home();
    install(&home, "A");
    install(&home, "B");
    home.wslr(["-l"]).stdout("Windows Subsystem for Linux Distributions:\nA (Default)\nB\n").run();
    home.wslr(["--unregister", "a"]).stdout("The operation completed successfully.\n").run();
    home.wslr(["-l"]).stdout("Windows Subsystem for Linux Distributions:\nB (Default)\n").run();
    home.wslr(["--unregister", "B"]).stdout("The operation completed successfully.\n").run();
    home.wslr([""; 0])
        .fails(
            "There is no default distribution: none is installed.",
            Some(
                "'wslr --list --online' shows what can be installed, \
                 'wslr --install NAME' installs it",
            ),
            None,
        )
        .run();
    assert_eq!(home.tree(".local/share/wslr/distros").len(), 0);
}

#[test]
fn b008_commands_for_a_distro_that_is_not_there() {
    let home = home();
    let message = "There is no distribution with the supplied name.";
    let hint = Some("'wslr --list' shows the installed distributions");
    let code = Some("Wsl/Service/WSL_E_DISTRO_NOT_FOUND");
    for words in [
        ["-d", "NoSuch", "echo", "foo"].as_slice(),
        &["--unregister", "NoSuch"],
        &["--terminate", "NoSuch"],
        &["--set-default", "NoSuch"],
    ] {
        home.wslr(words).fails(message, hint, code).run();
    }
    let code = Some("Wsl/Service/CreateInstance/ReadDistroConfig/WSL_E_DISTRO_NOT_FOUND");
    home.wslr(["--distribution-id", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "true"])
        .fails(message, hint, code)
        .run();
}

#[test]
fn b040_a_dangling_default_does_not_stop_an_installation() {
    let home = home();
    let dangling = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11";
    let registry = json!({"version": 1, "default": dangling, "distros": []});
    home.write(".local/share/wslr/registry.json", registry.to_string());
    install(&home, "A");
    home.wslr(["-l"]).stdout("Windows Subsystem for Linux Distributions:\nA (Default)\n").run();
}

#[test]
fn b058_a_distro_whose_directory_is_gone_is_unregistered_quietly() {
    let home = home();
    install(&home, "A");
    fs::remove_dir_all(home.data("distros")).unwrap();
    home.wslr(["--unregister", "A"]).stdout("The operation completed successfully.\n").run();
}

#[test]
fn an_installation_killed_at_any_moment_leaves_no_half_of_a_distro() {
    let home = home();
    let large = vec![7; 8 << 20];
    home.write("d.tar", Tar::distro().file("./large", large).bytes());
    let mut killed = 0;
    for round in 0..20 {
        let mut child = home.wslr(["--install", "-n", "-f", "d.tar", "--name", "D"]).spawn();
        // From at once to later than it takes, unevenly.
        std::thread::sleep(Duration::from_micros(300 * round * round));
        child.kill().unwrap();
        let finished = child.wait().unwrap().success();
        let usable = distros(&home);
        if finished || !usable.is_empty() {
            // Killed after the distro became usable: it has to be whole.
            let disk = format!("{}/ext4.img", usable[0]["basePath"].as_str().unwrap());
            let check = Command::new("/sbin/e2fsck").args(["-fn", &disk]).output().unwrap();
            assert!(check.status.success());
            home.wslr(["--unregister", "D"])
                .stdout("The operation completed successfully.\n")
                .run();
        } else {
            killed += 1;
        }
    }
    assert!(killed > 3, "only {killed} of 20 installations were killed on their way");
    home.wslr(["--install", "-n", "-f", "d.tar", "--name", "D"])
        .stdout(installed("d.tar", "D"))
        .run();
    assert_eq!(home.tree(".local/share/wslr/distros").len(), 2, "what was killed is cleared away");
}

#[test]
fn an_installation_that_is_interrupted_clears_up_at_once() {
    let home = home();
    let mut test = home.wslr(["--install", "-n", "-f", "-", "--name", "D"]);
    let mut child = test.command().stdin(std::process::Stdio::piped()).spawn().unwrap();
    let recorded = || fs::read_to_string(home.data("registry.json")).unwrap_or_default();
    while !recorded().contains("Installing") {
        std::thread::sleep(Duration::from_millis(1));
    }
    home.wslr(["-l", "--all", "-v"])
        .stdout("  NAME    STATE           VERSION\n  D       Installing      2\n")
        .run();
    let status = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(status.success());
    assert!(!child.wait().unwrap().success());
    assert_eq!(home.tree(".local/share/wslr/distros").len(), 0);
}

#[test]
fn b120_what_is_wrong_with_the_configuration_is_a_warning() {
    let home = home();
    home.write("d.tar", Tar::distro().bytes());
    home.write(".wslconfig", "[wsl2]\nkernel=/x\nfoo=1\nmemory=lots\n");
    let words = ["--install", "-n", "-f", "d.tar", "--name", "A"];
    home.wslr(words)
        .stdout(installed("d.tar", "A"))
        .stderr(
            "wslr: warning: Unknown key 'wsl2.foo' in [HOME]/.wslconfig:3\n\
             wslr: warning: Invalid memory string 'lots' for .wslconfig entry 'wsl2.memory' in \
             [HOME]/.wslconfig:4\n",
        )
        .run();
    home.wslr(["--install", "-n", "-f", "d.tar", "--name", "B"])
        .env("WSL_DISABLE_WARNINGS", "1")
        .stdout(installed("d.tar", "B"))
        .run();
}

#[test]
fn b079_a_disk_has_the_size_that_is_asked_for_and_takes_what_it_holds() {
    use std::os::unix::fs::MetadataExt;
    let home = home();
    home.write("r.tar", Tar::distro().bytes());
    for (size, bytes) in [("1GB", 1 << 30), ("3g", 3 << 30)] {
        home.wslr(["--install", "-n", "-f", "r.tar", "--name", size, "--vhd-size", size])
            .stdout(installed("r.tar", size))
            .run();
        let rows = distros(&home);
        let row = rows.iter().find(|row| row["name"] == size).unwrap();
        let disk = std::path::Path::new(row["basePath"].as_str().unwrap()).join("ext4.img");
        let metadata = fs::metadata(disk).unwrap();
        assert_eq!(metadata.len(), bytes);
        assert!(metadata.blocks() * 512 < 64 << 20, "{} blocks", metadata.blocks());
    }
}
