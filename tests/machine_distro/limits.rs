//! How long the end of everything takes, whatever the guest does (B158): 10 s in good order,
//! a second by force.

use std::io::Read as _;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use crate::fixture::{
    ALPHA, BETA, CONFIGURATION, ORDERLY, disk, home, in_distro, run_tool, service, service_runs,
    shell,
};

/// The limit of an end by force.
const FORCED: Duration = Duration::from_secs(1);

/// The settings of a host of usual speed: a sixth of this time is what an end may take.
pub fn usual_limits(more: &str) {
    let from = "distributionStartTimeout=300000";
    assert!(CONFIGURATION.contains(from));
    let usual = CONFIGURATION.replace(from, "distributionStartTimeout=60000");
    home().write(".wslconfig", format!("{usual}{more}"));
}

/// Starts a line in a distro and waits until it says something.
fn start(line: &str) -> Child {
    let mut test = home().wslr(["-d", ALPHA, "--", "sh", "-c", line]);
    let command = test.command().stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
    child
}

/// Ends everything, by force or not, while the guest does what `begin` has it do.
fn ends_in_time(what: &str, begin: impl Fn() -> Option<Child>) {
    for (words, limit) in [(&["--shutdown"][..], ORDERLY), (&["--shutdown", "--force"], FORCED)] {
        let child = begin();
        let started = Instant::now();
        home().wslr(words).run();
        let taken = started.elapsed();
        println!("{what}: {words:?} took {taken:?}");
        assert!(taken < limit, "{what}: {words:?} took {taken:?}");
        assert!(!service_runs(), "{what}: {words:?}");
        if let Some(mut child) = child {
            assert!(!child.wait().unwrap().success(), "{what}");
        }
    }
}

#[test]
#[ignore = "needs a KVM that boots stock kernels"]
fn long_y_b158_everything_ends_in_its_time_whatever_the_guest_does() {
    home().wslr(["--shutdown"]).run();
    usual_limits("");
    ends_in_time("an idle guest", || {
        shell(BETA, "true");
        None
    });
    ends_in_time("a busy guest that ignores signals", || {
        Some(start(
            "trap '' TERM HUP INT; for i in 1 2 3 4 5 6; do (while :; do :; done) & done; \
             echo c; while :; do :; done",
        ))
    });
    ends_in_time("a stopped init", || {
        // The first process of a distro may be stopped from outside of it only.
        shell(ALPHA, "true");
        let mut test = home().wslr(["-d", ALPHA, "--debug-shell"]);
        let command = test.command().stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let line = "kill -STOP $(pgrep -P 1 -x init); echo c; sleep 1000\n";
        std::io::Write::write_all(child.stdin.as_mut().unwrap(), line.as_bytes()).unwrap();
        child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        Some(child)
    });
    ends_in_time("a stopped service", || {
        let child = start("echo c; sleep 1000");
        for process in service() {
            run_tool("kill", &["-STOP", &process], &[0]);
        }
        Some(child)
    });
    // The kernel does not reset the machine after a panic: its processor goes round for ever.
    usual_limits("kernelCommandLine=panic=0\n");
    ends_in_time("a kernel that has panicked", || {
        let child = start("echo c; echo c >/proc/sysrq-trigger; sleep 1000");
        std::thread::sleep(Duration::from_secs(2));
        Some(child)
    });
    home().write(".wslconfig", CONFIGURATION);
    run_tool("e2fsck", &["-fy", disk(ALPHA).to_str().unwrap()], &[0, 1]);
    assert!(in_distro(ALPHA, &["true"]).status.success());
    home().wslr(["--shutdown"]).run();
}
