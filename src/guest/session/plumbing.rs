//! What lies between a session's streams and its command's descriptors.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;

use nix::fcntl::OFlag;
use nix::unistd::pipe2;

use super::command::Standard;
use super::pump::Pump;
use super::relay::system;
use super::terminal::Terminal;
use crate::guest::sys::set_nonblocking;
use crate::protocol::session::{Session, SessionError, StreamKind};

/// The descriptors of a session, before its command is forked.
pub struct Plumbing {
    /// From streams to the command.
    pub inputs: Vec<Pump>,
    /// From the command to streams.
    pub outputs: Vec<Pump>,
    /// The terminal, where the session has one.
    pub terminal: Option<Terminal>,
    /// The command's ends; taken where it is forked.
    pub standard: Option<Standard>,
}

impl Plumbing {
    /// Connects the streams of a session.
    ///
    /// # Errors
    /// Where a stream is missing, no terminal is left, or the system's.
    pub fn new(
        session: &Session,
        streams: Vec<(StreamKind, OwnedFd)>,
        uid: u32,
    ) -> Result<Self, SessionError> {
        let failed = system("connecting the streams");
        let mut streams = streams;
        let mut take = |wanted: StreamKind| {
            let index = streams.iter().position(|(kind, _)| *kind == wanted);
            index
                .map(|index| streams.swap_remove(index).1)
                .ok_or_else(|| failed(io::ErrorKind::NotConnected.into()))
                .and_then(|stream| set_nonblocking(&stream).map(|()| stream).map_err(&failed))
        };
        let mut made = Self { inputs: vec![], outputs: vec![], terminal: None, standard: None };
        if let Some(size) = session.streams.terminal {
            let stream = take(StreamKind::Terminal)?;
            let terminal = Terminal::open(size, uid)?;
            let twice = || Ok((stream.try_clone()?, terminal.master.try_clone()?));
            let (stream_in, master_in) = twice().map_err(&failed)?;
            let (stream_out, master_out) = twice().map_err(&failed)?;
            made.inputs.push(Pump::new(stream_in, master_in));
            made.outputs.push(Pump::new(master_out, stream_out));
            made.terminal = Some(terminal);
        }
        let slave = made.terminal.as_ref().and_then(|terminal| terminal.slave.as_ref());
        let shared = || match slave {
            Some(slave) => slave.try_clone(),
            None => Ok(File::options().read(true).write(true).open("/dev/null")?.into()),
        };
        let input = if session.streams.stdin {
            let (read, write) = pipe().map_err(&failed)?;
            set_nonblocking(&write).map_err(&failed)?;
            made.inputs.push(Pump::new(take(StreamKind::Stdin)?, write));
            read
        } else {
            shared().map_err(&failed)?
        };
        let mut output = |is_own: bool, kind: StreamKind| {
            if !is_own {
                return shared().map_err(&failed);
            }
            let (read, write) = pipe().map_err(&failed)?;
            set_nonblocking(&read).map_err(&failed)?;
            made.outputs.push(Pump::new(read, take(kind)?));
            Ok(write)
        };
        let standard = Standard {
            input,
            output: output(session.streams.stdout, StreamKind::Stdout)?,
            error: output(session.streams.stderr, StreamKind::Stderr)?,
            terminal: slave.map(OwnedFd::try_clone).transpose().map_err(&failed)?,
        };
        made.standard = Some(standard);
        Ok(made)
    }
}

fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(pipe2(OFlag::O_CLOEXEC)?)
}
