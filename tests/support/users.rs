//! Users of this machine that tests run as.

use std::ffi::OsStr;
use std::fs;
use std::sync::OnceLock;

/// The login name of the ordinary user, made where root runs the tests.
const USER: &str = "wslr-test";

/// An ordinary user without an account, and so without subordinate ids.
pub const SINGLE: (u32, u32) = (54_321, 54_321);

/// An ordinary user with subordinate ids.
pub fn ordinary_user() -> (u32, u32) {
    static IDS: OnceLock<(u32, u32)> = OnceLock::new();
    *IDS.get_or_init(|| {
        if ids_of(USER).is_none() {
            for path in ["/etc/subuid", "/etc/subgid"] {
                fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
            }
            super::tree::run(
                "useradd",
                &["--no-create-home", "--shell", "/bin/sh", USER].map(OsStr::new),
            );
        }
        for path in ["/etc/subuid", "/etc/subgid"] {
            let ranges = fs::read_to_string(path).unwrap();
            assert!(ranges.contains(USER), "'{path}' has no range for {USER}");
        }
        ids_of(USER).unwrap()
    })
}

/// The ids of a user in `/etc/passwd`: the C library's way needs a dynamic executable.
fn ids_of(name: &str) -> Option<(u32, u32)> {
    let passwd = fs::read_to_string("/etc/passwd").unwrap();
    let fields: Vec<&str> = passwd
        .lines()
        .map(|line| line.split(':').collect())
        .find(|fields: &Vec<&str>| fields[0] == name)?;
    Some((fields[2].parse().ok()?, fields[3].parse().ok()?))
}
