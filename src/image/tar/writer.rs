//! The writer: entries as a tar archive in the PAX format.
//!
//! Names are below `./`, owners are numbers. What a plain header cannot say is in an extended
//! one: attributes, access control lists, nanoseconds, long names and names that are not
//! text, large numbers; files with holes are in GNU tar's sparse format 1.0. GNU tar,
//! libarchive (the `bsdtar` of WSL and Windows) and [`super::read_entries`] read all of it.
//! The same tree gives the same bytes. Sockets have no form in an archive and are left out,
//! as those tools do.

use std::io::{self, Read, Write};

use super::records::Records;
use super::{BLOCK, MAXIMUM_EXTENDED_HEADER, acl};
use crate::error::{Diagnose, io_code};
use crate::tree::path::TreePath;
use crate::tree::{Entry, Kind, Metadata, Segment, Sink};

/// Bytes that are collected before they are written.
const BUFFER: usize = 1 << 20;

/// With fewer bytes in holes than this a file is written as if it had none.
const HOLES: u64 = 4096;

/// The longest name and prefix of a header.
const NAME: usize = 100;
const PREFIX: usize = 155;

/// Why an archive cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// A file's content could not be read.
    #[error("cannot read a file's content")]
    Content(#[from] io::Error),
    /// The archive itself cannot be written.
    #[error("cannot write the archive")]
    Stream(#[source] io::Error),
    /// More attributes than any reader takes.
    #[error("the attributes of '{path}' take {length} bytes, more than {maximum}")]
    TooLarge {
        /// The entry.
        path: String,
        /// The length of its extended header in bytes.
        length: u64,
        /// The most that is written, in bytes.
        maximum: u64,
    },
}

impl Diagnose for WriteError {
    fn code(&self) -> &'static str {
        match self {
            Self::Content(_) | Self::TooLarge { .. } => "WSL_E_EXPORT_FAILED",
            Self::Stream(error) => match io_code(error) {
                "E_FAIL" => "WSL_E_EXPORT_FAILED",
                code => code,
            },
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Stream(error) if io_code(error) == "ERROR_DISK_FULL" => {
                Some("free some space, or write the archive somewhere else".to_owned())
            }
            _ => None,
        }
    }
}

/// Writes an archive.
#[derive(Debug)]
pub struct Writer<W> {
    stream: W,
    /// Its first `filled` bytes are not written yet.
    buffer: Vec<u8>,
    filled: usize,
}

impl<W: Write> Writer<W> {
    /// A writer of an archive to a stream, which need not be buffered.
    pub fn new(stream: W) -> Self {
        Self { stream, buffer: vec![0; BUFFER], filled: 0 }
    }

    /// Writes the archive's end and gives the stream back.
    ///
    /// # Errors
    /// [`WriteError::Stream`].
    pub fn finish(mut self) -> Result<W, WriteError> {
        self.zeros(2 * BLOCK)?;
        self.flush()?;
        self.stream.flush().map_err(WriteError::Stream)?;
        Ok(self.stream)
    }

    fn flush(&mut self) -> Result<(), WriteError> {
        let bytes = self.buffer.get(..self.filled).unwrap_or_default();
        self.stream.write_all(bytes).map_err(WriteError::Stream)?;
        self.filled = 0;
        Ok(())
    }

    /// The free part of the buffer, which is never empty.
    fn room(&mut self) -> Result<&mut [u8], WriteError> {
        if self.filled == self.buffer.len() {
            self.flush()?;
        }
        Ok(self.buffer.get_mut(self.filled..).unwrap_or_default())
    }

    fn bytes(&mut self, mut bytes: &[u8]) -> Result<(), WriteError> {
        while !bytes.is_empty() {
            let room = self.room()?;
            let count = room.len().min(bytes.len());
            let (now, later) = bytes.split_at(count);
            if let Some(place) = room.get_mut(..count) {
                place.copy_from_slice(now);
            }
            bytes = later;
            self.filled += count;
        }
        Ok(())
    }

    fn zeros(&mut self, mut count: u64) -> Result<(), WriteError> {
        while count > 0 {
            let room = self.room()?;
            let now = usize::try_from(count).unwrap_or(usize::MAX).min(room.len());
            if let Some(place) = room.get_mut(..now) {
                place.fill(0);
            }
            count -= now as u64;
            self.filled += now;
        }
        Ok(())
    }

    /// Exactly `count` bytes of content.
    fn content(&mut self, content: &mut dyn Read, mut count: u64) -> Result<(), WriteError> {
        while count > 0 {
            let room = self.room()?;
            let wanted = usize::try_from(count).unwrap_or(usize::MAX).min(room.len());
            match content.read(room.get_mut(..wanted).unwrap_or_default()) {
                Ok(0) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                Ok(read) => {
                    count -= read as u64;
                    self.filled += read;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

impl<W: Write> Sink for Writer<W> {
    type Error = WriteError;

    fn add(&mut self, entry: Entry<'_>) -> Result<(), WriteError> {
        let Some(member) = Member::new(&entry)? else { return Ok(()) };
        self.bytes(&member.headers)?;
        let Kind::File { size, segments, content } = entry.kind else { return Ok(()) };
        let mut position = 0;
        for segment in segments {
            if !member.is_sparse {
                self.zeros(segment.offset.saturating_sub(position))?;
            }
            self.content(content, segment.length)?;
            position = segment.offset.saturating_add(segment.length);
        }
        if !member.is_sparse {
            self.zeros(size.saturating_sub(position))?;
        }
        self.zeros(member.content.next_multiple_of(BLOCK) - member.content)
    }
}

/// How long an archive will be, found without reading any content.
#[derive(Debug, Default)]
pub struct Measure {
    /// Bytes, without the archive's end.
    pub length: u64,
}

impl Sink for Measure {
    type Error = WriteError;

    fn add(&mut self, entry: Entry<'_>) -> Result<(), WriteError> {
        if let Some(member) = Member::new(&entry)? {
            let content = member.content.next_multiple_of(BLOCK);
            self.length = self.length.saturating_add(member.headers.len() as u64 + content);
        }
        Ok(())
    }
}

/// One entry in the archive.
struct Member {
    /// All that precedes the content: headers, and the map of a file with holes.
    headers: Vec<u8>,
    /// Bytes of content, without padding.
    content: u64,
    /// Only the segments are written.
    is_sparse: bool,
}

impl Member {
    /// `None` for what has no form in an archive.
    fn new(entry: &Entry<'_>) -> Result<Option<Self>, WriteError> {
        let mut records = Records::default();
        let path = name(entry.path, matches!(entry.kind, Kind::Directory));
        let mut member = Self { headers: Vec::new(), content: 0, is_sparse: false };
        let mut header = tar::Header::new_ustar();
        let mut map = Vec::new();
        let mut shown = path.clone();
        let (kind, mut link, device) = match &entry.kind {
            Kind::BlockDevice { major, minor } => (b'4', None, Some((*major, *minor))),
            Kind::CharacterDevice { major, minor } => (b'3', None, Some((*major, *minor))),
            Kind::Directory => (b'5', None, None),
            Kind::Fifo => (b'6', None, None),
            Kind::HardLink { target } => (b'1', Some(name(target, false)), None),
            Kind::Socket => return Ok(None),
            Kind::SymbolicLink { target } => (b'2', Some(target.to_vec()), None),
            Kind::File { size, segments, .. } => {
                let data = segments.iter().map(|segment| segment.length);
                let data = data.fold(0, u64::saturating_add);
                member.is_sparse = size.saturating_sub(data) >= HOLES;
                member.content = if member.is_sparse { data } else { *size };
                if member.is_sparse {
                    map = sparse_map(segments, *size);
                    records.add(b"GNU.sparse.major", b"1");
                    records.add(b"GNU.sparse.minor", b"0");
                    records.add_name(b"GNU.sparse.name", &path);
                    records.add(b"GNU.sparse.realsize", size.to_string().as_bytes());
                    shown = [b"./GNUSparseFile.0/", base(&path)].concat();
                }
                (b'0', None, None)
            }
        };
        let fields = header.as_old_mut();
        fields.linkflag = [kind];
        let stored = member.content.saturating_add(map.len() as u64);
        if !number(&mut fields.size, i64::try_from(stored).unwrap_or(i64::MAX)) {
            records.add(b"size", stored.to_string().as_bytes());
        }
        owner_and_time(fields, entry.metadata, &mut records);
        let is_text = std::str::from_utf8(&path).is_ok();
        let placed = place_name(&mut header, &shown);
        let is_said = member.is_sparse || (placed && is_text);
        if !is_said {
            records.add_name(b"path", &path);
        }
        if let Some(target) = link.take() {
            let place = &mut header.as_old_mut().linkname;
            let is_text = std::str::from_utf8(&target).is_ok() && !target.contains(&0);
            if !(copy(place, &target) && is_text) {
                records.add_name(b"linkpath", &target);
            }
        }
        if let (Some((major, minor)), Some(fields)) = (device, header.as_ustar_mut()) {
            number(&mut fields.dev_major, i64::from(major));
            number(&mut fields.dev_minor, i64::from(minor));
        }
        attributes(entry.metadata, &mut records);
        header.set_cksum();
        if !records.bytes().is_empty() {
            let length = records.bytes().len() as u64;
            let maximum = MAXIMUM_EXTENDED_HEADER;
            if length > maximum {
                let path = entry.path.to_string();
                return Err(WriteError::TooLarge { path, length, maximum });
            }
            member.headers.extend_from_slice(extended(&path, length).as_bytes());
            member.headers.extend_from_slice(records.bytes());
            pad(&mut member.headers);
        }
        member.headers.extend_from_slice(header.as_bytes());
        member.headers.append(&mut map);
        Ok(Some(member))
    }
}

/// The header of an extended header of that length.
fn extended(path: &[u8], length: u64) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    let fields = header.as_old_mut();
    fields.linkflag = *b"x";
    copy(&mut fields.name, &[b"./PaxHeaders/", base(path)].concat());
    number(&mut fields.mode, 0o644);
    number(&mut fields.uid, 0);
    number(&mut fields.gid, 0);
    number(&mut fields.mtime, 0);
    number(&mut fields.size, i64::try_from(length).unwrap_or(i64::MAX));
    header.set_cksum();
    header
}

fn owner_and_time(fields: &mut tar::OldHeader, metadata: &Metadata, records: &mut Records) {
    number(&mut fields.mode, i64::from(metadata.mode & 0o7777));
    for (field, id, key) in [
        (&mut fields.uid, metadata.uid, b"uid".as_slice()),
        (&mut fields.gid, metadata.gid, b"gid"),
    ] {
        if !number(field, i64::from(id)) {
            records.add(key, id.to_string().as_bytes());
        }
    }
    let modified = metadata.modified;
    if !number(&mut fields.mtime, modified.seconds) || modified.nanoseconds != 0 {
        records.add_time(b"mtime", modified);
    }
}

fn attributes(metadata: &Metadata, records: &mut Records) {
    for (name, value) in &metadata.attributes {
        let list = match name.as_slice() {
            b"system.posix_acl_access" => Some(b"SCHILY.acl.access".as_slice()),
            b"system.posix_acl_default" => Some(b"SCHILY.acl.default".as_slice()),
            _ => None,
        };
        // One that the text would change is kept as it is.
        let is_same = |text: &String| acl::from_text(text.as_bytes()).as_ref() == Some(value);
        match list.zip(acl::to_text(value).filter(is_same)) {
            Some((key, text)) => records.add(key, text.as_bytes()),
            None => records.add_attribute(name, value),
        }
    }
}

/// A path as archives of whole trees have it.
fn name(path: &TreePath, is_directory: bool) -> Vec<u8> {
    let end: &[u8] = if is_directory && !path.is_root() { b"/" } else { b"" };
    [b"./", path.as_bytes(), end].concat()
}

/// The last part of a path.
fn base(path: &[u8]) -> &[u8] {
    path.strip_suffix(b"/").unwrap_or(path).rsplit(|byte| *byte == b'/').next().unwrap_or_default()
}

/// Writes a name, in two parts where it is long; cut, and false, where it has no place.
fn place_name(header: &mut tar::Header, path: &[u8]) -> bool {
    if copy(&mut header.as_old_mut().name, path) {
        return true;
    }
    let Some(fields) = header.as_ustar_mut() else { return false };
    let first = path.len().saturating_sub(NAME + 1);
    let slash = path.iter().skip(first).position(|byte| *byte == b'/').map(|at| first + at);
    let Some((prefix, rest)) = slash.and_then(|slash| path.split_at_checked(slash)) else {
        return false;
    };
    let rest = rest.get(1..).unwrap_or_default();
    if rest.is_empty() || prefix.len() > PREFIX {
        return false;
    }
    fields.name.fill(0);
    copy(&mut fields.prefix, prefix) && copy(&mut fields.name, rest)
}

/// Copies what there is room for; whether that was all.
fn copy(field: &mut [u8], bytes: &[u8]) -> bool {
    for (place, byte) in field.iter_mut().zip(bytes) {
        *place = *byte;
    }
    bytes.len() <= field.len()
}

/// Writes a number: octal digits, or where they do not suffice GNU tar's binary form, which
/// older readers do not know; then it is false.
fn number(field: &mut [u8], value: i64) -> bool {
    let digits = field.len().saturating_sub(1);
    let text = format!("{value:0digits$o}");
    if value >= 0 && text.len() == digits {
        return copy(field, text.as_bytes());
    }
    let bytes = value.to_be_bytes();
    let filler = if value < 0 { 0xff } else { 0 };
    let extended = std::iter::repeat_n(filler, field.len().saturating_sub(bytes.len()));
    let skipped = bytes.len().saturating_sub(field.len());
    for (place, byte) in field.iter_mut().zip(extended.chain(bytes.into_iter().skip(skipped))) {
        *place = byte;
    }
    if let Some(first) = field.first_mut() {
        *first |= 0x80;
    }
    false
}

/// The map of GNU tar's format 1.0: how many parts, then the offset and length of each. An
/// empty part at the end tells GNU tar the size of a file that ends in a hole.
fn sparse_map(segments: &[Segment], size: u64) -> Vec<u8> {
    let end = segments.last().map_or(0, |last| last.offset.saturating_add(last.length));
    let last = (end < size).then_some(Segment { offset: size, length: 0 });
    let count = segments.len() + usize::from(last.is_some());
    let mut map = format!("{count}\n").into_bytes();
    for segment in segments.iter().chain(&last) {
        map.extend_from_slice(format!("{}\n{}\n", segment.offset, segment.length).as_bytes());
    }
    pad(&mut map);
    map
}

fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(BLOCK as usize), 0);
}
