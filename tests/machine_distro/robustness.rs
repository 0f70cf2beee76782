//! A distro that does its worst leaves the machine, the other distro and the service as
//! they were (B230), and the machine keeps the host's time (B231).

use std::fs;
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::fixture::{
    ALPHA, BETA, CONFIGURATION, disk, home, in_distro, restart_with, run_tool, shell,
};
use crate::soak::Soak;
use crate::support::wait_for;

/// Ends the first distro while it does its worst, and finds the other as it was.
#[track_caller]
fn ends_alone(what: &str, line: &str, is_bad: impl FnMut() -> bool) {
    shell(BETA, "echo here >/run/here");
    let mut test = home().wslr(["-d", ALPHA, "--", "sh", "-c", line]);
    let command = test.command().stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    wait_for(what, is_bad);
    assert_eq!(shell(BETA, "cat /run/here"), "here\n");
    let started = Instant::now();
    home().wslr(["--terminate", ALPHA]).stdout("The operation completed successfully.\n").run();
    println!("{what}: terminated in {:?}", started.elapsed());
    child.wait().unwrap();
    assert_eq!(shell(BETA, "cat /run/here"), "here\n");
    assert_eq!(shell(ALPHA, "echo again"), "again\n");
}

/// A file of the cgroup of all distros, as a distro sees it.
fn limit(name: &str) -> String {
    shell(BETA, &format!("cat /sys/fs/cgroup/wsl-user/{name}")).trim().to_owned()
}

#[test]
#[ignore = "needs a KVM that boots stock kernels"]
fn j_b230_distros_together_have_less_than_the_machine() {
    let total = shell(BETA, "awk '/^MemTotal:/ { print $2 * 1024 }' /proc/meminfo");
    let total: u64 = total.trim().parse().unwrap();
    assert_eq!(limit("memory.max"), (total - (32 << 20)).to_string());
    assert_eq!(limit("cpu.max"), "99000 100000");
    assert!(limit("pids.max").parse::<u64>().unwrap() > 1000);
    // And no swap, which is not wanted here (B099).
    assert_eq!(shell(BETA, "awk 'NR > 1' /proc/swaps"), "");
}

#[test]
#[ignore = "needs a KVM that boots stock kernels"]
fn j_b230_a_fork_bomb_is_one_distros_own_affair() {
    let count = || shell(BETA, "cat /sys/fs/cgroup/wsl-user/pids.current").trim().parse::<u32>();
    let bomb = "f() { f | f & }; f; sleep 1000";
    ends_alone("a fork bomb", bomb, || count().unwrap() > 300);
}

#[test]
#[ignore = "needs a KVM that boots stock kernels"]
fn j_b230_who_eats_memory_is_killed_before_the_machine_has_none() {
    // A line without an end, which sort keeps in memory; the kernel kills it for that.
    let output = in_distro(ALPHA, &["sh", "-c", "tr '\\0' x </dev/zero | sort -S 100G"]);
    assert_ne!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(shell(BETA, "echo here"), "here\n");
    let events = shell(BETA, "grep ^oom_kill\\  /sys/fs/cgroup/wsl-user/memory.events");
    assert_ne!(events, "oom_kill 0\n");
}

#[test]
#[ignore = "needs a KVM that boots stock kernels"]
fn j_who_kills_all_kills_its_own_only() {
    let ready = || in_distro(ALPHA, &["test", "-e", "/run/killed"]).status.success();
    let line = "touch /run/killed; kill -9 -1; sleep 1000";
    ends_alone("the end of all", line, ready);
}

#[test]
#[ignore = "needs a KVM that boots stock kernels"]
fn j_a_full_disk_is_one_distros_own() {
    // What is set aside is not written: the host need not have as much.
    let line = "fallocate -l 40g /root/big; echo x >/root/small; sync; \
                rm -f /root/big /root/small; echo over";
    let output = in_distro(ALPHA, &["sh", "-c", line]);
    assert_eq!(output.stdout, b"over\n", "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("No space left"), "{output:?}");
    assert_eq!(shell(BETA, "echo here"), "here\n");
    home().wslr(["--terminate", ALPHA]).stdout("The operation completed successfully.\n").run();
}

#[test]
#[ignore = "needs a KVM that boots stock kernels"]
fn j_b231_the_guests_clock_follows_a_jump_of_the_hosts() {
    // The clock of a machine that is not the rig's is its owner's.
    if !fs::read_to_string("/proc/cmdline").unwrap().contains("rig.program=") {
        println!("not in the rig: the host's clock is left alone");
        return;
    }
    shell(BETA, "true");
    let now = || run_tool("date", &["+%s"], &[0]).stdout;
    let number = |text: &str| text.trim().parse::<i64>().unwrap();
    let host = || number(&String::from_utf8(now()).unwrap());
    let jump = |by: i64| run_tool("date", &["-s", &format!("@{}", host() + by)], &[0]);
    let is_together = || (number(&shell(BETA, "date +%s")) - host()).abs() < 30;
    assert!(is_together());
    for by in [7200, -7200] {
        jump(by);
        wait_for("the guest's clock", is_together);
    }
}

#[test]
#[ignore = "needs a KVM that boots stock kernels"]
fn j_b232_a_running_distro_follows_the_hosts_time_zone() {
    // Whose machine is not the rig's keeps its zone.
    if !fs::read_to_string("/proc/cmdline").unwrap().contains("rig.program=") {
        println!("not in the rig: the host's time zone is left alone");
        return;
    }
    let link = std::path::Path::new("/etc/localtime");
    shell(BETA, "true");
    for zone in ["Europe/Paris", "Europe/Berlin"] {
        let file = std::path::Path::new("/usr/share/zoneinfo").join(zone);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, "").unwrap();
        let _ = fs::remove_file(link);
        std::os::unix::fs::symlink(&file, link).unwrap();
        let wanted = format!("/usr/share/zoneinfo/{zone}\n");
        let line = "readlink /etc/localtime || true";
        wait_for("the time zone", || shell(BETA, line) == wanted);
    }
    assert!(["CET\n", "CEST\n"].contains(&shell(BETA, "date +%Z").as_str()));
    fs::remove_file(link).unwrap();
}

#[test]
#[ignore = "needs a KVM that boots stock kernels"]
fn m_b129_modules_are_loaded_as_the_file_says() {
    let loaded = |name: &str| shell(ALPHA, &format!("grep -c '^{name} ' /proc/modules || true"));
    home().wslr(["--shutdown"]).run();
    for name in ["tun", "ip_tables", "br_netfilter"] {
        wait_for(name, || loaded(name) == "1\n");
    }
    restart_with("loadDefaultKernelModules=false\nloadKernelModules=dm_crypt, not-found\n");
    wait_for("dm_crypt", || loaded("dm_crypt") == "1\n");
    assert_eq!(loaded("tun"), "0\n");
    let line = "dmesg | grep -c \"failed to load module 'not-found'\" || true";
    wait_for("the kernel's log", || shell(ALPHA, line) == "1\n");
    restart_with("");
}

#[test]
#[ignore = "needs a KVM that boots stock kernels"]
fn j_b144_b145_what_fstab_lists_is_mounted_and_what_is_wrong_there_is_a_warning() {
    let line = "cp /etc/fstab /root/fstab; echo 'x /mnt/x tmpfs size=1m 0 0' >>/etc/fstab; \
                mkdir -p /mnt/x; cat /proc/sys/kernel/dmesg_restrict";
    // B133: everybody may read the kernel's log.
    assert_eq!(shell(ALPHA, line), "0\n");
    let done = "The operation completed successfully.\n";
    home().wslr(["--terminate", ALPHA]).stdout(done).run();
    assert_eq!(shell(ALPHA, "findmnt -n -o FSTYPE,SIZE /mnt/x | xargs"), "tmpfs 1M\n");
    shell(ALPHA, "echo '/dev/none /mnt/none ext4 defaults 0 0' >>/etc/fstab");
    home().wslr(["--terminate", ALPHA]).stdout(done).run();
    home()
        .wslr(["-d", ALPHA, "findmnt -n -o FSTYPE /mnt/x; mv /root/fstab /etc/fstab"])
        .stdout("tmpfs\n")
        .stderr("wslr: warning: Processing /etc/fstab with mount -a failed.\n")
        .run();
    home().wslr(["--terminate", ALPHA]).stdout(done).run();
}

#[test]
#[ignore = "needs a KVM that boots stock kernels"]
fn m_b098_b132_swap_and_the_log_are_where_they_are_wanted() {
    let (swap, log) = (home().path("my-swap.vhdx"), home().path("my-log"));
    let wanted = format!(
        "swap=64MB\nswapFile={}\ndebugConsoleLogFile={}\ndebugConsole=true\n",
        swap.display(),
        log.display()
    );
    home().write(".wslconfig", CONFIGURATION.replace("swap=0\n", &wanted));
    home().wslr(["--shutdown"]).run();
    // The header is no part of what can be used.
    assert_eq!(shell(BETA, "awk 'NR > 1 { print $3 }' /proc/swaps"), "65532\n");
    assert!(swap.exists());
    let text = fs::read_to_string(log).unwrap();
    assert!(text.contains("Linux version"), "{text}");
    restart_with("");
}

#[test]
#[ignore = "needs a KVM that boots stock kernels"]
fn n_random_operations_neither_hang_nor_lie() {
    let limit = Duration::from_secs(300);
    Soak { home: home(), distros: [ALPHA, BETA], has_machine: true, limit }
        .run(Duration::from_secs(2));
    wait_for("the service to leave", || !crate::fixture::service_runs());
    for distro in [ALPHA, BETA] {
        let disk = disk(distro);
        let disk = disk.to_str().unwrap();
        // A machine that was killed leaves a journal to be replayed.
        run_tool("e2fsck", &["-fy", disk], &[0, 1]);
        run_tool("e2fsck", &["-fn", disk], &[0]);
    }
}
