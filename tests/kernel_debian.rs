//! The kernel from Debian's own archive, against e2fsprogs and Debian's `kmod`.
//!
//! Needs the network, so `cargo test` leaves it out; `tests/run` runs it with `--ignored`.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use wslr::config::paths::Paths;
use wslr::download::Fetcher;
use wslr::kernel;
use wslr::terminal::progress::Progress;

/// Runs a program that must succeed; its standard output.
fn run(program: &str, arguments: &[&str]) -> String {
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap());
    let output = Command::new(program).args(arguments).env("PATH", path).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {error}");
    String::from_utf8(output.stdout).unwrap()
}

/// The lines of a table below `lib/modules/<release>`, in no order.
fn lines(root: &Path, release: &str, name: &str) -> BTreeSet<String> {
    let path = root.join("lib/modules").join(release).join(name);
    let text = fs::read_to_string(path).unwrap();
    let sort_needs = |line: &str| {
        let mut words: Vec<&str> = line.split(' ').collect();
        if let Some(needs) = words.get_mut(1..).filter(|_| name == "modules.dep") {
            needs.sort_unstable();
        }
        words.join(" ")
    };
    text.lines().map(sort_needs).collect()
}

#[test]
#[ignore = "needs Debian's archive"]
fn the_current_kernel_is_prepared_once_and_its_tables_are_those_of_depmod() {
    let directory = tempfile::tempdir().unwrap();
    let mut paths = Paths::below(directory.path());
    if let Some(cache) = std::env::var_os("WSLR_TEST_CACHE") {
        paths.cache = cache.into();
    }
    let source = kernel::update::source(None);
    let update = || {
        let fetcher = Fetcher::new().unwrap();
        kernel::update(&paths, &source, &fetcher, &Progress::hidden()).unwrap()
    };
    let first = update();
    assert!(first.changed);
    assert!(!update().changed);
    let prepared = kernel::current(&paths).unwrap();
    assert_eq!(prepared.release, first.release);
    let release = prepared.release.as_str();

    let disk = prepared.modules_disk.as_ref().unwrap().to_str().unwrap();
    run("e2fsck", &["-fn", disk]);
    let root = directory.path().join("root");
    let modules = root.join("lib/modules").join(release);
    fs::create_dir_all(&modules).unwrap();
    run("debugfs", &["-R", &format!("rdump / {}", modules.display()), disk]);

    let ours = |name: &str| lines(&root, release, name);
    let tables = ["modules.alias", "modules.dep", "modules.softdep", "modules.symbols"];
    let before: Vec<_> = tables.iter().map(|name| ours(name)).collect();
    assert!(before.iter().all(|table| table.len() > 10));
    let options = ["-d", root.to_str().unwrap(), "-S", release];
    let modprobe = |more: &[&str]| run("modprobe", &[&options[..], more].concat());
    let aliases = ["virtio:d00000008v00001AF4", "fs-overlay", "char-major-10-200", "nf_tables"];
    let found = aliases.map(|alias| modprobe(&["--resolve-alias", alias]));
    assert_eq!(found, ["virtio_scsi\n", "overlay\n", "tun\n", "nf_tables\n"]);
    let order = modprobe(&["--show-depends", "virtio_net"]);
    assert_eq!(order.lines().count(), 3);
    assert!(order.lines().last().unwrap().contains("/virtio_net.ko"));

    run("depmod", &["-b", root.to_str().unwrap(), release]);
    for (name, before) in tables.iter().zip(before) {
        assert_eq!(ours(name), before, "{name}");
    }

    let names = prepared.modules.iter().map(|path| path.file_name().unwrap().to_str().unwrap());
    let loaded = modprobe(&["--show-depends", "sd_mod"]);
    for line in loaded.lines() {
        let module = line.trim_end().rsplit('/').next().unwrap();
        assert!(names.clone().any(|name| name.ends_with(module)), "{module}");
    }
}
