//! Runs kernels of a few instructions, which do to the platform what no kernel should.
//!
//! Needs a KVM that runs stock kernels; the rig runs it with `--ignored`.

#![allow(clippy::expect_used, clippy::unwrap_used)]

use std::fs;
use std::time::{Duration, Instant};

use wslr::vmm::exit::Exit;
use wslr::vmm::machine::{Configuration, VirtualMachine};

#[path = "support/tiny_init.rs"]
#[allow(dead_code)]
mod tiny_init;

/// Where a kernel is loaded.
const ADDRESS: u64 = 0x100_0000;

/// How long a kill may take: a fraction of a second, where the host is not overloaded.
const KILL_LIMIT: Duration = Duration::from_secs(3);

/// `jmp` to itself.
const SPIN: &[u8] = &[0xeb, 0xfe];

/// Starts a machine with that code as its kernel.
fn start(code: &[u8], processors: u32) -> (VirtualMachine, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let kernel = folder.path().join("kernel");
    fs::write(&kernel, tiny_init::elf(ADDRESS, code)).unwrap();
    let machine = VirtualMachine::start(Configuration {
        kernel,
        initramfs: Vec::new(),
        command_line: String::new(),
        memory: 128 << 20,
        processors,
        nested_virtualization: false,
        console_log: folder.path().join("kernel.log"),
        devices: Vec::new(),
    })
    .unwrap();
    (machine, folder)
}

/// Runs that code to its end; returns that and what it wrote to the console.
fn run(code: &[u8]) -> (Exit, Vec<u8>) {
    let (machine, folder) = start(code, 1);
    let exit = machine.wait();
    (exit, fs::read(folder.path().join("kernel.log")).unwrap())
}

/// `mov dx, port; mov al, value; out dx, al`.
fn out(port: u16, value: u8) -> Vec<u8> {
    let [low, high] = port.to_le_bytes();
    vec![0x66, 0xba, low, high, 0xb0, value, 0xee]
}

#[test]
#[ignore = "needs a KVM that boots stock kernels"]
fn the_power_and_reset_registers_end_the_machine() {
    // SLP_TYP 5 and SLP_EN; another sleep type first, which is none.
    let code = [out(0x600, 0x20), out(0x600, 0x34), SPIN.to_vec()].concat();
    assert_eq!(run(&code).0, Exit::PowerOff);
    let code = [out(0x602, 0), out(0x602, 1), SPIN.to_vec()].concat();
    assert_eq!(run(&code).0, Exit::Reset);
}

#[test]
#[ignore = "needs a KVM that boots stock kernels"]
fn a_triple_fault_is_a_failure_and_says_so() {
    // push 0; push 0; lidt [rsp]; int3, with a stack in memory: mov esp, 0x8000.
    let code = [0xbc, 0x00, 0x80, 0x00, 0x00, 0x6a, 0x00, 0x6a, 0x00, 0x0f, 0x01, 0x1c, 0x24, 0xcc];
    let exit = run(&code).0;
    assert!(
        matches!(&exit, Exit::Failure { reason } if reason.ends_with(": triple fault")),
        "{exit}"
    );
}

#[test]
#[ignore = "needs a KVM that boots stock kernels"]
fn nothing_reads_as_ones_and_the_early_console_is_heard() {
    // in al, 0x99; then al to the early console; then mov al, [0xbfff0000], behind the
    // memory; then that as well.
    let to_console = [0x66, 0xba, 0xf8, 0x03, 0xee];
    let code = [
        &[0xe4, 0x99][..],
        &to_console,
        &[0xbb, 0x00, 0x00, 0xff, 0xbf, 0x8a, 0x03],
        &to_console,
        &out(0x3f8, b'!'),
        &out(0x600, 0x34),
        SPIN,
    ]
    .concat();
    assert_eq!(run(&code), (Exit::PowerOff, vec![0xff, 0xff, b'!']));
}

#[test]
#[ignore = "needs a KVM that boots stock kernels"]
fn a_guest_that_writes_all_over_the_devices_does_no_harm() {
    // For every word of the windows of four devices: write the loop's counter, all ones,
    // and the status values a driver uses, read it back.
    let code = [
        &[0xbf, 0x00, 0x00, 0x00, 0xc0][..],   // mov edi, 0xc0000000
        &[0x89, 0x3f],                         // again: mov [rdi], edi
        &[0xc7, 0x07, 0xff, 0xff, 0xff, 0xff], // mov dword [rdi], -1
        &[0xc7, 0x07, 0x0b, 0x00, 0x00, 0x00], // mov dword [rdi], 11
        &[0xc7, 0x07, 0x0f, 0x00, 0x00, 0x00], // mov dword [rdi], 15
        &[0x8b, 0x07],                         // mov eax, [rdi]
        &[0x66, 0x89, 0x07],                   // mov [rdi], ax
        &[0x83, 0xc7, 0x04],                   // add edi, 4
        &[0x81, 0xff, 0x00, 0x40, 0x00, 0xc0], // cmp edi, 0xc0004000
        &[0x75, 0xdc],                         // jne again
        &out(0x600, 0x34),
        SPIN,
    ]
    .concat();
    assert_eq!(run(&code).0, Exit::PowerOff);
}

#[test]
#[ignore = "needs a KVM that boots stock kernels"]
fn machines_that_hang_are_killed_at_once_and_leave_nothing() {
    let count = |what: &str| fs::read_dir(format!("/proc/self/{what}")).unwrap().count();
    let cli_and_spin = [&[0xfa], SPIN].concat();
    let cli_and_halt = [0xfa, 0xf4, 0xeb, 0xfd];
    let before = (count("fd"), count("task"));
    for round in 0..20_u64 {
        let code: &[u8] = if round % 2 == 0 { &cli_and_spin } else { &cli_and_halt };
        let (machine, _folder) = start(code, 2);
        std::thread::sleep(Duration::from_millis(round * 2));
        let started = Instant::now();
        assert_eq!(machine.kill(), Exit::Killed);
        assert!(started.elapsed() < KILL_LIMIT, "{:?}", started.elapsed());
        assert_eq!(count("fd"), before.0, "descriptors while the handle lives");
    }
    // The supervisor makes the end known just before its thread ends.
    let patience = Instant::now() + Duration::from_secs(5);
    while count("task") > before.1 && Instant::now() < patience {
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!((count("fd"), count("task")), before);
}
