//! A device behind memory-mapped registers (virtio 1.2, 4.2), with one interrupt line.

use std::io;
use std::sync::Arc;

use kvm_ioctls::{IoEventAddress, VmFd};
use virtio_bindings::virtio_mmio as registers;

use super::control::{Control, set_high, set_low};
use super::interrupt::{LineInterrupt, USED_BUFFERS};
use crate::devices::{GuestMemory, VirtioDevice};
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

/// A device behind its registers.
#[derive(Debug)]
pub struct Transport {
    control: Control,
    interrupt: Arc<LineInterrupt>,
}

impl Transport {
    /// The registers of a device after a reset.
    ///
    /// # Errors
    /// Where no events can be made.
    pub fn new(device: Box<dyn VirtioDevice>, memory: GuestMemory) -> io::Result<Self> {
        let interrupt = Arc::new(LineInterrupt::new()?);
        let control = Control::new(device, memory, Arc::clone(&interrupt) as _)?;
        Ok(Self { control, interrupt })
    }

    /// Connects notifications, the interrupt line and its acknowledgment with KVM.
    ///
    /// # Errors
    /// [`KvmError::Call`].
    pub fn connect(&self, vm: &Arc<VmFd>, window: u64, line: u32) -> Result<(), KvmError> {
        let address = IoEventAddress::Mmio(window + u64::from(registers::VIRTIO_MMIO_QUEUE_NOTIFY));
        for (queue, event) in (0_u32..).zip(&self.control.notifications) {
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
            self.control.device.read_configuration(offset, data);
        } else if let (Ok(register), Ok(bytes)) =
            (u32::try_from(offset), <&mut [u8; 4]>::try_from(data))
        {
            *bytes = self.read_register(register).to_le_bytes();
        }
    }

    /// Carries out a write.
    pub fn write(&mut self, offset: u64, data: &[u8]) {
        if let Some(offset) = offset.checked_sub(CONFIGURATION) {
            self.control.device.write_configuration(offset, data);
        } else if let (Ok(register), Ok(bytes)) = (u32::try_from(offset), <[u8; 4]>::try_from(data))
        {
            self.write_register(register, u32::from_le_bytes(bytes));
        }
    }

    /// Stops the device and forgets what the driver said.
    fn reset(&mut self) {
        self.control.reset();
        self.interrupt.reset();
    }

    fn read_register(&self, register: u32) -> u32 {
        match register {
            registers::VIRTIO_MMIO_MAGIC_VALUE => MAGIC,
            registers::VIRTIO_MMIO_VERSION => VERSION,
            registers::VIRTIO_MMIO_DEVICE_ID => self.control.device.device_type(),
            registers::VIRTIO_MMIO_VENDOR_ID => VENDOR,
            registers::VIRTIO_MMIO_DEVICE_FEATURES => self.control.device_features(),
            registers::VIRTIO_MMIO_QUEUE_NUM_MAX => {
                self.control.selected().map_or(0, |queue| queue.maximum_size.into())
            }
            registers::VIRTIO_MMIO_QUEUE_READY => {
                self.control.selected().map_or(0, |queue| queue.ready.into())
            }
            registers::VIRTIO_MMIO_INTERRUPT_STATUS => self.interrupt.tell_status(),
            registers::VIRTIO_MMIO_STATUS => self.control.state.status,
            registers::VIRTIO_MMIO_SHM_LEN_LOW
            | registers::VIRTIO_MMIO_SHM_LEN_HIGH
            | registers::VIRTIO_MMIO_SHM_BASE_LOW
            | registers::VIRTIO_MMIO_SHM_BASE_HIGH => NO_REGION,
            registers::VIRTIO_MMIO_CONFIG_GENERATION => self.interrupt.generation(),
            _ => 0,
        }
    }

    fn write_register(&mut self, register: u32, value: u32) {
        let state = &mut self.control.state;
        match register {
            registers::VIRTIO_MMIO_DEVICE_FEATURES_SEL => state.device_features_page = value,
            registers::VIRTIO_MMIO_DRIVER_FEATURES_SEL => state.driver_features_page = value,
            registers::VIRTIO_MMIO_DRIVER_FEATURES => self.control.accept_features(value),
            registers::VIRTIO_MMIO_QUEUE_SEL => state.selected_queue = value,
            registers::VIRTIO_MMIO_QUEUE_NOTIFY => {
                // KVM signals the event itself; this is for a write it did not recognise.
                self.control.notify(value as usize);
            }
            registers::VIRTIO_MMIO_INTERRUPT_ACK => self.interrupt.acknowledge(value),
            registers::VIRTIO_MMIO_STATUS if value == 0 => self.reset(),
            registers::VIRTIO_MMIO_STATUS => self.control.set_status(value),
            _ => self.write_queue_register(register, value),
        }
    }

    fn write_queue_register(&mut self, register: u32, value: u32) {
        let Some(queue) = self.control.selected_mut() else { return };
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
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
