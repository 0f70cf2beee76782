//! The network interface (virtio 1.2, section 5.1).
//!
//! The device moves frames between the guest's queues and a [`Link`], whatever that is made
//! of: see [`crate::network`]. One thread serves both, and whatever the link waits for.
//! Checksums and the cutting of large packets are left to whoever can do without them:
//! frames come from the guest, and go to it, 64 KiB at a time.

pub mod device;
pub mod kept;
mod room;
mod sent;
pub mod state;
#[cfg(test)]
mod tests;
mod worker;

pub use device::NetDevice;

use std::fmt;
use std::io::{self, IoSlice};
use std::time::Instant;

use vmm_sys_util::epoll::{Epoll, EventSet};

use super::buffers::Buffers;

/// The first number under which a [`Link`] may register events; smaller ones are the
/// device's.
pub const FIRST_ID: u64 = 16;

/// What work on frames the guest takes over.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Offloads {
    /// Completing checksums.
    pub checksum: bool,
    /// Segments of TCP over IPv4 larger than the link.
    pub segments4: bool,
    /// Segments of TCP over IPv6 larger than the link.
    pub segments6: bool,
}

/// Takes frames for the guest.
pub trait Deliver {
    /// Takes a frame's pieces; false where there is no room now.
    fn pieces(&mut self, pieces: &[IoSlice<'_>]) -> bool;

    /// Takes a frame whose end `fill` writes into the guest's memory: up to `most` bytes, of
    /// which it tells the number. `head` then makes what comes before them, which has the length
    /// `before`. Without a byte there is no frame. `None` where there is no room now.
    fn filled(
        &mut self,
        before: usize,
        most: usize,
        fill: &mut dyn FnMut(&mut Buffers<'_>) -> io::Result<usize>,
        head: &mut dyn FnMut(usize, &mut Vec<u8>),
    ) -> Option<io::Result<usize>>;
}

/// What the interface is connected to. Frames are preceded by a `virtio_net_hdr_v1`.
pub trait Link: fmt::Debug + Send {
    /// Where the link registers what it waits for, under [`FIRST_ID`] and up, and where the
    /// device waits for it.
    fn epoll(&self) -> &Epoll;
    /// What was registered under this number has happened.
    fn event(&mut self, id: u64, events: EventSet);
    /// Until when to wait at the most.
    fn deadline(&self) -> Option<Instant>;
    /// Does what is due by now.
    fn expire(&mut self, now: Instant);
    /// Whether a frame of the guest can be taken now. Becomes true again only when the
    /// guest takes frames.
    fn takes(&self) -> bool;
    /// Takes a frame of the guest.
    fn take(&mut self, frame: &[u8]);
    /// Whether there may be frames for the guest.
    fn has_frames(&self) -> bool;
    /// Gives the guest one frame, where there is one and it is taken.
    fn give(&mut self, deliver: &mut dyn Deliver);
}
