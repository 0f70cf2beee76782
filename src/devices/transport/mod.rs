//! How devices and their drivers meet: over memory-mapped registers ([`mmio`]), or over PCI
//! ([`pci`]) where a device has much to say.

pub mod bus;
mod control;
pub mod interrupt;
pub mod mmio;
pub mod pci;
pub mod state;
#[cfg(test)]
mod testing;
