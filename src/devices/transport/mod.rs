//! Virtio over memory-mapped registers (virtio 1.2, section 4.2).

pub mod bus;
pub mod interrupt;
pub mod mmio;
pub mod state;
