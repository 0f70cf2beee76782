//! Running a Linux command: the request, and the user's descriptors and signals while it
//! runs.
//!
//! Each standard descriptor that is a terminal is the session's terminal, each other one a
//! pipe of its own. The terminal is raw only where keys go to the command and nothing else
//! on this side of the pipe reads them: with standard output in a pipe (`wslr ls | less`)
//! it stays as it is, and the command gets pipes alone.

use std::env;
use std::fs::File;
use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use uuid::Uuid;

use super::client::{self, ClientError};
use super::{output, signals};
use crate::config::paths::Paths;
use crate::error::{Diagnose, Failure, io_code};
use crate::protocol::client::{Answer, Progress, Request, Run};
use crate::protocol::frame;
use crate::protocol::session::{Directory, ExitStatus, Program, StreamKind, Streams, WindowSize};
use crate::terminal::progress::{self, Bar};
use crate::terminal::raw::{Raw, window_size};
use crate::terminal::relay::{self, Gate};

/// The size of a terminal that does not know its own.
const USUAL_SIZE: WindowSize = WindowSize { columns: 80, rows: 24 };

/// A command to run in a distro.
#[derive(Clone, Debug)]
pub struct Launch {
    /// The distro.
    pub distro: Uuid,
    /// What to run.
    pub program: Program,
    /// The user's name; the distro's default where absent.
    pub user: Option<String>,
    /// Where.
    pub directory: Directory,
    /// Variables from the host; `TERM` is added where there is a terminal.
    pub environment: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Why a command's streams could not be kept up on this side.
#[derive(Debug, thiserror::Error)]
pub(super) enum RunError {
    #[error("cannot write to {stream}")]
    Output { stream: &'static str, source: io::Error },
    #[error("cannot {action}")]
    System { action: &'static str, source: io::Error },
}

impl Diagnose for RunError {
    fn code(&self) -> &'static str {
        match self {
            Self::Output { source, .. } | Self::System { source, .. } => io_code(source),
        }
    }
}

/// What each standard descriptor becomes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Plan {
    streams: Streams,
    /// Keys go to the command.
    raw: bool,
}

/// What a standard descriptor is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Descriptor {
    Terminal,
    /// A pipe or socket: somebody may be reading at its other end, and the terminal too.
    Pipe,
    Other,
}

/// Runs the command and gives the status to exit with.
///
/// # Errors
/// Where the command could not be started, or its connection was lost.
pub fn run(paths: &Paths, launch: Launch) -> Result<u8, Failure> {
    let failed =
        |action| move |source| Failure::new("Wsl/Service", &RunError::System { action, source });
    let (stdin, stdout, stderr) = (io::stdin(), io::stdout(), io::stderr());
    let size = [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()].into_iter().find_map(window_size);
    let plan = plan(
        descriptor(stdin.as_fd()),
        descriptor(stdout.as_fd()),
        descriptor(stderr.as_fd()),
        size.filter(|size| size.columns > 0 && size.rows > 0).unwrap_or(USUAL_SIZE),
    );
    let mut environment = launch.environment;
    if plan.streams.terminal.is_some()
        && let Some(term) = env::var_os("TERM")
        && !environment.iter().any(|(name, _)| name == b"TERM")
    {
        use std::os::unix::ffi::OsStringExt;
        environment.push((b"TERM".to_vec(), term.into_vec()));
    }
    let request = Request::Run(Run {
        distro: launch.distro,
        program: launch.program,
        user: launch.user,
        directory: launch.directory,
        environment,
        streams: plan.streams,
    });
    let mut ours = Vec::new();
    let mut theirs = Vec::new();
    for kind in plan.streams.kinds() {
        let (mine, other) = UnixStream::pair().map_err(failed("make a socket"))?;
        ours.push((kind, mine));
        theirs.push(OwnedFd::from(other));
    }
    let connection = client::connect(paths)?;
    client::send(&connection, &request, &theirs)
        .map_err(|error| ClientError::sending(paths, error))?;
    drop(theirs);

    let terminal = plan.streams.terminal.is_some();
    let raw = match plan.raw {
        true => {
            let raw = Raw::new(stdin.as_fd()).map_err(failed("use the terminal"))?;
            Some(Arc::new(raw))
        }
        false => None,
    };
    let gate = Arc::new(Gate::default());
    let mut relays = Relays { raw: raw.clone(), ..Relays::default() };
    let mut answers = Answers::default();
    let result = loop {
        match frame::read::<Answer>(&mut &connection) {
            Ok(Answer::Started) => {
                answers.started();
                signals::forward(&connection, raw.as_ref(), terminal, &gate)
                    .map_err(failed("catch signals"))?;
                if let Some(raw) = &raw {
                    raw.enter();
                }
                for (kind, stream) in ours.drain(..) {
                    relays.start(kind, stream, &gate).map_err(failed("start a thread"))?;
                }
            }
            Ok(Answer::Exited(status)) => break Ok(status),
            Ok(Answer::Failed(failure)) => break Err(failure),
            Ok(Answer::Progress(progress)) => answers.progress(&progress),
            Ok(Answer::Warning(warning)) => answers.warning(&warning),
            Ok(Answer::Done | Answer::Mounted(_) | Answer::Status(_)) => {
                break Err(ClientError::Unexpected.into());
            }
            Err(source) => {
                break Err(ClientError::Lost { log: client::log(paths), source }.into());
            }
        }
    };
    drop(answers);
    // A command that ended at once may have done so before it was said to have started.
    if result.is_ok() {
        for (kind, stream) in ours.drain(..) {
            if !matches!(kind, StreamKind::Stdin) {
                relays.start(kind, stream, &gate).map_err(failed("start a thread"))?;
            }
        }
    }
    let drained = relays.finish(&gate);
    if let Some(raw) = &raw {
        raw.leave();
    }
    let status = result?;
    drained?;
    Ok(ExitStatus::code(status))
}

fn descriptor(descriptor: BorrowedFd<'_>) -> Descriptor {
    if descriptor.is_terminal() {
        return Descriptor::Terminal;
    }
    let kind = descriptor
        .try_clone_to_owned()
        .and_then(|owned| File::from(owned).metadata())
        .map(|metadata| metadata.file_type());
    match kind {
        Ok(kind) if kind.is_fifo() || kind.is_socket() => Descriptor::Pipe,
        _ => Descriptor::Other,
    }
}

fn plan(stdin: Descriptor, stdout: Descriptor, stderr: Descriptor, size: WindowSize) -> Plan {
    use Descriptor::{Pipe, Terminal};
    let raw = stdin == Terminal && stdout != Pipe;
    let terminal = raw || stdout == Terminal;
    let own = |descriptor| !terminal || descriptor != Terminal;
    Plan {
        streams: Streams {
            terminal: terminal.then_some(size),
            stdin: own(stdin),
            stdout: own(stdout),
            stderr: own(stderr),
        },
        raw,
    }
}

/// The threads that move the bytes.
#[derive(Default)]
struct Relays {
    inputs: Vec<JoinHandle<()>>,
    outputs: Vec<(&'static str, JoinHandle<io::Result<()>>)>,
    /// Dropping one stops its input.
    stops: Vec<UnixStream>,
    /// The terminal, to be raw when this process comes into the foreground.
    raw: Option<Arc<Raw>>,
}

impl Relays {
    fn start(&mut self, kind: StreamKind, stream: UnixStream, gate: &Arc<Gate>) -> io::Result<()> {
        let stream = Arc::new(stream);
        match kind {
            StreamKind::Control => {}
            StreamKind::Stdin => self.input(&stream, gate)?,
            StreamKind::Stdout => self.output("standard output", &io::stdout(), stream)?,
            StreamKind::Stderr => self.output("standard error", &io::stderr(), stream)?,
            StreamKind::Terminal => {
                let keys = io::stdin().is_terminal();
                if keys {
                    self.input(&stream, gate)?;
                }
                match (io::stdout().is_terminal(), io::stderr().is_terminal()) {
                    (true, _) => self.output("the terminal", &io::stdout(), stream)?,
                    (false, true) => self.output("the terminal", &io::stderr(), stream)?,
                    (false, false) => self.output("the terminal", &io::stdin(), stream)?,
                }
            }
        }
        Ok(())
    }

    fn input(&mut self, stream: &Arc<UnixStream>, gate: &Arc<Gate>) -> io::Result<()> {
        let (stop, stopped) = UnixStream::pair()?;
        let from = File::from(io::stdin().as_fd().try_clone_to_owned()?);
        let terminal = from.is_terminal();
        let (to, gate, raw) = (Arc::clone(stream), Arc::clone(gate), self.raw.clone());
        let enter = move || {
            if let Some(raw) = &raw {
                raw.enter();
            }
        };
        let work = move || relay::input(from, &to, &stopped, &gate, terminal, enter);
        self.inputs.push(thread::Builder::new().name("input".to_owned()).spawn(work)?);
        self.stops.push(stop);
        Ok(())
    }

    fn output(
        &mut self,
        name: &'static str,
        to: &impl AsFd,
        from: Arc<UnixStream>,
    ) -> io::Result<()> {
        let to = File::from(to.as_fd().try_clone_to_owned()?);
        let work = move || relay::output(&from, to);
        let thread = thread::Builder::new().name("output".to_owned()).spawn(work)?;
        self.outputs.push((name, thread));
        Ok(())
    }

    /// Stops reading keys, then waits until all output is written.
    fn finish(mut self, gate: &Gate) -> Result<(), Failure> {
        self.stops.clear();
        gate.open();
        let mut result = Ok(());
        for (stream, thread) in self.outputs {
            if let Ok(Err(source)) = thread.join() {
                result = Err(Failure::new("Wsl", &RunError::Output { stream, source }));
            }
        }
        result
    }
}

/// What the user sees while the command is being started.
pub(super) struct Answers {
    bars: progress::Progress,
    bar: Option<Bar>,
}

impl Default for Answers {
    fn default() -> Self {
        Self { bars: progress::Progress::on_terminal(), bar: None }
    }
}

impl Answers {
    /// The command runs: what was shown before is taken away.
    pub(super) fn started(&mut self) {
        self.bar = None;
    }

    /// Shows how far the start is.
    pub(super) fn progress(&mut self, progress: &Progress) {
        let bar =
            self.bar.get_or_insert_with(|| self.bars.steps(progress.label.clone(), progress.total));
        bar.label(progress.label.clone());
        bar.set_total(progress.total);
        bar.set(progress.done);
    }

    /// Shows a line.
    pub(super) fn warning(&self, text: &str) {
        // It may come from the guest.
        let text = text.replace(|one: char| one.is_control(), "\u{fffd}");
        self.bars.suspend(|| output::warning(&text));
    }
}

#[cfg(test)]
mod tests {
    use super::Descriptor::{Other, Pipe, Terminal};
    use super::*;

    fn planned(stdin: Descriptor, stdout: Descriptor, stderr: Descriptor) -> (bool, String) {
        let plan = plan(stdin, stdout, stderr, USUAL_SIZE);
        let kinds: Vec<_> = plan.streams.kinds().iter().map(|kind| format!("{kind:?}")).collect();
        (plan.raw, kinds.join(" "))
    }

    #[test]
    fn terminals_stay_terminals_and_the_rest_are_pipes() {
        assert_eq!(planned(Terminal, Terminal, Terminal), (true, "Terminal".into()));
        assert_eq!(planned(Terminal, Other, Terminal), (true, "Terminal Stdout".into()));
        assert_eq!(planned(Terminal, Terminal, Pipe), (true, "Terminal Stderr".into()));
        assert_eq!(planned(Pipe, Terminal, Terminal), (false, "Terminal Stdin".into()));
        assert_eq!(planned(Pipe, Pipe, Pipe), (false, "Stdin Stdout Stderr".into()));
        assert_eq!(planned(Other, Other, Terminal), (false, "Stdin Stdout Stderr".into()));
    }

    #[test]
    fn a_pager_behind_a_pipe_keeps_its_terminal() {
        assert_eq!(planned(Terminal, Pipe, Terminal), (false, "Stdin Stdout Stderr".into()));
    }
}
