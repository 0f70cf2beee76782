//! One session's connections: the client's on one side, the guest's on the other.

use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::distro::find;
use super::error::ServiceError;
use super::log;
use super::machine::Kind;
use super::supervisor::{OpenError, Supervisor};
use super::vm::Vm;
use crate::error::{Diagnose, Failure};
use crate::protocol::client::{Answer, Run};
use crate::protocol::frame::{self, Decoder, FrameError};
use crate::protocol::session::{Input, Output, Program, Session, SessionError, User};

/// How long the guest may take to read an input. Its session leaders always read.
const INPUT_LIMIT: Duration = Duration::from_secs(1);

impl Diagnose for SessionError {
    fn code(&self) -> &'static str {
        match self {
            Self::UserNotFound { .. } => "WSL_E_USER_NOT_FOUND",
            Self::TerminalLimit => "WSL_E_TTY_LIMIT",
            Self::Execute { .. } | Self::NotRunning | Self::System { .. } => "E_FAIL",
        }
    }
}

/// Opens a session's streams to the guest; gives its control stream.
///
/// # Errors
/// Where the machine is gone or the streams do not fit the session.
pub fn open(
    vm: &Vm,
    number: u64,
    session: &Session,
    streams: Vec<OwnedFd>,
) -> Result<UnixStream, Failure> {
    let kinds = session.streams.kinds();
    let fail = |error: &ServiceError| Failure::new("Wsl/Service", error);
    if kinds.len() != streams.len() {
        let error = ServiceError::Streams { passed: streams.len(), expected: kinds.len() };
        return Err(fail(&error));
    }
    let (control, theirs) = UnixStream::pair()
        .and_then(|pair| pair.0.set_write_timeout(Some(INPUT_LIMIT)).map(|()| pair))
        .map_err(|source| fail(&ServiceError::System { action: "make a socket", source }))?;
    let streams = kinds.into_iter().zip(streams).collect();
    vm.machine.open(number, session, theirs, streams).map_err(|error| {
        vm.end().cloned().unwrap_or_else(|| Failure::new("Wsl/Service", &error))
    })?;
    Ok(control)
}

/// Serves one [`Run`] request to its end, which is when the last descendant of the
/// command is gone.
pub fn run(supervisor: &Arc<Supervisor>, mut client: UnixStream, run: Run, streams: Vec<OwnedFd>) {
    let mut report = client.try_clone().ok();
    let opened = supervisor.open(run.distro, |progress| {
        report
            .as_mut()
            .is_some_and(|stream| frame::write(stream, &Answer::Progress(progress)).is_ok())
    });
    let (claim, vm, warnings) = match opened {
        Ok(opened) => opened,
        Err(OpenError::ClientGone) => return,
        Err(OpenError::Failed(failure)) => {
            let _ = frame::write(&mut client, &Answer::Failed(failure));
            return;
        }
    };
    for warning in warnings {
        let _ = frame::write(&mut client, &Answer::Warning(warning));
    }
    let opened = find(&supervisor.paths, run.distro).and_then(|record| {
        if run.program == Program::DebugShell && vm.kind == Kind::Host {
            let error = ServiceError::NoMachine { name: record.name };
            return Err(Failure::new("Wsl/Service", &error));
        }
        let user = run.user.map_or(User::Default(record.default_uid), User::Name);
        let session = Session {
            distro: run.distro,
            program: run.program,
            user,
            directory: run.directory,
            environment: run.environment,
            streams: run.streams,
        };
        Ok((open(&vm, claim.session, &session, streams)?, record.name))
    });
    let (control, name) = match opened {
        Ok(opened) => opened,
        Err(failure) => {
            let _ = frame::write(&mut client, &Answer::Failed(failure));
            return;
        }
    };
    let mut relay = Relay { client: Some(client), control, told: false };
    relay.run();
    if !relay.told {
        relay.tell(&Answer::Failed(supervisor.why_lost(&claim, &vm, &name)));
    }
}

struct Relay {
    /// Gone once it has its last answer, or has left.
    client: Option<UnixStream>,
    control: UnixStream,
    /// The last answer was given, or there is nobody to give it to.
    told: bool,
}

impl Relay {
    /// Passes inputs and outputs until the control stream ends.
    fn run(&mut self) {
        let mut inputs = Decoder::default();
        let mut outputs = Decoder::default();
        let mut buffer = vec![0; 16 << 10];
        loop {
            let (client_ready, control_ready) = self.wait();
            if client_ready {
                self.take_inputs(&mut inputs, &mut buffer);
            }
            if control_ready && !self.take_outputs(&mut outputs, &mut buffer) {
                return;
            }
        }
    }

    fn wait(&self) -> (bool, bool) {
        let mut descriptors = vec![PollFd::new(self.control.as_fd(), PollFlags::POLLIN)];
        if let Some(client) = &self.client {
            descriptors.push(PollFd::new(client.as_fd(), PollFlags::POLLIN));
        }
        // An interrupted wait finds nothing ready.
        let _ = poll(&mut descriptors, PollTimeout::NONE);
        let ready = |at: usize| descriptors.get(at).and_then(PollFd::any).unwrap_or(false);
        (ready(1), ready(0))
    }

    fn take_inputs(&mut self, inputs: &mut Decoder, buffer: &mut [u8]) {
        let Some(client) = &mut self.client else { return };
        let alive = match client.read(buffer) {
            Ok(count @ 1..) => {
                inputs.push(buffer.get(..count).unwrap_or_default());
                loop {
                    match inputs.take::<Input>() {
                        Ok(Some(input)) => self.send(input),
                        Ok(None) => break true,
                        Err(error) => {
                            log(format_args!("client: {error}"));
                            break false;
                        }
                    }
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => true,
            Ok(0) | Err(_) => false,
        };
        if !alive {
            self.send(Input::Hangup);
            self.client = None;
            self.told = true;
        }
    }

    fn send(&mut self, input: Input) {
        if let Ok(bytes) = frame::encode(&input) {
            // A session that does not read ends by its own means.
            let _ = self.control.write_all(&bytes);
        }
    }

    /// False where the stream has ended.
    fn take_outputs(&mut self, outputs: &mut Decoder, buffer: &mut [u8]) -> bool {
        match self.control.read(buffer) {
            Ok(count @ 1..) => outputs.push(buffer.get(..count).unwrap_or_default()),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => return true,
            Ok(0) | Err(_) => return false,
        }
        loop {
            let answer = match outputs.take::<Output>() {
                Ok(None) => return true,
                Ok(Some(Output::Started)) => {
                    self.pass(&Answer::Started);
                    continue;
                }
                Ok(Some(Output::Warning(warning))) => {
                    self.pass(&Answer::Warning(warning));
                    continue;
                }
                Ok(Some(Output::Exited(status))) => Answer::Exited(status),
                Ok(Some(Output::Failed(error))) => {
                    Answer::Failed(Failure::new("Wsl/Service/CreateInstance", &error))
                }
                Err(error) => {
                    log(format_args!("session: {error}"));
                    return false;
                }
            };
            self.tell(&answer);
        }
    }

    fn pass(&mut self, answer: &Answer) {
        if let Some(client) = &mut self.client {
            let _ = frame::write(client, answer);
        }
    }

    /// Gives the client its last answer.
    fn tell(&mut self, answer: &Answer) {
        self.pass(answer);
        self.client = None;
        self.told = true;
    }
}

/// Reads what a session sends until its command ends.
///
/// # Errors
/// Where the stream ends before that.
pub fn outcome(control: &mut UnixStream) -> Result<Output, FrameError> {
    loop {
        match frame::read(control)? {
            Output::Started | Output::Warning(_) => {}
            output => return Ok(output),
        }
    }
}
