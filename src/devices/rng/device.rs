//! The random number generator.

use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;

use super::worker;
use crate::devices::worker::Worker;
use crate::devices::{Activation, ActivationError, VirtioDevice};

/// The virtio device id of an entropy source.
const DEVICE_TYPE: u32 = 4;
/// One queue of empty buffers.
const QUEUE_SIZES: [u16; 1] = [64];

/// The random number generator.
#[derive(Debug, Default)]
pub struct Rng {
    worker: Option<Worker>,
}

impl VirtioDevice for Rng {
    fn name(&self) -> &'static str {
        "rng"
    }

    fn device_type(&self) -> u32 {
        DEVICE_TYPE
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn features(&self) -> u64 {
        (1 << VIRTIO_F_VERSION_1) | (1 << VIRTIO_RING_F_EVENT_IDX)
    }

    fn read_configuration(&self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn write_configuration(&mut self, _offset: u64, _data: &[u8]) {}

    fn activate(&mut self, activation: Activation) -> Result<(), ActivationError> {
        self.worker = Some(worker::start(activation)?);
        Ok(())
    }

    fn reset(&mut self) {
        self.worker = None;
    }
}
