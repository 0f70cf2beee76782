//! The guest's console: the kernel's log, one way (virtio 1.2, section 5.3).

pub mod device;
pub mod log;
pub mod state;
pub mod worker;
