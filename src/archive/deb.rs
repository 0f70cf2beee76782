//! One binary package (deb(5)): an ar file that holds its format's version, the control
//! files and the data, each a compressed tar.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use super::compression;
use super::deb822::{self, Deb822Error, Paragraph};
use crate::tree::Timestamp;

const AR_MAGIC: &[u8; 8] = b"!<arch>\n";
const AR_HEADER: u64 = 60;
const MAXIMUM_MEMBERS: usize = 32;

/// The largest content of the control tar.
const MAXIMUM_CONTROL: u64 = 64 << 20;

/// The most control files.
const MAXIMUM_CONTROL_FILES: usize = 1024;

/// An opened package.
#[derive(Debug)]
pub struct Deb {
    control: Member,
    data: Member,
}

/// A package's control information.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Control {
    /// The fields of the file `control`.
    pub fields: Paragraph,
    /// All control files, `control` itself included, in the order of the package.
    pub files: Vec<ControlFile>,
}

/// One control file: `postinst`, `conffiles`, `md5sums` and the like.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ControlFile {
    /// Its name, which holds no slash.
    pub name: String,
    /// Permission bits.
    pub mode: u32,
    /// Modification time.
    pub modified: Timestamp,
    /// What it holds.
    pub content: Vec<u8>,
}

/// Why a file is not a sound package.
#[derive(Debug, thiserror::Error)]
pub enum DebError {
    /// It is no ar file.
    #[error("it is not a Debian package")]
    NotAPackage,
    /// It ends early, or a header is malformed.
    #[error("it is malformed at byte {offset}: {reason}")]
    Malformed {
        /// Where.
        offset: u64,
        /// What is wrong.
        reason: &'static str,
    },
    /// A part that every package has is missing.
    #[error("it has no '{name}'")]
    Missing {
        /// Which part.
        name: &'static str,
    },
    /// Its format is of a version that does not exist yet.
    #[error("it is of the unknown format '{version}'")]
    Version {
        /// The version it says.
        version: String,
    },
    /// The control files are malformed.
    #[error("its control information is malformed: {reason}")]
    Control {
        /// What is wrong.
        reason: String,
    },
    /// The control fields are malformed.
    #[error("its control fields are malformed")]
    Fields(#[source] Deb822Error),
    /// It cannot be read.
    #[error("it cannot be read")]
    Read(#[source] io::Error),
}

/// Opens a package file.
///
/// # Errors
/// Where it cannot be read or is not a package.
pub fn open(path: &Path) -> Result<Deb, DebError> {
    Deb::read(File::open(path).map_err(DebError::Read)?)
}

impl Deb {
    fn read(file: File) -> Result<Self, DebError> {
        let length = file.metadata().map_err(DebError::Read)?.len();
        let file = Arc::new(file);
        let mut magic = [0; 8];
        if length < 8 || file.read_exact_at(&mut magic, 0).is_err() || magic != *AR_MAGIC {
            return Err(DebError::NotAPackage);
        }
        let (mut control, mut data) = (None, None);
        let mut offset = 8;
        for position in 0..MAXIMUM_MEMBERS {
            if offset >= length {
                break;
            }
            let (name, size) = header(&file, offset)?;
            let start = offset + AR_HEADER;
            let end = start.checked_add(size).filter(|end| *end <= length).ok_or(
                DebError::Malformed { offset, reason: "a member is longer than the file" },
            )?;
            let member = Member { file: Arc::clone(&file), name, position: start, end };
            if position == 0 {
                check_version(member)?;
            } else if member.name.starts_with("control.tar") && control.is_none() {
                control = Some(member);
            } else if member.name.starts_with("data.tar") && control.is_some() {
                data = Some(member);
                break;
            }
            offset = end + size % 2;
        }
        Ok(Self {
            control: control.ok_or(DebError::Missing { name: "control.tar" })?,
            data: data.ok_or(DebError::Missing { name: "data.tar" })?,
        })
    }

    /// The control information.
    ///
    /// # Errors
    /// Where it is malformed or unreasonably large.
    pub fn control(&self) -> Result<Control, DebError> {
        let error = |reason: String| DebError::Control { reason };
        let reader = self.control.content().map_err(DebError::Read)?;
        let mut archive = tar::Archive::new(reader.take(MAXIMUM_CONTROL));
        let mut control = Control::default();
        for entry in archive.entries().map_err(DebError::Read)? {
            let mut entry = entry.map_err(|source| error(source.to_string()))?;
            if !entry.header().entry_type().is_file() {
                continue;
            }
            let path = String::from_utf8(entry.path_bytes().into_owned())
                .map_err(|_| error("a file's name is not UTF-8".to_owned()))?;
            let name = path.trim_start_matches("./").to_owned();
            let harmless = |byte: u8| byte.is_ascii_alphanumeric() || b"-._+".contains(&byte);
            if name.is_empty() || name.starts_with('.') || !name.bytes().all(harmless) {
                return Err(error(format!("a file is named '{}'", path.escape_debug())));
            }
            if control.files.len() == MAXIMUM_CONTROL_FILES {
                return Err(error(format!("more than {MAXIMUM_CONTROL_FILES} files")));
            }
            let mode = entry.header().mode().map_err(|source| error(source.to_string()))?;
            let mut content = Vec::new();
            entry.read_to_end(&mut content).map_err(DebError::Read)?;
            if content.len() as u64 != entry.size() {
                return Err(error(format!("the file '{name}' is cut off or too large")));
            }
            let seconds = entry.header().mtime().map_err(|source| error(source.to_string()))?;
            let seconds = i64::try_from(seconds).unwrap_or_default();
            let modified = Timestamp { seconds, nanoseconds: 0 };
            control.files.push(ControlFile { name, mode: mode & 0o777, modified, content });
        }
        let fields = control.file("control").ok_or(DebError::Missing { name: "control" })?;
        control.fields = deb822::parse(fields).map_err(DebError::Fields)?;
        Ok(control)
    }

    /// The data as an uncompressed tar stream.
    ///
    /// # Errors
    /// Where its compression is unknown.
    pub fn data(&self) -> Result<Box<dyn Read + Send>, DebError> {
        self.data.content().map_err(DebError::Read)
    }
}

impl Control {
    /// The absolute paths of the configuration files that the package has
    /// (deb-conffiles(5)); those that it only wants removed are left out.
    pub fn configuration_files(&self) -> impl Iterator<Item = &str> {
        let text = std::str::from_utf8(self.file("conffiles").unwrap_or_default());
        text.unwrap_or_default().lines().map(str::trim_end).filter(|line| line.starts_with('/'))
    }

    /// The content of a control file.
    #[must_use]
    pub fn file(&self, name: &str) -> Option<&[u8]> {
        self.files.iter().find(|file| file.name == name).map(|file| file.content.as_slice())
    }
}

/// A part of the package file, read without moving the file's position.
#[derive(Clone, Debug)]
struct Member {
    file: Arc<File>,
    name: String,
    position: u64,
    end: u64,
}

impl Member {
    fn content(&self) -> io::Result<Box<dyn Read + Send>> {
        compression::by_name(&self.name, self.clone())
    }
}

impl Read for Member {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end.saturating_sub(self.position)).unwrap_or(usize::MAX);
        let length = buffer.len().min(left);
        let Some(part) = buffer.get_mut(..length) else { return Ok(0) };
        let count = self.file.read_at(part, self.position)?;
        if count == 0 && length > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.position += count as u64;
        Ok(count)
    }
}

/// Name and size of the member whose header is at `offset` (ar(5)).
fn header(file: &File, offset: u64) -> Result<(String, u64), DebError> {
    let malformed = |reason| DebError::Malformed { offset, reason };
    let mut header = [0; AR_HEADER as usize];
    file.read_exact_at(&mut header, offset).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => malformed("the file ends in a header"),
        _ => DebError::Read(error),
    })?;
    let text = |range: std::ops::Range<usize>| {
        header.get(range).and_then(|field| std::str::from_utf8(field).ok()).map(str::trim_end)
    };
    if text(58..60) != Some("`") {
        return Err(malformed("a header has no end mark"));
    }
    let name = text(0..16).ok_or_else(|| malformed("a member's name is not UTF-8"))?;
    let digits = text(48..58).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()));
    let size = digits
        .and_then(|digits| digits.parse().ok())
        .ok_or_else(|| malformed("a member's size is not a number"))?;
    Ok((name.trim_end_matches('/').to_owned(), size))
}

fn check_version(member: Member) -> Result<(), DebError> {
    if member.name != "debian-binary" {
        return Err(DebError::NotAPackage);
    }
    let mut version = String::new();
    member.take(64).read_to_string(&mut version).map_err(DebError::Read)?;
    let version = version.lines().next().unwrap_or_default();
    // A newer minor version can still be read (deb(5)).
    if version.starts_with("2.") {
        Ok(())
    } else {
        Err(DebError::Version { version: version.to_owned() })
    }
}
