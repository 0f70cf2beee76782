//! The relay: a process per session that starts the command and stays with it.
//!
//! It moves bytes between the session's streams and the command's pipes or terminal,
//! tells when the command has ended and all it had written is sent, and then stays, the
//! control stream open, until the last descendant of the command is gone (B007): it is
//! their reaper.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::process::exit;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::{Pid, pipe2, tcgetpgrp};

use super::command::{Command, Setting, Standard};
use super::plumbing::Plumbing;
use super::pump::Pump;
use super::terminal::Terminal;
use super::{Handover, Surroundings};
use super::{environment, login, users};
use crate::guest::sys::{self, Ended, Forked, Reaped};
use crate::protocol::frame;
use crate::protocol::incremental::FrameReader;
use crate::protocol::session::{
    ExitStatus, Input, Output, Program, Session, SessionError, StreamKind, User,
};

/// The largest [`Input`].
const MAXIMUM_INPUT: usize = 64;

/// How long a command without a terminal has between SIGHUP and SIGKILL when its client
/// is gone.
const GRACE: Duration = Duration::from_secs(2);

/// How much is still read from a terminal whose session has ended while another process
/// keeps it open.
const TERMINAL_REST: usize = 1 << 20;

/// How long the service may take to receive a message.
const CONTROL_TIMEOUT: u16 = 10_000;

/// Runs one session.
pub fn run(surroundings: &Surroundings, handover: Handover) -> ! {
    // Blocked and not ignored: what the command inherits is only the mask, which it resets.
    let _ = SigSet::all().thread_block();
    let _ = nix::sys::prctl::set_name(c"relay");
    let Handover { request, control, streams, warnings, logins } = handover;
    let mut control = File::from(control);
    for warning in warnings {
        send(&mut control, &Output::Warning(warning));
    }
    match prepare(surroundings, request, streams, logins, &mut control) {
        Err(error) => {
            send(&mut control, &Output::Failed(error));
            exit(1)
        }
        Ok((relay, signals)) => relay.serve(&mut control, &signals),
    }
}

pub(in crate::guest) fn system(action: &str) -> impl Fn(io::Error) -> SessionError {
    let action = action.to_owned();
    move |error| SessionError::System { action: action.clone(), reason: error.to_string() }
}

fn prepare(
    surroundings: &Surroundings,
    mut request: File,
    streams: Vec<(StreamKind, OwnedFd)>,
    logins: Option<OwnedFd>,
    control: &mut File,
) -> Result<(Relay, SignalFd), SessionError> {
    nix::sys::prctl::set_child_subreaper(true)
        .map_err(|error| system("becoming a reaper")(error.into()))?;
    let mut mask = SigSet::empty();
    mask.add(Signal::SIGCHLD);
    mask.add(Signal::SIGTERM);
    let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
        .map_err(|error| system("watching child processes")(error.into()))?;
    let session = read_request(&mut request).map_err(system("reading the request"))?;
    let account = users::find(&session.user, surroundings.conf.default_user.as_deref())
        .map_err(system("reading '/etc/passwd'"))?
        .ok_or_else(|| SessionError::UserNotFound {
            name: match &session.user {
                User::Name(name) => name.clone(),
                User::Default(uid) | User::Number(uid) => uid.to_string(),
            },
        })?;
    let mut plumbing = Plumbing::new(&session, streams, account.uid)?;
    let umask = surroundings.conf.umask;
    let report_missing = matches!(session.program, Program::Arguments(_));
    let login = logins.and_then(|logins| {
        login::ask(&logins, account.uid, &surroundings.conf).unwrap_or_else(|warning| {
            send(control, &Output::Warning(warning));
            None
        })
    });
    let mut environment = environment::build(&account, surroundings, session.environment);
    if let Some(login) = &login {
        environment::add_login(&mut environment, login);
    }
    let group = login.map(|login| login.group);
    let setting = Setting { environment, account, directory: session.directory, umask, group };
    let command = Command::new(session.program, setting).ok_or_else(|| SessionError::System {
        action: "reading the command".to_owned(),
        reason: "it is empty or holds a NUL byte".to_owned(),
    })?;
    let standard = plumbing.standard.take().ok_or(SessionError::NotRunning)?;
    let (started, failure) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)
        .map_err(|error| system("making a pipe")(error.into()))?;
    match sys::fork().map_err(system("forking"))? {
        Forked::Child => become_command(command, &standard, File::from(failure), report_missing),
        Forked::Parent(main) => Ok((
            Relay {
                main,
                started: Some(File::from(started)),
                inputs: plumbing.inputs,
                outputs: plumbing.outputs,
                terminal: plumbing.terminal,
                ended: None,
                is_reported: false,
                kill_at: None,
            },
            signals,
        )),
    }
}

fn read_request(request: &mut File) -> io::Result<Session> {
    use std::io::Seek;
    request.rewind()?;
    let mut bytes = Vec::new();
    request.take(frame::MAXIMUM_LENGTH as u64).read_to_end(&mut bytes)?;
    postcard::from_bytes(&bytes).map_err(io::Error::other)
}

/// The forked child: executes the command or tells why it cannot.
fn become_command(
    command: Command,
    standard: &Standard,
    mut failure: File,
    report_missing: bool,
) -> ! {
    let program = command.program.to_string_lossy().into_owned();
    let (stage, error) = match command.execute(standard) {
        Ok(never) => match never {},
        Err(failed) => failed,
    };
    let reason = match error {
        Errno::ENOENT if report_missing && !program.contains('/') => "command not found",
        error => error.desc(),
    };
    let error_to_report = match stage {
        // As a shell does it: the command's own standard error, and its exit status.
        None if report_missing => {
            let line = format!("wslr: {program}: {reason}\n");
            let _ = nix::unistd::write(io::stderr(), line.as_bytes());
            exit(if error == Errno::ENOENT { 127 } else { 126 })
        }
        None => SessionError::Execute { program, reason: reason.to_owned() },
        Some(action) => {
            SessionError::System { action: action.to_owned(), reason: reason.to_owned() }
        }
    };
    let _ = frame::write(&mut failure, &error_to_report);
    exit(126)
}

/// Sends one message, waiting for a slow service but not for ever.
fn send(control: &mut File, message: &Output) {
    let Ok(bytes) = frame::encode(message) else { return };
    let mut rest = bytes.as_slice();
    while !rest.is_empty() {
        match control.write(rest) {
            Ok(count) => rest = rest.get(count..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let mut polled = [PollFd::new(control.as_fd(), PollFlags::POLLOUT)];
                if !poll(&mut polled, CONTROL_TIMEOUT).is_ok_and(|ready| ready > 0) {
                    return;
                }
            }
            Err(_) => return,
        }
    }
}

/// A running session.
struct Relay {
    /// The command's process, leader of its own session and process group.
    main: Pid,
    /// Ends when the command is executed, or carries why it is not.
    started: Option<File>,
    inputs: Vec<Pump>,
    outputs: Vec<Pump>,
    terminal: Option<Terminal>,
    /// How the command ended.
    ended: Option<ExitStatus>,
    /// The service has been told the end.
    is_reported: bool,
    /// When the command is killed, after its client has gone.
    kill_at: Option<Instant>,
}

impl Relay {
    fn serve(mut self, control: &mut File, signals: &SignalFd) -> ! {
        let mut reader = FrameReader::new(MAXIMUM_INPUT);
        let mut is_attached = sys::set_nonblocking(control).is_ok();
        loop {
            for pump in self.inputs.iter_mut().chain(&mut self.outputs) {
                pump.turn();
            }
            self.report_end(control);
            if self.is_reported && self.reap(control) == Reaped::NoChildren {
                exit(0);
            }
            self.wait(control, is_attached, signals);
            while matches!(signals.read_signal(), Ok(Some(signal)) if {
                if signal.ssi_signo == libc::SIGTERM.cast_unsigned() && self.terminal.is_some() {
                    self.hang_up();
                }
                true
            }) {}
            self.check_started(control);
            self.reap(control);
            while is_attached {
                match reader.next_message::<Input>(control) {
                    Ok(Some(input)) => self.obey(input),
                    Ok(None) => break,
                    Err(_) => {
                        is_attached = false;
                        self.hang_up();
                    }
                }
            }
            if self.kill_at.is_some_and(|time| time <= Instant::now()) {
                self.kill_at = None;
                self.signal(libc::SIGKILL);
            }
        }
    }

    /// Waits for anything to happen; a stream whose reader is gone is closed.
    fn wait(&mut self, control: &File, is_attached: bool, signals: &SignalFd) {
        let mut polled = vec![PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        if is_attached {
            polled.push(PollFd::new(control.as_fd(), PollFlags::POLLIN));
        }
        if let Some(started) = &self.started {
            polled.push(PollFd::new(started.as_fd(), PollFlags::POLLIN));
        }
        let pumps = || self.inputs.iter().chain(&self.outputs);
        let first = polled.len();
        let mut is_eager = false;
        for pump in pumps() {
            let (source, sink) = pump.interests();
            is_eager |= pump.is_eager();
            polled.extend(sink.map(|(sink, events)| PollFd::new(sink, events)));
            polled.extend(source.map(|source| PollFd::new(source, PollFlags::POLLIN)));
        }
        let timeout = match self.kill_at {
            _ if is_eager => PollTimeout::ZERO,
            None => PollTimeout::NONE,
            Some(time) => {
                let left = time.saturating_duration_since(Instant::now()).as_millis() + 1;
                PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
            }
        };
        let _ = poll(&mut polled, timeout);
        let mut results = polled.iter().skip(first);
        let mut broken = Vec::new();
        for pump in pumps() {
            let (source, sink) = pump.interests();
            let result = sink.and_then(|_| results.next());
            let ended = PollFlags::POLLERR | PollFlags::POLLHUP;
            broken.push(
                result.and_then(PollFd::revents).is_some_and(|events| events.intersects(ended)),
            );
            if source.is_some() {
                results.next();
            }
        }
        drop(polled);
        for (pump, is_broken) in self.inputs.iter_mut().chain(&mut self.outputs).zip(broken) {
            if is_broken {
                pump.close();
            }
        }
    }

    /// Tells that the command runs, or that it does not.
    fn check_started(&mut self, control: &mut File) {
        let Some(started) = &mut self.started else { return };
        let mut message = Vec::new();
        match started.read_to_end(&mut message) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            _ => self.started = None,
        }
        if message.is_empty() {
            send(control, &Output::Started);
            return;
        }
        let error = frame::read(&mut message.as_slice()).unwrap_or(SessionError::NotRunning);
        send(control, &Output::Failed(error));
        exit(1);
    }

    /// Takes ended children; at the end of the command only what it has written is left
    /// to be sent.
    fn reap(&mut self, control: &mut File) -> Reaped {
        loop {
            match sys::reap() {
                Reaped::Ended(Ended { pid, status }) if pid == self.main => {
                    // Its end has closed this end, so the question has an answer now.
                    self.check_started(control);
                    self.ended = Some(status);
                    self.kill_at = None;
                    self.inputs.clear();
                    if let Some(terminal) = &mut self.terminal {
                        terminal.slave = None;
                    }
                    for pump in &mut self.outputs {
                        let rest = pump.source().and_then(|source| {
                            sys::readable_bytes(&source).ok().filter(|_| !sys::is_terminal(&source))
                        });
                        pump.drain(rest.unwrap_or(TERMINAL_REST));
                    }
                }
                Reaped::Ended(_) => {}
                left => return left,
            }
        }
    }

    /// Tells the end once all output is sent.
    fn report_end(&mut self, control: &mut File) {
        if let Some(status) = self.ended
            && !self.is_reported
            && self.outputs.iter().all(Pump::is_done)
        {
            self.outputs.clear();
            self.terminal = None;
            send(control, &Output::Exited(status));
            self.is_reported = true;
        }
    }

    fn obey(&mut self, input: Input) {
        match input {
            Input::Hangup => self.hang_up(),
            Input::Resize(size) => {
                if let Some(terminal) = &self.terminal {
                    let _ = sys::set_window_size(&terminal.master, size);
                }
            }
            Input::Signal(signal) if (1..=64).contains(&signal) => {
                let foreground =
                    self.terminal.as_ref().and_then(|terminal| tcgetpgrp(&terminal.master).ok());
                match foreground {
                    Some(group) if group.as_raw() > 1 => {
                        let _ = sys::kill(Pid::from_raw(-group.as_raw()), signal);
                    }
                    _ => self.signal(signal),
                }
            }
            Input::Signal(_) => {}
        }
    }

    /// The client is gone: closing the master hangs a terminal up; a command without one
    /// is told, and killed where it does not go.
    fn hang_up(&mut self) {
        self.inputs.clear();
        self.outputs.clear();
        if self.terminal.take().is_some() || self.ended.is_some() {
            return;
        }
        self.signal(libc::SIGHUP);
        self.signal(libc::SIGCONT);
        self.kill_at = Some(Instant::now() + GRACE);
    }

    /// Sends a signal to the command's process group, while it has not ended.
    fn signal(&self, signal: i32) {
        if self.ended.is_none() && sys::kill(Pid::from_raw(-self.main.as_raw()), signal).is_err() {
            // It has not made its group yet.
            let _ = sys::kill(self.main, signal);
        }
    }
}
