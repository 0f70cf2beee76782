//! The memory balloon (virtio 1.2, section 5.5), for what its driver reports free: the host
//! gets that memory back and the guest keeps the right to it. The balloon itself stays empty.

pub mod device;
pub mod state;
pub mod worker;
