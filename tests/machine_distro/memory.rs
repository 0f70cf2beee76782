//! Memory goes back to the host (B136).

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use crate::fixture::{ALPHA, restart_with, service, shell};
use crate::support::wait_for;

/// What is read into the cache, in bytes.
const FILE: u64 = 256 << 20;

/// The service's memory in bytes, which is the guest's for the most part.
fn resident() -> u64 {
    let processes = service();
    let status = processes
        .iter()
        .filter_map(|process| fs::read_to_string(format!("/proc/{process}/status")).ok());
    let lines: Vec<u64> = status
        .filter_map(|text| {
            let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
            line.trim().strip_suffix(" kB")?.parse().ok()
        })
        .collect();
    lines.iter().sum::<u64>() << 10
}

/// Starts the machine with that setting and fills its cache; gives the memory before and
/// after.
fn fill(setting: &str) -> (u64, u64) {
    restart_with(&format!("[experimental]\nautoMemoryReclaim={setting}\n"));
    shell(ALPHA, "true");
    let before = resident();
    let line = format!(
        "test -e /root/big || head -c {FILE} /dev/urandom >/root/big; sync; cat /root/big >/dev/null"
    );
    shell(ALPHA, &line);
    (before, resident())
}

/// The cache comes back, with that setting.
fn comes_back(setting: &str) {
    let (before, full) = fill(setting);
    assert!(full > before + FILE * 3 / 4, "{before} {full}");
    let started = Instant::now();
    wait_for("the memory to go back", || {
        // To look is work too, and the machine must be idle.
        thread::sleep(Duration::from_secs(2));
        resident() < full - FILE / 2
    });
    println!(
        "{setting}: {} MiB at the start, {} after reading, {} after {:?}",
        before >> 20,
        full >> 20,
        resident() >> 20,
        started.elapsed()
    );
}

#[test]
#[ignore = "needs a KVM that boots stock kernels"]
fn o_b136_what_an_idle_guest_has_cached_is_the_hosts_again() {
    comes_back("dropCache");
    // What is freed goes back at once.
    shell(ALPHA, "cat /root/big >/dev/null");
    let full = resident();
    shell(ALPHA, "rm /root/big; sync");
    wait_for("the memory to go back", || resident() < full - FILE / 2);
    restart_with("");
}

#[test]
#[ignore = "needs a KVM that boots stock kernels"]
fn long_o_b136_it_comes_back_gradually_or_not_at_all() {
    comes_back("gradual");
    let (before, full) = fill("disabled");
    thread::sleep(Duration::from_secs(50));
    println!("disabled: {} MiB, {}, {} after 50 s", before >> 20, full >> 20, resident() >> 20);
    assert!(resident() > full - FILE / 8, "{before} {full} {}", resident());
    // What is freed goes back all the same.
    shell(ALPHA, "rm /root/big; sync");
    wait_for("the memory to go back", || resident() < full - FILE / 2);
    restart_with("");
}
