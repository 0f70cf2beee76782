//! The one interrupt of a memory-mapped device, and why it was raised.
//!
//! A driver reads why and acknowledges what it has read (virtio 1.2, 4.2.2 and 4.2.3.4). That
//! queues have used buffers, the most frequent reason by far, is forgotten when it is read:
//! so nothing is left to be done for the acknowledgment, which KVM can take without a way out
//! to this process.

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::devices::Interrupt;

/// `InterruptStatus`: a queue has used buffers.
pub const USED_BUFFERS: u32 = 1;
/// `InterruptStatus`: the configuration changed.
const CONFIGURATION: u32 = 2;

/// Lets a line rise and fall.
pub type Pulse = Box<dyn Fn() + Send + Sync>;

/// An edge-triggered interrupt line with its status and configuration generation.
pub struct LineInterrupt {
    /// What the driver reads as `InterruptStatus`.
    status: AtomicU32,
    /// What the driver reads as `ConfigGeneration`.
    generation: AtomicU32,
    /// The line, once it is connected. Held while it is up: another edge meanwhile is none.
    line: OnceLock<Mutex<Pulse>>,
    /// KVM signals this where the driver acknowledges used buffers; nobody listens.
    pub acknowledged: EventFd,
}

impl LineInterrupt {
    /// A line that is not connected yet.
    ///
    /// # Errors
    /// Where no event can be made.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            status: AtomicU32::new(0),
            generation: AtomicU32::new(0),
            line: OnceLock::new(),
            acknowledged: EventFd::new(EFD_NONBLOCK)?,
        })
    }

    /// Connects the line, once.
    pub fn connect(&self, pulse: Pulse) {
        let _ = self.line.set(Mutex::new(pulse));
    }

    /// Tells the driver why the line was raised since it last asked.
    pub fn tell_status(&self) -> u32 {
        self.status.fetch_and(!USED_BUFFERS, Ordering::SeqCst)
    }

    /// Counts changes of the configuration.
    pub fn generation(&self) -> u32 {
        self.generation.load(Ordering::SeqCst)
    }

    /// The driver has seen these reasons.
    pub fn acknowledge(&self, reasons: u32) {
        self.status.fetch_and(!reasons, Ordering::SeqCst);
    }

    /// Forgets all reasons.
    pub fn reset(&self) {
        self.status.store(0, Ordering::SeqCst);
    }

    fn raise(&self, reason: u32) {
        let before = self.status.fetch_or(reason, Ordering::SeqCst);
        // Of used buffers the driver has not read yet, though it was interrupted: it will, and
        // looks at its queues only then.
        if before & reason & USED_BUFFERS == 0
            && let Some(line) = self.line.get()
        {
            line.lock().unwrap_or_else(PoisonError::into_inner)();
        }
    }
}

impl fmt::Debug for LineInterrupt {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let status = &self.status;
        formatter.debug_struct("LineInterrupt").field("status", status).finish_non_exhaustive()
    }
}

impl Interrupt for LineInterrupt {
    fn configuration_changed(&self) {
        self.generation.fetch_add(1, Ordering::SeqCst);
        self.raise(CONFIGURATION);
    }

    fn queue_used(&self, _queue: u16) {
        self.raise(USED_BUFFERS);
    }
}
