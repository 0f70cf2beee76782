//! Moving bytes from one non-blocking descriptor to another, none lost.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::poll::PollFlags;
use nix::unistd::{read, write};

/// How many bytes are moved at once.
const CAPACITY: usize = 64 << 10;

/// How many buffers one turn moves at most, so that no stream starves another.
const TURN: usize = 16;

/// One direction of one stream.
#[derive(Debug)]
pub struct Pump {
    source: Option<OwnedFd>,
    sink: Option<OwnedFd>,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// When draining: how many bytes are still to be read.
    left: Option<usize>,
}

impl Pump {
    /// A pump from `source` to `sink`, both non-blocking.
    #[must_use]
    pub fn new(source: OwnedFd, sink: OwnedFd) -> Self {
        let buffer = vec![0; CAPACITY];
        Self { source: Some(source), sink: Some(sink), buffer, start: 0, end: 0, left: None }
    }

    /// Whether everything has been moved, or cannot be any more.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.sink.is_none()
    }

    /// From now on only what the source holds already is moved, at most `limit` bytes.
    pub fn drain(&mut self, limit: usize) {
        self.left = Some(limit);
    }

    /// Whether [`Self::turn`] is to be called again without polling.
    #[must_use]
    pub fn is_eager(&self) -> bool {
        self.left.is_some() && self.start == self.end && !self.is_done()
    }

    /// The source, while it is open.
    #[must_use]
    pub fn source(&self) -> Option<BorrowedFd<'_>> {
        self.source.as_ref().map(AsFd::as_fd)
    }

    /// What to poll for: the source where there is room for bytes, the sink always, as
    /// its end must be noticed.
    pub fn interests(&self) -> (Option<BorrowedFd<'_>>, Option<(BorrowedFd<'_>, PollFlags)>) {
        let is_empty = self.start == self.end;
        let source = self.source.as_ref().filter(|_| is_empty);
        let sink_events = if is_empty { PollFlags::empty() } else { PollFlags::POLLOUT };
        (source.map(AsFd::as_fd), self.sink.as_ref().map(|sink| (sink.as_fd(), sink_events)))
    }

    /// The sink takes nothing more: the source is closed too, so that its writer learns.
    pub fn close(&mut self) {
        self.source = None;
        self.sink = None;
        (self.start, self.end) = (0, 0);
    }

    /// Moves what can be moved without waiting.
    pub fn turn(&mut self) {
        for _ in 0..TURN {
            if !self.write_out() || !self.read_in() {
                return;
            }
        }
    }

    /// Writes the buffer out; tells whether it is empty and the sink open.
    fn write_out(&mut self) -> bool {
        while let Some(sink) = &self.sink {
            if self.start == self.end {
                return true;
            }
            let bytes = self.buffer.get(self.start..self.end).unwrap_or_default();
            match write(sink, bytes) {
                Ok(count) => self.start += count,
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return false,
                Err(_) => self.close(),
            }
        }
        false
    }

    /// Fills the empty buffer; tells whether to go on.
    fn read_in(&mut self) -> bool {
        loop {
            let Some(source) = self.source.as_ref().filter(|_| self.left != Some(0)) else {
                // All is written: the end is passed on.
                self.close();
                return false;
            };
            let room = self.left.map_or(CAPACITY, |left| left.min(CAPACITY));
            match read(source, self.buffer.get_mut(..room).unwrap_or_default()) {
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) if self.left.is_none() => return false,
                // EIO: the last slave of a terminal was closed.
                Ok(0) | Err(_) => self.source = None,
                Ok(count) => {
                    (self.start, self.end) = (0, count);
                    self.left = self.left.map(|left| left.saturating_sub(count));
                    return true;
                }
            }
        }
    }
}
