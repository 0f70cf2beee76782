//! PID 1 of a distro: takes sessions, reaps, and ends with everything in it.
//!
//! It blocks no signals (B025); those it has no handler for the kernel keeps from it, as
//! it is the first process of its PID namespace. Its end ends the namespace, so that
//! nothing of a distro outlives it.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::exit;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Pid, execve};

use super::link::{self, Order, Report};
use super::{Options, root};
use crate::guest::session::{self, Handover, Surroundings};
use crate::guest::sys::{self, Forked, Reaped};
use crate::protocol::guest::GuestError;
use crate::protocol::session::StreamKind;

/// How long the distro's processes have between SIGTERM and SIGKILL.
const GRACE: Duration = Duration::from_secs(2);

/// Makes the distro and serves it until it stops.
pub fn run(options: &Options, socket: OwnedFd) -> ! {
    sys::reset_signals();
    let _ = nix::sys::prctl::set_name(c"init");
    let entered = match root::enter(options) {
        Ok(entered) => entered,
        Err(error) => {
            let _ = link::send(&socket, &Report::Failed(error), &[]);
            exit(1);
        }
    };
    let ended = match children_ended() {
        Ok(ended) => ended,
        Err(error) => {
            let failure = GuestError::system("watching child processes", &error);
            let _ = link::send(&socket, &Report::Failed(failure), &[]);
            exit(1);
        }
    };
    umask(Mode::from_bits_truncate(entered.conf.umask));
    let ready = Report::Ready { warnings: entered.warnings, stop_limit: GRACE };
    if link::send(&socket, &ready, &[]).is_err() {
        exit(1);
    }
    let surroundings = Surroundings {
        distro: options.name.clone(),
        hostname: entered.hostname,
        conf: entered.conf,
    };
    if let Some(command) = &surroundings.conf.boot.command {
        run_boot_command(command, &surroundings);
    }
    serve(&surroundings, &socket, ended);
    // What is left has no say any more.
    let _ = sys::kill(Pid::from_raw(-1), libc::SIGKILL);
    exit(0)
}

/// A stream that becomes readable when a child ends.
fn children_ended() -> io::Result<UnixStream> {
    let (read, write) = UnixStream::pair()?;
    read.set_nonblocking(true)?;
    write.set_nonblocking(true)?;
    signal_hook::low_level::pipe::register(libc::SIGCHLD, write)?;
    Ok(read)
}

/// Serves until everything has ended after [`Order::Stop`], or its grace is over.
fn serve(surroundings: &Surroundings, socket: &OwnedFd, mut ended: UnixStream) {
    let mut deadline = None;
    loop {
        let mut polled = [
            PollFd::new(ended.as_fd(), PollFlags::POLLIN),
            PollFd::new(socket.as_fd(), PollFlags::POLLIN),
        ];
        // After the order to stop nothing more is taken.
        let polled = if deadline.is_some() { &mut polled[..1] } else { &mut polled[..] };
        let _ = poll(polled, timeout(deadline));
        let mut drained = [0; 64];
        while ended.read(&mut drained).is_ok_and(|count| count > 0) {}
        let left = reap_all();
        if let Some(deadline) = deadline {
            if left == Reaped::NoChildren || deadline <= Instant::now() {
                return;
            }
            continue;
        }
        match link::receive::<Order>(socket) {
            Ok(Some((Order::Session(kinds), descriptors))) => {
                let _ = start_session(surroundings, kinds, descriptors);
            }
            Ok(Some((Order::Stop, _)) | None) => {
                for signal in [Signal::SIGTERM, Signal::SIGCONT] {
                    let _ = nix::sys::signal::kill(Pid::from_raw(-1), signal);
                }
                if reap_all() == Reaped::NoChildren {
                    return;
                }
                deadline = Some(Instant::now() + GRACE);
            }
            Err(_) => {}
        }
    }
}

/// Takes all ended children and tells whether others are left.
fn reap_all() -> Reaped {
    loop {
        match sys::reap() {
            Reaped::Ended(_) => {}
            left => return left,
        }
    }
}

/// The time until a deadline, for `poll`; rounded up.
fn timeout(deadline: Option<Instant>) -> PollTimeout {
    deadline.map_or(PollTimeout::NONE, |deadline| {
        let left = deadline.saturating_duration_since(Instant::now()).as_millis() + 1;
        PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
    })
}

/// Runs the line that `wsl.conf` wants at each start, as root; nobody waits for it (B150).
fn run_boot_command(line: &str, surroundings: &Surroundings) {
    let environment = session::environment::of_root(surroundings);
    if sys::fork().is_ok_and(|forked| forked == Forked::Child) {
        sys::close_all_except(&[]);
        let _ = nix::unistd::setsid();
        let arguments =
            [c"sh".to_owned(), c"-c".to_owned(), CString::new(line).unwrap_or_default()];
        let _ = execve(c"/bin/sh", &arguments, &environment);
        exit(127);
    }
}

/// Forks the relay of one session.
fn start_session(
    surroundings: &Surroundings,
    kinds: Vec<StreamKind>,
    descriptors: Vec<OwnedFd>,
) -> io::Result<()> {
    let mut descriptors = descriptors.into_iter();
    let (Some(request), Some(control)) = (descriptors.next(), descriptors.next()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let streams: Vec<_> = kinds.into_iter().zip(descriptors).collect();
    let handover = Handover { request: File::from(request), control, streams };
    if sys::fork()? == Forked::Child {
        let mut keep = vec![handover.request.as_raw_fd(), handover.control.as_raw_fd()];
        keep.extend(handover.streams.iter().map(|(_, stream)| stream.as_raw_fd()));
        sys::close_all_except(&keep);
        session::relay::run(surroundings, handover);
    }
    Ok(())
}
