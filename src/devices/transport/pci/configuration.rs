//! The configuration space of a function (PCI Local Bus Specification 3.0, chapter 6).

use crate::devices::read_space;

/// Its length in bytes.
pub(super) const LENGTH: usize = 256;

/// Registers and the list of capabilities.
pub(super) const VENDOR: usize = 0x00;
pub(super) const DEVICE: usize = 0x02;
pub(super) const COMMAND: usize = 0x04;
pub(super) const STATUS: usize = 0x06;
pub(super) const REVISION: usize = 0x08;
/// Of three bytes: the interface, the subclass, the class.
pub(super) const CLASS: usize = 0x09;
pub(super) const BAR: usize = 0x10;
pub(super) const SUBSYSTEM_VENDOR: usize = 0x2c;
pub(super) const SUBSYSTEM: usize = 0x2e;
const CAPABILITIES: usize = 0x34;
/// Where the first capability can be.
const FIRST_CAPABILITY: usize = 0x40;

/// `COMMAND`: memory, and being a master; that line interrupts are off.
pub(super) const MEMORY: u16 = 1 << 1;
const MASTER: u16 = 1 << 2;
const NO_LINE: u16 = 1 << 10;
/// `STATUS`: there is a list of capabilities.
const HAS_CAPABILITIES: u16 = 1 << 4;

/// The bytes, and which of their bits can be written.
#[derive(Debug)]
pub(super) struct ConfigurationSpace {
    bytes: [u8; LENGTH],
    writable: [u8; LENGTH],
    /// Where the next capability goes, and where its place is to be noted.
    end: usize,
    link: usize,
}

impl ConfigurationSpace {
    /// Of a function of that vendor's, and of that class: interface, subclass and class.
    pub(super) fn new(vendor: u16, device: u16, class: [u8; 3]) -> Self {
        let (bytes, writable) = ([0; LENGTH], [0; LENGTH]);
        let mut space = Self { bytes, writable, end: FIRST_CAPABILITY, link: CAPABILITIES };
        space.set(VENDOR, &vendor.to_le_bytes());
        space.set(DEVICE, &device.to_le_bytes());
        space.set(CLASS, &class);
        space.allow(COMMAND, &(MEMORY | MASTER | NO_LINE).to_le_bytes());
        space
    }

    /// Sets bytes, whatever can be written.
    pub(super) fn set(&mut self, place: usize, bytes: &[u8]) {
        for (to, from) in self.bytes.iter_mut().skip(place).zip(bytes) {
            *to = *from;
        }
    }

    /// Lets these bits be written.
    pub(super) fn allow(&mut self, place: usize, bits: &[u8]) {
        for (to, from) in self.writable.iter_mut().skip(place).zip(bits) {
            *to = *from;
        }
    }

    /// Adds a capability without its first two bytes; gives its place.
    pub(super) fn add_capability(&mut self, kind: u8, content: &[u8]) -> usize {
        let place = self.end;
        self.set(self.link, &[place as u8]);
        self.set(place, &[kind, 0]);
        self.set(place + 2, content);
        self.set(STATUS, &HAS_CAPABILITIES.to_le_bytes());
        self.link = place + 1;
        self.end = (place + 2 + content.len()).next_multiple_of(4);
        debug_assert!(self.end <= LENGTH);
        place
    }

    /// Reads; bytes beyond the end are zero.
    pub(super) fn read(&self, place: usize, data: &mut [u8]) {
        read_space(&self.bytes, place as u64, data);
    }

    /// Writes what can be written.
    pub(super) fn write(&mut self, place: usize, data: &[u8]) {
        let bytes = self.bytes.iter_mut().zip(&self.writable).skip(place);
        for ((to, writable), from) in bytes.zip(data) {
            *to = (*to & !writable) | (from & writable);
        }
    }

    pub(super) fn word(&self, place: usize) -> u16 {
        let mut bytes = [0; 2];
        self.read(place, &mut bytes);
        u16::from_le_bytes(bytes)
    }

    pub(super) fn double_word(&self, place: usize) -> u32 {
        let mut bytes = [0; 4];
        self.read(place, &mut bytes);
        u32::from_le_bytes(bytes)
    }
}
