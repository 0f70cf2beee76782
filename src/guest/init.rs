//! PID 1 of the virtual machine.
//!
//! One thread and one poll loop that nothing can hold up: streams are read as they come,
//! what can block is a [`Job`], and every distro that must end has a deadline after which
//! it is killed. Where the service is gone, so is the machine's purpose: it flushes its
//! disks and powers off.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::reboot::{RebootMode, reboot};
use nix::sys::signal::SigSet;
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, VsockAddr, accept4, bind, connect, getpeername,
    listen, socket,
};
use nix::unistd::Pid;
use uuid::Uuid;

use super::control::Control;
use super::distro::link::{self, Order, Report};
use super::distro::{self, Devices, Modules, Options, Root};
use super::job::{Job, Outcome};
use super::streams::{Streams, Whole};
use super::sys::{self, Reaped};
use super::{boot, cgroup, disk, log};
use crate::protocol::frame;
use crate::protocol::guest::{
    CONTROL_PORT, Configure, Envelope, Event, GuestError, Request, STREAM_PORT, StartDistro,
    VERSION,
};
use crate::protocol::session::{Output, SessionError};

/// How long a distro may take to end before it is killed, where it has not told.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a distro may take beyond what it takes by its own account.
const STOP_RESERVE: Duration = Duration::from_secs(1);

/// How long the disks of the last distros may take to be released when the machine goes off.
const POWER_OFF_RESERVE: Duration = Duration::from_secs(2);

/// Runs the machine. Does not return; whatever fails, PID 1 must not end.
pub fn run() -> ! {
    let _ = SigSet::all().thread_block();
    let modules = boot::prepare();
    match Init::start(modules) {
        Ok(mut init) => init.serve(),
        Err(error) => log::warn(format_args!("cannot reach the service: {error}")),
    }
    power_off()
}

/// Ends the machine, its disks flushed.
fn power_off() -> ! {
    let _ = sys::kill(Pid::from_raw(-1), libc::SIGKILL);
    nix::unistd::sync();
    loop {
        let _ = reboot(RebootMode::RB_POWER_OFF);
        nix::unistd::pause();
    }
}

/// What a job was started for.
enum Purpose {
    /// The modules that were not urgent.
    Boot,
    /// The modules disk; the number of the request.
    Configure(u64),
    /// The disk of a distro that has ended.
    Release(Uuid),
}

/// A distro that has not wholly ended.
struct Distro {
    lun: u16,
    pid: Pid,
    socket: OwnedFd,
    /// The number of the request that started it, until it is answered.
    start: Option<u64>,
    /// The numbers of the requests to stop it.
    stops: Vec<u64>,
    /// Why it could not start.
    failure: Option<GuestError>,
    /// How long it may take to stop.
    stop_limit: Duration,
    /// When it is killed.
    kill_at: Option<Instant>,
    /// Whether its init has ended or closed its socket.
    is_gone: bool,
}

struct Init {
    control: Control,
    listener: OwnedFd,
    signals: SignalFd,
    streams: Streams,
    distros: HashMap<Uuid, Distro>,
    jobs: Vec<(Job, Purpose)>,
    /// Requests to start a distro that came before the machine was ready for one.
    early: Option<Vec<(u64, StartDistro)>>,
    release: String,
    modules: Option<Modules>,
    /// When the machine goes off at the latest.
    power_off_at: Option<Instant>,
}

impl Init {
    fn start(modules: Vec<PathBuf>) -> io::Result<Self> {
        let new = || {
            let flags = SockFlag::SOCK_CLOEXEC;
            socket(AddressFamily::Vsock, SockType::Stream, flags, None)
        };
        let listener = new()?;
        bind(listener.as_raw_fd(), &VsockAddr::new(libc::VMADDR_CID_ANY, STREAM_PORT))?;
        listen(&listener, Backlog::MAXCONN)?;
        sys::set_nonblocking(&listener)?;
        let control = new()?;
        connect(control.as_raw_fd(), &VsockAddr::new(libc::VMADDR_CID_HOST, CONTROL_PORT))?;
        sys::set_nonblocking(&control)?;
        let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
        let signals = SignalFd::with_flags(&SigSet::all(), flags)?;
        let release = nix::sys::utsname::uname()?.release().to_string_lossy().into_owned();
        let mut control = Control::new(control);
        control.send(&Event::Hello { version: VERSION, kernel: release.clone() });
        let job = Job::start(move || {
            boot::load_modules(&modules);
            Ok(Vec::new())
        })?;
        Ok(Self {
            control,
            listener,
            signals,
            streams: Streams::default(),
            distros: HashMap::new(),
            jobs: vec![(job, Purpose::Boot)],
            early: Some(Vec::new()),
            release,
            modules: None,
            power_off_at: None,
        })
    }

    /// Serves until the machine is to go off.
    fn serve(&mut self) {
        loop {
            self.wait();
            while matches!(self.signals.read_signal(), Ok(Some(_))) {}
            self.control.flush();
            self.take_requests();
            self.accept();
            for whole in self.streams.advance() {
                self.hand_over(whole);
            }
            self.take_reports();
            while let Reaped::Ended(ended) = sys::reap() {
                self.child_ended(ended.pid);
            }
            self.kill_late();
            if let Some(time) = self.power_off_at
                && (self.distros.is_empty() || time <= Instant::now())
            {
                return;
            }
        }
    }

    /// Waits until anything happens or a deadline passes.
    fn wait(&self) {
        let (control, events) = self.control.interest();
        let mut polled = vec![
            PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.listener.as_fd(), PollFlags::POLLIN),
        ];
        if self.power_off_at.is_none() {
            polled.push(PollFd::new(control, events));
        }
        let arriving = self.streams.interests();
        let distros = self.distros.values().filter(|distro| !distro.is_gone);
        let all = arriving.chain(distros.map(|distro| distro.socket.as_fd()));
        polled.extend(all.map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
        let deadline = self
            .distros
            .values()
            .filter_map(|distro| distro.kill_at)
            .chain(self.streams.deadline())
            .chain(self.power_off_at)
            .min();
        let timeout = deadline.map_or(PollTimeout::NONE, |time| {
            let left = time.saturating_duration_since(Instant::now()).as_millis() + 1;
            PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
        });
        let _ = poll(&mut polled, timeout);
    }

    fn take_requests(&mut self) {
        while self.power_off_at.is_none() {
            match self.control.receive() {
                Ok(Some(Envelope { id, request })) => self.carry_out(id, request),
                Ok(None) => return,
                Err(error) => {
                    log::warn(format_args!("the service is gone: {error}"));
                    self.stop_all();
                }
            }
        }
    }

    fn carry_out(&mut self, id: u64, request: Request) {
        match request {
            Request::Configure(configure) => self.configure(id, configure),
            Request::PowerOff => self.stop_all(),
            Request::StartDistro(start) => match &mut self.early {
                Some(early) => early.push((id, start)),
                None => self.start_distro(id, start),
            },
            Request::StopDistro { distro } => match self.distros.get_mut(&distro) {
                None => self.reply(id, Err(GuestError::NotRunning)),
                Some(distro) => {
                    distro.stops.push(id);
                    distro.stop();
                }
            },
        }
    }

    fn reply(&mut self, id: u64, result: Outcome) {
        self.control.send(&Event::Reply { id, result });
    }

    fn configure(&mut self, id: u64, configure: Configure) {
        let mut warnings = Vec::new();
        let (seconds, nanoseconds) = configure.time;
        let time = nix::sys::time::TimeSpec::new(seconds, i64::from(nanoseconds));
        let clock = nix::time::ClockId::CLOCK_REALTIME;
        if let Err(error) = nix::time::clock_settime(clock, time) {
            warnings.push(format!("cannot set the clock: {error}"));
        }
        let random = File::options().write(true).open("/dev/random");
        if let Err(error) = random.and_then(|file| sys::add_entropy(&file, &configure.entropy)) {
            warnings.push(format!("cannot add entropy: {error}"));
        }
        let Some(lun) = configure.modules else {
            return self.reply(id, Ok(warnings));
        };
        let job = Job::start(move || {
            disk::mount_modules(lun, Path::new(boot::MODULES)).map(|()| warnings)
        });
        match job {
            Ok(job) => self.jobs.push((job, Purpose::Configure(id))),
            Err(error) => self.reply(id, Err(GuestError::system("forking", &error))),
        }
    }

    fn start_distro(&mut self, id: u64, start: StartDistro) {
        if let Err(error) = self.try_start_distro(id, start) {
            self.reply(id, Err(error));
        }
    }

    fn try_start_distro(&mut self, id: u64, start: StartDistro) -> Result<(), GuestError> {
        if self.distros.contains_key(&start.distro) {
            let error = io::ErrorKind::AlreadyExists.into();
            return Err(GuestError::system("starting a distribution that runs", &error));
        }
        let options = Options {
            name: start.name,
            hostname: start.hostname,
            time_zone: start.time_zone,
            stop_limit: start.stop_limit,
            root: Root::Disk { lun: start.lun, staging: PathBuf::from(boot::STAGING) },
            devices: Devices::All,
            shared: Some(PathBuf::from(boot::SHARED)),
            init: Some(PathBuf::from("/init")),
            modules: self.modules.clone(),
        };
        let group = cgroup::create(start.distro)
            .map_err(|error| log::warn(format_args!("cannot make a cgroup: {error}")))
            .ok();
        let started = distro::start(&options, group.as_ref().map(AsFd::as_fd))
            .map_err(|error| GuestError::system("starting the distribution's init", &error))?;
        self.distros.insert(
            start.distro,
            Distro {
                lun: start.lun,
                pid: started.pid,
                socket: started.socket,
                start: Some(id),
                stops: Vec::new(),
                failure: None,
                stop_limit: STOP_TIMEOUT,
                kill_at: None,
                is_gone: false,
            },
        );
        Ok(())
    }

    fn stop_all(&mut self) {
        for distro in self.distros.values_mut() {
            distro.stop();
        }
        let last = self.distros.values().filter_map(|distro| distro.kill_at).max();
        self.power_off_at = Some(last.unwrap_or_else(Instant::now) + POWER_OFF_RESERVE);
    }

    /// Takes all connections that wait.
    fn accept(&mut self) {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        while let Ok(fd) = accept4(self.listener.as_raw_fd(), flags) {
            // SAFETY: the call returned a new descriptor that nothing else owns.
            let stream = unsafe { OwnedFd::from_raw_fd(fd) };
            // A user of a distro may reach this port too, where the kernel's local
            // transport is loaded: only the host speaks for the user of them all.
            let peer = getpeername::<VsockAddr>(stream.as_raw_fd());
            if peer.is_ok_and(|peer| peer.cid() == libc::VMADDR_CID_HOST) {
                self.streams.accept(stream);
            }
        }
    }

    /// Gives a session to its distro.
    fn hand_over(&mut self, whole: Whole) {
        let distro = self
            .distros
            .get(&whole.session.distro)
            .filter(|distro| distro.start.is_none() && distro.kill_at.is_none() && !distro.is_gone);
        let sent = distro.ok_or_else(|| io::ErrorKind::NotConnected.into()).and_then(|distro| {
            link::send_session(&distro.socket, &whole.encoded, &whole.control, &whole.streams)
        });
        if let Err(error) = sent {
            log::warn(format_args!("a session is refused: {error}"));
            let failure = Output::Failed(SessionError::NotRunning);
            let _ = frame::write(&mut File::from(whole.control), &failure);
        }
    }

    /// Takes what the distros' inits tell.
    fn take_reports(&mut self) {
        let mut ready = Vec::new();
        for distro in self.distros.values_mut().filter(|distro| !distro.is_gone) {
            // One each: a distro that tells without end must not keep init to itself.
            match link::receive::<Report>(&distro.socket) {
                Ok(Some((Report::Ready { warnings, stop_limit }, _))) => {
                    distro.stop_limit = stop_limit;
                    ready.extend(distro.start.take().map(|id| (id, warnings)));
                }
                Ok(Some((Report::Failed(error), _))) => distro.failure = Some(error),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // An init that talks nonsense or not at all is as good as gone.
                Ok(None) | Err(_) => {
                    distro.is_gone = true;
                    distro.kill_at.get_or_insert(Instant::now() + STOP_TIMEOUT);
                }
            }
        }
        for (id, warnings) in ready {
            self.reply(id, Ok(warnings));
        }
    }

    /// A process ended: a job, a distro's init, or an orphan.
    fn child_ended(&mut self, pid: Pid) {
        if let Some(index) = self.jobs.iter().position(|(job, _)| job.pid == pid) {
            let (job, purpose) = self.jobs.swap_remove(index);
            return self.job_ended(job.finish(), purpose);
        }
        let found = self.distros.iter_mut().find(|(_, distro)| distro.pid == pid);
        let Some((id, distro)) = found.map(|(id, distro)| (*id, distro)) else { return };
        // With its first process the whole namespace has ended. Its last words are still
        // to be read.
        if let Ok(Some((Report::Failed(error), _))) = link::receive::<Report>(&distro.socket) {
            distro.failure = Some(error);
        }
        distro.is_gone = true;
        distro.kill_at = None;
        let lun = distro.lun;
        let job = Job::start(move || {
            cgroup::remove(id);
            disk::release(lun).map(|()| Vec::new())
        });
        match job {
            Ok(job) => self.jobs.push((job, Purpose::Release(id))),
            Err(error) => {
                self.distro_ended(id, Err(GuestError::system("releasing the disk", &error)));
            }
        }
    }

    fn job_ended(&mut self, outcome: Outcome, purpose: Purpose) {
        match purpose {
            Purpose::Boot => {
                for (id, start) in self.early.take().unwrap_or_default() {
                    self.start_distro(id, start);
                }
            }
            Purpose::Configure(id) => {
                if outcome.is_ok() {
                    self.modules = Some(Modules {
                        release: self.release.clone(),
                        directory: modules_directory(&self.release),
                    });
                }
                self.reply(id, outcome);
            }
            Purpose::Release(id) => self.distro_ended(id, outcome),
        }
    }

    /// A distro is wholly gone: everyone who waits for that is told.
    fn distro_ended(&mut self, id: Uuid, released: Outcome) {
        let Some(distro) = self.distros.remove(&id) else { return };
        if let Err(error) = &released {
            log::warn(error);
        }
        if let Some(start) = distro.start {
            let failure = distro.failure.unwrap_or_else(|| {
                let error = io::ErrorKind::UnexpectedEof.into();
                GuestError::system("starting the distribution's init", &error)
            });
            self.reply(start, Err(failure));
        } else if distro.stops.is_empty() {
            self.control.send(&Event::DistroExited { distro: id });
        }
        for stop in distro.stops {
            self.reply(stop, released.clone());
        }
    }

    fn kill_late(&mut self) {
        let now = Instant::now();
        for distro in self.distros.values_mut() {
            if distro.kill_at.is_some_and(|time| time <= now) {
                distro.kill_at = None;
                distro.is_gone = true;
                let _ = sys::kill(distro.pid, libc::SIGKILL);
            }
        }
    }
}

impl Distro {
    /// Asks its init to end everything; it is killed where it does not.
    fn stop(&mut self) {
        if self.kill_at.is_none() && !self.is_gone {
            let _ = link::send(&self.socket, &Order::Stop, &[]);
            self.kill_at = Some(Instant::now() + self.stop_limit + STOP_RESERVE);
        }
    }
}

/// Where the modules of a release are on their disk: its top, or the usual place.
fn modules_directory(release: &str) -> PathBuf {
    let top = Path::new(boot::MODULES);
    [top.join("lib/modules").join(release), top.join(release)]
        .into_iter()
        .find(|path| path.is_dir())
        .unwrap_or_else(|| top.to_owned())
}
