//! Directory trees of an ordinary user's distros: another process reads, writes and
//! deletes them, as root of the user namespace that their owners are of.
//!
//! It is this executable, started by [`Mapping::command`]. Its standard input is the
//! directory that it works in (and so shares whatever lock is on it), its standard output
//! a socket: entries go over it in one direction ([`wire`]), and what became
//! of it comes back. It ends when the socket does.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read};
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Stdio, exit};

use super::directory::{self, Action};
use super::wire::{self, ReceiveError, SendError};
use super::{CopyError, Entry, Sink};
use crate::error::{Diagnose, io_code};
use crate::namespaces::user::Mapping;
use crate::protocol::frame::{self, FrameError};

/// `argv[0]` of the process.
pub const ARGUMENT: &str = "wslr-tree";

const READ: &str = "read";
const REMOVE: &str = "remove";
const WRITE: &str = "write";

/// Bytes that are collected before they are sent.
const BUFFER: usize = 256 << 10;

/// The executable that can take over in [`run_if_called`].
const EXECUTABLE: &str = "/proc/self/exe";

/// What became of it.
type Reply = Result<(), directory::Error>;

/// Why a directory tree could not be worked on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file's content, which is to be written, cannot be read.
    #[error("cannot read a file's content")]
    Content(#[from] io::Error),
    /// The process was lost, or never became root of a user namespace.
    #[error("the process for the distribution's files ended: {reason}")]
    Ended {
        /// What it said.
        reason: String,
    },
    /// The process cannot be started.
    #[error("cannot start the process for the distribution's files")]
    Start(#[source] io::Error),
    /// An entry that does not fit into a message.
    #[error("an entry of the tree is too large")]
    TooLarge(#[source] FrameError),
    /// The tree itself.
    #[error(transparent)]
    Tree(#[from] directory::Error),
}

impl Diagnose for Error {
    fn code(&self) -> &'static str {
        match self {
            Self::Content(_) | Self::TooLarge(_) => "WSL_E_IMPORT_FAILED",
            Self::Ended { .. } => "E_ACCESSDENIED",
            Self::Start(error) => io_code(error),
            Self::Tree(error) => error.code(),
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Tree(error) => error.hint(),
            _ => None,
        }
    }
}

/// Takes over where this process was started to work on a tree. Otherwise returns at once.
pub fn run_if_called() {
    let mut words = std::env::args_os();
    if words.next().is_none_or(|name| name != ARGUMENT) {
        return;
    }
    let verb = words.next().unwrap_or_default();
    let name = words.next().unwrap_or_default();
    exit(match work(&verb, &name) {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("wslr: {error}");
            1
        }
    })
}

fn work(verb: &OsStr, name: &OsStr) -> Result<(), Box<dyn std::error::Error>> {
    let directory = io::stdin().as_fd().try_clone_to_owned()?;
    let socket = UnixStream::from(io::stdout().as_fd().try_clone_to_owned()?);
    if verb == READ {
        let mut sender = wire::Sender::new(BufWriter::with_capacity(BUFFER, socket));
        return match directory::read(&directory, &mut sender) {
            Ok(()) => Ok(sender.finish()?),
            Err(CopyError::Source(error)) => Ok(sender.fail(error)?),
            Err(CopyError::Sink(SendError::Content(error))) => Ok(sender.fail(error.into())?),
            // The other side has lost interest.
            Err(CopyError::Sink(SendError::Stream(error))) => Err(error.into()),
        };
    }
    let reply = if verb == WRITE {
        write(directory, &socket)?
    } else if verb == REMOVE {
        directory::remove(&directory, name.as_bytes())
    } else {
        return Err("this process is started by wslr only".into());
    };
    frame::write(&mut &socket, &reply)?;
    // Whoever is still sending is told so.
    let _ = socket.shutdown(Shutdown::Read);
    Ok(())
}

/// Writes what comes. An error of the stream is that of a lost caller, who needs no reply.
fn write(directory: OwnedFd, socket: &UnixStream) -> Result<Reply, FrameError> {
    let mut writer = directory::Writer::new(directory);
    let mut stream = BufReader::with_capacity(BUFFER, socket);
    match wire::receive(&mut stream, &mut writer) {
        Ok(()) => Ok(writer.finish()),
        Err(ReceiveError::Sink(error) | ReceiveError::Failed(error)) => Ok(Err(error)),
        Err(ReceiveError::Path(error)) => {
            Ok(Err(directory::Error::ContentOther { reason: error.to_string() }))
        }
        Err(ReceiveError::Stream(error)) => Err(error),
    }
}

/// A running process and the socket to it.
struct Process {
    child: Child,
    socket: UnixStream,
}

impl Process {
    fn start(mapping: &Mapping, directory: OwnedFd, words: [&OsStr; 2]) -> Result<Self, Error> {
        let (socket, theirs) = UnixStream::pair().map_err(Error::Start)?;
        let child = mapping
            .command(Path::new(EXECUTABLE), ARGUMENT)
            .args(words)
            .stdin(Stdio::from(directory))
            .stdout(Stdio::from(OwnedFd::from(theirs)))
            .stderr(Stdio::piped())
            .spawn()
            .map_err(Error::Start)?;
        Ok(Self { child, socket })
    }

    /// Waits for the reply.
    fn reply(&mut self) -> Result<(), Error> {
        match frame::read::<Reply>(&mut &self.socket) {
            Ok(reply) => Ok(reply?),
            Err(_) => Err(self.lost()),
        }
    }

    /// Why there is no reply.
    fn lost(&mut self) -> Error {
        let _ = self.socket.shutdown(Shutdown::Both);
        let mut said = Vec::new();
        if let Some(errors) = self.child.stderr.take() {
            let _ = errors.take(4096).read_to_end(&mut said);
        }
        let status = self.child.wait();
        let said = String::from_utf8_lossy(&said);
        let reason = match (said.trim(), status) {
            ("", Ok(status)) => status.to_string(),
            ("", Err(error)) => error.to_string(),
            (said, _) => said.trim_start_matches("wslr: ").to_owned(),
        };
        Error::Ended { reason }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.socket.shutdown(Shutdown::Both);
        let _ = self.child.wait();
    }
}

/// Fills a directory by way of a process in a user namespace.
pub struct Writer {
    sender: wire::Sender<BufWriter<UnixStream>>,
    // After the sender, which may still have something to send.
    process: Process,
}

impl Writer {
    /// A writer to an empty, open directory, the root of the tree.
    ///
    /// # Errors
    /// [`Error::Start`].
    pub fn new(mapping: &Mapping, root: OwnedFd) -> Result<Self, Error> {
        let process = Process::start(mapping, root, [WRITE.as_ref(), "".as_ref()])?;
        let socket = process.socket.try_clone().map_err(Error::Start)?;
        let sender = wire::Sender::new(BufWriter::with_capacity(BUFFER, socket));
        Ok(Self { sender, process })
    }

    /// Completes the tree and waits until all is on the disk.
    ///
    /// # Errors
    /// Where something could not be written.
    pub fn finish(mut self) -> Result<(), Error> {
        self.sender.finish().or_else(|error| self.failure(error))?;
        self.process.reply()
    }

    /// What a failure to send means.
    fn failure(&mut self, error: SendError) -> Result<(), Error> {
        match error {
            SendError::Content(error) => Err(error.into()),
            SendError::Stream(error @ (FrameError::TooLong { .. } | FrameError::Malformed(_))) => {
                Err(Error::TooLarge(error))
            }
            SendError::Stream(_) => match self.process.reply() {
                Ok(()) => Err(self.process.lost()),
                Err(error) => Err(error),
            },
        }
    }
}

impl Sink for Writer {
    type Error = Error;

    fn add(&mut self, entry: Entry<'_>) -> Result<(), Error> {
        self.sender.add(entry).or_else(|error| self.failure(error))
    }
}

/// Reads the tree below an open directory into a sink by way of a process in a user
/// namespace.
///
/// # Errors
/// [`CopyError::Source`] where something cannot be read, [`CopyError::Sink`] where the
/// sink refuses an entry.
pub fn read<S: Sink>(
    mapping: &Mapping,
    root: OwnedFd,
    sink: &mut S,
) -> Result<(), CopyError<Error, S::Error>> {
    let mut process = Process::start(mapping, root, [READ.as_ref(), "".as_ref()])?;
    let socket = process.socket.try_clone().map_err(Error::Start)?;
    let mut stream = BufReader::with_capacity(BUFFER, socket);
    wire::receive(&mut stream, sink).map_err(|error| match error {
        ReceiveError::Failed(error) => CopyError::Source(Error::Tree(error)),
        ReceiveError::Sink(error) => CopyError::Sink(error),
        ReceiveError::Path(error) => CopyError::Source(Error::Tree(directory::Error::Io {
            action: Action::Read,
            path: error.to_string(),
            errno: libc::ENAMETOOLONG,
        })),
        ReceiveError::Stream(_) => CopyError::Source(process.lost()),
    })
}

/// Deletes the directory `name` of `parent` with all that is in it, as
/// [`directory::remove`] does, by way of a process where the mapping needs one.
///
/// # Errors
/// Where something could not be deleted; a part is then deleted.
pub fn remove(mapping: &Mapping, parent: &Path, name: &OsStr) -> Result<(), Error> {
    let failed =
        |error: io::Error| directory::Error::standard(Action::Delete, parent.display(), &error);
    let parent = match File::open(parent) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        parent => OwnedFd::from(parent.map_err(failed)?),
    };
    if !mapping.is_namespace() {
        return Ok(directory::remove(&parent, name.as_bytes())?);
    }
    Process::start(mapping, parent, [REMOVE.as_ref(), name])?.reply()
}
