//! One command running in a distro: the relay process and what it needs.

pub mod command;
pub mod environment;
pub mod pump;
pub mod relay;
pub mod terminal;
pub mod users;

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

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

/// The largest file of a distro's `/etc` that is read.
const MAXIMUM_FILE: u64 = 16 << 20;

/// Reads a regular file of the distro; neither a FIFO nor an endless file can hold it up.
fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut content = Vec::new();
    file.take(MAXIMUM_FILE).read_to_end(&mut content)?;
    Ok(content)
}
