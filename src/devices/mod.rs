//! The virtual machine's devices, one folder each.
//!
//! Every folder has the same files: `device.rs` (the [`VirtioDevice`] the transport
//! talks to), `worker.rs` (the thread that serves the queues), `state.rs` (what a
//! snapshot would hold, plain data) and what is the device's own beside them. A device
//! knows nothing of the transport that carries it: it sees queues, guest memory, and an
//! [`Interrupt`] to raise.

pub mod balloon;
pub mod buffers;
pub mod console;
pub mod net;
pub mod ring;
pub mod rng;
pub mod scsi;
#[cfg(test)]
pub mod testing;
pub mod transport;
pub mod vsock;
pub mod worker;

use std::fmt;
use std::sync::Arc;

use virtio_queue::Queue;
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::EventFd;

use self::ring::Ring;

/// The guest's memory as devices see it.
pub type GuestMemory = Arc<GuestMemoryMmap>;

/// How a device tells its driver that something happened.
pub trait Interrupt: fmt::Debug + Send + Sync {
    /// The configuration space changed.
    fn configuration_changed(&self);
    /// A queue has used buffers (the device has already asked
    /// `Queue::needs_notification`).
    fn queue_used(&self, queue: u16);
}

/// A queue that the driver has set up, and the event that says it has new buffers.
#[derive(Debug)]
pub struct ActiveQueue {
    /// The queue.
    pub queue: Queue,
    /// Signalled by KVM when the driver notifies the queue.
    pub notified: EventFd,
}

/// All that a device gets when its driver is ready.
#[derive(Debug)]
pub struct Activation {
    /// The guest's memory.
    pub memory: GuestMemory,
    /// One entry per queue of [`VirtioDevice::queue_sizes`]. Queues the driver did not
    /// make ready are present with `Queue::ready() == false`.
    pub queues: Vec<ActiveQueue>,
    /// How to reach the driver.
    pub interrupt: Arc<dyn Interrupt>,
    /// The features both sides agreed on.
    pub features: u64,
}

impl Activation {
    /// The queues as rings, in order, each with its notification.
    pub fn rings(self) -> impl Iterator<Item = (Ring, EventFd)> {
        let Self { memory, queues, interrupt, features } = self;
        queues.into_iter().zip(0..).map(move |(active, index)| {
            let (memory, interrupt) = (Arc::clone(&memory), Arc::clone(&interrupt));
            let ring = Ring::new(index, active.queue, memory, interrupt, features);
            (ring, active.notified)
        })
    }
}

/// Reads from a configuration space; bytes beyond it read zero.
pub fn read_space(space: &[u8], offset: u64, data: &mut [u8]) {
    data.fill(0);
    let bytes =
        usize::try_from(offset).ok().and_then(|offset| space.get(offset..)).unwrap_or_default();
    for (to, from) in data.iter_mut().zip(bytes) {
        *to = *from;
    }
}

/// Why a device could not start working.
#[derive(Debug, thiserror::Error)]
pub enum ActivationError {
    /// A thread or event could not be made.
    #[error("cannot start the {device} device")]
    Resources {
        /// The device's name.
        device: &'static str,
        /// Why.
        source: std::io::Error,
    },
}

/// A virtio 1.x device, free of any transport.
pub trait VirtioDevice: fmt::Debug + Send {
    /// The device's name in messages and thread names, e.g. `scsi`.
    fn name(&self) -> &'static str;
    /// The virtio device id (virtio 1.2, section 5).
    fn device_type(&self) -> u32;
    /// Whether it interrupts so often that what an interrupt costs the guest counts.
    fn is_busy(&self) -> bool {
        false
    }
    /// The largest size of each queue.
    fn queue_sizes(&self) -> &[u16];
    /// The features the device offers, `VIRTIO_F_VERSION_1` included.
    fn features(&self) -> u64;
    /// Reads from the device's configuration space; bytes beyond it read zero. All do where a
    /// device does not say otherwise.
    fn read_configuration(&self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }
    /// Writes to the configuration space; what cannot be written is ignored, by most devices
    /// all.
    fn write_configuration(&mut self, _offset: u64, _data: &[u8]) {}
    /// The driver is ready: start serving the queues.
    ///
    /// # Errors
    /// Where the device's worker cannot be started; the device then reports
    /// `DEVICE_NEEDS_RESET`.
    fn activate(&mut self, activation: Activation) -> Result<(), ActivationError>;
    /// The driver reset the device: stop serving, forget the queues. Called also when
    /// the VM ends; returns when no worker touches guest memory any more.
    fn reset(&mut self);
}
