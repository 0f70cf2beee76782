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

use super::interrupt::LineInterrupt;
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

    /// Connects notifications and the interrupt line with KVM.
    ///
    /// # Errors
    /// [`KvmError::Call`].
    pub fn connect(&self, vm: &VmFd, window: u64, line: u32) -> Result<(), KvmError> {
        let address = IoEventAddress::Mmio(window + u64::from(registers::VIRTIO_MMIO_QUEUE_NOTIFY));
        for (queue, event) in (0_u32..).zip(&self.notifications) {
            vm.register_ioevent(event, &address, queue)
                .map_err(KvmError::call("connect a queue's notification"))?;
        }
        vm.register_irqfd(&self.interrupt.line, line)
            .map_err(KvmError::call("connect an interrupt line"))
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
            registers::VIRTIO_MMIO_INTERRUPT_STATUS => self.interrupt.status(),
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
mod tests {
    use std::sync::Mutex;

    use proptest::prelude::*;
    use vm_memory::{GuestAddress, GuestMemoryMmap};

    use super::*;
    use crate::devices::ActivationError;

    const VERSION_1: u64 = 1 << VIRTIO_F_VERSION_1;
    const ACKNOWLEDGE_AND_DRIVER: u32 = 3;

    /// What a [`Recorder`] was told.
    #[derive(Debug, Default)]
    struct Record {
        activations: Vec<(u64, Vec<(bool, u16)>)>,
        interrupt: Option<Arc<dyn Interrupt>>,
        resets: u32,
    }

    /// A device that only remembers.
    #[derive(Debug, Default)]
    struct Recorder {
        record: Arc<Mutex<Record>>,
        fails: bool,
    }

    impl VirtioDevice for Recorder {
        fn name(&self) -> &'static str {
            "recorder"
        }

        fn device_type(&self) -> u32 {
            42
        }

        fn queue_sizes(&self) -> &[u16] {
            &[64, 8]
        }

        fn features(&self) -> u64 {
            VERSION_1 | 0b101
        }

        fn read_configuration(&self, offset: u64, data: &mut [u8]) {
            data.fill(offset as u8);
        }

        fn write_configuration(&mut self, _offset: u64, _data: &[u8]) {}

        fn activate(&mut self, activation: Activation) -> Result<(), ActivationError> {
            let mut record = self.record.lock().unwrap();
            let queues = activation.queues.iter();
            let queues = queues.map(|active| (active.queue.ready(), active.queue.size())).collect();
            record.activations.push((activation.features, queues));
            record.interrupt = Some(activation.interrupt);
            if self.fails {
                let source = io::Error::other("no");
                return Err(ActivationError::Resources { device: "recorder", source });
            }
            Ok(())
        }

        fn reset(&mut self) {
            self.record.lock().unwrap().resets += 1;
        }
    }

    fn transport(device: Recorder) -> (Transport, Arc<Mutex<Record>>) {
        let record = Arc::clone(&device.record);
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x10000)]).unwrap();
        (Transport::new(Box::new(device), Arc::new(memory)).unwrap(), record)
    }

    fn write(transport: &mut Transport, register: u32, value: u32) {
        transport.write(register.into(), &value.to_le_bytes());
    }

    fn read(transport: &Transport, register: u32) -> u32 {
        let mut data = [0; 4];
        transport.read(register.into(), &mut data);
        u32::from_le_bytes(data)
    }

    /// Takes the driver's way up to `DRIVER_OK` with the first queue at `address`.
    fn drive(transport: &mut Transport, features: u64, address: u32) {
        write(transport, registers::VIRTIO_MMIO_STATUS, ACKNOWLEDGE_AND_DRIVER);
        for page in [0, 1] {
            write(transport, registers::VIRTIO_MMIO_DRIVER_FEATURES_SEL, page);
            let value = (features >> (32 * page)) as u32;
            write(transport, registers::VIRTIO_MMIO_DRIVER_FEATURES, value);
        }
        let status = ACKNOWLEDGE_AND_DRIVER | FEATURES_OK;
        write(transport, registers::VIRTIO_MMIO_STATUS, status);
        write(transport, registers::VIRTIO_MMIO_QUEUE_SEL, 0);
        write(transport, registers::VIRTIO_MMIO_QUEUE_NUM, 16);
        write(transport, registers::VIRTIO_MMIO_QUEUE_DESC_LOW, address);
        write(transport, registers::VIRTIO_MMIO_QUEUE_AVAIL_LOW, address + 0x400);
        write(transport, registers::VIRTIO_MMIO_QUEUE_USED_LOW, address + 0x800);
        write(transport, registers::VIRTIO_MMIO_QUEUE_READY, 1);
        write(transport, registers::VIRTIO_MMIO_STATUS, status | DRIVER_OK);
    }

    #[test]
    fn a_driver_finds_negotiates_starts_and_resets_the_device() {
        let (mut transport, record) = transport(Recorder::default());
        assert_eq!(read(&transport, registers::VIRTIO_MMIO_MAGIC_VALUE), MAGIC);
        assert_eq!(read(&transport, registers::VIRTIO_MMIO_VERSION), 2);
        assert_eq!(read(&transport, registers::VIRTIO_MMIO_DEVICE_ID), 42);
        assert_eq!(read(&transport, registers::VIRTIO_MMIO_QUEUE_NUM_MAX), 64);
        drive(&mut transport, VERSION_1 | 1, 0x1000);
        assert_eq!(read(&transport, registers::VIRTIO_MMIO_STATUS), 0xf);
        let expected = vec![(VERSION_1 | 1, vec![(true, 16), (false, 8)])];
        assert_eq!(record.lock().unwrap().activations, expected);

        record.lock().unwrap().interrupt.as_ref().unwrap().queue_used(0);
        assert_eq!(read(&transport, registers::VIRTIO_MMIO_INTERRUPT_STATUS), 1);
        assert_eq!(transport.interrupt.line.read().unwrap(), 1);
        write(&mut transport, registers::VIRTIO_MMIO_INTERRUPT_ACK, 1);
        assert_eq!(read(&transport, registers::VIRTIO_MMIO_INTERRUPT_STATUS), 0);

        write(&mut transport, registers::VIRTIO_MMIO_STATUS, 0);
        assert_eq!(record.lock().unwrap().resets, 1);
        assert_eq!(read(&transport, registers::VIRTIO_MMIO_QUEUE_READY), 0);
        drive(&mut transport, VERSION_1, 0x2000);
        assert_eq!(record.lock().unwrap().activations.len(), 2);
    }

    #[test]
    fn features_that_are_not_offered_or_the_legacy_interface_are_refused() {
        for features in [VERSION_1 | 2, 1] {
            let (mut transport, record) = transport(Recorder::default());
            drive(&mut transport, features, 0x1000);
            let status = read(&transport, registers::VIRTIO_MMIO_STATUS);
            assert_eq!(status & (FEATURES_OK | DRIVER_OK), 0);
            assert!(record.lock().unwrap().activations.is_empty());
        }
    }

    #[test]
    fn a_queue_outside_memory_or_a_failing_device_asks_for_a_reset() {
        for (address, fails) in
            [(0xfff0, false), (0x1001, false), (0xffff_f000, false), (0x1000, true)]
        {
            let (mut transport, record) = transport(Recorder { fails, ..Recorder::default() });
            drive(&mut transport, VERSION_1, address);
            let status = read(&transport, registers::VIRTIO_MMIO_STATUS);
            assert_ne!(status & NEEDS_RESET, 0, "{address:#x}");
            assert_eq!(record.lock().unwrap().activations.len(), usize::from(fails));
            assert_eq!(read(&transport, registers::VIRTIO_MMIO_INTERRUPT_STATUS), 2);
            write(&mut transport, registers::VIRTIO_MMIO_STATUS, 0);
            assert_eq!(read(&transport, registers::VIRTIO_MMIO_STATUS), 0);
        }
    }

    #[test]
    fn configuration_is_read_in_any_width_and_registers_only_in_words() {
        let (transport, _) = transport(Recorder::default());
        let mut byte = [0xff];
        transport.read(CONFIGURATION + 3, &mut byte);
        assert_eq!(byte, [3]);
        transport.read(0, &mut byte);
        assert_eq!(byte, [0]);
        assert_eq!(read(&transport, registers::VIRTIO_MMIO_SHM_LEN_LOW), u32::MAX);
    }

    proptest! {
        #[test]
        fn no_sequence_of_accesses_starts_a_device_twice_or_panics(
            accesses in prop::collection::vec(
                (0_u64..0x200, any::<u32>(), 0_usize..9, any::<bool>()), 0..200)
        ) {
            let (mut transport, record) = transport(Recorder::default());
            for (offset, value, width, is_write) in accesses {
                // Mostly the registers themselves and the values that matter.
                let (offset, value) =
                    if value & 1 == 0 { (offset & !3, value >> 28) } else { (offset, value) };
                let bytes = u64::from(value).to_le_bytes();
                let width = if value & 2 == 0 { 4 } else { width };
                if is_write {
                    transport.write(offset, &bytes[..width]);
                } else {
                    transport.read(offset, &mut [0; 8][..width]);
                }
                let record = record.lock().unwrap();
                let activations = record.activations.len() as u32;
                prop_assert!(activations - record.resets <= 1);
            }
        }
    }
}
