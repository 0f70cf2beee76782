//! The register file of one device, and its driver's way through it.
//!
//! The driver is a guest and may be hostile: every register takes any value at any time.
//! What the specification does not allow in the present state is ignored, a queue that
//! does not lie in memory makes the device ask for a reset, and nothing is handed to the
//! device before all of it has been checked.

use std::io;
use std::sync::Arc;

use kvm_ioctls::{IoEventAddress, VmFd};
use virtio_bindings::virtio_config::{
    VIRTIO_CONFIG_S_DRIVER_OK, VIRTIO_CONFIG_S_FEATURES_OK, VIRTIO_CONFIG_S_NEEDS_RESET,
    VIRTIO_F_VERSION_1,
};
use virtio_bindings::virtio_mmio as registers;
use virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;
use virtio_queue::QueueT;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::interrupt::{LineInterrupt, USED_BUFFERS};
use super::state::{QueueRegisters, TransportState};
use crate::devices::{Activation, ActiveQueue, GuestMemory, Interrupt, VirtioDevice};
use crate::vmm::kvm::KvmError;

/// `MagicValue`: "virt".
const MAGIC: u32 = 0x7472_6976;
/// `Version`: not the legacy one.
const VERSION: u32 = 2;
/// `VendorID`: "WSLR".
const VENDOR: u32 = u32::from_le_bytes(*b"WSLR");
/// What `SHMLen` and `SHMBase` read as where there is no such region.
const NO_REGION: u32 = u32::MAX;
/// Where the device's own configuration space starts.
const CONFIGURATION: u64 = registers::VIRTIO_MMIO_CONFIG as u64;

const FEATURES_OK: u32 = VIRTIO_CONFIG_S_FEATURES_OK;
const DRIVER_OK: u32 = VIRTIO_CONFIG_S_DRIVER_OK;
const NEEDS_RESET: u32 = VIRTIO_CONFIG_S_NEEDS_RESET;

/// A device behind its registers.
#[derive(Debug)]
pub struct Transport {
    device: Box<dyn VirtioDevice>,
    state: TransportState,
    memory: GuestMemory,
    interrupt: Arc<LineInterrupt>,
    /// One per queue, signalled when the driver writes its number to `QueueNotify`.
    notifications: Vec<EventFd>,
    /// Whether the device serves its queues.
    active: bool,
}

impl Transport {
    /// The registers of a device after a reset.
    ///
    /// # Errors
    /// Where no events can be made.
    pub fn new(device: Box<dyn VirtioDevice>, memory: GuestMemory) -> io::Result<Self> {
        let notifications: io::Result<Vec<_>> =
            device.queue_sizes().iter().map(|_| EventFd::new(EFD_NONBLOCK)).collect();
        let state = fresh_state(device.as_ref());
        Ok(Self {
            device,
            state,
            memory,
            interrupt: Arc::new(LineInterrupt::new()?),
            notifications: notifications?,
            active: false,
        })
    }

    /// Connects notifications, the interrupt line and its acknowledgment with KVM.
    ///
    /// # Errors
    /// [`KvmError::Call`].
    pub fn connect(&self, vm: &Arc<VmFd>, window: u64, line: u32) -> Result<(), KvmError> {
        let address = IoEventAddress::Mmio(window + u64::from(registers::VIRTIO_MMIO_QUEUE_NOTIFY));
        for (queue, event) in (0_u32..).zip(&self.notifications) {
            vm.register_ioevent(event, &address, queue)
                .map_err(KvmError::call("connect a queue's notification"))?;
        }
        let address =
            IoEventAddress::Mmio(window + u64::from(registers::VIRTIO_MMIO_INTERRUPT_ACK));
        vm.register_ioevent(&self.interrupt.acknowledged, &address, USED_BUFFERS)
            .map_err(KvmError::call("connect an interrupt's acknowledgment"))?;
        let vm = Arc::downgrade(vm);
        self.interrupt.connect(Box::new(move || {
            // An event for KVM would do as well, but KVM carries that out in a thread of its
            // own, which has to be woken each time.
            if let Some(vm) = vm.upgrade() {
                for level in [true, false] {
                    // Neither can fail for a line that there is.
                    let _ = vm.set_irq_line(line, level);
                }
            }
        }));
        Ok(())
    }

    /// Carries out a read of `data.len()` bytes.
    pub fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        if let Some(offset) = offset.checked_sub(CONFIGURATION) {
            self.device.read_configuration(offset, data);
        } else if let (Ok(register), Ok(bytes)) =
            (u32::try_from(offset), <&mut [u8; 4]>::try_from(data))
        {
            *bytes = self.read_register(register).to_le_bytes();
        }
    }

    /// Carries out a write.
    pub fn write(&mut self, offset: u64, data: &[u8]) {
        if let Some(offset) = offset.checked_sub(CONFIGURATION) {
            self.device.write_configuration(offset, data);
        } else if let (Ok(register), Ok(bytes)) = (u32::try_from(offset), <[u8; 4]>::try_from(data))
        {
            self.write_register(register, u32::from_le_bytes(bytes));
        }
    }

    /// Stops the device and forgets what the driver said.
    pub fn reset(&mut self) {
        if self.active {
            self.device.reset();
            self.active = false;
        }
        for event in &self.notifications {
            // Empties the counter; fails where it is empty.
            let _ = event.read();
        }
        self.state = fresh_state(self.device.as_ref());
        self.interrupt.reset();
    }

    fn selected(&self) -> Option<&QueueRegisters> {
        self.state.queues.get(self.state.selected_queue as usize)
    }

    fn read_register(&self, register: u32) -> u32 {
        match register {
            registers::VIRTIO_MMIO_MAGIC_VALUE => MAGIC,
            registers::VIRTIO_MMIO_VERSION => VERSION,
            registers::VIRTIO_MMIO_DEVICE_ID => self.device.device_type(),
            registers::VIRTIO_MMIO_VENDOR_ID => VENDOR,
            registers::VIRTIO_MMIO_DEVICE_FEATURES => match self.state.device_features_page {
                0 => self.device.features() as u32,
                1 => (self.device.features() >> 32) as u32,
                _ => 0,
            },
            registers::VIRTIO_MMIO_QUEUE_NUM_MAX => {
                self.selected().map_or(0, |queue| queue.maximum_size.into())
            }
            registers::VIRTIO_MMIO_QUEUE_READY => {
                self.selected().map_or(0, |queue| queue.ready.into())
            }
            registers::VIRTIO_MMIO_INTERRUPT_STATUS => self.interrupt.tell_status(),
            registers::VIRTIO_MMIO_STATUS => self.state.status,
            registers::VIRTIO_MMIO_SHM_LEN_LOW
            | registers::VIRTIO_MMIO_SHM_LEN_HIGH
            | registers::VIRTIO_MMIO_SHM_BASE_LOW
            | registers::VIRTIO_MMIO_SHM_BASE_HIGH => NO_REGION,
            registers::VIRTIO_MMIO_CONFIG_GENERATION => self.interrupt.generation(),
            _ => 0,
        }
    }

    fn write_register(&mut self, register: u32, value: u32) {
        match register {
            registers::VIRTIO_MMIO_DEVICE_FEATURES_SEL => self.state.device_features_page = value,
            registers::VIRTIO_MMIO_DRIVER_FEATURES_SEL => self.state.driver_features_page = value,
            registers::VIRTIO_MMIO_DRIVER_FEATURES => self.accept_features(value),
            registers::VIRTIO_MMIO_QUEUE_SEL => self.state.selected_queue = value,
            registers::VIRTIO_MMIO_QUEUE_NOTIFY => {
                // KVM signals the event itself; this is for a write it did not recognise.
                if let Some(event) = self.notifications.get(value as usize) {
                    let _ = event.write(1);
                }
            }
            registers::VIRTIO_MMIO_INTERRUPT_ACK => self.interrupt.acknowledge(value),
            registers::VIRTIO_MMIO_STATUS => self.set_status(value),
            _ => self.write_queue_register(register, value),
        }
    }

    /// Features can be chosen until the driver says that it has.
    fn accept_features(&mut self, value: u32) {
        if self.state.status & FEATURES_OK != 0 {
            return;
        }
        let features = &mut self.state.driver_features;
        match self.state.driver_features_page {
            0 => *features = (*features & !u64::from(u32::MAX)) | u64::from(value),
            1 => *features = (*features & u64::from(u32::MAX)) | (u64::from(value) << 32),
            _ => {}
        }
    }

    /// Queues can be set up between `FEATURES_OK` and `DRIVER_OK`.
    fn write_queue_register(&mut self, register: u32, value: u32) {
        if self.state.status & (FEATURES_OK | DRIVER_OK) != FEATURES_OK {
            return;
        }
        let Some(queue) = self.state.queues.get_mut(self.state.selected_queue as usize) else {
            return;
        };
        match register {
            registers::VIRTIO_MMIO_QUEUE_NUM => {
                // A size that does not fit is refused when the queue is used.
                queue.size = u16::try_from(value).unwrap_or(0);
            }
            registers::VIRTIO_MMIO_QUEUE_READY => queue.ready = value == 1,
            registers::VIRTIO_MMIO_QUEUE_DESC_LOW => set_low(&mut queue.descriptors, value),
            registers::VIRTIO_MMIO_QUEUE_DESC_HIGH => set_high(&mut queue.descriptors, value),
            registers::VIRTIO_MMIO_QUEUE_AVAIL_LOW => set_low(&mut queue.available, value),
            registers::VIRTIO_MMIO_QUEUE_AVAIL_HIGH => set_high(&mut queue.available, value),
            registers::VIRTIO_MMIO_QUEUE_USED_LOW => set_low(&mut queue.used, value),
            registers::VIRTIO_MMIO_QUEUE_USED_HIGH => set_high(&mut queue.used, value),
            _ => {}
        }
    }

    /// Status bits are only ever added, except by a reset.
    fn set_status(&mut self, value: u32) {
        if value == 0 {
            self.reset();
            return;
        }
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
        let interrupt: Arc<dyn Interrupt> = Arc::clone(&self.interrupt) as _;
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

impl Drop for Transport {
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

fn set_low(address: &mut u64, value: u32) {
    *address = (*address & !u64::from(u32::MAX)) | u64::from(value);
}

fn set_high(address: &mut u64, value: u32) {
    *address = (*address & u64::from(u32::MAX)) | (u64::from(value) << 32);
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
