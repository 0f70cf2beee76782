//! Bytes between the user's descriptors and a session's streams.
//!
//! The user's descriptors are shared with other processes, so their flags are never
//! changed; one that is non-blocking already is waited for.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::raw::in_foreground;

/// How much is moved at a time, in bytes.
const BUFFER: usize = 128 << 10;

/// How often a process in the background looks whether it is there still.
const BACKGROUND_PERIOD: Duration = Duration::from_millis(100);

/// Opened when a process that waits in the background may go on.
#[derive(Debug, Default)]
pub struct Gate {
    /// Counts the times it was opened.
    opened: Mutex<u64>,
    changed: Condvar,
}

impl Gate {
    /// Lets those who wait look again.
    pub fn open(&self) {
        *self.opened.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.changed.notify_all();
    }

    /// Waits while `closed` holds, which is looked at again at every opening, and now and
    /// then: a shell tells nobody that it puts a running job into the foreground. True where
    /// there was anything to wait for.
    fn wait_while(&self, closed: impl Fn() -> bool) -> bool {
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        let mut waited = false;
        while closed() {
            waited = true;
            let result = self.changed.wait_timeout(opened, BACKGROUND_PERIOD);
            opened = result.unwrap_or_else(PoisonError::into_inner).0;
        }
        waited
    }
}

/// Sends what the user types or pipes in, until its end, the stream's, or a byte (or the
/// end) on `stop`. A terminal is not read from the background; `foreground` is called when
/// this process has left it.
pub fn input(
    mut from: File,
    to: &UnixStream,
    stop: &UnixStream,
    gate: &Gate,
    terminal: bool,
    foreground: impl Fn(),
) {
    let mut buffer = vec![0; BUFFER];
    loop {
        if terminal && gate.wait_while(|| !in_foreground(from.as_fd()) && !ready(stop.as_fd())) {
            foreground();
        }
        let (from_ready, stopped) = {
            let mut descriptors = [
                PollFd::new(from.as_fd(), PollFlags::POLLIN),
                PollFd::new(stop.as_fd(), PollFlags::POLLIN),
            ];
            let _ = poll(&mut descriptors, PollTimeout::NONE);
            let [from, stop] = descriptors;
            (from.any().unwrap_or(false), stop.any().unwrap_or(false))
        };
        if stopped {
            return;
        }
        if !from_ready {
            continue;
        }
        match from.read(&mut buffer) {
            Ok(count @ 1..) => {
                let mut to = to;
                if to.write_all(buffer.get(..count).unwrap_or_default()).is_err() {
                    return;
                }
            }
            Err(error)
                if matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::WouldBlock) => {}
            Ok(0) | Err(_) => {
                let _ = to.shutdown(Shutdown::Write);
                return;
            }
        }
    }
}

/// Writes what the command says to the user, until the stream's end. A reader that is gone
/// makes the stream end for the command as well, quietly.
///
/// # Errors
/// Where the user's descriptor cannot be written, a full disk for example.
pub fn output(from: &UnixStream, mut to: File) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    let mut from_reader = from;
    loop {
        let count = match from_reader.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            // The other end is gone without having closed: nothing more will come.
            Err(_) => return Ok(()),
        };
        if let Err(error) = write_all(&mut to, buffer.get(..count).unwrap_or_default()) {
            let _ = from.shutdown(Shutdown::Both);
            return match error.kind() {
                ErrorKind::BrokenPipe => Ok(()),
                _ => Err(error),
            };
        }
    }
}

fn write_all(to: &mut File, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match to.write(bytes) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(count) => bytes = bytes.get(count..).unwrap_or_default(),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                let mut descriptors = [PollFd::new(to.as_fd(), PollFlags::POLLOUT)];
                let _ = poll(&mut descriptors, PollTimeout::NONE);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn ready(descriptor: BorrowedFd<'_>) -> bool {
    let mut descriptors = [PollFd::new(descriptor, PollFlags::POLLIN)];
    poll(&mut descriptors, PollTimeout::ZERO).is_ok_and(|count| count > 0)
}
