//! A device that remembers what its transport told it.

#![allow(missing_docs)]

use std::io;
use std::sync::{Arc, Mutex};

use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_queue::QueueT as _;

use crate::devices::{Activation, ActivationError, Interrupt, VirtioDevice};

const VERSION_1: u64 = 1 << VIRTIO_F_VERSION_1;

/// What a [`Recorder`] was told.
#[derive(Debug, Default)]
pub struct Record {
    pub activations: Vec<(u64, Vec<(bool, u16)>)>,
    pub interrupt: Option<Arc<dyn Interrupt>>,
    pub resets: u32,
}

/// A device that only remembers.
#[derive(Debug, Default)]
pub struct Recorder {
    pub record: Arc<Mutex<Record>>,
    pub fails: bool,
}

impl VirtioDevice for Recorder {
    fn name(&self) -> &'static str {
        "recorder"
    }

    fn device_type(&self) -> u32 {
        42
    }

    fn queue_sizes(&self) -> &[u16] {
        &[64, 8]
    }

    fn features(&self) -> u64 {
        VERSION_1 | 0b101
    }

    fn read_configuration(&self, offset: u64, data: &mut [u8]) {
        data.fill(offset as u8);
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivationError> {
        let mut record = self.record.lock().unwrap();
        let queues = activation.queues.iter();
        let queues = queues.map(|active| (active.queue.ready(), active.queue.size())).collect();
        record.activations.push((activation.features, queues));
        record.interrupt = Some(activation.interrupt);
        if self.fails {
            let source = io::Error::other("no");
            return Err(ActivationError::Resources { device: "recorder", source });
        }
        Ok(())
    }

    fn reset(&mut self) {
        self.record.lock().unwrap().resets += 1;
    }
}
