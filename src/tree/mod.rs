//! A file tree as a stream of entries, whatever it comes from and goes to.
//!
//! A source (a tar stream, a package, a [`directory`], an ext4 image) feeds a [`Sink`]
//! (the ext4 writer, a directory) one [`Entry`] at a time, in the order of the stream,
//! contents included. Neither knows the other. Where one of them must be another process
//! (an ordinary user's directories belong to a user namespace), entries go over a socket
//! ([`wire`], [`process`]).

pub mod directory;
pub mod path;
pub mod process;
pub mod segments;
pub mod wire;

use std::io::Read;

use serde::{Deserialize, Serialize};

/// A point in time, to the nanosecond.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Timestamp {
    /// Seconds since 1970, negative before.
    pub seconds: i64,
    /// 0 to 999 999 999.
    pub nanoseconds: u32,
}

/// What every kind of entry has.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Metadata {
    /// Permission bits with set-id and sticky bits, `0o7777` at most.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Modification time.
    pub modified: Timestamp,
    /// Extended attributes by full name (`security.capability`), in the form that
    /// `getxattr` returns.
    pub attributes: Vec<(Vec<u8>, Vec<u8>)>,
}

/// A part of a file that holds data; everything between segments is a hole.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Segment {
    /// Where in the file, in bytes.
    pub offset: u64,
    /// How many bytes.
    pub length: u64,
}

/// What an entry is.
pub enum Kind<'a> {
    /// A block device.
    BlockDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A character device.
    CharacterDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A directory. An existing one takes the new metadata.
    Directory,
    /// A named pipe.
    Fifo,
    /// A regular file.
    File {
        /// Its apparent size in bytes.
        size: u64,
        /// Its data, ascending and not overlapping, within `size`.
        segments: &'a [Segment],
        /// The bytes of all segments, one after the other.
        content: &'a mut dyn Read,
    },
    /// Another name of an earlier entry.
    HardLink {
        /// The earlier entry's path.
        target: &'a path::TreePath,
    },
    /// A socket.
    Socket,
    /// A symbolic link, its target as stored.
    SymbolicLink {
        /// The target.
        target: &'a [u8],
    },
}

/// One entry of a tree.
pub struct Entry<'a> {
    /// Where it is.
    pub path: &'a path::TreePath,
    /// Owner, mode, times, attributes.
    pub metadata: &'a Metadata,
    /// What it is.
    pub kind: Kind<'a>,
}

/// Something that takes a tree, entry by entry.
///
/// Missing parent directories are made (root, `0755`). An entry at a path that exists
/// replaces what is there, as `tar -x` does; a directory keeps its content. Nothing is
/// followed: an entry below a symbolic link is an error.
pub trait Sink {
    /// The sink's own errors, with a way to carry a failure of the content's reader.
    type Error: std::error::Error + From<std::io::Error> + Send + Sync + 'static;

    /// Takes one entry, reading all of a file's content.
    ///
    /// # Errors
    /// Where the entry contradicts the tree, the sink is full, or content cannot be read.
    fn add(&mut self, entry: Entry<'_>) -> Result<(), Self::Error>;
}

/// Why a tree could not be copied.
#[derive(Debug, thiserror::Error)]
pub enum CopyError<R: std::error::Error + 'static, W: std::error::Error + 'static> {
    /// It cannot be read.
    #[error(transparent)]
    Source(#[from] R),
    /// It cannot be written, or its content cannot be read.
    #[error(transparent)]
    Sink(W),
}
