//! The console device. It offers one port and takes what the guest writes; nothing is
//! ever typed into it.

use std::sync::Arc;

use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};

use super::log::ConsoleLog;
use super::worker;
use crate::devices::worker::Worker;
use crate::devices::{Activation, ActivationError, VirtioDevice};

/// The virtio device id of a console.
const DEVICE_TYPE: u32 = 3;
/// One queue towards the guest, one from it.
const QUEUE_SIZES: [u16; 2] = [64, 256];

/// The console device.
#[derive(Debug)]
pub struct Console {
    log: Arc<ConsoleLog>,
    worker: Option<Worker>,
}

impl Console {
    /// A console that writes to `log`.
    pub fn new(log: Arc<ConsoleLog>) -> Self {
        Self { log, worker: None }
    }
}

impl VirtioDevice for Console {
    fn name(&self) -> &'static str {
        "console"
    }

    fn device_type(&self) -> u32 {
        DEVICE_TYPE
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn features(&self) -> u64 {
        (1 << VIRTIO_F_VERSION_1)
            | (1 << VIRTIO_RING_F_EVENT_IDX)
            | (1 << VIRTIO_RING_F_INDIRECT_DESC)
    }

    fn read_configuration(&self, _offset: u64, data: &mut [u8]) {
        // Neither a size nor several ports are offered.
        data.fill(0);
    }

    fn write_configuration(&mut self, _offset: u64, _data: &[u8]) {}

    fn activate(&mut self, activation: Activation) -> Result<(), ActivationError> {
        self.worker = Some(worker::start(activation, Arc::clone(&self.log))?);
        Ok(())
    }

    fn reset(&mut self) {
        self.worker = None;
    }
}
