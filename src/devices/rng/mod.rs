//! Random bytes for the guest (virtio 1.2, section 5.4).

pub mod device;
pub mod state;
pub mod worker;
