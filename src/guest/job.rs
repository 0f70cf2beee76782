//! Work that can block, in a process of its own, so that init never waits.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::process::exit;

use nix::fcntl::OFlag;
use nix::unistd::{Pid, pipe2};

use super::sys::{self, Forked};
use crate::protocol::frame;
use crate::protocol::guest::GuestError;

/// What a piece of work ends with: warnings for the user, or why it failed.
pub type Outcome = Result<Vec<String>, GuestError>;

/// A piece of work under way.
#[derive(Debug)]
pub struct Job {
    /// The process; the job is done when it has ended.
    pub pid: Pid,
    result: File,
}

impl Job {
    /// Starts a piece of work.
    ///
    /// # Errors
    /// The system's.
    pub fn start(work: impl FnOnce() -> Outcome) -> io::Result<Self> {
        let (read, write) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        match sys::fork()? {
            Forked::Parent(pid) => Ok(Self { pid, result: File::from(read) }),
            Forked::Child => {
                sys::close_all_except(&[write.as_raw_fd()]);
                let outcome = work();
                let _ = frame::write(&mut File::from(write), &outcome);
                exit(0)
            }
        }
    }

    /// The outcome, once the process has ended.
    pub fn finish(mut self) -> Outcome {
        let mut bytes = Vec::new();
        let _ = self.result.read_to_end(&mut bytes);
        frame::read(&mut bytes.as_slice()).unwrap_or_else(|error| {
            let error = io::Error::other(error);
            Err(GuestError::system("running a helper process", &error))
        })
    }
}
