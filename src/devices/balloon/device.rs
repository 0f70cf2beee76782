//! The balloon.

use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;

use super::worker;
use crate::devices::worker::Worker;
use crate::devices::{Activation, ActivationError, VirtioDevice};

/// The virtio device id of a memory balloon.
const DEVICE_TYPE: u32 = 5;

/// `VIRTIO_BALLOON_F_REPORTING`.
const REPORTING: u32 = 5;

/// Inflate, deflate, and those for statistics, hints and reports. Without the features of
/// statistics and hints the last is number 4 by the specification, and number 2 for drivers
/// that count only the queues there are; whichever is used is the one for reports. A driver
/// reports up to 32 ranges at once.
const QUEUE_SIZES: [u16; 5] = [64; 5];

/// The first queue that can be the one for reports.
pub const FIRST_REPORTING: usize = 2;

/// The balloon. Its configuration space is zero: no pages are wanted in it, and none are.
#[derive(Debug, Default)]
pub struct Balloon {
    worker: Option<Worker>,
}

impl VirtioDevice for Balloon {
    fn name(&self) -> &'static str {
        "balloon"
    }

    fn device_type(&self) -> u32 {
        DEVICE_TYPE
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn features(&self) -> u64 {
        (1 << VIRTIO_F_VERSION_1) | (1 << VIRTIO_RING_F_EVENT_IDX) | (1 << REPORTING)
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
    use vm_memory::{Bytes as _, GuestAddress};

    use super::*;
    use crate::devices::testing::{Buffer, Driver, MEMORY};

    /// The bytes of a range whose pages begin with what was written there.
    fn kept(driver: &Driver, address: u64, length: u64) -> usize {
        let first = |page| driver.memory.read_obj::<u8>(GuestAddress(page)).unwrap();
        (address..address + length).step_by(4096).filter(|page| first(*page) != 0).count() * 4096
    }

    #[test]
    fn b136_what_is_reported_free_is_given_back_and_nothing_else() {
        const LENGTH: u64 = 8 << 20;
        for queue in [2, 4] {
            let mut balloon = Balloon::default();
            let mut driver = Driver::new(&mut balloon);
            let start = 16 << 20;
            driver.write(start, &vec![0x5a; LENGTH as usize]);
            let free = |offset: u64, length: u64| Buffer {
                address: start + offset,
                length: length as u32,
                writable: true,
            };
            // Two ranges and one with no whole page in it; parts of pages stay.
            let ranges = [free(0, 2 << 20), free((4 << 20) + 100, 1 << 20), free(200, 300)];
            let head = driver.queues[queue].add(&ranges);
            driver.queues[queue].notify();
            assert_eq!(driver.queues[queue].wait_used(), (head, 0));
            assert_eq!(kept(&driver, start, 2 << 20), 0);
            assert_eq!(kept(&driver, start + (2 << 20), 2 << 20), 2 << 20);
            assert_eq!(driver.read(start + (4 << 20), 101), [0x5a; 101]);
            assert_eq!(driver.read(start + (4 << 20) + 4096, 1), [0]);
            let last = start + (5 << 20);
            assert_eq!(driver.read(last - 1, 1), [0]);
            assert_eq!(driver.read(last, 100), [0x5a; 100]);
            assert_eq!(kept(&driver, last, LENGTH - (5 << 20)), 3 << 20);
            balloon.reset();
        }
    }

    #[test]
    fn what_is_not_guest_memory_or_not_asked_for_changes_nothing() {
        let mut balloon = Balloon::default();
        let mut driver = Driver::new(&mut balloon);
        let start = 16 << 20;
        driver.write(start, &[0x5a; 8192]);
        let page = |address| Buffer { address, length: 8192, writable: true };
        let readable = Buffer { writable: false, ..page(start) };
        // A list of pages, a range beyond the end, one that wraps, one the device may only
        // read; the whole chain is left alone.
        let chains = [
            (0, vec![readable]),
            (1, vec![page(start)]),
            (2, vec![page(start), page(MEMORY as u64 - 4096)]),
            (2, vec![page(start), page(u64::MAX - 4095)]),
            (2, vec![page(start), Buffer { length: u32::MAX - 8192, ..page(start) }]),
            (2, vec![readable]),
        ];
        for (queue, buffers) in chains {
            let head = driver.queues[queue].add(&buffers);
            driver.queues[queue].notify();
            assert_eq!(driver.queues[queue].wait_used(), (head, 0));
            assert!(driver.read(start, 8192).iter().all(|byte| *byte == 0x5a));
        }
        balloon.reset();
    }
}
