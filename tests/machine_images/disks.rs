//! Disks of other formats, run where they lie.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Output;

use wslr::disk::raw::Raw;
use wslr::disk::{self, Format, vhd, vhdx};
use wslr::ext4;

use crate::fixture::{ALPHA, BETA, disk, home, kill_service, run_tool, shell};
use crate::support::wait_for;

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

fn wslr(words: &[&str]) -> Output {
    let output = home().wslr(words).into_command().output().unwrap();
    println!("{words:?}: {}", output.status);
    output
}

/// Bytes of the file system that is a distro's root.
fn root_size(distro: &str) -> u64 {
    let numbers = shell(distro, "stat -f -c '%b %S' /");
    let numbers: Vec<u64> = numbers.split_whitespace().map(|n| n.parse().unwrap()).collect();
    numbers[0] * numbers[1]
}

#[test]
#[ignore = "needs a KVM that boots stock kernels"]
fn b093_a_disk_grows_under_a_running_distro_and_at_its_next_start() {
    shell(BETA, "echo kept > /root/kept; sync");
    let path = disk(BETA);
    let length = || path.metadata().unwrap().len();
    let (before, gigabyte) = (root_size(BETA), 1 << 30);
    let size = (length() + gigabyte).to_string();
    assert!(wslr(&["--manage", BETA, "--resize", &size]).status.success());
    assert!(root_size(BETA) > before + gigabyte * 9 / 10, "{}", root_size(BETA));
    // Smaller is for one that is stopped (B094).
    let output = wslr(&["--manage", BETA, "--resize", "1GB"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.ends_with("Error code: Wsl/Service/WSL_E_DISTRO_NOT_STOPPED\n"), "{said}");
    assert!(wslr(&["--terminate", BETA]).status.success());
    let (before, size) = (before + gigabyte, (length() + gigabyte).to_string());
    assert!(wslr(&["--manage", BETA, "--resize", &size]).status.success());
    assert!(root_size(BETA) > before + gigabyte * 9 / 10, "{}", root_size(BETA));
    assert_eq!(shell(BETA, "cat /root/kept"), "kept\n");
    assert!(wslr(&["--terminate", BETA]).status.success());
    run_tool("e2fsck", &["-fn", path.to_str().unwrap()], &[0]);
}

#[test]
#[ignore = "needs a KVM that boots stock kernels"]
fn b100_deleted_files_give_their_space_back_by_themselves() {
    shell(BETA, "sync");
    let taken = || disk(BETA).metadata().unwrap().blocks() * 512;
    let before = taken();
    shell(BETA, "head -c 200000000 /dev/zero > /root/large && sync");
    assert!(taken() > before + 190_000_000);
    shell(BETA, "rm /root/large && sync");
    wait_for("the space to come back", || taken() <= before + before / 20);
}

/// A FAT16 file system of 32 MB with one file, `HELLO.TXT`.
fn fat() -> Vec<u8> {
    const CLUSTER: usize = 2048;
    let (sector, table, root) = (512, 65 * 512, 512 * 32);
    let mut bytes = vec![0; 32 << 20];
    bytes[..3].copy_from_slice(&[0xeb, 0x3c, 0x90]);
    bytes[3..11].copy_from_slice(b"MSDOS5.0");
    for (at, value) in [(11, 512_u16), (14, 1), (17, 512), (22, 65), (24, 32), (26, 2)] {
        bytes[at..at + 2].copy_from_slice(&value.to_le_bytes());
    }
    (bytes[13], bytes[16], bytes[21]) = ((CLUSTER / 512) as u8, 1, 0xf8);
    bytes[32..36].copy_from_slice(&65536_u32.to_le_bytes());
    (bytes[36], bytes[38]) = (0x80, 0x29);
    bytes[43..54].copy_from_slice(b"TEST       ");
    bytes[54..62].copy_from_slice(b"FAT16   ");
    bytes[510..512].copy_from_slice(&[0x55, 0xaa]);
    bytes[sector..sector + 6].copy_from_slice(&[0xf8, 0xff, 0xff, 0xff, 0xff, 0xff]);
    let entry = &mut bytes[sector + table..][..32];
    entry[..11].copy_from_slice(b"HELLO   TXT");
    entry[11] = 0x20;
    entry[26] = 2;
    entry[28] = 6;
    bytes[sector + table + root..][..6].copy_from_slice(b"hello\n");
    bytes
}

/// A disk with two partitions, of ext4 and FAT.
fn partitioned(name: &str) -> PathBuf {
    const SIZE: u64 = 32 << 20;
    let path = home().path(name);
    let new =
        |path: &Path| File::options().read(true).write(true).create_new(true).open(path).unwrap();
    let file = new(&path);
    file.set_len((1 << 20) + 2 * SIZE).unwrap();
    let plain = home().path("part.img");
    let part = new(&plain);
    let options = ext4::Options { size: SIZE, ..ext4::Options::default() };
    ext4::Writer::new(part.try_clone().unwrap(), options).unwrap().finish().unwrap();
    fs::remove_file(plain).unwrap();
    let mut first = vec![0; SIZE as usize];
    part.read_exact_at(&mut first, 0).unwrap();
    let mut table = [0; 512];
    for (index, (bytes, kind)) in [(first, 0x83), (fat(), 0x06)].into_iter().enumerate() {
        let start = (1 << 20) + index as u64 * SIZE;
        file.write_all_at(&bytes, start).unwrap();
        let entry = &mut table[446 + 16 * index..][..16];
        entry[4] = kind;
        entry[8..12].copy_from_slice(&((start / 512) as u32).to_le_bytes());
        entry[12..].copy_from_slice(&((SIZE / 512) as u32).to_le_bytes());
    }
    table[510..].copy_from_slice(&[0x55, 0xaa]);
    file.write_all_at(&table, 0).unwrap();
    path
}

#[test]
#[ignore = "needs a KVM that boots stock kernels"]
fn b103_to_b117_a_users_disk_is_mounted_in_all_distros() {
    let plain = partitioned("two.img");
    let path = home().path("two parts.vhdx");
    let new = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
    let from = Raw::new(File::open(&plain).unwrap());
    vhdx::create(&new, &vhdx::Options::new(disk::Disk::length(&from).unwrap())).unwrap();
    let to = disk::open(new, Format::Vhdx, true).unwrap();
    disk::copy(&from, to.as_ref(), |_| {}).unwrap();
    drop(to);
    let path = path.to_str().unwrap();
    let mount = |more: &[&str]| {
        let words: Vec<&str> = ["--mount", path, "--vhd"].iter().chain(more).copied().collect();
        wslr(&words)
    };
    let devices = || shell(ALPHA, "grep -c 'sd.[0-9]$' /proc/partitions || true");
    assert_eq!(devices(), "0\n");
    assert!(mount(&["--bare"]).status.success());
    assert_eq!(devices(), "2\n");
    assert_eq!(shell(ALPHA, "grep -c /mnt/wsl/ /proc/mounts || true"), "0\n");

    let output = mount(&["--partition", "1"]);
    let said = String::from_utf8(output.stdout).unwrap();
    let name: String = Path::new(path)
        .canonicalize()
        .unwrap()
        .to_str()
        .unwrap()
        .chars()
        .filter(char::is_ascii_alphanumeric)
        .collect();
    let first = format!("/mnt/wsl/{name}p1");
    let expected = format!("The disk was successfully mounted as '{first}'.\n");
    assert!(said.starts_with(&expected), "{said}");
    let output = mount(&["-p", "2", "--name", "two", "--type", "ext4"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let output = mount(&["-p", "2", "--name", "two", "--options", "umask=077,sync"]);
    assert!(output.status.success(), "{output:?}");
    let options = shell(ALPHA, "grep ' /mnt/wsl/two ' /proc/mounts");
    for option in ["vfat", "sync", "fmask=0077", "relatime"] {
        assert!(options.contains(option), "{options}");
    }
    assert_eq!(shell(BETA, "cat /mnt/wsl/two/HELLO.TXT /mnt/wsl/two/hello.txt"), "hello\nhello\n");
    shell(ALPHA, &format!("echo shared > {first}/file; sync"));
    assert_eq!(shell(BETA, &format!("cat {first}/file")), "shared\n");

    let output = mount(&["--partition", "9", "--name", "nine"]);
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    let step = "The disk was attached but failed to mount: finding the partition: \
                No such file or directory";
    assert!(said.starts_with(step), "{said}");
    let whole = mount(&["--name", "whole", "--type", "ext4"]);
    assert_eq!(whole.status.code(), Some(1), "{whole:?}");
    let unknown = mount(&["--name", "whole"]);
    assert_eq!(unknown.status.code(), Some(1), "{unknown:?}");

    // It comes back with the machine, whose service does not even end in order.
    kill_service();
    assert_eq!(
        shell(ALPHA, &format!("cat {first}/file /mnt/wsl/two/hello.txt")),
        "shared\nhello\n"
    );

    // Not while somebody is in it.
    let held = format!("cd {first} && exec sleep 600");
    let mut child = home().wslr(["-d", BETA, "--", "sh", "-c", &held]).spawn();
    let holds = format!("ls -d /proc/*/cwd -l | grep -c '{name}p1$' || true");
    wait_for("the directory to be in use", || shell(BETA, &holds) == "1\n");
    let busy = wslr(&["--unmount", path]);
    assert!(!busy.status.success());
    let said = String::from_utf8(busy.stderr).unwrap();
    assert!(said.contains("failed to detach"), "{said}");
    child.kill().unwrap();
    child.wait().unwrap();
    wait_for("nobody to be in it", || shell(BETA, &holds) == "0\n");
    let done = wslr(&["--unmount", path]);
    assert!(done.status.success(), "{done:?}");
    assert_eq!(devices(), "0\n");
    assert_eq!(shell(ALPHA, "ls /mnt/wsl"), "resolv.conf\n");
    // What was written is in the file.
    let disk = disk::open(File::open(path).unwrap(), Format::Vhdx, false).unwrap();
    let mut super_block = [0; 2];
    disk.read_at(&mut super_block, (1 << 20) + 1024 + 56).unwrap();
    assert_eq!(super_block, [0x53, 0xef]);
}

#[test]
#[ignore = "needs a KVM that boots stock kernels"]
fn b052_a_distro_on_a_corrupt_disk_does_not_start_and_nothing_hangs() {
    let directory = home().path("corrupt");
    fs::create_dir(&directory).unwrap();
    let path = directory.join("corrupt.img");
    let file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
    let options = ext4::Options { size: 32 << 20, ..ext4::Options::default() };
    ext4::Writer::new(file.try_clone().unwrap(), options).unwrap().finish().unwrap();
    // Without /etc it is no distro, and would be told so; this one gets its files lost.
    let output = wslr(&["--import-in-place", "Corrupt", path.to_str().unwrap()]);
    assert!(output.status.success(), "{output:?}");
    // First what only the kernel sees, the descriptors; then the superblock.
    for (offset, length) in [(4096, 4096), (1024, 1024)] {
        file.write_all_at(&vec![0x5a; length], offset).unwrap();
        file.sync_all().unwrap();
        let output = wslr(&["-d", "Corrupt", "--", "true"]);
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains("WSL_E_DISK_CORRUPTED\n"), "{said}");
        assert_eq!(output.status.code(), Some(255));
    }
    assert!(wslr(&["--unregister", "Corrupt"]).status.success());
}
