//! What a snapshot of the device would hold.
//!
//! The link's connections are not part of it: their host ends cannot be kept.

use serde::{Deserialize, Serialize};

/// The device.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct NetState {
    /// The guest's Ethernet address.
    pub mac: [u8; 6],
    /// The largest packet on the link in bytes.
    pub mtu: u16,
}
