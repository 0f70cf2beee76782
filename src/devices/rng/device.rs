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

    fn activate(&mut self, activation: Activation) -> Result<(), ActivationError> {
        self.worker = Some(worker::start(activation)?);
        Ok(())
    }

    fn reset(&mut self) {
        self.worker = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::testing::Driver;

    #[test]
    fn buffers_come_back_full_of_different_bytes_and_never_more_than_the_limit() {
        let mut rng = Rng::default();
        let mut driver = Driver::new(&mut rng);
        let mut seen = Vec::new();
        for (wanted, given) in [(64, 64), (64, 64), (1 << 20, 4096)] {
            let buffer = driver.writable(wanted);
            let head = driver.queues[0].add(&[buffer]);
            driver.queues[0].notify();
            assert_eq!(driver.queues[0].wait_used(), (head, given));
            seen.push(driver.read(buffer.address, 64));
        }
        assert!(seen[0] != seen[1] && seen[1] != seen[2]);
        // 64 zero bytes do not happen.
        assert!(seen.iter().all(|bytes| bytes.iter().any(|byte| *byte != 0)));
        rng.reset();
    }
}
