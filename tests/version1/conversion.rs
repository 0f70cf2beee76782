//! `--set-version`: a real Debian to the other form and back, used before and after.

use std::fs;
use std::process::Stdio;

use crate::fixture::{OwnHome, Whose, run_as, run_tool, running};
use crate::support::wait_for;

crate::as_root_and_as_user! {
    b062_a_running_distro_is_converted_and_back
}

#[test]
fn b062_a_single_users_distro_keeps_the_owners_it_cannot_have() {
    run_as(Whose::Single, b062_a_running_distro_is_converted_and_back);
}

const PROGRESS: &str = "Conversion in progress, this may take a few minutes.\n";

const DONE: &str = "The operation completed successfully.\n";

const DIFFERENCES: &str =
    "For information on key differences between the versions please see 'man wslr'\n";

fn b062_a_running_distro_is_converted_and_back() {
    let home = OwnHome::empty();
    // The usual 1 TB would take e2fsck long.
    home.write(".wslconfig", "[wsl2]\ndefaultVhdSize=16GB\n");
    let mut install = home.wslr(["--install", "-n", "--version", "1", "--name", "D", "-f", "-"]);
    let archive = crate::support::debian::archive();
    assert!(install.command().stdin(archive).output().unwrap().status.success());
    let line = "echo kept >/root/kept; truncate -s 1G /root/sparse; ln /root/kept /root/link; mkfifo /root/fifo";
    home.wslr([line]).run();
    assert_eq!(running(&home), "D\n");
    let mut test = home.wslr(["--set-version", "D", "2"]);
    let child = test.command().stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let listed = || {
        let output = home.wslr(["--list", "--verbose"]).command().output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    wait_for("the conversion to be seen", || listed().contains("* D       Converting      1\n"));
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(said, format!("{PROGRESS}{DIFFERENCES}{DONE}"));
    assert_eq!(running(&home), "");
    home.wslr(["-l", "-v"])
        .stdout("  NAME    STATE           VERSION\n* D       Stopped         2\n")
        .run();

    let base = fs::read_dir(home.data("distros")).unwrap().next().unwrap().unwrap().path();
    let names: Vec<_> =
        fs::read_dir(&base).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["ext4.img"]);
    let disk = base.join("ext4.img");
    let disk = disk.to_str().unwrap();
    run_tool("e2fsck", &["-fn", disk]);
    let show = |request: &str| {
        String::from_utf8(run_tool("debugfs", &["-R", request, disk]).stdout).unwrap()
    };
    assert_eq!(show("cat /root/link"), "kept\n");
    // Whatever the host's users are, the disk has Debian's.
    assert!(show("stat /etc/shadow").contains("User:     0   Group:    42"));
    assert!(show("stat /usr/bin/passwd").contains("Mode:  04755"));

    // A single user's is warned, which is another test's.
    let mut back = home.wslr(["--set-version", "d", "1"]);
    let output = back.command().output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), format!("{PROGRESS}{DONE}"));
    let line = "cat /root/link; stat -c '%h %s %F' /root/kept /root/sparse /root/fifo";
    home.wslr([line]).stdout("kept\n2 5 regular file\n1 1073741824 regular file\n1 0 fifo\n").run();
    home.wslr(["test $(stat -c %b /root/sparse) -lt 100"]).run();
    assert_eq!(fs::read_dir(&base).unwrap().count(), 1);
}
