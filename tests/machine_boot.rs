//! Boots real kernels in real virtual machines, over the library's own interface.
//!
//! Needs a KVM that runs stock kernels and a folder with a kernel (`vmlinux`, `vmlinuz`)
//! and an initramfs (`initramfs.cpio`) that loads the kernel's modules, prints
//! `sample-init: up` and powers off, named by `WSLR_TEST_KERNEL`. The rig runs it with
//! `--ignored`.

#![allow(clippy::expect_used, clippy::unwrap_used)]

use std::path::PathBuf;
use std::time::{Duration, Instant};

use wslr::vmm::exit::Exit;
use wslr::vmm::machine::{Configuration, VirtualMachine};
use wslr::vmm::x86_64::state::ProcessorState;
use wslr::vmm::{command_line, probe};

#[path = "support/tiny_init.rs"]
mod tiny_init;

/// How long a kill may take: a fraction of a second, where the host is not overloaded.
const KILL_LIMIT: Duration = Duration::from_secs(3);

/// What the initramfs with modules prints when it is up.
const SAMPLE_GREETING: &str = "sample-init: up";

/// The folder with the kernel.
fn folder() -> PathBuf {
    PathBuf::from(std::env::var_os("WSLR_TEST_KERNEL").expect("WSLR_TEST_KERNEL is not set"))
}

/// A guest and where its log goes.
struct Guest {
    configuration: Configuration,
    log: tempfile::TempDir,
}

impl Guest {
    fn new(kernel: &str, processors: u32, words: &str) -> Self {
        let log = tempfile::tempdir().unwrap();
        let configuration = Configuration {
            kernel: folder().join(kernel),
            initramfs: tiny_init::initramfs(),
            command_line: command_line::build(processors, false, words).unwrap(),
            memory: 512 << 20,
            processors,
            nested_virtualization: true,
            console_log: log.path().join("kernel.log"),
            devices: Vec::new(),
        };
        Self { configuration, log }
    }

    /// Runs it to its end; returns that and the kernel's log.
    fn run(self) -> (Exit, String) {
        let started = Instant::now();
        let machine = VirtualMachine::start(self.configuration).unwrap();
        let built = started.elapsed();
        let exit = machine.wait();
        let log = std::fs::read(self.log.path().join("kernel.log")).unwrap();
        let log = String::from_utf8_lossy(&log).into_owned();
        println!("built in {built:?}, ended after {:?}: {exit}", started.elapsed());
        println!("{log}");
        (exit, log)
    }
}

#[test]
#[ignore = "needs a KVM that boots stock kernels"]
fn the_probe_says_yes_within_a_second() {
    let started = Instant::now();
    probe::run().unwrap();
    println!("probed in {:?}", started.elapsed());
    assert!(started.elapsed() < Duration::from_secs(1));
}

#[test]
#[ignore = "needs a KVM that boots stock kernels"]
fn a_processors_state_can_be_written_and_read() {
    let kvm = wslr::vmm::kvm::open().unwrap();
    let vm = kvm.create_vm().unwrap();
    vm.create_irq_chip().unwrap();
    let vcpu = vm.create_vcpu(0).unwrap();
    let supported = kvm.get_supported_cpuid(kvm_bindings::KVM_MAX_CPUID_ENTRIES).unwrap();
    vcpu.set_cpuid2(&supported).unwrap();
    let state = ProcessorState::read(&vcpu, &kvm.get_msr_index_list().unwrap()).unwrap();
    let bytes = postcard::to_stdvec(&state).unwrap();
    let back: ProcessorState = postcard::from_bytes(&bytes).unwrap();
    assert_eq!(back.registers, state.registers);
    assert_eq!(back.model_specific, state.model_specific);
    assert!(back.model_specific.len() > 10);
    assert_eq!(postcard::to_stdvec(&back).unwrap(), bytes);
}

#[test]
#[ignore = "needs a KVM that boots stock kernels"]
fn a_vmlinux_boots_to_its_init_and_powers_off() {
    let (exit, log) = Guest::new("vmlinux", 1, "").run();
    assert_eq!(exit, Exit::PowerOff);
    assert!(log.contains(tiny_init::GREETING));
}

#[test]
#[ignore = "needs a KVM that boots stock kernels"]
fn the_virtio_drivers_find_their_devices_and_the_console_changes_hands() {
    let mut guest = Guest::new("vmlinux", 1, "loglevel=7");
    guest.configuration.initramfs = std::fs::read(folder().join("initramfs.cpio")).unwrap();
    let (exit, log) = guest.run();
    assert_eq!(exit, Exit::PowerOff);
    assert!(log.contains("console [hvc0] enabled"));
    assert!(log.contains("bootconsole [uart8250] disabled"));
    assert!(log.contains(SAMPLE_GREETING));
}

#[test]
#[ignore = "needs a KVM that boots stock kernels"]
fn a_bzimage_boots_too() {
    let (exit, log) = Guest::new("vmlinuz", 1, "").run();
    assert_eq!(exit, Exit::PowerOff);
    assert!(log.contains(tiny_init::GREETING));
}

#[test]
#[ignore = "needs a KVM that boots stock kernels"]
fn two_processors_and_memory_beyond_four_gigabytes_come_up() {
    let mut guest = Guest::new("vmlinux", 2, "loglevel=7");
    guest.configuration.memory = 5 << 30;
    let (exit, log) = guest.run();
    assert_eq!(exit, Exit::PowerOff);
    assert!(log.contains(tiny_init::GREETING));
    assert!(log.contains("smp: Brought up 1 node, 2 CPUs"));
    assert!(log.contains("node   0: [mem 0x0000000100000000-0x000000017fffffff]"));
}

#[test]
#[ignore = "needs a KVM that boots stock kernels"]
fn a_panic_is_a_reset_and_its_words_are_in_the_log() {
    let (exit, log) = Guest::new("vmlinux", 1, "rdinit=/missing").run();
    assert_eq!(exit, Exit::Reset);
    assert!(log.contains("Kernel panic - not syncing"));
}

#[test]
#[ignore = "needs a KVM that boots stock kernels"]
fn a_machine_is_killed_at_once_whatever_its_guest_does() {
    for wait in [0, 100, 1500] {
        let guest = Guest::new("vmlinux", 2, "");
        let machine = VirtualMachine::start(guest.configuration).unwrap();
        std::thread::sleep(Duration::from_millis(wait));
        let started = Instant::now();
        assert_eq!(machine.kill(), Exit::Killed);
        println!("killed in {:?}", started.elapsed());
        assert!(started.elapsed() < KILL_LIMIT);
        assert_eq!(machine.exit(), Some(Exit::Killed));
    }
}
