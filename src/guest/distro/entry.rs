//! A process that starts one distro and ends with it, for a distro without a virtual
//! machine.
//!
//! Its caller runs the executable as [`DISTRO_ARGUMENT`](crate::guest::DISTRO_ARGUMENT)
//! with two descriptors: [`OPTIONS`], from which it reads a frame with the distro's
//! [`Options`](super::Options), and [`LINK`], one end of a [`link::pair`](super::link::pair).
//! A process of its own is needed because forking into namespaces is sound only with one
//! thread.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::process::exit;

use super::{NAMESPACES, Options, init};
use crate::guest::sys::{self, Forked};
use crate::protocol::frame;

/// Where the options are read from.
pub const OPTIONS: RawFd = 3;

/// The socket to the caller.
pub const LINK: RawFd = 4;

/// Starts the distro, waits for its end, and exits with 0; with 1 where it could not be
/// started.
pub fn run() -> ! {
    exit(match start() {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("wslr: cannot start the distribution: {error}");
            1
        }
    })
}

fn start() -> io::Result<()> {
    let mut options = File::from(sys::take_inherited(OPTIONS)?);
    let options: Options = frame::read(&mut options).map_err(io::Error::other)?;
    let link = sys::take_inherited(LINK)?;
    let _ = nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL);
    match sys::fork_into(NAMESPACES, None)? {
        Forked::Child => {
            let _ = nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL);
            sys::close_all_except(&[link.as_raw_fd()]);
            init::run(&options, link)
        }
        Forked::Parent(pid) => {
            drop(link);
            while nix::sys::wait::waitpid(pid, None) == Err(nix::errno::Errno::EINTR) {}
            Ok(())
        }
    }
}
