//! The device as the transport sees it.

use std::fmt;
use std::io;

use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_ids::VIRTIO_ID_NET;
use virtio_bindings::virtio_net::{
    VIRTIO_NET_F_CSUM, VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_GUEST_TSO6,
    VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_HOST_TSO6, VIRTIO_NET_F_MAC, VIRTIO_NET_F_MRG_RXBUF,
    VIRTIO_NET_F_MTU, VIRTIO_NET_F_STATUS, VIRTIO_NET_S_LINK_UP,
};
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};

use super::state::NetState;
use super::worker::Worker;
use super::{Link, Offloads};
use crate::devices::{Activation, ActivationError, VirtioDevice, read_space};

/// The receive and transmit queues. A frame of 64 KiB takes 17 pages of the first.
const QUEUE_SIZES: [u16; 2] = [512, 256];

const FEATURES: [u32; 13] = [
    VIRTIO_F_VERSION_1,
    VIRTIO_RING_F_EVENT_IDX,
    VIRTIO_RING_F_INDIRECT_DESC,
    VIRTIO_NET_F_CSUM,
    VIRTIO_NET_F_GUEST_CSUM,
    VIRTIO_NET_F_GUEST_TSO4,
    VIRTIO_NET_F_GUEST_TSO6,
    VIRTIO_NET_F_HOST_TSO4,
    VIRTIO_NET_F_HOST_TSO6,
    VIRTIO_NET_F_MAC,
    VIRTIO_NET_F_MRG_RXBUF,
    VIRTIO_NET_F_MTU,
    VIRTIO_NET_F_STATUS,
];

/// Makes the link anew whenever a driver is ready.
pub type Connect = Box<dyn FnMut(Offloads) -> io::Result<Box<dyn Link>> + Send>;

/// The device.
pub struct NetDevice {
    state: NetState,
    connect: Connect,
    worker: Option<Worker>,
}

impl NetDevice {
    /// An interface with that address and largest packet, on the link that `connect` makes.
    #[must_use]
    pub fn new(mac: [u8; 6], mtu: u16, connect: Connect) -> Self {
        Self { state: NetState { mac, mtu }, connect, worker: None }
    }

    /// What a snapshot would hold.
    #[must_use]
    pub fn state(&self) -> NetState {
        self.state.clone()
    }

    /// `virtio_net_config`: address, status, queue pairs, largest packet.
    fn configuration(&self) -> [u8; 12] {
        let mut bytes = [0; 12];
        let [mac @ .., _, _, _, _, _, _] = &mut bytes;
        mac.copy_from_slice(&self.state.mac);
        let [.., status_low, status_high, _, _, mtu_low, mtu_high] = &mut bytes;
        [*status_low, *status_high] = (VIRTIO_NET_S_LINK_UP as u16).to_le_bytes();
        [*mtu_low, *mtu_high] = self.state.mtu.to_le_bytes();
        bytes
    }
}

impl VirtioDevice for NetDevice {
    fn name(&self) -> &'static str {
        "net"
    }

    fn device_type(&self) -> u32 {
        VIRTIO_ID_NET
    }

    fn is_busy(&self) -> bool {
        true
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn features(&self) -> u64 {
        FEATURES.iter().fold(0, |features, bit| features | (1 << bit))
    }

    fn read_configuration(&self, offset: u64, data: &mut [u8]) {
        read_space(&self.configuration(), offset, data);
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivationError> {
        self.worker = None;
        let resources = |source| ActivationError::Resources { device: "net", source };
        let has = |bit: u32| activation.features & (1 << bit) != 0;
        let checksum = has(VIRTIO_NET_F_GUEST_CSUM);
        let offloads = Offloads {
            checksum,
            segments4: checksum && has(VIRTIO_NET_F_GUEST_TSO4),
            segments6: checksum && has(VIRTIO_NET_F_GUEST_TSO6),
        };
        let mergeable = has(VIRTIO_NET_F_MRG_RXBUF);
        let mut queues = activation.rings();
        let (Some(receive), Some(transmit)) = (queues.next(), queues.next()) else {
            return Err(resources(io::ErrorKind::InvalidInput.into()));
        };
        let link = (self.connect)(offloads).map_err(resources)?;
        let worker = Worker::start(link, receive, transmit, mergeable).map_err(resources)?;
        self.worker = Some(worker);
        Ok(())
    }

    fn reset(&mut self) {
        self.worker = None;
    }
}

impl fmt::Debug for NetDevice {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("NetDevice").field("state", &self.state).finish_non_exhaustive()
    }
}
