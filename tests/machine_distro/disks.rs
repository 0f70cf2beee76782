//! Disks of other formats, run where they lie.

use std::fs::{self, File};

use wslr::disk::{self, Format, vhd, vhdx};

use crate::fixture::{BETA, disk, home, kill_service, run_tool, shell};

/// A distro on a disk of that name's format is written, the service is killed, and the disk
/// is whole and has what was flushed.
fn survives_a_kill(name: &str, file: &str) {
    home().wslr(["--terminate", BETA]).into_command().status().unwrap();
    let from = disk::raw::Raw::new(File::open(disk(BETA)).unwrap());
    let size = disk::Disk::length(&from).unwrap();
    let directory = home().path(format!("disk-{file}"));
    fs::create_dir(&directory).unwrap();
    let path = directory.join(file);
    let new = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
    let format = Format::of(&path);
    match format {
        Format::Vhd => vhd::create(&new, &vhd::Options { size, fixed: false }).unwrap(),
        _ => vhdx::create(&new, &vhdx::Options::new(size)).unwrap(),
    }
    let to = disk::open(new, format, true).unwrap();
    disk::copy(&from, to.as_ref(), |_| {}).unwrap();
    drop(to);
    let words = ["--import-in-place", name, path.to_str().unwrap()];
    let output = home().wslr(words).into_command().output().unwrap();
    assert!(output.status.success(), "{output:?}");
    shell(
        name,
        "head -c 20000000 /dev/urandom > /root/kept && sync && md5sum /root/kept > /root/sum",
    );
    shell(name, "sync");
    kill_service();
    shell(name, "cd /root && md5sum -c sum && rm kept && sync && fstrim -v / || true");
    home().wslr(["--terminate", name]).into_command().status().unwrap();
    // What is on the disk is a sound file system.
    let raw = home().path("judged.img");
    let plain = File::create(&raw).unwrap();
    plain.set_len(size).unwrap();
    let from = disk::open(File::open(&path).unwrap(), format, false).unwrap();
    disk::copy(from.as_ref(), &disk::raw::Raw::new(plain), |_| {}).unwrap();
    run_tool("e2fsck", &["-fn", raw.to_str().unwrap()], &[0]);
    home().wslr(["--unregister", name]).into_command().status().unwrap();
    assert!(!directory.exists());
    fs::remove_file(raw).unwrap();
}

#[test]
#[ignore = "needs a KVM that boots stock kernels"]
fn b051_a_vhdx_runs_where_it_lies() {
    survives_a_kill("Gamma", "gamma.vhdx");
}

#[test]
#[ignore = "needs a KVM that boots stock kernels"]
fn b051_a_vhd_runs_where_it_lies() {
    survives_a_kill("Delta", "delta.vhd");
}
