//! One command running in a distro: the relay process and what it needs.

pub mod command;
pub mod environment;
pub mod plumbing;
pub mod pump;
pub mod relay;
pub mod terminal;
pub mod users;

use std::fs::File;
use std::os::fd::OwnedFd;

use crate::protocol::session::StreamKind;

/// A session as the distro's init receives it.
#[derive(Debug)]
pub struct Handover {
    /// Holds the encoded [`Session`](crate::protocol::session::Session).
    pub request: File,
    /// The control stream, its requests read so far but for none after the session's.
    pub control: OwnedFd,
    /// The byte streams.
    pub streams: Vec<(StreamKind, OwnedFd)>,
}
