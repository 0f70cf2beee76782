//! virtio-vsock: stream connections between the guest and this process.
//!
//! [`Vsock`] is the handle: it listens for connections from the guest and bridges host
//! sockets to the guest's listeners, from any thread. [`VsockDevice`] is what the
//! transport sees. One thread moves all bytes, from the host's sockets straight into the
//! guest's buffers and back. What a guest can make it hold is bounded: a fixed number of
//! connections, each with a fixed buffer, and no reply is queued for a guest that takes
//! none.

mod connection;
pub mod device;
pub mod handle;
pub mod packet;
pub mod state;
mod switch;
#[cfg(test)]
mod tests;
mod worker;

pub use device::VsockDevice;
pub use handle::{Ended, Vsock};

use crate::error::Diagnose;

/// The guest's address.
pub const GUEST_CID: u64 = 3;

/// The host's address.
pub const HOST_CID: u64 = 2;

/// The most connections at one time.
pub const MAXIMUM_CONNECTIONS: usize = 8192;

/// Why a connection or a listener could not be made.
#[derive(Debug, thiserror::Error)]
pub enum VsockError {
    /// Another listener has the port.
    #[error("vsock port {port} is taken")]
    PortTaken {
        /// The host's port.
        port: u32,
    },
    /// An event could not be made.
    #[error("cannot prepare connections to the virtual machine")]
    Resources(#[source] std::io::Error),
    /// What was to be bridged is no stream socket.
    #[error("cannot bridge to the virtual machine: not a stream socket")]
    NotAStream(#[source] std::io::Error),
    /// The guest's driver is not up.
    #[error("the virtual machine takes no connections")]
    NotRunning,
}

impl Diagnose for VsockError {
    fn code(&self) -> &'static str {
        "E_FAIL"
    }
}
