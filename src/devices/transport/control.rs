//! What a driver says to a device, whatever registers it says it in: features, queues, and how
//! far it has come.
//!
//! The driver is a guest and may be hostile: anything may be said at any time. What the
//! specification does not allow in the present state is ignored, a queue that does not lie in
//! memory makes the device ask for a reset, and nothing is handed to the device before all of
//! it has been checked.

use std::io;
use std::sync::Arc;

use virtio_bindings::virtio_config::{
    VIRTIO_CONFIG_S_DRIVER_OK, VIRTIO_CONFIG_S_FEATURES_OK, VIRTIO_CONFIG_S_NEEDS_RESET,
    VIRTIO_F_VERSION_1,
};
use virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;
use virtio_queue::QueueT;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::state::{QueueRegisters, TransportState};
use crate::devices::{Activation, ActiveQueue, GuestMemory, Interrupt, VirtioDevice};

pub(super) const FEATURES_OK: u32 = VIRTIO_CONFIG_S_FEATURES_OK;
pub(super) const DRIVER_OK: u32 = VIRTIO_CONFIG_S_DRIVER_OK;
pub(super) const NEEDS_RESET: u32 = VIRTIO_CONFIG_S_NEEDS_RESET;

/// A device and what its driver has said.
#[derive(Debug)]
pub(super) struct Control {
    pub(super) device: Box<dyn VirtioDevice>,
    pub(super) state: TransportState,
    memory: GuestMemory,
    interrupt: Arc<dyn Interrupt>,
    /// One per queue, signalled when the driver notifies it.
    pub(super) notifications: Vec<EventFd>,
    /// Whether the device serves its queues.
    active: bool,
}

impl Control {
    /// A device after a reset.
    ///
    /// # Errors
    /// Where no events can be made.
    pub(super) fn new(
        device: Box<dyn VirtioDevice>,
        memory: GuestMemory,
        interrupt: Arc<dyn Interrupt>,
    ) -> io::Result<Self> {
        let notifications: io::Result<Vec<_>> =
            device.queue_sizes().iter().map(|_| EventFd::new(EFD_NONBLOCK)).collect();
        let state = fresh_state(device.as_ref());
        let notifications = notifications?;
        Ok(Self { device, state, memory, interrupt, notifications, active: false })
    }

    /// Stops the device and forgets what the driver said.
    pub(super) fn reset(&mut self) {
        if self.active {
            self.device.reset();
            self.active = false;
        }
        for event in &self.notifications {
            // Empties the counter; fails where it is empty.
            let _ = event.read();
        }
        self.state = fresh_state(self.device.as_ref());
    }

    /// The driver notifies a queue.
    pub(super) fn notify(&self, queue: usize) {
        if let Some(event) = self.notifications.get(queue) {
            let _ = event.write(1);
        }
    }

    /// The part of the device's features that the driver has chosen.
    pub(super) fn device_features(&self) -> u32 {
        page(self.device.features(), self.state.device_features_page)
    }

    /// The same of what the driver has accepted.
    pub(super) fn driver_features(&self) -> u32 {
        page(self.state.driver_features, self.state.driver_features_page)
    }

    /// The queue that the driver has chosen.
    pub(super) fn selected(&self) -> Option<&QueueRegisters> {
        self.state.queues.get(self.state.selected_queue as usize)
    }

    /// The same where it can be set up: between `FEATURES_OK` and `DRIVER_OK`.
    pub(super) fn selected_mut(&mut self) -> Option<&mut QueueRegisters> {
        if self.state.status & (FEATURES_OK | DRIVER_OK) != FEATURES_OK {
            return None;
        }
        self.state.queues.get_mut(self.state.selected_queue as usize)
    }

    /// Features can be chosen until the driver says that it has.
    pub(super) fn accept_features(&mut self, value: u32) {
        if self.state.status & FEATURES_OK != 0 {
            return;
        }
        let features = &mut self.state.driver_features;
        match self.state.driver_features_page {
            0 => set_low(features, value),
            1 => set_high(features, value),
            _ => {}
        }
    }

    /// Status bits are only ever added, except by a reset, which is the transport's as well.
    pub(super) fn set_status(&mut self, value: u32) {
        let mut added = value & 0xff & !self.state.status & !NEEDS_RESET;
        if added & FEATURES_OK != 0 && !self.features_acceptable() {
            added &= !FEATURES_OK;
        }
        let driver_ready = added & DRIVER_OK != 0;
        if driver_ready && (self.state.status | added) & FEATURES_OK == 0 {
            added &= !DRIVER_OK;
        }
        self.state.status |= added;
        if added & DRIVER_OK != 0 && !self.activate() {
            self.state.status |= NEEDS_RESET;
            self.interrupt.configuration_changed();
        }
    }

    /// Only offered features, and never the legacy interface.
    fn features_acceptable(&self) -> bool {
        let accepted = self.state.driver_features;
        accepted & !self.device.features() == 0 && accepted & (1 << VIRTIO_F_VERSION_1) != 0
    }

    /// Hands the queues to the device; `false` where they cannot be used.
    fn activate(&mut self) -> bool {
        let event_index = self.state.driver_features & (1 << VIRTIO_RING_F_EVENT_IDX) != 0;
        let mut queues = Vec::with_capacity(self.state.queues.len());
        for (registers, event) in self.state.queues.iter().zip(&self.notifications) {
            let (Ok(queue), Ok(notified)) = (registers.queue(event_index), event.try_clone())
            else {
                return false;
            };
            if registers.ready && !queue.is_valid(self.memory.as_ref()) {
                return false;
            }
            queues.push(ActiveQueue { queue, notified });
        }
        let interrupt = Arc::clone(&self.interrupt);
        let activation = Activation {
            memory: Arc::clone(&self.memory),
            queues,
            interrupt,
            features: self.state.driver_features,
        };
        // Also where it fails the device may have started something to be reset.
        self.active = true;
        self.device.activate(activation).is_ok()
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.reset();
    }
}

fn fresh_state(device: &dyn VirtioDevice) -> TransportState {
    TransportState {
        queues: device.queue_sizes().iter().map(|size| QueueRegisters::new(*size)).collect(),
        ..TransportState::default()
    }
}

/// 32 of the features.
fn page(features: u64, page: u32) -> u32 {
    match page {
        0 => features as u32,
        1 => (features >> 32) as u32,
        _ => 0,
    }
}

/// Sets the low half.
pub(super) fn set_low(address: &mut u64, value: u32) {
    *address = (*address & !u64::from(u32::MAX)) | u64::from(value);
}

/// Sets the high half.
pub(super) fn set_high(address: &mut u64, value: u32) {
    *address = (*address & u64::from(u32::MAX)) | (u64::from(value) << 32);
}
