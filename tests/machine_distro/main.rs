//! Distros in the real machine, through the executable and nothing else.
//!
//! The tests share one home with two distros made from a configured Debian
//! (`WSLR_TEST_DISTRO`) and a prepared kernel (`WSLR_TEST_DATA`), because an installation
//! and a start take their time where the processor is a software one. They run in the
//! order of their names; the last one leaves nothing running. The rig runs them.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "these are tests")]

#[path = "../support/mod.rs"]
mod support;

mod crashes;
#[path = "../support/fixture.rs"]
mod fixture;
mod limits;
mod memory;
mod robustness;
#[path = "../support/soak.rs"]
mod soak;
mod terminal;
mod words;

use std::io::{Read, Write};
use std::process::Stdio;
use std::thread;

use sha2::{Digest, Sha256};

use fixture::{ALPHA, BETA, home, in_distro, shell};
use support::wait_for;

#[test]
#[ignore = "needs a KVM that boots stock kernels"]
fn a_command_has_its_output_and_its_status() {
    let output = in_distro(ALPHA, &["sh", "-c", "cat /etc/os-release; echo oops >&2; exit 42"]);
    assert_eq!(output.status.code(), Some(42), "{output:?}");
    assert!(output.stdout.starts_with(b"PRETTY_NAME=\"Debian GNU/Linux"), "{output:?}");
    assert_eq!(output.stderr, b"oops\n");
}

#[test]
#[ignore = "needs a KVM that boots stock kernels"]
fn b229_two_distros_run_under_one_kernel_in_namespaces_of_their_own() {
    let boot = |distro| shell(distro, "cat /proc/sys/kernel/random/boot_id");
    assert_eq!(boot(ALPHA), boot(BETA));
    for namespace in ["ipc", "mnt", "pid", "uts"] {
        let of = |distro| shell(distro, &format!("readlink /proc/self/ns/{namespace}"));
        assert_ne!(of(ALPHA), of(BETA), "{namespace}");
    }
    let network = |distro| shell(distro, "readlink /proc/self/ns/net");
    assert_eq!(network(ALPHA), network(BETA));
    shell(ALPHA, "touch /root/only-here");
    assert_eq!(shell(BETA, "ls /root"), "");
    let running = home().wslr(["--list", "--running", "--quiet"]).command().output().unwrap();
    assert_eq!(String::from_utf8_lossy(&running.stdout), "Alpha\nBeta\n");
}

#[test]
#[ignore = "needs a KVM that boots stock kernels"]
fn c_twenty_commands_at_once_are_all_right() {
    let threads: Vec<_> = (0..20)
        .map(|number| {
            thread::spawn(move || {
                let line = format!("echo {number}; sleep 0.{number}; exit {number}");
                (number, in_distro(ALPHA, &["sh", "-c", &line]))
            })
        })
        .collect();
    for thread in threads {
        let (number, output) = thread.join().unwrap();
        assert_eq!(output.status.code(), Some(number), "{output:?}");
        assert_eq!(output.stdout, format!("{number}\n").into_bytes());
    }
}

#[test]
#[ignore = "needs a KVM that boots stock kernels"]
fn d_64_mib_come_back_as_they_went() {
    let mut bytes = vec![0; 64 << 20];
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for word in bytes.chunks_exact_mut(8) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        word.copy_from_slice(&state.to_le_bytes());
    }
    let mut command = home().wslr(["-d", ALPHA, "--", "cat"]);
    let mut child = command.command().stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let sent = Sha256::digest(&bytes);
    let writer = thread::spawn(move || stdin.write_all(&bytes).unwrap());
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    let mut stdout = child.stdout.take().unwrap();
    let mut total = 0;
    loop {
        let count = stdout.read(&mut buffer).unwrap();
        if count == 0 {
            break;
        }
        total += count;
        hash.update(&buffer[..count]);
    }
    writer.join().unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(total, 64 << 20);
    assert_eq!(hash.finalize(), sent);
}

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
    for signal in [9, 15, 6] {
        let output = in_distro(ALPHA, &["sh", "-c", &format!("kill -{signal} $$")]);
        assert_eq!(output.status.code(), Some(128 + signal), "{output:?}");
    }
}

#[test]
#[ignore = "needs a KVM that boots stock kernels"]
fn g_killing_the_command_kills_the_linux_process() {
    let mut client = home().wslr(["-d", ALPHA, "--", "sleep", "98765"]).spawn();
    let count = || shell(ALPHA, "pgrep -cx -f 'sleep 98765' || true");
    wait_for("the process to start", || count() == "1\n");
    client.kill().unwrap();
    client.wait().unwrap();
    wait_for("the process to end", || count() == "0\n");
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
fn i_a_terminal_session() {
    terminal::session();
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
fn k_what_was_synced_survives_a_kill_of_the_service() {
    let line = "i=0; while :; do i=$((i+1)); head -c 20000 /dev/urandom >/root/w$i; \
                sync /root/w$i; echo $i $(sha256sum </root/w$i); done";
    let mut command = home().wslr(["-d", ALPHA, "--", "sh", "-c", line]);
    let mut child = command.command().stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let mut told = Vec::new();
    let mut buffer = [0; 4096];
    while told.iter().filter(|byte| **byte == b'\n').count() < 15 {
        let count = stdout.read(&mut buffer).unwrap();
        assert!(count > 0, "the command ended");
        told.extend_from_slice(&buffer[..count]);
    }
    fixture::kill_service();
    stdout.read_to_end(&mut told).unwrap();
    assert!(!child.wait().unwrap().success());

    let disk = fixture::disk(ALPHA);
    let disk = disk.to_str().unwrap();
    // The journal is replayed by the first check; the second finds nothing.
    fixture::run_tool("e2fsck", &["-fy", disk], &[0, 1]);
    fixture::run_tool("e2fsck", &["-fn", disk], &[0]);
    let mut told: Vec<&[u8]> = told.split(|byte| *byte == b'\n').collect();
    // What follows the last line end may be half a line.
    told.pop();
    assert!(told.len() >= 15);
    let there =
        shell(ALPHA, "for file in /root/w*; do echo ${file#/root/w} $(sha256sum <$file); done");
    let there: Vec<&[u8]> = there.as_bytes().split(|byte| *byte == b'\n').collect();
    for line in told {
        assert!(there.contains(&line), "{} is lost", String::from_utf8_lossy(line));
    }
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
fn m_b128_b131_the_kernel_and_its_words_are_the_users_own() {
    let stock = shell(ALPHA, "uname -r");
    let kernel = home().path("my-kernel");
    // Packed as distributions ship it: it is unpacked once.
    let folder = std::path::PathBuf::from(std::env::var_os("WSLR_TEST_KERNEL").unwrap());
    std::fs::copy(folder.join("vmlinuz"), &kernel).unwrap();
    let own = format!("kernel={}\nkernelCommandLine=wslr.test=own quiet\n", kernel.display());
    fixture::restart_with(&own);
    let line = shell(ALPHA, "cat /proc/cmdline");
    assert!(line.contains(" wslr.test=own"), "{line}");
    assert_eq!(shell(ALPHA, "uname -r"), stock);
    assert!(home().tree(".cache/wslr/kernels").iter().any(|name| name.ends_with(".vmlinux")));
    fixture::restart_with("kernel=/no/such/kernel\n");
    let failed = in_distro(ALPHA, &["true"]);
    let error = String::from_utf8_lossy(&failed.stderr).into_owned();
    assert_eq!(failed.status.code(), Some(255), "{error}");
    let code = "Error code: Wsl/Service/CreateInstance/CreateVm/WSL_E_CUSTOM_KERNEL_NOT_FOUND\n";
    assert!(error.contains("/no/such/kernel") && error.ends_with(code), "{error}");
    fixture::restart_with("");
    assert_eq!(shell(ALPHA, "uname -r"), stock);
}

#[test]
#[ignore = "needs a KVM that boots stock kernels"]
fn z_after_a_shutdown_nothing_runs_and_the_disks_are_clean() {
    fixture::end();
}
