//! Entries over a byte stream.
//!
//! Each entry is one frame (`protocol::frame`), a file's bytes follow it plainly, and a
//! frame says that all has come, or why not. Both ends are the same executable, but the
//! receiver trusts nothing: a path is checked like any other.

use std::io::{self, Read, Write};

use serde::{Deserialize, Serialize};

use super::path::{PathError, TreePath};
use super::{Entry, Kind, Metadata, Segment, Sink, directory};
use crate::protocol::frame::{self, FrameError};

/// Bytes that are copied at once.
const BUFFER: usize = 256 << 10;

/// What goes over the stream.
#[derive(Deserialize, Serialize)]
enum Message {
    Entry { path: Vec<u8>, metadata: Metadata, kind: Form },
    End,
    Failed(directory::Error),
}

/// A [`Kind`] without a file's bytes.
#[derive(Deserialize, Serialize)]
enum Form {
    BlockDevice(u32, u32),
    CharacterDevice(u32, u32),
    Directory,
    Fifo,
    File { size: u64, segments: Vec<Segment> },
    HardLink(Vec<u8>),
    Socket,
    SymbolicLink(Vec<u8>),
}

/// Why entries cannot be sent.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// A file's content cannot be read.
    #[error("cannot read a file's content")]
    Content(#[from] io::Error),
    /// The stream does not take it, or an entry is too large for a frame.
    #[error(transparent)]
    Stream(FrameError),
}

/// Why entries cannot be received.
#[derive(Debug, thiserror::Error)]
pub enum ReceiveError<E: std::error::Error + 'static> {
    /// The other side could not read its tree.
    #[error(transparent)]
    Failed(directory::Error),
    /// A path that cannot be.
    #[error(transparent)]
    Path(#[from] PathError),
    /// The sink refuses an entry.
    #[error(transparent)]
    Sink(E),
    /// The stream ends early or is not what it should be.
    #[error(transparent)]
    Stream(#[from] FrameError),
}

/// Sends entries.
pub struct Sender<W> {
    stream: W,
    buffer: Vec<u8>,
}

impl<W: Write> Sender<W> {
    /// A sender to a stream, which should be buffered.
    pub fn new(stream: W) -> Self {
        Self { stream, buffer: vec![0; BUFFER] }
    }

    /// Says that all entries were sent.
    ///
    /// # Errors
    /// [`SendError::Stream`].
    pub fn finish(&mut self) -> Result<(), SendError> {
        self.last(&Message::End)
    }

    /// Says why not all entries can be sent.
    ///
    /// # Errors
    /// [`SendError::Stream`].
    pub fn fail(&mut self, error: directory::Error) -> Result<(), SendError> {
        self.last(&Message::Failed(error))
    }

    fn last(&mut self, message: &Message) -> Result<(), SendError> {
        frame::write(&mut self.stream, message).map_err(SendError::Stream)?;
        self.stream.flush().map_err(|error| SendError::Stream(FrameError::Stream(error)))
    }
}

impl<W: Write> Sink for Sender<W> {
    type Error = SendError;

    fn add(&mut self, entry: Entry<'_>) -> Result<(), SendError> {
        let mut bytes: Option<(u64, &mut dyn Read)> = None;
        let kind = match entry.kind {
            Kind::BlockDevice { major, minor } => Form::BlockDevice(major, minor),
            Kind::CharacterDevice { major, minor } => Form::CharacterDevice(major, minor),
            Kind::Directory => Form::Directory,
            Kind::Fifo => Form::Fifo,
            Kind::File { size, segments, content } => {
                let total = segments.iter().map(|segment| segment.length);
                bytes = Some((total.fold(0, u64::saturating_add), content));
                Form::File { size, segments: segments.to_vec() }
            }
            Kind::HardLink { target } => Form::HardLink(target.as_bytes().to_vec()),
            Kind::Socket => Form::Socket,
            Kind::SymbolicLink { target } => Form::SymbolicLink(target.to_vec()),
        };
        let path = entry.path.as_bytes().to_vec();
        let message = Message::Entry { path, metadata: entry.metadata.clone(), kind };
        frame::write(&mut self.stream, &message).map_err(SendError::Stream)?;
        let Some((mut left, content)) = bytes else { return Ok(()) };
        while left > 0 {
            let wanted = usize::try_from(left).unwrap_or(usize::MAX).min(BUFFER);
            let space = self.buffer.get_mut(..wanted).unwrap_or_default();
            let count = match content.read(space) {
                Ok(0) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error.into()),
            };
            let bytes = space.get(..count).unwrap_or_default();
            let written = self.stream.write_all(bytes);
            written.map_err(|error| SendError::Stream(FrameError::Stream(error)))?;
            left -= count as u64;
        }
        Ok(())
    }
}

/// Receives entries into a sink until the sender says that all have come. The stream
/// should be buffered.
///
/// # Errors
/// Where anything fails on either side, or the stream ends before that.
pub fn receive<S: Sink>(
    stream: &mut impl Read,
    sink: &mut S,
) -> Result<(), ReceiveError<S::Error>> {
    loop {
        let (path, metadata, form) = match frame::read(stream)? {
            Message::End => return Ok(()),
            Message::Failed(error) => return Err(ReceiveError::Failed(error)),
            Message::Entry { path, metadata, kind } => (path, metadata, kind),
        };
        let path = TreePath::new(&path)?;
        let mut content;
        let (kept, target, link);
        let kind = match form {
            Form::BlockDevice(major, minor) => Kind::BlockDevice { major, minor },
            Form::CharacterDevice(major, minor) => Kind::CharacterDevice { major, minor },
            Form::Directory => Kind::Directory,
            Form::Fifo => Kind::Fifo,
            Form::File { size, segments } => {
                kept = segments;
                let total = kept.iter().map(|segment| segment.length);
                content = (&mut *stream).take(total.fold(0, u64::saturating_add));
                sink.add(Entry {
                    path: &path,
                    metadata: &metadata,
                    kind: Kind::File { size, segments: &kept, content: &mut content },
                })
                .map_err(ReceiveError::Sink)?;
                // What the sink had no use for.
                io::copy(&mut content, &mut io::sink()).map_err(FrameError::Stream)?;
                continue;
            }
            Form::HardLink(path) => {
                target = TreePath::new(&path)?;
                Kind::HardLink { target: &target }
            }
            Form::Socket => Kind::Socket,
            Form::SymbolicLink(bytes) => {
                link = bytes;
                Kind::SymbolicLink { target: &link }
            }
        };
        sink.add(Entry { path: &path, metadata: &metadata, kind }).map_err(ReceiveError::Sink)?;
    }
}
