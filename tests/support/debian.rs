//! Real Debians: made once of Debian's packages, which needs the network, and kept.

#![allow(dead_code, reason = "no test uses both")]

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// A small system to install as a file: the archive that `WSLR_TEST_DISTRO` names, or one
/// that is made.
pub fn archive() -> File {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    let path = PATH.get_or_init(|| match env::var_os("WSLR_TEST_DISTRO") {
        Some(path) => path.into(),
        None => made("debian-trixie.tar", "procps,sudo"),
    });
    File::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The root of a system with systemd, as a directory that tests only read. Its owner is
/// root, and so must be the test's user.
pub fn systemd_tree() -> PathBuf {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    let path = PATH.get_or_init(|| {
        let packages =
            "dbus,dbus-user-session,kmod,libpam-systemd,procps,sudo,systemd,systemd-sysv";
        let archive = made("debian-trixie-systemd.tar", packages);
        let tree = archive.with_extension("tree");
        let lock = File::create(archive.with_extension("tree.lock")).unwrap();
        lock.lock().unwrap();
        if !tree.exists() {
            let partial = archive.with_extension("tree.partial");
            let _ = fs::remove_dir_all(&partial);
            fs::create_dir_all(&partial).unwrap();
            let mut tar = Command::new("tar");
            tar.args(["-x", "-p", "--numeric-owner", "-f"]).arg(&archive);
            assert!(tar.arg("-C").arg(&partial).status().unwrap().success());
            fs::rename(&partial, &tree).unwrap();
        }
        tree
    });
    path.clone()
}

/// An archive of Debian with these packages, with this name in the tests' cache.
fn made(name: &str, packages: &str) -> PathBuf {
    let cache = env::var_os("WSLR_TEST_CACHE")
        .map_or_else(|| env::temp_dir().join("wslr-test-cache"), PathBuf::from);
    let path = cache.join(name);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/make-debian");
    let output = Command::new(script).arg(&path).arg(packages).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "the Debian of the tests cannot be made:\n{said}");
    path
}
