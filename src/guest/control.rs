//! The control channel to the service, never waited for.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::poll::PollFlags;

use crate::protocol::frame::{self, FrameError, MAXIMUM_LENGTH};
use crate::protocol::guest::{Envelope, Event};
use crate::protocol::incremental::FrameReader;

/// The channel and what is not yet sent on it.
#[derive(Debug)]
pub struct Control {
    stream: File,
    reader: FrameReader,
    unsent: Vec<u8>,
}

impl Control {
    /// A channel on a connected, non-blocking stream.
    #[must_use]
    pub fn new(stream: OwnedFd) -> Self {
        let reader = FrameReader::new(MAXIMUM_LENGTH);
        Self { stream: File::from(stream), reader, unsent: Vec::new() }
    }

    /// What to poll for.
    #[must_use]
    pub fn interest(&self) -> (BorrowedFd<'_>, PollFlags) {
        let mut events = PollFlags::POLLIN;
        events.set(PollFlags::POLLOUT, !self.unsent.is_empty());
        (self.stream.as_fd(), events)
    }

    /// The next request; `None` where none has arrived whole.
    ///
    /// # Errors
    /// Where the service is gone or sends what is no request.
    pub fn receive(&mut self) -> Result<Option<Envelope>, FrameError> {
        self.reader.next_message(&mut self.stream)
    }

    /// Sends an event as soon as the service takes it.
    pub fn send(&mut self, event: &Event) {
        if let Ok(bytes) = frame::encode(event) {
            self.unsent.extend_from_slice(&bytes);
        }
        self.flush();
    }

    /// Sends what the service takes now.
    pub fn flush(&mut self) {
        while !self.unsent.is_empty() {
            match self.stream.write(&self.unsent) {
                Ok(count) => drop(self.unsent.drain(..count)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // A service that is gone is noticed by the next receive.
                Err(_) => return,
            }
        }
    }
}
