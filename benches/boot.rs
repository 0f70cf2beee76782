//! How long a machine takes from nothing to its first program, against QEMU's `microvm`.
//!
//! Same kernel, command line, memory, processors and initramfs, turn about, in one run.
//! QEMU is measured as it is, and without the legacy devices that it can leave out.
//! Two figures each: the whole, from the start of the process or the call to the end of
//! the machine, and the kernel's own clock when the first program runs. Arguments: the
//! kernel, then how many rounds (5), processors (1) and MiB of memory (512).
//! `benches/boot` runs it in the rig.

#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use wslr::vmm::command_line;
use wslr::vmm::exit::Exit;
use wslr::vmm::machine::{Configuration, VirtualMachine};

#[path = "../tests/support/tiny_init.rs"]
mod tiny_init;

/// QEMU's machine as it is.
const MICROVM: &str = "microvm";
/// QEMU's machine without what a Linux guest can do without.
const LEAN_MICROVM: &str = "microvm,pit=off,pic=off,rtc=off";

/// What all machines of a run share.
struct Setting {
    kernel: PathBuf,
    initramfs: Vec<u8>,
    command_line: String,
    processors: u32,
    mebibytes: u64,
    folder: tempfile::TempDir,
}

/// One start.
#[derive(Clone, Copy)]
struct Figures {
    whole: Duration,
    kernel: Duration,
}

fn main() {
    // `cargo bench` passes `--bench`.
    let arguments: Vec<String> =
        std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    let Some(kernel) = arguments.first() else {
        println!("boot: skipped, no kernel was named");
        return;
    };
    let number = |position: usize, default: u64| {
        arguments.get(position).map_or(default, |text| text.parse().unwrap())
    };
    let processors = number(2, 1) as u32;
    let setting = Setting {
        kernel: kernel.into(),
        initramfs: tiny_init::initramfs(),
        command_line: command_line::build(processors, false, "").unwrap(),
        processors,
        mebibytes: number(3, 512),
        folder: tempfile::tempdir().unwrap(),
    };
    let mut ours = Vec::new();
    let mut theirs = Vec::new();
    let mut lean = Vec::new();
    for _ in 0..number(1, 5) {
        ours.push(wslr(&setting));
        theirs.push(qemu(&setting, MICROVM));
        lean.push(qemu(&setting, LEAN_MICROVM));
    }
    report("wslr", &mut ours);
    report("qemu microvm", &mut theirs);
    report("qemu lean", &mut lean);
}

/// Prints the smallest and the middle of each figure.
fn report(name: &str, figures: &mut [Figures]) {
    let mut line = format!("{name:12}");
    for (what, figure) in [
        ("whole", (|one| one.whole) as fn(&Figures) -> Duration),
        ("kernel entry to init", |one| one.kernel),
    ] {
        let mut times: Vec<_> = figures.iter().map(figure).collect();
        times.sort();
        let middle = times[times.len() / 2];
        line.push_str(&format!("  {what}: median {middle:.3?}, best {:.3?}", times[0]));
    }
    println!("{line}");
}

/// The kernel's clock when the first program spoke.
fn kernel_time(log: &str) -> Duration {
    let line = log.lines().find(|line| line.contains(tiny_init::GREETING));
    let line = line.unwrap_or_else(|| unreachable!("the guest did not come up: {log}"));
    let seconds = line.trim_start_matches('[').split(']').next().unwrap();
    Duration::from_secs_f64(seconds.trim().parse().unwrap())
}

fn wslr(setting: &Setting) -> Figures {
    let log = setting.folder.path().join("kernel.log");
    let started = Instant::now();
    let machine = VirtualMachine::start(Configuration {
        kernel: setting.kernel.clone(),
        initramfs: setting.initramfs.clone(),
        command_line: setting.command_line.clone(),
        memory: setting.mebibytes << 20,
        processors: setting.processors,
        nested_virtualization: true,
        console_log: log.clone(),
        devices: Vec::new(),
    })
    .unwrap();
    let built = started.elapsed();
    assert_eq!(machine.wait(), Exit::PowerOff);
    let whole = started.elapsed();
    let kernel = kernel_time(&std::fs::read_to_string(log).unwrap());
    println!("wslr: {whole:.3?} ({built:.3?} until the kernel is entered), init at {kernel:.3?}");
    Figures { whole, kernel }
}

fn qemu(setting: &Setting, machine: &str) -> Figures {
    let initramfs = setting.folder.path().join("initramfs");
    std::fs::write(&initramfs, &setting.initramfs).unwrap();
    let started = Instant::now();
    let output = Command::new("qemu-system-x86_64")
        .args(["-M", machine, "-accel", "kvm", "-cpu", "host", "-nodefaults", "-no-reboot"])
        .args(["-nographic", "-serial", "stdio"])
        .args(["-smp", &setting.processors.to_string()])
        .args(["-m", &setting.mebibytes.to_string()])
        .args([Path::new("-kernel"), &setting.kernel, Path::new("-initrd"), &initramfs])
        .args(["-append", &setting.command_line])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let whole = started.elapsed();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let kernel = kernel_time(&String::from_utf8_lossy(&output.stdout));
    println!("{machine}: {whole:.3?}, init at {kernel:.3?}");
    Figures { whole, kernel }
}
