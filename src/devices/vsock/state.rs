//! What a snapshot of the device would hold.
//!
//! Connections are not part of it: their host ends cannot be kept, so a restored guest is
//! told that the transport was reset and opens them anew.

use serde::{Deserialize, Serialize};

/// The device.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct VsockState {
    /// The guest's address.
    pub guest_cid: u64,
    /// The ports of the host that are listened on, ascending.
    pub listening: Vec<u32>,
    /// Whether the guest has yet to be told of a transport reset.
    pub reset_pending: bool,
}
