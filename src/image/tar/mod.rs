//! Tar archives as tree entries: ustar, GNU and PAX, sparse files, attributes.
//!
//! [`Writer`] is the way out. [`read_entries`] is the one way in, for root file system images
//! and for the packages of an archive. Nothing is unpacked and no name is trusted: paths go through [`TreePath`],
//! all numbers are checked, and what is held in memory is bounded whatever the archive
//! says. Formats: POSIX.1-2024 `pax`, sections "ustar Interchange Format" and "pax
//! Header Block"; the GNU tar manual, "Sparse Formats" and "Basic Tar Format".

mod acl;
mod header;
mod pax;
mod records;
mod source;
mod sparse;
mod writer;

use std::io::Read;

use crate::error::Diagnose;
use crate::tree::path::{PathError, TreePath};
use crate::tree::{Entry, Kind, Metadata, Segment, Sink, Timestamp};

use self::header::Type;
use self::pax::Extensions;
use self::source::{Content, Source};
pub use self::writer::{Measure, WriteError, Writer};

/// The longest name or link target of a GNU long-name member, in bytes.
const MAXIMUM_LONG_NAME: u64 = 64 << 10;

/// The longest PAX extended header, in bytes; several before one member count as one.
const MAXIMUM_EXTENDED_HEADER: u64 = 4 << 20;

/// The size of a header and the unit of padding, in bytes.
const BLOCK: u64 = 512;

/// Why a stream is not a usable archive.
#[derive(Debug, thiserror::Error)]
pub enum TarError {
    /// The stream does not begin like an archive.
    #[error("Unrecognized archive format")]
    NotAnArchive,
    /// The stream ends too early.
    #[error("the archive is truncated: it ends at byte {offset}, in {part}")]
    Truncated {
        /// How many bytes there were.
        offset: u64,
        /// What is cut off.
        part: &'static str,
    },
    /// A header's checksum does not match.
    #[error("the archive is corrupt: wrong header checksum at byte {offset}")]
    Checksum {
        /// Where the header is.
        offset: u64,
    },
    /// A field cannot be read or is out of range.
    #[error("the archive is corrupt: bad {field} in the header at byte {offset}")]
    Field {
        /// The field's name.
        field: &'static str,
        /// Where the header is.
        offset: u64,
    },
    /// A header that describes the next member is too large.
    #[error("the archive's {part} at byte {offset} has {length} bytes, more than {maximum}")]
    TooLarge {
        /// What is too large.
        part: &'static str,
        /// Where its header is.
        offset: u64,
        /// Its length in bytes.
        length: u64,
        /// The most that is accepted, in bytes.
        maximum: u64,
    },
    /// A sparse file's map contradicts itself.
    #[error("the archive is corrupt: bad sparse file map of '{path}'")]
    Sparse {
        /// The file.
        path: String,
    },
    /// A member continues in another volume.
    #[error("the archive is one volume of several, at '{path}'")]
    MultiVolume {
        /// The member.
        path: String,
    },
    /// A name that cannot be in a tree.
    #[error("the archive is not safe to unpack")]
    Path(#[from] PathError),
    /// The stream itself failed, decompression included.
    #[error("cannot read the archive")]
    Read(#[from] std::io::Error),
}

impl Diagnose for TarError {
    fn code(&self) -> &'static str {
        "WSL_E_IMPORT_FAILED"
    }

    fn hint(&self) -> Option<String> {
        Some(
            match self {
                Self::NotAnArchive => {
                    "the file must be a tar archive, plain or compressed with gzip, bzip2, xz or zstd"
                }
                Self::Path(_) => "make the archive again without '..' in its names",
                Self::MultiVolume { .. } => "make the archive again as one file",
                _ => "the file may be damaged or incomplete: fetch or make it again",
            }
            .to_owned(),
        )
    }
}

/// Why entries could not be moved from an archive to a sink.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError<E: std::error::Error + 'static> {
    /// The archive is at fault.
    #[error(transparent)]
    Archive(#[from] TarError),
    /// The sink is at fault.
    #[error(transparent)]
    Sink(E),
}

impl<E: Diagnose + 'static> Diagnose for UnpackError<E> {
    fn code(&self) -> &'static str {
        match self {
            Self::Archive(error) => error.code(),
            Self::Sink(error) => error.code(),
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Archive(error) => error.hint(),
            Self::Sink(error) => error.hint(),
        }
    }
}

/// What was read.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Counts {
    /// Entries handed to the sink.
    pub entries: u64,
    /// Attributes left out because Linux has no such name space or an access control list
    /// names an unknown user.
    pub skipped_attributes: u64,
}

/// Reads a plain tar stream to its end and hands every entry to `sink`.
///
/// `map` may move an entry: it gets the path of every entry and of every hard link's
/// target. An empty stream is an archive without entries.
///
/// # Errors
/// [`UnpackError::Archive`] where the stream is no archive, truncated, corrupt or hostile;
/// [`UnpackError::Sink`] with the sink's error otherwise.
pub fn read_entries<S: Sink>(
    reader: impl Read,
    sink: &mut S,
    mut map: impl FnMut(TreePath) -> TreePath,
) -> Result<Counts, UnpackError<S::Error>> {
    let mut archive = Archive { source: Source::new(reader), global: Extensions::default() };
    let mut counts = Counts::default();
    while let Some(member) = archive.next()? {
        counts.skipped_attributes += member.extensions.skipped;
        if archive.add(member, sink, &mut map)? {
            counts.entries += 1;
        }
    }
    archive.source.drain()?;
    Ok(counts)
}

struct Archive<R> {
    source: Source<R>,
    /// What global PAX headers said.
    global: Extensions,
}

/// A member with all that the headers before it said about it.
struct Member {
    header: header::Header,
    extensions: Extensions,
    path: TreePath,
    link: Vec<u8>,
    /// Bytes of content in the archive.
    stored: u64,
}

impl<R: Read> Archive<R> {
    /// The next member's headers; the source then stands at its content.
    fn next(&mut self) -> Result<Option<Member>, TarError> {
        let mut extensions = self.global.clone();
        let mut long_name = None;
        let mut long_link = None;
        let mut described = false;
        let mut announced = 0_u64;
        loop {
            let Some(header) = header::read(&mut self.source)? else {
                if described {
                    return Err(self.source.truncated("the member that a header announces"));
                }
                return Ok(None);
            };
            described = true;
            let size = header.size()?;
            match header.kind {
                Type::LongName => {
                    long_name = Some(self.long_name(&header, size)?);
                }
                Type::LongLink => {
                    long_link = Some(self.long_name(&header, size)?);
                }
                Type::Extended => {
                    announced = announced.saturating_add(size);
                    let records = self.extended(&header, size, announced)?;
                    extensions.apply(&records, header.offset)?;
                }
                Type::Global => {
                    described = false;
                    let records = self.extended(&header, size, size)?;
                    self.global.apply_global(&records, header.offset)?;
                    extensions = self.global.clone();
                }
                Type::Ignored => {
                    described = false;
                    self.source.skip(padded(size, &header)?, "a member")?;
                }
                _ => {
                    let name = extensions
                        .sparse
                        .name
                        .take()
                        .or_else(|| extensions.path.take())
                        .or(long_name)
                        .unwrap_or_else(|| header.name());
                    let link =
                        extensions.link.take().or(long_link).unwrap_or_else(|| header.link());
                    let path = TreePath::new(&name)?;
                    // Before POSIX.1-1988 only the name told a directory from a file.
                    let header = if name.ends_with(b"/") && header.kind == Type::File {
                        header::Header { kind: Type::Directory, ..header }
                    } else {
                        header
                    };
                    let stored = match header.kind {
                        // POSIX wants the size of a hard link to be zero, and writers that
                        // put the target's size there write no content; only the PAX
                        // format lets content follow.
                        Type::HardLink if !extensions.local => 0,
                        _ => extensions.size.unwrap_or(size),
                    };
                    return Ok(Some(Member { header, extensions, path, link, stored }));
                }
            }
        }
    }

    /// Hands a member to the sink; `false` where it is of a kind that has no entry.
    fn add<S: Sink>(
        &mut self,
        mut member: Member,
        sink: &mut S,
        map: &mut impl FnMut(TreePath) -> TreePath,
    ) -> Result<bool, UnpackError<S::Error>> {
        let start = self.source.offset();
        let end = start
            .checked_add(padded(member.stored, &member.header)?)
            .ok_or_else(|| member.header.bad("size"))?;
        let mut metadata = metadata(&mut member)?;
        metadata.attributes = std::mem::take(&mut member.extensions.attributes);
        let in_archive = member.path.clone();
        let path = map(member.path);
        let mut segments = Vec::new();
        let mut size = 0;
        let mut end = end;
        if member.header.kind == Type::File || member.header.kind == Type::Sparse {
            let mut map =
                sparse::Map { stored: member.stored, size: member.stored, segments: Vec::new() };
            if member.header.kind == Type::Sparse {
                let before = self.source.offset();
                sparse::read_old(&mut self.source, &member.header, &in_archive, &mut map)?;
                // The continuation of the map is not part of the member's size.
                end = end
                    .checked_add(self.source.offset() - before)
                    .ok_or_else(|| member.header.bad("size"))?;
            } else if member.extensions.sparse.is_sparse() {
                sparse::read_pax(
                    &mut self.source,
                    &member.extensions.sparse,
                    &in_archive,
                    &mut map,
                )?;
            } else if map.size > 0 {
                map.segments.push(Segment { offset: 0, length: map.size });
            }
            if map.size > i64::MAX as u64 {
                return Err(member.header.bad("size").into());
            }
            size = map.size;
            segments = map.segments;
        }
        let target = match member.header.kind {
            Type::HardLink => map(TreePath::new(&member.link).map_err(TarError::from)?),
            _ => TreePath::root(),
        };
        let (major, minor) = match member.header.kind {
            Type::BlockDevice | Type::CharacterDevice => member.header.device()?,
            _ => (0, 0),
        };
        let length = segments.iter().map(|segment| segment.length).sum();
        let mut content = Content::new(&mut self.source, length);
        let kind = match member.header.kind {
            Type::BlockDevice => Kind::BlockDevice { major, minor },
            Type::CharacterDevice => Kind::CharacterDevice { major, minor },
            Type::Directory => Kind::Directory,
            Type::Fifo => Kind::Fifo,
            Type::HardLink => Kind::HardLink { target: &target },
            Type::SymbolicLink => Kind::SymbolicLink { target: &member.link },
            Type::MultiVolume => {
                return Err(TarError::MultiVolume { path: in_archive.to_string() }.into());
            }
            _ => Kind::File { size, segments: &segments, content: &mut content },
        };
        let added = sink.add(Entry { path: &path, metadata: &metadata, kind });
        if let Some(failure) = content.failure() {
            return Err(failure.into());
        }
        added.map_err(UnpackError::Sink)?;
        let rest = end
            .checked_sub(self.source.offset())
            .ok_or_else(|| TarError::Sparse { path: in_archive.to_string() })?;
        self.source.skip(rest, "a file's content")?;
        Ok(true)
    }

    fn long_name(&mut self, header: &header::Header, size: u64) -> Result<Vec<u8>, TarError> {
        let mut name = self.bounded(header, size, MAXIMUM_LONG_NAME, "long name")?;
        if let Some(end) = name.iter().position(|byte| *byte == 0) {
            name.truncate(end);
        }
        Ok(name)
    }

    /// An extended header of `size` bytes; `total` counts those before it, too.
    fn extended(
        &mut self,
        header: &header::Header,
        size: u64,
        total: u64,
    ) -> Result<Vec<u8>, TarError> {
        let maximum = MAXIMUM_EXTENDED_HEADER.saturating_sub(total - size.min(total));
        self.bounded(header, size, maximum, "extended header")
    }

    fn bounded(
        &mut self,
        header: &header::Header,
        length: u64,
        maximum: u64,
        part: &'static str,
    ) -> Result<Vec<u8>, TarError> {
        if length > maximum {
            return Err(TarError::TooLarge { part, offset: header.offset, length, maximum });
        }
        let bytes = self.source.take(length, part)?;
        self.source.skip(padded(length, header)? - length, part)?;
        Ok(bytes)
    }
}

fn padded(size: u64, header: &header::Header) -> Result<u64, TarError> {
    size.checked_next_multiple_of(BLOCK).ok_or_else(|| header.bad("size"))
}

fn metadata(member: &mut Member) -> Result<Metadata, TarError> {
    let header = &member.header;
    let identity = |value: Option<u64>, field: Result<i64, TarError>, name| {
        let value = match value {
            Some(value) => i64::try_from(value).map_err(|_| header.bad(name))?,
            None => field?,
        };
        u32::try_from(value).map_err(|_| header.bad(name))
    };
    Ok(Metadata {
        mode: header.mode()?,
        uid: identity(member.extensions.uid, header.uid(), "owner")?,
        gid: identity(member.extensions.gid, header.gid(), "group")?,
        modified: match member.extensions.modified {
            Some(modified) => modified,
            None => Timestamp { seconds: header.modified()?, nanoseconds: 0 },
        },
        attributes: Vec::new(),
    })
}

#[cfg(test)]
mod tests;
