//! The loop that serves distros: starts and stops them as the service asks, and hands
//! sessions to them.
//!
//! One thread and one poll loop that nothing can hold up: what arrives is read as it comes,
//! what can block is a [`Job`], and every distro that must end has a deadline after which
//! it is killed. What is different in a virtual machine and on the host itself is a
//! [`Platform`].

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::SigSet;
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::Pid;
use uuid::Uuid;

use super::control::Control;
use super::debug;
use super::distro::link::{self, Order, Report};
use super::distro::{self, Options};
use super::job::{Job, Outcome};
use super::log;
use super::sys::{self, Reaped};
use super::usage;
use crate::protocol::frame;
use crate::protocol::guest::{
    Configure, Envelope, Event, GuestError, HostPorts, Request, Root, StartDistro, VERSION,
};
use crate::protocol::session::{Output, SessionError, StreamKind};

/// How long a distro may take to end before it is killed, where it has not told.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a distro may take beyond what it takes by its own account.
const STOP_RESERVE: Duration = Duration::from_secs(1);

/// How long what the last distros have used may take to be released when everything ends.
const POWER_OFF_RESERVE: Duration = Duration::from_secs(2);

/// What distros are served on.
pub trait Platform {
    /// The descriptors from which sessions come, to poll for input.
    fn interests(&self) -> Vec<BorrowedFd<'_>>;

    /// What the service is to be told. Never waits.
    fn events(&mut self) -> Vec<Event> {
        Vec::new()
    }

    /// Sets the suffixes for short names, where the network is its own.
    ///
    /// # Errors
    /// The system's.
    fn set_search(&mut self, _search: Option<String>) -> Outcome {
        Ok(Vec::new())
    }

    /// Takes what has changed of the host's ports, where they are distros' too.
    ///
    /// # Errors
    /// The system's, or where they are not.
    fn set_host_ports(&mut self, _changes: &HostPorts) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// When [`Platform::arrived`] has something to do whatever comes.
    fn deadline(&self) -> Option<Instant>;

    /// The sessions that have arrived whole. Never waits.
    fn arrived(&mut self) -> Vec<Arrived>;

    /// Work to be done before the first distro starts.
    ///
    /// # Errors
    /// The system's.
    fn prepare(&mut self) -> io::Result<Option<Job>>;

    /// Takes the configuration: done at once, or in a job.
    fn configure(&mut self, configure: Configure) -> Work;

    /// Takes the host's time, where the clock is another than the host's.
    ///
    /// # Errors
    /// The system's.
    fn set_time(&mut self, _: (i64, u32)) -> io::Result<()> {
        Ok(())
    }

    /// The configuration's job has succeeded. Gives work that is left, for which nobody waits.
    fn configured(&mut self) -> Option<Job>;

    /// Frees what files are cached in, where the memory is its own.
    ///
    /// # Errors
    /// The system's.
    fn reclaim(&mut self, _gradually: bool) -> io::Result<Job> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// What a distro is started with.
    ///
    /// # Errors
    /// Where it cannot run here.
    fn options(&mut self, start: StartDistro) -> Result<Options, GuestError>;

    /// A distro is asked to stop: what else uses its files ends.
    fn stops(&mut self, _distro: Uuid) {}

    /// Makes a distro's cgroup, where there are any.
    fn group(&mut self, distro: Uuid) -> Option<OwnedFd>;

    /// Does something with a disk, for which it may have to wait; `root` is of the distro
    /// that the request is for, and `pid` its first process. Runs in a job.
    ///
    /// # Errors
    /// Where it cannot be done, or there are no disks here.
    fn disk(&self, request: &Request, distro: Option<(&Root, Pid)>) -> Outcome;

    /// Lets go of what a distro that has ended has used. Runs in a job.
    ///
    /// # Errors
    /// Where it is still in use.
    fn release(&self, distro: Uuid, root: &Root) -> Outcome;
}

/// What a piece of work came to.
pub enum Work {
    /// It is done.
    Done(Outcome),
    /// It goes on.
    Begun(Job),
}

/// A session with all its streams.
#[derive(Debug)]
pub struct Arrived {
    /// The distro it is for.
    pub distro: Uuid,
    /// A memory file with the encoded [`Session`](crate::protocol::session::Session).
    pub request: OwnedFd,
    /// The control stream.
    pub control: OwnedFd,
    /// The byte streams.
    pub streams: Vec<(StreamKind, OwnedFd)>,
    /// It is for the machine, with the distro's files ([`Program::DebugShell`]).
    ///
    /// [`Program::DebugShell`]: crate::protocol::session::Program::DebugShell
    pub is_debug: bool,
}

/// What a job was started for.
enum Purpose {
    /// [`Platform::prepare`].
    Prepare,
    /// [`Platform::configure`]; the number of the request.
    Configure(u64),
    /// What a request wants, whose number this is.
    Answer(u64),
    /// What nobody waits for.
    Nobody,
    /// [`Platform::reclaim`]; the number of the request.
    Reclaim(u64),
    /// [`Platform::release`].
    Release(Uuid),
}

/// A distro that has not wholly ended.
struct Distro {
    root: Root,
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

/// How the serving ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Ending {
    /// The service asked for it.
    PowerOff,
    /// The service is gone.
    Lost,
}

/// The distros of one platform.
pub struct Server<P> {
    platform: P,
    control: Control,
    signals: SignalFd,
    distros: HashMap<Uuid, Distro>,
    jobs: Vec<(Job, Purpose)>,
    /// Requests to start a distro that came before the platform was ready for one.
    early: Option<Vec<(u64, StartDistro)>>,
    /// When it ends at the latest, and how.
    end_at: Option<(Instant, Ending)>,
}

impl<P: Platform> Server<P> {
    /// Greets the service on its non-blocking control channel. All signals must be blocked.
    ///
    /// # Errors
    /// The system's.
    pub fn start(mut platform: P, control: OwnedFd) -> io::Result<Self> {
        let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
        let signals = SignalFd::with_flags(&SigSet::all(), flags)?;
        let kernel = nix::sys::utsname::uname()?.release().to_string_lossy().into_owned();
        let mut control = Control::new(control);
        control.send(&Event::Hello { version: VERSION, kernel });
        let job = platform.prepare()?;
        Ok(Self {
            platform,
            control,
            signals,
            distros: HashMap::new(),
            early: job.is_some().then(Vec::new),
            jobs: job.into_iter().map(|job| (job, Purpose::Prepare)).collect(),
            end_at: None,
        })
    }

    /// Serves until the service does not want it any more and all distros have ended, or
    /// their time is over.
    pub fn serve(&mut self) -> Ending {
        loop {
            self.wait();
            while let Ok(Some(signal)) = self.signals.read_signal() {
                if signal.ssi_signo == libc::SIGTERM.cast_unsigned() {
                    self.stop_all(Ending::PowerOff);
                }
            }
            self.control.flush();
            self.take_requests();
            for event in self.platform.events() {
                self.control.send(&event);
            }
            for session in self.platform.arrived() {
                self.hand_over(session);
            }
            self.take_reports();
            while let Reaped::Ended(ended) = sys::reap() {
                self.child_ended(ended.pid);
            }
            self.kill_late();
            if let Some((time, ending)) = self.end_at
                && (self.distros.is_empty() || time <= Instant::now())
            {
                self.control.flush();
                return ending;
            }
        }
    }

    /// Waits until anything happens or a deadline passes.
    fn wait(&self) {
        let (control, events) = self.control.interest();
        let mut polled = vec![PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
        if self.end_at.is_none() {
            polled.push(PollFd::new(control, events));
        }
        let distros = self.distros.values().filter(|distro| !distro.is_gone);
        let sockets = distros.map(|distro| distro.socket.as_fd());
        let all = self.platform.interests().into_iter().chain(sockets);
        polled.extend(all.map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
        let deadline = self
            .distros
            .values()
            .filter_map(|distro| distro.kill_at)
            .chain(self.platform.deadline())
            .chain(self.end_at.map(|(time, _)| time))
            .min();
        let timeout = deadline.map_or(PollTimeout::NONE, |time| {
            let left = time.saturating_duration_since(Instant::now()).as_millis() + 1;
            PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
        });
        let _ = poll(&mut polled, timeout);
    }

    fn take_requests(&mut self) {
        while self.end_at.is_none() {
            match self.control.receive() {
                Ok(Some(Envelope { id, request })) => self.carry_out(id, request),
                Ok(None) => return,
                Err(error) => {
                    log::warn(format_args!("the service is gone: {error}"));
                    self.stop_all(Ending::Lost);
                }
            }
        }
    }

    fn carry_out(&mut self, id: u64, request: Request) {
        match request {
            Request::Configure(configure) => match self.platform.configure(configure) {
                Work::Done(outcome) => self.reply(id, outcome),
                Work::Begun(job) => self.jobs.push((job, Purpose::Configure(id))),
            },
            Request::SetSearch { search } => {
                let outcome = self.platform.set_search(search);
                self.reply(id, outcome);
            }
            Request::SetHostPorts(changes) => {
                let result = self.platform.set_host_ports(&changes);
                let failed = |error| GuestError::system("taking the host's ports", &error);
                self.reply(id, result.map(|()| Vec::new()).map_err(failed));
            }
            Request::Look { distro } => self.look(id, distro),
            Request::ReclaimMemory { gradually } => self.reclaim(id, gradually),
            Request::PowerOff => self.stop_all(Ending::PowerOff),
            Request::SetTime { time } => {
                let result = self.platform.set_time(time);
                let result =
                    result.map_err(|error| GuestError::system("setting the clock", &error));
                self.reply(id, result.map(|()| Vec::new()));
            }
            Request::SetTimeZone { zone } => {
                for distro in self.distros.values().filter(|distro| !distro.is_gone) {
                    // One that does not take it keeps its own until its next start.
                    let _ = link::send(&distro.socket, &Order::TimeZone(zone.clone()), &[]);
                }
                self.reply(id, Ok(Vec::new()));
            }
            Request::GrowDistro { distro } => match self.distros.get(&distro) {
                None => self.reply(id, Err(GuestError::NotRunning)),
                Some(distro) => {
                    let work = || self.platform.disk(&request, Some((&distro.root, distro.pid)));
                    let job = Job::start(work);
                    self.begin(id, job);
                }
            },
            Request::MountDisk(_) | Request::UnmountDisk { .. } => {
                let job = Job::start(|| self.platform.disk(&request, None));
                self.begin(id, job);
            }
            Request::StartDistro(start) => match &mut self.early {
                Some(early) => early.push((id, start)),
                None => self.start_distro(id, start),
            },
            Request::StopDistro { distro } => match self.distros.get_mut(&distro) {
                None => self.reply(id, Err(GuestError::NotRunning)),
                Some(running) => {
                    self.platform.stops(distro);
                    running.stops.push(id);
                    running.stop();
                }
            },
        }
    }

    fn begin(&mut self, id: u64, job: io::Result<Job>) {
        match job {
            Ok(job) => self.jobs.push((job, Purpose::Answer(id))),
            Err(error) => self.reply(id, Err(GuestError::system("forking", &error))),
        }
    }

    fn reply(&mut self, id: u64, result: Outcome) {
        self.control.send(&Event::Reply { id, result });
    }

    /// Looks what a distro is used for, in a job: there may be many processes to look at.
    fn look(&mut self, id: u64, distro: Uuid) {
        let running = self.distros.get(&distro).filter(|distro| distro.is_running());
        let Some(pid) = running.map(|distro| distro.pid) else {
            return self.reply(id, Err(GuestError::NotRunning));
        };
        let job = Job::start(|| Ok(usage::look(pid)));
        self.begin(id, job);
    }

    /// Frees memory, one job at a time: it waits for disks, which may not answer.
    fn reclaim(&mut self, id: u64, gradually: bool) {
        let is_busy = self.jobs.iter().any(|(_, purpose)| matches!(purpose, Purpose::Reclaim(_)));
        let job = match is_busy {
            true => Err(io::ErrorKind::ResourceBusy.into()),
            false => self.platform.reclaim(gradually),
        };
        match job {
            Ok(job) => self.jobs.push((job, Purpose::Reclaim(id))),
            Err(error) => self.reply(id, Err(GuestError::system("freeing memory", &error))),
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
        let (distro, root) = (start.distro, start.root.clone());
        let options = self.platform.options(start)?;
        let group = self.platform.group(distro);
        let started = distro::start(&options, group.as_ref().map(AsFd::as_fd))
            .map_err(|error| GuestError::system("starting the distribution's init", &error))?;
        self.distros.insert(
            distro,
            Distro {
                root,
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

    fn stop_all(&mut self, ending: Ending) {
        for (id, distro) in &mut self.distros {
            self.platform.stops(*id);
            distro.stop();
        }
        let last = self.distros.values().filter_map(|distro| distro.kill_at).max();
        let time = last.unwrap_or_else(Instant::now) + POWER_OFF_RESERVE;
        self.end_at = Some((time, ending));
    }

    /// Gives a session to its distro.
    fn hand_over(&mut self, session: Arrived) {
        let distro = self.distros.get(&session.distro).filter(|distro| distro.is_running());
        if let (Some(distro), true) = (distro, session.is_debug) {
            if let Err(error) = debug::start(session.distro, distro.pid, session) {
                log::warn(format_args!("a debug shell is refused: {error}"));
            }
            return;
        }
        let sent = distro.ok_or_else(|| io::ErrorKind::NotConnected.into()).and_then(|distro| {
            link::send_session(&distro.socket, &session.request, &session.control, &session.streams)
        });
        if let Err(error) = sent {
            log::warn(format_args!("a session is refused: {error}"));
            refuse(session.control);
        }
    }

    /// Takes what the distros' inits tell.
    fn take_reports(&mut self) {
        let mut ready = Vec::new();
        for (name, distro) in self.distros.iter_mut().filter(|(_, distro)| !distro.is_gone) {
            // One each: a distro that tells without end must not keep init to itself.
            match link::receive::<Report>(&distro.socket) {
                Ok(Some((Report::Ready { warnings, stop_limit, release }, _))) => {
                    distro.stop_limit = stop_limit;
                    ready.extend(distro.start.take().map(|id| (id, *name, release, warnings)));
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
        for (id, distro, (flavor, os_version), warnings) in ready {
            // Before the answer, with which it is known to run.
            self.control.send(&Event::Described { distro, flavor, os_version });
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
        let root = &distro.root;
        let job = Job::start(|| self.platform.release(id, root));
        match job {
            Ok(job) => self.jobs.push((job, Purpose::Release(id))),
            Err(error) => {
                self.distro_ended(id, Err(GuestError::system("forking", &error)));
            }
        }
    }

    fn job_ended(&mut self, outcome: Outcome, purpose: Purpose) {
        match purpose {
            Purpose::Prepare => {
                for (id, start) in self.early.take().unwrap_or_default() {
                    self.start_distro(id, start);
                }
            }
            Purpose::Configure(id) => {
                let later = outcome.is_ok().then(|| self.platform.configured()).flatten();
                self.jobs.extend(later.map(|job| (job, Purpose::Nobody)));
                self.reply(id, outcome);
            }
            Purpose::Answer(id) => self.reply(id, outcome),
            Purpose::Nobody => {}
            Purpose::Reclaim(id) => self.reply(id, outcome),
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
    /// Whether it takes sessions.
    fn is_running(&self) -> bool {
        self.start.is_none() && self.kill_at.is_none() && !self.is_gone
    }

    /// Asks its init to end everything; it is killed where it does not.
    fn stop(&mut self) {
        if self.kill_at.is_none() && !self.is_gone {
            let _ = link::send(&self.socket, &Order::Stop, &[]);
            self.kill_at = Some(Instant::now() + self.stop_limit + STOP_RESERVE);
        }
    }
}

/// Tells a session that it cannot run.
pub(super) fn refuse(control: OwnedFd) {
    let failure = Output::Failed(SessionError::NotRunning);
    let _ = frame::write(&mut File::from(control), &failure);
}
