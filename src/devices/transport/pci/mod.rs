//! Virtio over PCI (virtio 1.2, section 4.1), for devices with much to say.
//!
//! Behind memory-mapped registers a driver reads why it was interrupted and acknowledges it:
//! two ways out of the guest for each interrupt, one of them to this process. An interrupt by
//! message (MSI-X) says it by itself, one for each queue, and has neither.

pub mod bus;
mod configuration;
mod function;
mod message;
#[cfg(test)]
mod tests;
