//! The life of distros and of their machine, through the executable and nothing else.
//!
//! `machine_command.rs` has the life of commands. The tests share one home with two
//! distros made from a configured Debian (`WSLR_TEST_DISTRO`) and a prepared kernel
//! (`WSLR_TEST_DATA`), because an installation and a start take their time where the
//! processor is a software one. They run in the order of their names; the last one leaves
//! nothing running. The rig runs them.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "these are tests")]

#[path = "../support/mod.rs"]
mod support;

mod fixture;
mod words;

use std::thread;

use fixture::{ALPHA, BETA, home, in_distro, shell, wait_for};

#[test]
#[ignore = "needs a KVM that boots stock kernels"]
fn e_output_is_whole_although_the_command_ends_at_once() {
    let output = in_distro(ALPHA, &["sh", "-c", "seq 1 200000; seq 1 1000 >&2"]);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(output.stdout.len(), 1_288_895);
    assert!(output.stdout.ends_with(b"\n199999\n200000\n"));
    assert!(output.stderr.ends_with(b"\n999\n1000\n"));
}

#[test]
#[ignore = "needs a KVM that boots stock kernels"]
fn f_a_signal_is_128_and_its_number() {
    for signal in [15, 6] {
        let output = in_distro(ALPHA, &["sh", "-c", &format!("kill -{signal} $$")]);
        assert_eq!(output.status.code(), Some(128 + signal), "{output:?}");
    }
}

#[test]
#[ignore = "needs a KVM that boots stock kernels"]
fn h_the_kernel_finds_its_modules() {
    let release = shell(ALPHA, "uname -r");
    assert!(release.contains("-cloud-amd64"));
    let path = format!("/lib/modules/{}", release.trim_end());
    shell(ALPHA, &format!("test -s {path}/modules.dep.bin"));
    assert_eq!(shell(BETA, &format!("find {path}/ -name 'virtio_net.ko' | wc -l")), "1\n");
}

#[test]
#[ignore = "needs a KVM that boots stock kernels"]
fn j_a_terminated_distro_starts_again_and_the_other_stays() {
    let boot = shell(BETA, "cat /proc/sys/kernel/random/boot_id");
    shell(ALPHA, "echo kept >/root/kept");
    home().wslr(["--terminate", ALPHA]).stdout("The operation completed successfully.\n").run();
    let running = home().wslr(["--list", "--running", "--quiet"]).command().output().unwrap();
    assert_eq!(String::from_utf8_lossy(&running.stdout), "Beta\n");
    assert_eq!(shell(ALPHA, "cat /root/kept"), "kept\n");
    assert_eq!(shell(ALPHA, "cat /proc/sys/kernel/random/boot_id"), boot);
}

#[test]
#[ignore = "needs a KVM that boots stock kernels"]
fn l_a_panic_is_told_to_all_who_wait() {
    let waiting = thread::spawn(|| in_distro(BETA, &["sleep", "1000"]));
    shell(BETA, "true");
    let crashed = in_distro(ALPHA, &["sh", "-c", "echo c >/proc/sysrq-trigger; sleep 1000"]);
    for output in [crashed, waiting.join().unwrap()] {
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(255), "{error}");
        assert!(error.contains("WSL_E_VM_CRASHED"), "{error}");
        let log = error.split_once("kernel-panic-").unwrap().1.split(".txt").next().unwrap();
        let log = home().data(format!("logs/kernel-panic-{log}.txt"));
        let log = std::fs::read(log).unwrap();
        assert!(String::from_utf8_lossy(&log).contains("sysrq triggered crash"));
    }
    assert_eq!(shell(ALPHA, "echo again"), "again\n");
}

#[test]
#[ignore = "needs a KVM that boots stock kernels"]
fn y_b128_b131_the_kernel_and_its_command_line_are_configured() {
    home().wslr(["--shutdown"]).run();
    let configure = |line| {
        home().write(".wslconfig", format!("{}{line}\n", fixture::CONFIGURATION));
    };
    configure("kernel=/no/such/kernel");
    let output = in_distro(ALPHA, &["true"]);
    assert_eq!(output.status.code(), Some(255), "{output:?}");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains("'/no/such/kernel' was not found\n"), "{error}");
    assert!(error.contains("CreateVm/WSL_E_CUSTOM_KERNEL_NOT_FOUND\n"), "{error}");
    configure("kernelCommandLine=wslr.test=here");
    assert!(shell(ALPHA, "cat /proc/cmdline").contains(" wslr.test=here"));
}

#[test]
#[ignore = "needs a KVM that boots stock kernels"]
fn z_after_a_shutdown_nothing_runs_and_the_disks_are_clean() {
    shell(ALPHA, "echo last >/root/last");
    shell(BETA, "true");
    home().wslr(["--shutdown"]).run();
    let running = home().wslr(["--list", "--running", "--quiet"]).command().output().unwrap();
    assert!(running.stdout.is_empty(), "{running:?}");
    wait_for("the service to leave", || !fixture::service_runs());
    for distro in [ALPHA, BETA] {
        fixture::run_tool("e2fsck", &["-fn", fixture::disk(distro).to_str().unwrap()], &[0]);
    }
    for distro in [ALPHA, BETA] {
        home().wslr(["--unregister", distro]).command().output().unwrap();
    }
    assert!(home().tree(".local/share/wslr/distros").is_empty());
}
