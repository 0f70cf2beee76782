//! What the driver has told the transport, as plain data.

use serde::{Deserialize, Serialize};
use virtio_queue::{Queue, QueueState, QueueT};

/// The registers that the driver writes.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct TransportState {
    /// `Status`.
    pub status: u32,
    /// `DeviceFeaturesSel`.
    pub device_features_page: u32,
    /// `DriverFeaturesSel`.
    pub driver_features_page: u32,
    /// What the driver accepted.
    pub driver_features: u64,
    /// `QueueSel`.
    pub selected_queue: u32,
    /// One per queue of the device.
    pub queues: Vec<QueueRegisters>,
}

/// The registers of one queue.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct QueueRegisters {
    /// `QueueNumMax`.
    pub maximum_size: u16,
    /// `QueueNum`.
    pub size: u16,
    /// `QueueReady`.
    pub ready: bool,
    /// `QueueDesc`.
    pub descriptors: u64,
    /// `QueueDriver`.
    pub available: u64,
    /// `QueueDevice`.
    pub used: u64,
}

impl QueueRegisters {
    /// A queue that no driver has touched.
    #[must_use]
    pub fn new(maximum_size: u16) -> Self {
        Self {
            maximum_size,
            size: maximum_size,
            ready: false,
            descriptors: 0,
            available: 0,
            used: 0,
        }
    }

    /// The queue as the device serves it.
    ///
    /// # Errors
    /// Where a size is no power of two or too large, or an address is misaligned.
    pub fn queue(&self, event_index: bool) -> Result<Queue, virtio_queue::Error> {
        if !self.ready {
            return Queue::new(self.maximum_size);
        }
        Queue::try_from(QueueState {
            max_size: self.maximum_size,
            next_avail: 0,
            next_used: 0,
            event_idx_enabled: event_index,
            size: self.size,
            ready: true,
            desc_table: self.descriptors,
            avail_ring: self.available,
            used_ring: self.used,
        })
    }
}
