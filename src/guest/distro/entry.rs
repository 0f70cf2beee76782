//! A process that starts one distro and ends with it, for a distro without a virtual
//! machine.
//!
//! [`spawn`] runs the executable as [`DISTRO_ARGUMENT`]; its standard input gives a frame
//! with the distro's [`Options`], its standard output is one end of a [`link::pair`]. A
//! process of its own is needed because forking into namespaces is sound only with one
//! thread. The distro ends when the other end of the link is closed.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio, exit};

use nix::unistd::{dup2_stdin, dup2_stdout};

use super::{NAMESPACES, Options, init, link};
use crate::guest::DISTRO_ARGUMENT;
use crate::guest::sys::{self, Forked};
use crate::protocol::frame;

/// Starts a distro with the given executable (wslr itself); gives its process, which ends
/// after the distro, and the socket for [`link`] messages.
///
/// # Errors
/// The system's. That the distro could not be made is told by its first message.
pub fn spawn(executable: &Path, options: &Options) -> io::Result<(Child, OwnedFd)> {
    let (ours, theirs) = link::pair()?;
    let mut child = Command::new(executable)
        .arg0(DISTRO_ARGUMENT)
        .stdin(Stdio::piped())
        .stdout(theirs)
        .spawn()?;
    let written = match child.stdin.take() {
        Some(mut pipe) => frame::write(&mut pipe, options).map_err(io::Error::other),
        None => Err(io::ErrorKind::BrokenPipe.into()),
    };
    if let Err(error) = written {
        let _ = child.kill();
        let _ = child.wait();
        return Err(error);
    }
    Ok((child, ours))
}

/// The process that [`spawn`] starts: makes the distro, waits for its end, and exits with
/// 0; with 1 where it could not be started.
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
    let options: Options = frame::read(&mut io::stdin()).map_err(io::Error::other)?;
    let link = io::stdout().as_fd().try_clone_to_owned()?;
    let nothing = File::options().read(true).write(true).open("/dev/null")?;
    dup2_stdin(&nothing)?;
    dup2_stdout(&nothing)?;
    match sys::fork_into(NAMESPACES, None)? {
        Forked::Child => {
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
