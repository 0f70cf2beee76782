//! The threads on which the guest's processors run.
//!
//! A processor runs until the guest or the owner ends the machine. A thread inside KVM
//! is brought out by a signal whose handler does nothing; because a signal that arrives
//! just before the thread enters KVM is lost, [`stop`] repeats it until the thread has
//! ended.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use kvm_ioctls::{VcpuExit, VcpuFd};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::{Pid, gettid};
use vmm_sys_util::signal::{Killable, SIGRTMIN, register_signal_handler, unblock_signal};

use super::error::VmmError;
use super::exit::{Exit, ExitLatch};
use super::x86_64::ports;
use crate::devices::console::log::ConsoleLog;
use crate::devices::transport::bus::Bus;
use crate::devices::transport::pci::bus as pci;

/// How long [`stop`] waits between two signals.
const REPEAT: Duration = Duration::from_millis(1);

/// What all processors of a machine share.
#[derive(Debug)]
pub struct Shared {
    /// The devices' registers.
    pub bus: Bus,
    /// How the machine ended.
    pub exit: ExitLatch,
    /// The guest's console.
    pub log: Arc<ConsoleLog>,
    /// Set before the signals of [`stop`].
    pub stopping: AtomicBool,
    /// The processors' threads.
    pub threads: Mutex<Vec<Pid>>,
}

impl Shared {
    /// How long the processors have run, all together.
    pub fn processor_time(&self) -> Duration {
        let threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        // One that has ended has no clock any more.
        let times = threads.iter().filter_map(|thread| clock_gettime(clock_of(*thread)).ok());
        times.map(Duration::from).sum()
    }
}

/// The clock of the time that a thread has run (`CPUCLOCK_SCHED` with its number, as
/// pthread_getcpuclockid(3) makes it).
fn clock_of(thread: Pid) -> ClockId {
    ClockId::from_raw((!thread.as_raw() << 3) | 0b110)
}

/// The signal that brings a thread out of KVM.
fn kick_signal() -> libc::c_int {
    SIGRTMIN()
}

/// Does nothing: that a signal came is enough to leave KVM.
extern "C" fn on_kick(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}

/// Prepares the process for [`stop`], once.
///
/// # Errors
/// [`VmmError::Host`].
pub fn prepare_signals() -> Result<(), VmmError> {
    static REGISTERED: OnceLock<Result<(), i32>> = OnceLock::new();
    let registered = REGISTERED
        .get_or_init(|| register_signal_handler(kick_signal(), on_kick).map_err(|e| e.errno()));
    registered.map_err(|code| VmmError::Host {
        action: "register a signal handler",
        source: io::Error::from_raw_os_error(code),
    })
}

/// Lets [`stop`] reach the calling thread: threads inherit the mask of whoever made them.
pub fn allow_kicks() {
    // Fails only for a signal number that does not exist.
    let _ = unblock_signal(kick_signal());
}

/// Starts the thread of processor `number`.
///
/// # Errors
/// [`VmmError::Host`].
pub fn spawn(
    number: u32,
    mut vcpu: VcpuFd,
    shared: Arc<Shared>,
) -> Result<JoinHandle<()>, VmmError> {
    Builder::new()
        .name(format!("vcpu{number}"))
        .spawn(move || {
            allow_kicks();
            shared.threads.lock().unwrap_or_else(PoisonError::into_inner).push(gettid());
            if let Some(exit) = run(number, &mut vcpu, &shared) {
                shared.exit.set(exit);
            }
        })
        .map_err(|source| VmmError::Host { action: "start a processor's thread", source })
}

/// Brings the threads out of KVM and waits for their end.
pub fn stop(mut threads: Vec<JoinHandle<()>>, stopping: &AtomicBool) {
    stopping.store(true, Ordering::SeqCst);
    loop {
        for thread in threads.extract_if(.., |thread| thread.is_finished()) {
            // A thread that panicked has ended as well.
            let _ = thread.join();
        }
        if threads.is_empty() {
            return;
        }
        for thread in &threads {
            // A failure means that the thread has just ended.
            let _ = thread.kill(kick_signal());
        }
        std::thread::sleep(REPEAT);
    }
}

/// Runs a processor; `None` where it was told to stop.
fn run(number: u32, vcpu: &mut VcpuFd, shared: &Shared) -> Option<Exit> {
    while !shared.stopping.load(Ordering::SeqCst) {
        let exit = match vcpu.run() {
            Ok(exit) => handle(exit, shared),
            Err(error) => match error.errno() {
                libc::EINTR | libc::EAGAIN => None,
                _ => Some(format!("KVM_RUN: {error}")).map(|reason| Exit::Failure { reason }),
            },
        };
        match exit {
            None => {}
            Some(Exit::Failure { reason }) => {
                let place = vcpu.get_regs().map_or(0, |registers| registers.rip);
                let reason = format!("processor {number} at {place:#x}: {reason}");
                return Some(Exit::Failure { reason });
            }
            end => return end,
        }
    }
    None
}

/// Carries out what the guest asked for; gives the way the machine ends, if it does.
fn handle(exit: VcpuExit<'_>, shared: &Shared) -> Option<Exit> {
    let failure = |reason: String| Some(Exit::Failure { reason });
    match exit {
        VcpuExit::MmioRead(address, data) => {
            shared.bus.read(address, data);
            None
        }
        VcpuExit::MmioWrite(address, data) => {
            shared.bus.write(address, data);
            None
        }
        VcpuExit::IoIn(port @ pci::ADDRESS..=pci::LAST, data) => {
            shared.bus.pci.read_port(port, data);
            None
        }
        VcpuExit::IoOut(port @ pci::ADDRESS..=pci::LAST, data) => {
            shared.bus.pci.write_port(port, data);
            None
        }
        VcpuExit::IoIn(port, data) => {
            ports::read(port, data);
            None
        }
        VcpuExit::IoOut(port, data) => ports::write(port, data, &shared.log),
        VcpuExit::Hlt | VcpuExit::Intr | VcpuExit::IrqWindowOpen => None,
        // No kernel of ours resets this way, so that it has said nothing.
        VcpuExit::Shutdown => failure("triple fault".to_owned()),
        VcpuExit::SystemEvent(kind, _) => match kind {
            kvm_bindings::KVM_SYSTEM_EVENT_SHUTDOWN => Some(Exit::PowerOff),
            kvm_bindings::KVM_SYSTEM_EVENT_RESET | kvm_bindings::KVM_SYSTEM_EVENT_CRASH => {
                Some(Exit::Reset)
            }
            _ => failure(format!("system event {kind}")),
        },
        VcpuExit::FailEntry(reason, _) => failure(format!("entry failed with {reason:#x}")),
        VcpuExit::InternalError => failure("KVM could not emulate an instruction".to_owned()),
        VcpuExit::MemoryFault { gpa, .. } => failure(format!("memory fault at {gpa:#x}")),
        other => failure(format!("unexpected exit {other:?}")),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn the_time_of_a_thread_is_what_it_has_run() {
        let time = || Duration::from(clock_gettime(clock_of(gettid())).unwrap());
        let (before, started) = (time(), Instant::now());
        std::thread::sleep(Duration::from_millis(50));
        let asleep = time() - before;
        assert!(asleep < Duration::from_millis(40), "{asleep:?}");
        while time() - before < Duration::from_millis(60) {
            assert!(started.elapsed() < Duration::from_secs(60));
        }
    }
}
