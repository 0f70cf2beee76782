//! Finds out whether this machine's KVM can run a stock kernel, by letting it run a few
//! of a kernel's instructions.
//!
//! It takes milliseconds where KVM is real, and at most [`LIMIT`] where it is not.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use kvm_ioctls::{VcpuExit, VcpuFd};
use vm_memory::{GuestAddress, GuestMemoryMmap};

use super::error::VmmError;
use super::kvm::{self, KvmError};
use super::x86_64::probe_code;
use super::{memory, vcpu};

/// How long the guest may take. A real one is done in less than a millisecond.
pub const LIMIT: Duration = Duration::from_secs(2);

/// The most exits such a guest can cause before it is given up: it makes one.
const MAXIMUM_EXITS: u32 = 64;

/// Runs the guest.
///
/// # Errors
/// [`VmmError::Kvm`] with the reason why no virtual machine can run here.
pub fn run() -> Result<(), VmmError> {
    let kvm = kvm::open()?;
    vcpu::prepare_signals()?;
    let supported = kvm
        .get_supported_cpuid(kvm_bindings::KVM_MAX_CPUID_ENTRIES)
        .map_err(KvmError::call("tell the supported CPUID"))?;
    let vm = kvm.create_vm().map_err(KvmError::call("create a virtual machine"))?;
    let memory = memory::map(&[(GuestAddress(0), probe_code::MEMORY)])?;
    memory::register(&vm, &memory)?;
    probe_code::write(&memory, &supported).map_err(|error| VmmError::Memory {
        bytes: probe_code::MEMORY,
        reason: error.to_string(),
    })?;
    let processor = vm.create_vcpu(0).map_err(KvmError::call("create a virtual processor"))?;
    probe_code::set_up(&processor, &supported)?;
    let outcome = run_limited(processor)?;
    // The machine goes before its memory.
    drop::<(kvm_ioctls::VmFd, GuestMemoryMmap)>((vm, memory));
    outcome.map_err(|reason| KvmError::ParavirtualOnly { reason }.into())
}

/// Runs the processor on a thread of its own, for at most [`LIMIT`].
fn run_limited(mut processor: VcpuFd) -> Result<Result<(), String>, VmmError> {
    let stopping = Arc::new(AtomicBool::new(false));
    let (sender, receiver) = mpsc::channel();
    let thread = {
        let stopping = Arc::clone(&stopping);
        thread::Builder::new()
            .name("kvm-probe".to_owned())
            .spawn(move || {
                vcpu::allow_kicks();
                let outcome = run_processor(&mut processor, &stopping);
                // Nobody listens any more where the limit has passed.
                let _ = sender.send(outcome);
            })
            .map_err(|source| VmmError::Host { action: "start the probe's thread", source })?
    };
    let outcome = receiver.recv_timeout(LIMIT);
    vcpu::stop(vec![thread], &stopping);
    Ok(outcome.unwrap_or_else(|_| Err(format!("no answer within {} s", LIMIT.as_secs()))))
}

/// Runs the processor until it reports or stops making sense.
fn run_processor(processor: &mut VcpuFd, stopping: &AtomicBool) -> Result<(), String> {
    for _ in 0..MAXIMUM_EXITS {
        if stopping.load(Ordering::SeqCst) {
            break;
        }
        match processor.run() {
            Ok(VcpuExit::IoOut(probe_code::PORT, [probe_code::SUCCESS])) => return Ok(()),
            Ok(VcpuExit::IoOut(port, data)) => {
                return Err(format!("wrong answer {data:02x?} at port {port:#x}"));
            }
            Ok(VcpuExit::InternalError) => {
                return Err("KVM could not emulate an instruction".to_owned());
            }
            Ok(VcpuExit::Intr) => {}
            Ok(other) => return Err(format!("unexpected exit {other:?}")),
            Err(error) if error.errno() == libc::EINTR || error.errno() == libc::EAGAIN => {}
            Err(error) => return Err(error.to_string()),
        }
    }
    Err("no end".to_owned())
}
