//! One command running in a distro, as all three lives see it.
//!
//! A session has one control stream and one byte stream per standard descriptor that the
//! user did not give a terminal, or one stream for the terminal. The control stream
//! carries [`Input`] towards the command and [`Output`] back; it stays open until the last
//! descendant of the command is gone, which is what keeps a distro from being idle (B007).

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The size of a terminal in character cells.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct WindowSize {
    /// Columns.
    pub columns: u16,
    /// Rows.
    pub rows: u16,
}

/// Where a session starts.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum Directory {
    /// The user's home.
    Home,
    /// A path in the distro; `~` at its start is the user's home. One that cannot be
    /// entered leaves the session in the user's home (B004).
    Path(Vec<u8>),
}

/// What a session runs.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum Program {
    /// An argument vector, started without a shell; `argv[0]` is looked up in `PATH`.
    Arguments(Vec<Vec<u8>>),
    /// A line for the user's shell: `$SHELL -c <line>`.
    Line {
        /// The line, exactly as typed.
        line: Vec<u8>,
        /// Whether the shell is a login shell.
        login: bool,
    },
    /// The user's login shell, interactive where it has a terminal (argv0 `-bash`).
    Shell,
    /// The same as root beside all distros of a virtual machine, with this one's files.
    DebugShell,
}

/// The user a session runs as.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum User {
    /// The one that the distro's `wsl.conf` names, else this number (B150).
    Default(u32),
    /// A name in the distro's `/etc/passwd`.
    Name(String),
    /// A number; one that `/etc/passwd` does not hold runs with home `/`.
    Number(u32),
}

/// A request to run one command.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Session {
    /// The distro.
    pub distro: Uuid,
    /// What to run.
    pub program: Program,
    /// As whom.
    pub user: User,
    /// Where.
    pub directory: Directory,
    /// Variables from the host (`TERM`), set before those the distro itself defines.
    pub environment: Vec<(Vec<u8>, Vec<u8>)>,
    /// What each standard descriptor is.
    pub streams: Streams,
}

/// How the three standard descriptors are connected.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Streams {
    /// The size of the terminal, where there is one. Descriptors without a pipe of
    /// their own are the terminal, or `/dev/null` where there is none.
    pub terminal: Option<WindowSize>,
    /// Standard input is a pipe of its own.
    pub stdin: bool,
    /// Standard output is a pipe of its own.
    pub stdout: bool,
    /// Standard error is a pipe of its own.
    pub stderr: bool,
}

impl Streams {
    /// The byte streams such a session has, in the order in which they are opened.
    #[must_use]
    pub fn kinds(self) -> Vec<StreamKind> {
        let wanted = [
            (self.terminal.is_some(), StreamKind::Terminal),
            (self.stdin, StreamKind::Stdin),
            (self.stdout, StreamKind::Stdout),
            (self.stderr, StreamKind::Stderr),
        ];
        wanted.into_iter().filter(|(is, _)| *is).map(|(_, kind)| kind).collect()
    }
}

/// Which stream of a session a connection is.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum StreamKind {
    /// [`Session`] first, then [`Input`] and [`Output`] frames.
    Control,
    /// Bytes towards the command.
    Stdin,
    /// Bytes from the command.
    Stdout,
    /// Bytes from the command.
    Stderr,
    /// Bytes both ways: the master side of the session's pseudo-terminal.
    Terminal,
}

/// What is sent to a running session.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum Input {
    /// The client is gone: hang up the terminal, or end the command's process group.
    Hangup,
    /// The terminal has a new size.
    Resize(WindowSize),
    /// A signal number for the command's process group.
    Signal(i32),
}

/// What a session tells.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum Output {
    /// The command could not be started; the session is over.
    Failed(SessionError),
    /// The command ended, all its output has been sent and its streams are closed.
    Exited(ExitStatus),
    /// The command runs.
    Started,
    /// For the user, before [`Self::Started`].
    Warning(String),
}

/// How a command ended.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum ExitStatus {
    /// `exit(code)`.
    Code(u8),
    /// Killed by a signal.
    Signal(u8),
}

impl ExitStatus {
    /// The status `wslr` itself exits with: the code unchanged, or 128 + the signal.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Code(code) => code,
            Self::Signal(signal) => signal.saturating_add(128),
        }
    }
}

/// Why a session could not start.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize, thiserror::Error)]
pub enum SessionError {
    /// The program does not exist or cannot be executed; the message names it.
    #[error("{program}: {reason}")]
    Execute {
        /// What was to be executed.
        program: String,
        /// The system's reason.
        reason: String,
    },
    /// The distro is stopping or gone.
    #[error("the distribution is not running")]
    NotRunning,
    /// A system call failed while the session was made.
    #[error("{action}: {reason}")]
    System {
        /// What was being done.
        action: String,
        /// The system's reason.
        reason: String,
    },
    /// No pseudo-terminal is left.
    #[error("no terminal is left in the distribution")]
    TerminalLimit,
    /// No such user (B011).
    #[error("User not found.")]
    UserNotFound {
        /// The name asked for.
        name: String,
    },
}
