//! The device as the transport sees it.

use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_ids::VIRTIO_ID_VSOCK;
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};

use super::GUEST_CID;
use super::handle::Vsock;
use super::state::VsockState;
use super::worker::Worker;
use crate::devices::{Activation, ActivationError, VirtioDevice, read_space};

/// The receive, transmit and event queues.
const QUEUE_SIZES: [u16; 3] = [256, 256, 16];

/// Feature: stream sockets.
const F_STREAM: u64 = 1;

/// The device.
#[derive(Debug)]
pub struct VsockDevice {
    handle: Vsock,
    worker: Option<Worker>,
}

impl VsockDevice {
    /// The device behind `handle`.
    #[must_use]
    pub fn new(handle: Vsock) -> Self {
        Self { handle, worker: None }
    }

    /// What a snapshot would hold.
    #[must_use]
    pub fn state(&self) -> VsockState {
        self.handle.state()
    }
}

impl VirtioDevice for VsockDevice {
    fn name(&self) -> &'static str {
        "vsock"
    }

    fn device_type(&self) -> u32 {
        VIRTIO_ID_VSOCK
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn features(&self) -> u64 {
        (1 << VIRTIO_F_VERSION_1)
            | (1 << VIRTIO_RING_F_EVENT_IDX)
            | (1 << VIRTIO_RING_F_INDIRECT_DESC)
            | F_STREAM
    }

    fn read_configuration(&self, offset: u64, data: &mut [u8]) {
        read_space(&GUEST_CID.to_le_bytes(), offset, data);
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivationError> {
        self.worker = None;
        let resources = |source| ActivationError::Resources { device: "vsock", source };
        let mut queues = activation.rings();
        let (Some(receive), Some(transmit), Some(event)) =
            (queues.next(), queues.next(), queues.next())
        else {
            return Err(resources(std::io::ErrorKind::InvalidInput.into()));
        };
        let worker = Worker::start(&self.handle, receive, transmit, event).map_err(resources)?;
        self.worker = Some(worker);
        Ok(())
    }

    fn reset(&mut self) {
        self.worker = None;
    }
}
