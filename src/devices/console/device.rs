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

    fn activate(&mut self, activation: Activation) -> Result<(), ActivationError> {
        self.worker = Some(worker::start(activation, Arc::clone(&self.log))?);
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
    fn what_the_guest_writes_is_in_the_log_when_it_gets_its_buffer_back() {
        let folder = tempfile::tempdir().unwrap();
        let log = Arc::new(ConsoleLog::open(&folder.path().join("log")).unwrap());
        let mut console = Console::new(Arc::clone(&log));
        let mut driver = Driver::new(&mut console);
        let long = vec![b'x'; 10_000];
        let mut expected = Vec::new();
        for parts in [vec![&b"one "[..], &b"line\n"[..]], vec![&long], vec![&b"last"[..]]] {
            let buffers: Vec<_> = parts.iter().map(|part| driver.readable(part)).collect();
            let head = driver.queues[1].add(&buffers);
            driver.queues[1].notify();
            assert_eq!(driver.queues[1].wait_used(), (head, 0));
            expected.extend(parts.concat());
            assert_eq!(log.recent(), expected);
        }
        console.reset();
        log.close();
        assert_eq!(std::fs::read(folder.path().join("log")).unwrap(), expected);
    }

    #[test]
    fn a_buffer_that_the_device_should_write_is_given_back_and_does_no_harm() {
        let folder = tempfile::tempdir().unwrap();
        let log = Arc::new(ConsoleLog::open(&folder.path().join("log")).unwrap());
        let mut console = Console::new(Arc::clone(&log));
        let mut driver = Driver::new(&mut console);
        let buffer = driver.writable(100);
        let head = driver.queues[1].add(&[buffer]);
        driver.queues[1].notify();
        assert_eq!(driver.queues[1].wait_used(), (head, 0));
        assert!(log.recent().is_empty());
    }
}
