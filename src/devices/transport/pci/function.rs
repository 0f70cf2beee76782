//! A virtio device as a function of PCI: its configuration space, and its registers in memory.

use std::io;
use std::sync::Arc;

use kvm_ioctls::{IoEventAddress, NoDatamatch, VmFd};

use super::configuration::{self, ConfigurationSpace};
use super::message::MessageInterrupt;
use crate::devices::transport::control::{Control, set_high, set_low};
use crate::devices::{GuestMemory, VirtioDevice, read_space};
use crate::vmm::kvm::KvmError;

/// The vendor, and the number of the first device (virtio 1.2, 4.1.2).
const VENDOR: u16 = 0x1af4;
const FIRST_DEVICE: u16 = 0x1040;
/// A transport without the legacy interface (4.1.2.1).
const REVISION: u8 = 1;

/// The parts of the registers, a page each.
const COMMON: u64 = 0x0000;
const REASON: u64 = 0x1000;
const SPECIFIC: u64 = 0x2000;
const NOTIFICATIONS: u64 = 0x3000;
const TABLE: u64 = 0x4000;
const PENDING: u64 = 0x5000;
const PART: u64 = 0x1000;
/// The size of all of them: a power of two.
pub(super) const SIZE: u32 = 0x8000;
/// The length of what all devices have in common (4.1.4.3).
const COMMON_LENGTH: u32 = 56;
/// How far the notifications of two queues are apart.
const APART: u32 = 4;

/// Capabilities (4.1.4): where the parts are.
const VENDOR_CAPABILITY: u8 = 0x09;
const COMMON_CAPABILITY: u8 = 1;
const NOTIFY_CAPABILITY: u8 = 2;
const REASON_CAPABILITY: u8 = 3;
const SPECIFIC_CAPABILITY: u8 = 4;
/// A window to all registers in the configuration space (4.1.4.9), and where in it the offset,
/// the length and the data are.
const WINDOW_CAPABILITY: u8 = 5;
const WINDOW_OFFSET: usize = 8;
const WINDOW_LENGTH: usize = 12;
const WINDOW_DATA: usize = 16;
/// MSI-X, and the bits of its control word.
const MESSAGE_CAPABILITY: u8 = 0x11;
const ENABLED: u16 = 1 << 15;
const MASKED: u16 = 1 << 14;

/// A device behind its function.
#[derive(Debug)]
pub(super) struct Function {
    control: Control,
    pub(super) interrupt: Arc<MessageInterrupt>,
    space: ConfigurationSpace,
    /// Where the capability of messages is.
    messages: usize,
    /// Where the window is.
    window: usize,
}

impl Function {
    /// The function of a device after a reset, with its registers at `place`.
    ///
    /// # Errors
    /// Where no events can be made.
    pub(super) fn new(
        device: Box<dyn VirtioDevice>,
        memory: GuestMemory,
        place: u32,
    ) -> io::Result<Self> {
        let queues = device.queue_sizes().len();
        let interrupt = Arc::new(MessageInterrupt::new(queues));
        // Numbers of devices are small.
        let number = device.device_type() as u16;
        let mut space = ConfigurationSpace::new(VENDOR, FIRST_DEVICE + number, class(number));
        space.set(configuration::REVISION, &[REVISION]);
        space.set(configuration::SUBSYSTEM_VENDOR, &VENDOR.to_le_bytes());
        space.set(configuration::SUBSYSTEM, &(FIRST_DEVICE + number).to_le_bytes());
        space.set(configuration::BAR, &place.to_le_bytes());
        space.allow(configuration::BAR, &(!(SIZE - 1)).to_le_bytes());
        let mut part = |kind: u8, offset: u64, length: u32, more: &[u8]| {
            // Its own length; the first BAR.
            let mut content = vec![16 + more.len() as u8, kind, 0, 0, 0, 0];
            content.extend((offset as u32).to_le_bytes());
            content.extend(length.to_le_bytes());
            content.extend(more);
            space.add_capability(VENDOR_CAPABILITY, &content)
        };
        let page = PART as u32;
        part(COMMON_CAPABILITY, COMMON, COMMON_LENGTH, &[]);
        part(NOTIFY_CAPABILITY, NOTIFICATIONS, page, &APART.to_le_bytes());
        part(REASON_CAPABILITY, REASON, 1, &[]);
        part(SPECIFIC_CAPABILITY, SPECIFIC, page, &[]);
        let window = part(WINDOW_CAPABILITY, 0, 0, &[0; 4]);
        space.allow(window + WINDOW_OFFSET, &[0xff; 8]);
        let mut content = (interrupt.len() as u16 - 1).to_le_bytes().to_vec();
        content.extend((TABLE as u32).to_le_bytes());
        content.extend((PENDING as u32).to_le_bytes());
        let messages = space.add_capability(MESSAGE_CAPABILITY, &content);
        space.allow(messages + 2, &(ENABLED | MASKED).to_le_bytes());
        let control = Control::new(device, memory, Arc::clone(&interrupt) as _)?;
        Ok(Self { control, interrupt, space, messages, window })
    }

    /// Connects notifications and messages with KVM.
    ///
    /// # Errors
    /// [`KvmError::Call`].
    pub(super) fn connect(&self, vm: &Arc<VmFd>) -> Result<(), KvmError> {
        let place = u64::from(self.place()) + NOTIFICATIONS;
        for (event, offset) in self.control.notifications.iter().zip((0..).step_by(APART as usize))
        {
            // Whatever is written: so KVM need not look at the instruction.
            vm.register_ioevent(event, &IoEventAddress::Mmio(place + offset), NoDatamatch)
                .map_err(KvmError::call("connect a queue's notification"))?;
        }
        let vm = Arc::downgrade(vm);
        self.interrupt.connect(Box::new(move |address, data| {
            if let Some(vm) = vm.upgrade() {
                let message = kvm_bindings::kvm_msi {
                    address_lo: address as u32,
                    address_hi: (address >> 32) as u32,
                    data,
                    ..Default::default()
                };
                // Fails for a message that is none: the driver's loss.
                let _ = vm.signal_msi(message);
            }
        }));
        Ok(())
    }

    /// Where the registers are.
    fn place(&self) -> u32 {
        self.space.double_word(configuration::BAR)
    }

    /// How far an address is into the registers, where they are in memory.
    pub(super) fn offset(&self, address: u64) -> Option<u64> {
        let on = self.space.word(configuration::COMMAND) & configuration::MEMORY != 0;
        let offset = address.checked_sub(self.place().into())?;
        (on && offset < SIZE.into()).then_some(offset)
    }

    /// Reads from the configuration space.
    pub(super) fn read_configuration(&self, place: usize, data: &mut [u8]) {
        self.space.read(place, data);
        if place == self.window + WINDOW_DATA
            && let Some((offset, length)) = self.behind_window()
            && let Some(data) = data.get_mut(..length)
        {
            self.read(offset, data);
        }
    }

    /// Writes to it.
    pub(super) fn write_configuration(&mut self, place: usize, data: &[u8]) {
        self.space.write(place, data);
        let control = self.space.word(self.messages + 2);
        self.interrupt.control(control & ENABLED != 0, control & MASKED != 0);
        if place == self.window + WINDOW_DATA
            && let Some((offset, length)) = self.behind_window()
            && let Some(data) = data.get(..length)
        {
            self.write(offset, data);
        }
    }

    /// The offset and the width of the register behind the window.
    fn behind_window(&self) -> Option<(u64, usize)> {
        let offset = self.space.double_word(self.window + WINDOW_OFFSET);
        let length = self.space.double_word(self.window + WINDOW_LENGTH);
        let fits = matches!(length, 1 | 2 | 4) && offset < SIZE && offset.is_multiple_of(length);
        fits.then_some((offset.into(), length as usize))
    }

    /// Reads from the registers.
    pub(super) fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        let place = offset % PART;
        match offset - place {
            COMMON => read_space(&self.common(), place, data),
            SPECIFIC => self.control.device.read_configuration(place, data),
            TABLE => self.interrupt.read_table(place, data),
            PENDING => read_space(&self.interrupt.pending().to_le_bytes(), place, data),
            // There is no interrupt that would have to tell its reason.
            _ => {}
        }
    }

    /// Writes to the registers.
    pub(super) fn write(&mut self, offset: u64, data: &[u8]) {
        let place = offset % PART;
        match offset - place {
            COMMON => self.write_common(place, data),
            SPECIFIC => self.control.device.write_configuration(place, data),
            TABLE => self.interrupt.write_table(place, data),
            // KVM does it itself, unless the registers were moved.
            NOTIFICATIONS => self.control.notify((place / u64::from(APART)) as usize),
            _ => {}
        }
    }

    /// The registers that all devices have (4.1.4.3).
    fn common(&self) -> [u8; COMMON_LENGTH as usize] {
        let state = &self.control.state;
        let chosen = state.selected_queue as usize;
        let mut bytes = [0; COMMON_LENGTH as usize];
        let mut put = |place: usize, value: &[u8]| {
            for (to, from) in bytes.iter_mut().skip(place).zip(value) {
                *to = *from;
            }
        };
        put(0, &state.device_features_page.to_le_bytes());
        put(4, &self.control.device_features().to_le_bytes());
        put(8, &state.driver_features_page.to_le_bytes());
        put(12, &self.control.driver_features().to_le_bytes());
        put(16, &self.interrupt.vector(None).to_le_bytes());
        put(18, &(state.queues.len() as u16).to_le_bytes());
        put(20, &[state.status as u8, self.interrupt.generation()]);
        put(22, &(chosen as u16).to_le_bytes());
        if let Some(queue) = self.control.selected() {
            put(24, &queue.size.to_le_bytes());
            put(26, &self.interrupt.vector(Some(chosen)).to_le_bytes());
            put(28, &u16::from(queue.ready).to_le_bytes());
            put(30, &(chosen as u16).to_le_bytes());
            put(32, &queue.descriptors.to_le_bytes());
            put(40, &queue.available.to_le_bytes());
            put(48, &queue.used.to_le_bytes());
        }
        bytes
    }

    fn write_common(&mut self, place: u64, data: &[u8]) {
        match *data {
            [value] if place == 20 => self.set_status(value),
            [low, high] => self.write_word(place, u16::from_le_bytes([low, high])),
            [a, b, c, d] => self.write_double_word(place, u32::from_le_bytes([a, b, c, d])),
            _ => {}
        }
    }

    fn set_status(&mut self, value: u8) {
        if value == 0 {
            self.control.reset();
            self.interrupt.reset();
        } else {
            self.control.set_status(value.into());
        }
    }

    fn write_word(&mut self, place: u64, value: u16) {
        let chosen = self.control.state.selected_queue as usize;
        match place {
            16 => self.interrupt.set_vector(None, value),
            22 => self.control.state.selected_queue = value.into(),
            26 => self.interrupt.set_vector(Some(chosen), value),
            24 | 28 => {
                if let Some(queue) = self.control.selected_mut() {
                    match place {
                        // One that does not fit is refused when the queue is used.
                        24 => queue.size = value,
                        _ => queue.ready = value == 1,
                    }
                }
            }
            _ => {}
        }
    }

    fn write_double_word(&mut self, place: u64, value: u32) {
        match place {
            0 => self.control.state.device_features_page = value,
            8 => self.control.state.driver_features_page = value,
            12 => self.control.accept_features(value),
            _ => {
                let Some(queue) = self.control.selected_mut() else { return };
                match place {
                    32 => set_low(&mut queue.descriptors, value),
                    36 => set_high(&mut queue.descriptors, value),
                    40 => set_low(&mut queue.available, value),
                    44 => set_high(&mut queue.available, value),
                    48 => set_low(&mut queue.used, value),
                    52 => set_high(&mut queue.used, value),
                    _ => {}
                }
            }
        }
    }
}

/// Interface, subclass and class of a virtio device of that number.
fn class(number: u16) -> [u8; 3] {
    match u32::from(number) {
        virtio_bindings::virtio_ids::VIRTIO_ID_NET => [0, 0, 0x02],
        _ => [0, 0, 0xff],
    }
}
