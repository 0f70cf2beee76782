//! The few I/O ports of the platform: power, reset, and an output for early words.
//!
//! Power and reset are the registers that ACPI's reduced hardware model names (ACPI 6.5,
//! 4.8.3.7 and 4.8.3.6); [`super::acpi`] tells the kernel where they are.

use crate::devices::console::log::ConsoleLog;
use crate::vmm::exit::Exit;

/// The sleep control register.
pub const SLEEP_CONTROL: u16 = 0x600;
/// The sleep status register.
pub const SLEEP_STATUS: u16 = 0x601;
/// The reset register.
pub const RESET: u16 = 0x602;
/// The value that resets.
pub const RESET_VALUE: u8 = 1;
/// The sleep type that means off (`_S5`).
pub const SLEEP_TYPE_OFF: u8 = 5;

/// `SLP_EN` of the sleep control register.
const SLEEP_ENABLE: u8 = 1 << 5;
/// Where `SLP_TYP` is in it.
const SLEEP_TYPE_SHIFT: u8 = 2;

/// A 16550's data register, where the kernel's `earlycon` writes.
const SERIAL_DATA: u16 = 0x3f8;
/// A 16550's line status register.
const SERIAL_LINE_STATUS: u16 = 0x3fd;
/// Line status: the transmitter is empty, in both its meanings.
const SERIAL_EMPTY: u8 = 0x60;
/// What a port without anything behind it reads as.
const NOTHING: u8 = 0xff;

/// Carries out a write. A port that ends the machine gives the way it ends.
pub fn write(port: u16, data: &[u8], log: &ConsoleLog) -> Option<Exit> {
    let value = data.first().copied()?;
    match port {
        SLEEP_CONTROL if value == (SLEEP_TYPE_OFF << SLEEP_TYPE_SHIFT) | SLEEP_ENABLE => {
            Some(Exit::PowerOff)
        }
        RESET if value == RESET_VALUE => Some(Exit::Reset),
        SERIAL_DATA => {
            log.write(data);
            None
        }
        _ => None,
    }
}

/// Carries out a read.
pub fn read(port: u16, data: &mut [u8]) {
    data.fill(match port {
        SERIAL_LINE_STATUS => SERIAL_EMPTY,
        SLEEP_CONTROL | SLEEP_STATUS | RESET => 0,
        _ => NOTHING,
    });
}
