//! The init of a distro: takes sessions, reaps, and ends with everything in it.
//!
//! It is the distro's PID 1, or the child of one that becomes the distro's own init
//! ([`systemd`](super::systemd)). Of the first process it blocks no signals (B025); those
//! it has no handler for the kernel keeps from it. Its end ends the namespace, so that
//! nothing of a distro outlives it.

use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::exit;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::Signal;
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Pid, execve};

use super::link::{self, Order, Report};
use super::systemd::{Progress, Systemd};
use super::{Net, Options, files, root};
use crate::archive::assemble::CONFIGURE;
use crate::guest::session::login::Logins;
use crate::guest::session::{self, Handover, Surroundings};
use crate::guest::sys::{self, Forked, Reaped};
use crate::guest::{interface, network};
use crate::network::addresses::mac_of;
use crate::protocol::guest::{GuestError, Network};
use crate::protocol::session::StreamKind;

/// How long the distro's processes have between SIGTERM and SIGKILL.
const GRACE: Duration = Duration::from_secs(2);

/// How many sessions wait for systemd at most; one more starts without it.
const MAXIMUM_WAITING: usize = 1024;

/// Makes the distro and serves it until it stops.
pub fn run(options: &Options, socket: OwnedFd) -> ! {
    sys::reset_signals();
    let _ = nix::sys::prctl::set_name(c"init");
    let fail = |failure: GuestError| -> ! {
        let _ = link::send(&socket, &Report::Failed(failure), &[]);
        exit(1)
    };
    // Before the distro's own view of the machine is made, which shows the network.
    let own = match &options.network {
        Net::Shared => Vec::new(),
        Net::Own(network) => own_network(network.as_deref())
            .unwrap_or_else(|error| fail(GuestError::system("making a network", &error))),
    };
    let entered = root::enter(options).unwrap_or_else(|error| fail(error));
    umask(Mode::from_bits_truncate(entered.conf.umask));
    let mut warnings = [own, entered.warnings].concat();
    let mut stop_limit = GRACE;
    let mut systemd = None;
    if entered.conf.boot.systemd {
        match Systemd::prepare(&entered.conf) {
            Ok(prepared) => {
                stop_limit = entered.conf.boot.init_timeout.min(options.stop_limit).max(GRACE);
                systemd = Some(prepared);
            }
            Err(reason) => warnings.push(without_systemd(&reason)),
        }
    }
    let ended = children_ended()
        .unwrap_or_else(|error| fail(GuestError::system("watching child processes", &error)));
    let ready = Report::Ready { warnings, stop_limit, release: files::release() };
    if link::send(&socket, &ready, &[]).is_err() {
        exit(1);
    }
    let surroundings = Surroundings {
        distro: options.name.clone(),
        hostname: entered.hostname,
        conf: entered.conf,
    };
    let mut init = Init {
        logins: Logins::new(&surroundings.conf),
        surroundings,
        socket,
        ended,
        systemd,
        is_begun: false,
        waiting: Vec::new(),
        warnings: Vec::new(),
        stop_limit,
        deadline: None,
    };
    init.serve();
    // What is left has no say any more.
    let _ = sys::kill(Pid::from_raw(-1), libc::SIGKILL);
    exit(0)
}

/// Enters a network of the distro's own; that it is not connected is a warning.
fn own_network(network: Option<&Network>) -> io::Result<Vec<String>> {
    let machine = interface::Links::open()?;
    unshare(CloneFlags::CLONE_NEWNET)?;
    sys::loopback_up()?;
    let Some(network) = network else { return Ok(Vec::new()) };
    let own = File::open("/proc/self/ns/net")?;
    let mac = mac_of(network.guest4.into());
    let connected = machine
        .add_below(network::NAME, mac, own.as_fd())
        .and_then(|()| network::configure(network::NAME, network));
    Ok(connected
        .err()
        .map(|error| format!("the distribution has no network: {error}"))
        .into_iter()
        .collect())
}

fn without_systemd(reason: &str) -> String {
    format!("the distribution starts without systemd: {reason}")
}

/// A stream that becomes readable when a child ends.
fn children_ended() -> io::Result<UnixStream> {
    let (read, write) = UnixStream::pair()?;
    read.set_nonblocking(true)?;
    write.set_nonblocking(true)?;
    signal_hook::low_level::pipe::register(libc::SIGCHLD, write)?;
    Ok(read)
}

/// A session that is to be started.
type Ordered = (Vec<StreamKind>, Vec<OwnedFd>);

struct Init {
    surroundings: Surroundings,
    socket: OwnedFd,
    ended: UnixStream,
    /// Kept to the end: without it the first process ends too.
    systemd: Option<Systemd>,
    /// What `[boot]` wants has been started.
    is_begun: bool,
    logins: Logins,
    /// Sessions that wait for systemd.
    waiting: Vec<Ordered>,
    /// For the user of the next session.
    warnings: Vec<String>,
    stop_limit: Duration,
    /// When stopping: until when.
    deadline: Option<Instant>,
}

impl Init {
    /// Serves until everything has ended after [`Order::Stop`], or its time is over.
    fn serve(&mut self) {
        if is_configured() {
            self.run_boot_command();
        }
        loop {
            self.wait();
            let mut drained = [0; 64];
            while self.ended.read(&mut drained).is_ok_and(|count| count > 0) {}
            let left = self.reap_all();
            if let Some(deadline) = self.deadline {
                if self.is_over(left) || deadline <= Instant::now() {
                    return;
                }
                if let Some(systemd) = &self.systemd {
                    systemd.listen();
                }
                continue;
            }
            self.logins.advance();
            self.watch_systemd();
            match link::receive::<Order>(&self.socket) {
                Ok(Some((Order::Session(kinds), descriptors))) => {
                    self.take_session((kinds, descriptors));
                }
                Ok(Some((Order::TimeZone(zone), _))) => self.follow_time_zone(&zone),
                Ok(Some((Order::Stop, _)) | None) => {
                    if self.stop() {
                        return;
                    }
                }
                Err(_) => {}
            }
        }
    }

    fn wait(&self) {
        let mut polled = vec![PollFd::new(self.ended.as_fd(), PollFlags::POLLIN)];
        let messages = self.systemd.as_ref().and_then(Systemd::messages);
        polled.extend(messages.map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
        let mut deadline = self.deadline;
        // After the order to stop nothing more is taken.
        if deadline.is_none() {
            polled.push(PollFd::new(self.socket.as_fd(), PollFlags::POLLIN));
            let logins = self.logins.interests();
            let systemd = self.systemd.as_ref().and_then(Systemd::execution);
            polled.extend(logins.chain(systemd).map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
            deadline = self.systemd.as_ref().and_then(Systemd::deadline);
        }
        let _ = poll(&mut polled, timeout(deadline));
    }

    /// Takes all ended children and tells whether others are left.
    fn reap_all(&mut self) -> Reaped {
        loop {
            match sys::reap() {
                Reaped::Ended(ended) => self.logins.ended(ended.pid),
                left => return left,
            }
        }
    }

    /// Starts a session, or keeps it until systemd is up. Before the packages of a new
    /// distro are configured there is nothing of its own to start.
    fn take_session(&mut self, session: Ordered) {
        if !self.is_begun && is_configured() {
            self.run_boot_command();
        }
        if self.is_begun
            && let Some(systemd) = &mut self.systemd
        {
            if systemd.is_held() {
                systemd.start();
            }
            if systemd.is_starting() && self.waiting.len() < MAXIMUM_WAITING {
                self.waiting.push(session);
                return self.watch_systemd();
            }
        }
        let _ = self.start_session(session);
    }

    /// Starts the sessions that wait for systemd, once they need not.
    fn watch_systemd(&mut self) {
        let Some(systemd) = &mut self.systemd else { return };
        match systemd.advance() {
            Progress::Waiting => return,
            Progress::Done(warning) => self.warnings.extend(warning),
            Progress::Failed(reason) => {
                self.warnings.push(without_systemd(&reason));
            }
        }
        for session in std::mem::take(&mut self.waiting) {
            let _ = self.start_session(session);
        }
    }

    /// Forks the relay of one session.
    fn start_session(&mut self, (kinds, descriptors): Ordered) -> io::Result<()> {
        let mut descriptors = descriptors.into_iter();
        let (Some(request), Some(control)) = (descriptors.next(), descriptors.next()) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let streams: Vec<_> = kinds.into_iter().zip(descriptors).collect();
        let is_systemd = self.systemd.as_ref().is_some_and(Systemd::is_first);
        let logins = if is_systemd { self.logins.channel().ok() } else { None };
        let warnings = std::mem::take(&mut self.warnings);
        let request = File::from(request);
        let handover = Handover { request, control, streams, warnings, logins };
        if sys::fork()? == Forked::Child {
            let mut keep = vec![handover.request.as_raw_fd(), handover.control.as_raw_fd()];
            keep.extend(handover.streams.iter().map(|(_, stream)| stream.as_raw_fd()));
            keep.extend(handover.logins.as_ref().map(AsRawFd::as_raw_fd));
            sys::close_all_except(&keep);
            session::relay::run(&self.surroundings, handover);
        }
        Ok(())
    }

    /// Runs the line that `wsl.conf` wants at each start, as root; nobody waits for it
    /// (B150).
    fn run_boot_command(&mut self) {
        self.is_begun = true;
        let Some(line) = &self.surroundings.conf.boot.command else { return };
        let environment = session::environment::of_root(&self.surroundings);
        if sys::fork().is_ok_and(|forked| forked == Forked::Child) {
            sys::reset_signals();
            sys::close_all_except(&[]);
            let _ = nix::unistd::setsid();
            let line = CString::new(line.as_str()).unwrap_or_default();
            let arguments = [c"sh", c"-c", &line];
            let _ = execve(c"/bin/sh", &arguments, &environment);
            exit(127);
        }
    }

    /// Makes the host's time zone the distro's, where that is wanted. In a process of its own:
    /// the distro's files may be anywhere.
    fn follow_time_zone(&self, zone: &str) {
        if sys::fork().is_ok_and(|forked| forked == Forked::Child) {
            sys::close_all_except(&[]);
            let result = files::follow_time_zone(&self.surroundings.conf, zone);
            exit(i32::from(result.is_err()));
        }
    }

    /// Begins the end; tells whether it is there already.
    fn stop(&mut self) -> bool {
        self.deadline = Some(Instant::now() + self.stop_limit);
        if let Some(systemd) = self.systemd.as_ref().filter(|systemd| systemd.is_first()) {
            systemd.power_off(&files::shared(&self.surroundings.conf));
            return false;
        }
        for signal in [Signal::SIGTERM, Signal::SIGCONT] {
            let _ = nix::sys::signal::kill(Pid::from_raw(-1), signal);
        }
        self.deadline = Some(Instant::now() + GRACE);
        let left = self.reap_all();
        self.is_over(left)
    }

    /// Whether nothing is left to be waited for. systemd ends this process with all others.
    fn is_over(&self, left: Reaped) -> bool {
        left == Reaped::NoChildren && !self.systemd.as_ref().is_some_and(Systemd::is_first)
    }
}

/// Whether the packages of a distro made from an archive have been configured; others
/// need not be.
fn is_configured() -> bool {
    fs::symlink_metadata(Path::new("/").join(CONFIGURE)).is_err()
}

/// The time until a deadline, for `poll`; rounded up.
fn timeout(deadline: Option<Instant>) -> PollTimeout {
    deadline.map_or(PollTimeout::NONE, |deadline| {
        let left = deadline.saturating_duration_since(Instant::now()).as_millis() + 1;
        PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
    })
}
