//! What the words of a command line become in a distro.

use crate::fixture::{ALPHA, BETA, home, shell};
use crate::support::wait_for;

#[test]
#[ignore = "needs a KVM that boots stock kernels"]
fn b018_one_word_is_a_line_and_several_arrive_as_typed() {
    let home = home();
    home.wslr(["echo a; echo b | wc -l"]).stdout("a\n1\n").run();
    home.wslr(["echo", "-n", "$USER", "", "a  b"]).stdout("$USER  a  b").run();
    home.wslr(["--exec", "echo", "-x"]).stdout("-x\n").run();
    home.wslr(["--shell-type", "login", "echo", "a  b", "$USER"]).stdout("a  b $USER\n").run();
}

#[test]
#[ignore = "needs a KVM that boots stock kernels"]
fn b003_a_command_starts_where_it_is_told() {
    let home = home();
    home.wslr(["--cd", "/", "pwd"]).stdout("/\n").run();
    home.wslr(["--cd", "/no/such", "pwd"]).stdout("/root\n").run();
    home.wslr(["~", "pwd"]).stdout("/root\n").run();
    let mut here = home.wslr(["pwd"]).stdout("/usr\n");
    here.command().current_dir("/usr");
    here.run();
    home.wslr(["pwd"]).stdout("/root\n").run();
}

#[test]
#[ignore = "needs a KVM that boots stock kernels"]
fn b011_a_command_runs_as_the_user_asked_for() {
    let home = home();
    home.wslr(["-u", "root", "whoami"]).stdout("root\n").run();
    home.wslr(["-u", "nosuchuser", "id"])
        .stderr("wslr: User not found.\nError code: [..]/WSL_E_USER_NOT_FOUND\n")
        .status(255)
        .run();
}

#[test]
#[ignore = "needs a KVM that boots stock kernels"]
fn o_b181_a_debug_shell_is_beside_all_distros() {
    use std::io::Write as _;
    use std::process::Stdio;
    let ask = |line: &str| {
        let mut test = home().wslr(["-d", BETA, "--debug-shell", "--ignored"]);
        let command = test.command().stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(line.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{line}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    // Another distro's processes are seen, and the machine's init is the first of all.
    let mut sleeps = home().wslr(["-d", ALPHA, "--", "sleep", "54321"]).spawn();
    wait_for("a process", || shell(ALPHA, "pgrep -cx -f 'sleep 54321' || true") == "1\n");
    let line = "id -u; tr '\\0' ' ' </proc/1/cmdline; echo; cat /proc/self/cgroup; ls -d /proc/1/root/modules; pgrep -cx -f 'sleep 54321'\n";
    let said = ask(line);
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!((lines[0], lines[1].trim_end()), ("0", "/init"), "{said}");
    assert!(lines[2].starts_with("0::/debug-"), "{said}");
    assert_eq!(lines[3..], ["/proc/1/root/modules", "1"], "{said}");
    let namespaces = "readlink /proc/self/ns/pid /proc/self/ns/ipc /proc/self/ns/uts\n";
    let (ours, theirs) = (ask(namespaces), shell(BETA, namespaces));
    assert!(ours.lines().zip(theirs.lines()).all(|(one, other)| one != other), "{ours} {theirs}");
    let machine = ask("readlink /proc/1/ns/pid /proc/1/ns/ipc /proc/1/ns/uts\n");
    assert_eq!(ours, machine);
    // What is mounted there stays there, and it ends with the distro, whose disk is free then.
    let mut test = home().wslr(["-d", BETA, "--debug-shell"]);
    let mut shells = test.command().stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut input = shells.stdin.take().unwrap();
    let line = "mount -t tmpfs x /opt; setsid sleep 1000 & echo here; sleep 1000\n";
    input.write_all(line.as_bytes()).unwrap();
    let mut said = [0; 5];
    std::io::Read::read_exact(shells.stdout.as_mut().unwrap(), &mut said).unwrap();
    assert_eq!(shell(BETA, "findmnt -n /opt || echo none"), "none\n");
    home().wslr(["--terminate", BETA]).stdout("The operation completed successfully.\n").run();
    assert!(!shells.wait().unwrap().success());
    assert_eq!(shell(BETA, "echo again"), "again\n");
    let disk = crate::fixture::disk(BETA);
    home().wslr(["--terminate", BETA]).stdout("The operation completed successfully.\n").run();
    crate::fixture::run_tool("e2fsck", &["-fn", disk.to_str().unwrap()], &[0]);
    sleeps.kill().unwrap();
    sleeps.wait().unwrap();
}
