//! `--mount` and `--unmount` as far as they need no machine.

use std::fs;

use crate::install::home;
use crate::support::Home;
use crate::support::tar::Tar;
use crate::support::tree::{Mount, is_root};

const DONE: &str = "The operation completed successfully.\n";

#[test]
fn b113_nothing_is_unmounted_where_nothing_is_mounted() {
    let home = Home::new();
    home.wslr(["--unmount"]).stdout(DONE).run();
    // No service was started for it.
    assert_eq!(home.tree("run"), [""; 0]);
    home.wslr(["--unmount", "missing"])
        .fails(
            "The disk '[HOME]/missing' is not attached",
            None,
            Some("Wsl/Service/DetachDisk/ERROR_FILE_NOT_FOUND"),
        )
        .run();
    home.wslr(["--shutdown"]).run();
}

#[test]
fn b115_b118_a_disk_and_a_distro_must_be_there() {
    let home = home();
    home.write("disk.img", "x");
    home.wslr(["--mount", "disk.img", "--vhd"])
        .fails(
            "This operation needs a distribution of version 2, and none is installed",
            Some("'wslr --install --version 2' installs one"),
            Some("Wsl/Service/AttachDisk/WSL_E_WSL2_NEEDED"),
        )
        .run();
    home.write("d.tar", Tar::distro().bytes());
    let words = ["--install", "-n", "-f", "d.tar", "--name", "D", "--vhd-size", "64MB"];
    assert!(home.wslr(words).command().output().unwrap().status.success());
    home.wslr(["--mount", "DoesNotExist"])
        .fails(
            "Failed to attach disk 'DoesNotExist' to WSL2: No such file or directory (os error 2)",
            None,
            Some("Wsl/Service/AttachDisk/MountDisk/HCS/ERROR_FILE_NOT_FOUND"),
        )
        .run();
    home.wslr(["--mount", "disk.img"])
        .fails(
            "Failed to attach disk 'disk.img' to WSL2: it is no block device",
            Some("--vhd is for a file with a disk"),
            Some("Wsl/Service/AttachDisk/MountDisk/HCS/E_INVALIDARG"),
        )
        .run();
    home.wslr(["--shutdown"]).run();
}

#[test]
fn b116_a_device_that_the_host_uses_is_refused() {
    if !is_root() {
        return eprintln!("needs root: a mount");
    }
    let home = home();
    home.write("d.tar", Tar::distro().bytes());
    let words = ["--install", "-n", "-f", "d.tar", "--name", "D", "--vhd-size", "64MB"];
    assert!(home.wslr(words).command().output().unwrap().status.success());
    let base = fs::read_dir(home.data("distros")).unwrap().next().unwrap().unwrap().path();
    let mount = Mount::new(&base.join("ext4.img"), "ro,loop");
    let mounted = mount.path().to_str().unwrap();
    let table = fs::read_to_string("/proc/self/mounts").unwrap();
    let line = table.lines().find(|line| line.contains(mounted)).unwrap();
    let device = line.split(' ').next().unwrap();
    home.wslr(["--mount", device])
        .fails(
            &format!("Failed to attach disk '{device}' to WSL2: it is in use on this host"),
            None,
            Some("Wsl/Service/AttachDisk/MountDisk/HCS/ERROR_SHARING_VIOLATION"),
        )
        .run();
    home.wslr(["--shutdown"]).run();
}

#[test]
fn words_that_contradict_each_other_are_refused() {
    let home = Home::new();
    let hint = Some("'wslr --help' lists the arguments");
    let code = Some("Wsl/E_INVALIDARG");
    home.wslr(["--mount", "x", "--bare", "-n", "y"])
        .fails("Arguments --bare and --name can't be specified at same time.", hint, code)
        .run();
    home.wslr(["--mount", "x", "--partition", "0"])
        .fails("The parameter is incorrect: --partition 0", hint, code)
        .run();
    home.wslr(["--mount"])
        .fails("Argument --mount is missing a required parameter.", hint, None)
        .run();
}
