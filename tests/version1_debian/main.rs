//! README's first command where version 2 cannot run: Debian from its archive, set up at
//! its first start, and a shell in it with the host's network.
//!
//! These tests need the network and root, so `cargo test` leaves them out; `tests/run`
//! runs them with `--ignored`.

#![allow(clippy::panic, clippy::unwrap_used, reason = "these are tests")]

#[path = "../support/mod.rs"]
mod support;

#[allow(dead_code, reason = "the tests of version 1 use the rest")]
#[path = "../version1/fixture.rs"]
mod fixture;

use std::env;
use std::process::{Command, Output, Stdio};
use std::time::Instant;

use fixture::{OwnHome, Whose, feed, run_as};
use support::Home;

#[test]
#[ignore = "needs Debian's archive and root"]
fn the_first_command_ends_in_a_debian_shell_of_root() {
    run_as(Whose::Root, the_first_command);
}

#[test]
#[ignore = "needs Debian's archive and root"]
fn the_first_command_ends_in_a_debian_shell_of_an_ordinary_user() {
    run_as(Whose::User, the_first_command);
}

/// The executable with Debian's archive within reach, on a machine without KVM.
fn wslr(home: &Home, words: &[&str]) -> Command {
    let mut command = home.wslr(words).env("WSLR_VERSIONS", "1").into_command();
    match env::var_os("WSLR_DEBIAN_MIRROR") {
        Some(mirror) => command.env("WSLR_DEBIAN_MIRROR", mirror),
        None => command.env_remove("WSLR_DEBIAN_MIRROR"),
    };
    match env::var_os("WSLR_UBUNTU_MIRROR") {
        Some(mirror) => command.env("WSLR_UBUNTU_MIRROR", mirror),
        None => command.env_remove("WSLR_UBUNTU_MIRROR"),
    };
    // The hosts of images stay out of reach: the archive is what is tested.
    if let Some(proxy) = env::var_os("http_proxy") {
        command.env("http_proxy", proxy);
    }
    command
}

fn run(home: &Home, words: &[&str]) -> Output {
    let started = Instant::now();
    let output = wslr(home, words).stdin(Stdio::null()).output().unwrap();
    println!("{words:?}: {:?}", started.elapsed());
    assert!(
        output.status.success(),
        "{words:?}: {}\n{}\n{}",
        output.status,
        text(&output.stdout),
        text(&output.stderr)
    );
    output
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn the_first_command() {
    let home = OwnHome::empty();
    let started = Instant::now();
    let mut command = wslr(&home, &["--install", "-d", "Debian"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let lines = "id -u; hostname; ls /proc | grep -c '^[0-9]'; grep ^ID= /etc/os-release; exit 7\n";
    let writer = feed(&mut child, lines.into());
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    println!("the first command: {:?}", started.elapsed());
    let (said, errors) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(7), "{said}\n{errors}");
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(
        &lines[..4],
        [
            "Downloading: Debian GNU/Linux",
            "Installing: Debian GNU/Linux",
            "Distribution successfully installed. It can be launched via 'wslr -d Debian'",
            "Launching Debian...",
        ],
        "{said}"
    );
    assert_eq!((lines[4], lines[7]), ("0", "ID=debian"), "{said}");
    assert!(!lines[5].is_empty() && lines[6].parse::<u32>().unwrap() < 30, "{said}");
    let warnings: Vec<&str> = errors.lines().collect();
    assert!(
        warnings.iter().all(|line| line.starts_with("wslr: warning: ")),
        "nothing but warnings: {errors}"
    );
    let of_version = |line: &&&str| line.contains("so this is version 1, without a virtual");
    assert_eq!(warnings.iter().filter(of_version).count(), 1, "{errors}");

    let listing = run(&home, &["--list", "--verbose"]);
    assert!(text(&listing.stdout).contains("* Debian    Running         1\n"));
    let inside = |line: &str| text(&run(&home, &["-d", "Debian", "--", "sh", "-c", line]).stdout);
    assert_eq!(inside("dpkg --audit"), "");
    let packages = inside("dpkg-query -W -f '${db:Status-Abbrev}\\n'");
    assert!(packages.lines().all(|line| line == "ii "), "not all packages are set up");
    inside("apt-get -q update");
    inside("DEBIAN_FRONTEND=noninteractive apt-get -q -y install jq");
    assert!(inside("jq --version").starts_with("jq-1."));
    assert_eq!(inside("echo '{\"a\": [1, 2]}' | jq -c '.a'"), "[1,2]\n");
    // Packages that make users and files of theirs, and the way to root.
    inside("useradd -m alice && usermod -aG sudo alice");
    assert_eq!(inside("sudo -u alice id -un"), "alice\n");
    run(&home, &["--terminate", "Debian"]);
    assert_eq!(inside("jq --version; stat -c %U /home/alice").lines().nth(1), Some("alice"));
    run(&home, &["--unregister", "Debian"]);
    assert!(home.tree(".local/share/wslr/distros").is_empty());
}

#[test]
#[ignore = "needs Ubuntu's archive and root"]
fn ubuntu_is_set_up_at_its_first_start() {
    run_as(Whose::Root, || {
        let home = OwnHome::empty();
        run(&home, &["--install", "Ubuntu-24.04", "--no-launch"]);
        let line = "grep ^ID= /etc/os-release; dpkg --audit";
        assert_eq!(text(&run(&home, &["--", "sh", "-c", line]).stdout), "ID=ubuntu\n");
    });
}
