//! Running a Linux command whose output this program reads itself. Its standard input is
//! empty, its standard error is the user's.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::thread;

use super::client::{self, ClientError};
use super::run::{Answers, Launch, RunError};
use crate::config::paths::Paths;
use crate::error::Failure;
use crate::protocol::client::{Answer, Request, Run};
use crate::protocol::frame;
use crate::protocol::session::{ExitStatus, Streams};
use crate::terminal::relay;

/// The most that is read; a command that writes more is told that nobody reads.
const LIMIT: u64 = 64 << 10;

/// How the command ended and what it wrote.
#[derive(Debug)]
pub(super) struct Captured {
    /// The status as [`ExitStatus::code`] gives it.
    pub(super) status: u8,
    /// Its standard output, 64 KiB at most.
    pub(super) output: Vec<u8>,
}

/// Runs the command to its end.
pub(super) fn run(paths: &Paths, launch: Launch) -> Result<Captured, Failure> {
    let failed =
        |action| move |source| Failure::new("Wsl/Service", &RunError::System { action, source });
    let (output, first) = UnixStream::pair().map_err(failed("make a socket"))?;
    let (error, second) = UnixStream::pair().map_err(failed("make a socket"))?;
    let to = io::stderr().as_fd().try_clone_to_owned().map_err(failed("use standard error"))?;
    let request = Request::Run(Run {
        distro: launch.distro,
        program: launch.program,
        user: launch.user,
        directory: launch.directory,
        environment: launch.environment,
        streams: Streams { terminal: None, stdin: false, stdout: true, stderr: true },
    });
    let connection = client::connect(paths)?;
    let lost = |source| Failure::from(ClientError::Lost { log: client::log(paths), source });
    client::send(&connection, &request, &[OwnedFd::from(first), OwnedFd::from(second)])
        .map_err(|error| ClientError::sending(paths, error))?;
    thread::scope(|scope| {
        let reader = scope.spawn(move || {
            let mut bytes = Vec::new();
            // A torn connection is an end; the answer tells what it means.
            let _ = output.take(LIMIT).read_to_end(&mut bytes);
            bytes
        });
        scope.spawn(move || relay::output(&error, File::from(to)));
        let mut answers = Answers::default();
        let status = loop {
            match frame::read::<Answer>(&mut &connection).map_err(lost)? {
                Answer::Exited(status) => break status,
                Answer::Failed(failure) => return Err(failure),
                Answer::Progress(progress) => answers.progress(&progress),
                Answer::Started => answers.started(),
                Answer::Warning(warning) => answers.warning(&warning),
                Answer::Done | Answer::Mounted(_) | Answer::Status(_) => {
                    return Err(ClientError::Unexpected.into());
                }
            }
        };
        let output = reader.join().unwrap_or_default();
        Ok(Captured { status: ExitStatus::code(status), output })
    })
}
