//! A distro that was put together from packages: its first start sets them up.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Instant;

use serde_json::json;

use crate::fixture::{CONFIGURATION, ORDERLY, run_tool};
use crate::support::Home;

const ID: &str = "6f2a1a52-7a3c-4d0e-9d3b-0d9f0c6d5a11";

/// A home with such a distro as its installation leaves it; gives the number of its
/// packages.
fn installed() -> (Home, String) {
    let given = |name: &str| PathBuf::from(std::env::var_os(name).expect(name));
    let image = given("WSLR_TEST_PACKAGES");
    let count = fs::read_to_string(image.with_extension("count")).unwrap();
    let home = Home::new();
    let directory = home.data("distros").join(ID);
    fs::create_dir_all(&directory).unwrap();
    symlink(given("WSLR_TEST_DATA").join("kernels"), home.data("kernels")).unwrap();
    let disk = directory.join("ext4.img");
    let copied = Command::new("cp").arg("--sparse=always").arg(image).arg(&disk).status();
    assert!(copied.unwrap().success());
    let packages: u64 = count.parse().unwrap();
    let registry = json!({"version": 1, "default": ID, "distros": [{
        "id": ID, "name": "Debian", "version": 2, "basePath": directory, "disk": "ext4.img",
        "state": "Installed", "configured": false, "packages": packages,
    }]});
    home.write(".local/share/wslr/registry.json", registry.to_string());
    home.write(".wslconfig", CONFIGURATION);
    (home, count)
}

#[test]
#[ignore = "needs a KVM that boots stock kernels"]
fn y_a_distro_of_packages_sets_them_up_at_its_first_start() {
    let (home, count) = installed();
    let run = |line: &str| {
        let started = Instant::now();
        let mut test = home.wslr(["-d", "Debian", "--", "sh", "-c", line]);
        let output = test.command().stdin(Stdio::null()).output().unwrap();
        println!("{line}: {:?}", started.elapsed());
        output
    };
    let first = run("dpkg-query -W -f '${db:Status-Abbrev}\\n' | sort | uniq -c; exit 42");
    assert_eq!(first.status.code(), Some(42), "{first:?}");
    let states = String::from_utf8(first.stdout).unwrap();
    let words: Vec<&str> = states.split_whitespace().collect();
    assert_eq!(words, [count.as_str(), "ii"], "{states}");
    // Once: what did it is gone, and the registry knows.
    let second = run("test ! -e /usr/lib/wslr/configure && sudo -u nobody id -u");
    assert_eq!(String::from_utf8_lossy(&second.stdout), "65534\n", "{second:?}");
    let registry = fs::read_to_string(home.data("registry.json")).unwrap();
    let registry: serde_json::Value = serde_json::from_str(&registry).unwrap();
    assert_eq!(registry["distros"][0]["configured"], true);
    systemd(&home);
    home.wslr(["--shutdown"]).run();
    let disk = home.data("distros").join(ID).join("ext4.img");
    // The last end was not an orderly one.
    run_tool("e2fsck", &["-fy", disk.to_str().unwrap()], &[0, 1]);
}

/// B159, B163, B165, B168: its systemd is its first process, beside what all distros share.
fn systemd(home: &Home) {
    let run = |user: &str, line: &str| {
        let started = Instant::now();
        let mut test = home.wslr(["-d", "Debian", "-u", user, "--", "sh", "-c", line]);
        let output = test.command().stdin(Stdio::null()).output().unwrap();
        println!("{user}: {line}: {:?}", started.elapsed());
        assert_eq!(output.stderr, b"", "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let conf = "[boot]\\nsystemd=true\\ninitTimeout=600000\\n";
    let mut change = home.wslr(["-d", "Debian", "--", "sh", "-c"]);
    let change = change.command().arg(format!("printf '{conf}' >/etc/wsl.conf; useradd -m alice"));
    assert!(change.stdin(Stdio::null()).status().unwrap().success());
    home.wslr(["--terminate", "Debian"]).into_command().status().unwrap();
    let state = run("root", "systemctl is-system-running; cat /proc/1/comm; systemctl --failed");
    println!("{state}");
    let is_up =
        ["running\nsystemd\n", "degraded\nsystemd\n"].iter().any(|up| state.starts_with(up));
    assert!(is_up, "{state}");
    let group = run("root", "cat /proc/self/cgroup");
    assert!(group.starts_with("0::/wsl-user/distro-"), "{group}");
    let user = run(
        "alice",
        "echo $XDG_RUNTIME_DIR; touch $XDG_RUNTIME_DIR/x && \
                             systemctl --user show-environment | grep ^HOME=",
    );
    let id = run("root", "id -u alice");
    assert_eq!(user, format!("/run/user/{}\nHOME=/home/alice\n", id.trim()));
    // A kernel without the module has nothing to protect.
    let line = "cd /proc/sys/fs/binfmt_misc; test -e status || { echo none; exit; }; \
                (echo -1 >status) 2>/dev/null; cat status";
    let status = run("root", line);
    assert!(["enabled\n", "none\n"].contains(&status.as_str()), "{status}");
    let line = "systemd-run --quiet --unit=says -p ExecStop='/bin/sh -c \"echo yes >/stopped\"' \
                sleep 1000";
    run("root", line);
    home.wslr(["--terminate", "Debian"]).into_command().status().unwrap();
    assert_eq!(run("root", "cat /stopped"), "yes\n", "B171");
    leaves_what_is_shared(home, |line| run("root", line));
    ends_in_time(home);
}

/// B169, B170: the end of a systemd leaves formats and mounts that others share, in the usual
/// place and in another.
fn leaves_what_is_shared(home: &Home, run: impl Fn(&str) -> String) {
    let archive = PathBuf::from(std::env::var_os("WSLR_TEST_DISTRO").unwrap());
    let mut install = home.wslr(["--install", "--no-launch", "--vhd-size", "16GB"]);
    install.command().args(["--name", "Peer", "--from-file"]).arg(archive);
    let output = install.command().output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let peer = |line: &str| {
        let mut test = home.wslr(["-d", "Peer", "--", "sh", "-c", line]);
        let output = test.command().stdin(Stdio::null()).output().unwrap();
        assert!(output.status.success(), "{line}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let mounted = |name: &str| {
        format!(
            "mkdir /mnt/wsl/{name} && mount -t tmpfs x /mnt/wsl/{name} && touch /mnt/wsl/{name}/here"
        )
    };
    run(&mounted("ours"));
    peer(&mounted("theirs"));
    // A kernel without the module has no formats.
    let formats = "/proc/sys/fs/binfmt_misc";
    let register = format!(
        "test -e {formats}/register || {{ echo none; exit; }}; \
         echo ':wslr-test:M::WSLRTEST::/bin/true:' >{formats}/register; echo done"
    );
    let has_formats = run(&register) == "done\n";
    println!("binary formats: {has_formats}");
    let is_there = || {
        peer("ls /mnt/wsl/*/here") == "/mnt/wsl/ours/here\n/mnt/wsl/theirs/here\n"
            && (!has_formats
                || peer(&format!("head -n 1 {formats}/wslr-test {formats}/status | xargs"))
                    == format!(
                        "==> {formats}/wslr-test <== enabled ==> {formats}/status <== enabled\n"
                    ))
    };
    assert!(is_there(), "before");
    run("printf '[automount]\\nroot=/x\\n' >>/etc/wsl.conf");
    home.wslr(["--terminate", "Debian"]).into_command().status().unwrap();
    assert!(is_there(), "B169, B170");
    assert_eq!(run("ls /x/wsl/*/here"), "/x/wsl/ours/here\n/x/wsl/theirs/here\n");
    home.wslr(["--terminate", "Debian"]).into_command().status().unwrap();
    assert!(is_there(), "B169, B170 with another root");
    home.wslr(["--unregister", "Peer"]).into_command().status().unwrap();
}

/// A systemd with a unit that never stops is ended in the time of all (B158).
fn ends_in_time(home: &Home) {
    let from = "distributionStartTimeout=300000";
    home.write(".wslconfig", CONFIGURATION.replace(from, "distributionStartTimeout=60000"));
    home.wslr(["--shutdown"]).run();
    let line = "systemd-run --quiet --unit=stays -p TimeoutStopSec=infinity -p \
                ExecStop='/bin/sleep 1000' -p KillMode=none sleep 1000";
    let mut test = home.wslr(["-d", "Debian", "--", "sh", "-c", line]);
    assert!(test.command().stdin(Stdio::null()).status().unwrap().success());
    let started = Instant::now();
    home.wslr(["--shutdown"]).run();
    let taken = started.elapsed();
    println!("a systemd that does not stop: --shutdown took {taken:?}");
    assert!(taken < ORDERLY, "{taken:?}");
    home.write(".wslconfig", CONFIGURATION);
}
