//! A distro that was put together from packages: its first start sets them up.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Instant;

use serde_json::json;

use crate::fixture::{CONFIGURATION, run_tool};
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
    home.wslr(["--shutdown"]).run();
    let disk = home.data("distros").join(ID).join("ext4.img");
    run_tool("e2fsck", &["-fn", disk.to_str().unwrap()], &[0]);
}
