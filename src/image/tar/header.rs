//! One 512-byte header: checksum, numbers, names, type.

use std::io::Read;

use super::source::Source;
use super::{BLOCK, TarError};

/// What a member is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Type {
    BlockDevice,
    CharacterDevice,
    Directory,
    /// A PAX header for the next member.
    Extended,
    Fifo,
    File,
    /// A PAX header for all members that follow.
    Global,
    HardLink,
    /// Of no meaning here, e.g. a volume label.
    Ignored,
    LongLink,
    LongName,
    MultiVolume,
    /// A file in GNU tar's old sparse format.
    Sparse,
    SymbolicLink,
}

/// A header whose checksum is right.
pub(super) struct Header {
    pub(super) raw: tar::Header,
    pub(super) kind: Type,
    /// Where in the stream it is.
    pub(super) offset: u64,
}

/// Reads the next header; `None` at the end of the archive.
pub(super) fn read<R: Read>(source: &mut Source<R>) -> Result<Option<Header>, TarError> {
    let offset = source.offset();
    let mut raw = tar::Header::new_old();
    let filled = source.fill(raw.as_mut_bytes())? as u64;
    if filled == 0 && offset == 0 {
        return Ok(None);
    }
    if filled < BLOCK {
        return Err(match offset {
            0 => TarError::NotAnArchive,
            _ if filled == 0 => source.truncated("the end of the archive"),
            _ => source.truncated("a header"),
        });
    }
    if raw.as_bytes().iter().all(|byte| *byte == 0) {
        return Ok(None);
    }
    if !checksum_matches(&raw) {
        return Err(match offset {
            0 => TarError::NotAnArchive,
            _ => TarError::Checksum { offset },
        });
    }
    let kind = match raw.as_old().linkflag {
        [b'1'] => Type::HardLink,
        [b'2'] => Type::SymbolicLink,
        [b'3'] => Type::CharacterDevice,
        [b'4'] => Type::BlockDevice,
        // `D` is a directory with a list of its names, from an incremental GNU archive.
        [b'5' | b'D'] => Type::Directory,
        [b'6'] => Type::Fifo,
        [b'K'] => Type::LongLink,
        [b'L'] => Type::LongName,
        [b'M'] => Type::MultiVolume,
        [b'S'] => Type::Sparse,
        // A label, and Solaris' access control lists.
        [b'V' | b'A'] => Type::Ignored,
        [b'g'] => Type::Global,
        [b'x' | b'X'] => Type::Extended,
        _ => Type::File,
    };
    Ok(Some(Header { raw, kind, offset }))
}

impl Header {
    /// The error for a field of this header.
    pub(super) fn bad(&self, field: &'static str) -> TarError {
        TarError::Field { field, offset: self.offset }
    }

    /// Bytes of content.
    pub(super) fn size(&self) -> Result<u64, TarError> {
        unsigned(&self.raw.as_old().size).ok_or_else(|| self.bad("size"))
    }

    pub(super) fn uid(&self) -> Result<i64, TarError> {
        number(&self.raw.as_old().uid).ok_or_else(|| self.bad("owner"))
    }

    pub(super) fn gid(&self) -> Result<i64, TarError> {
        number(&self.raw.as_old().gid).ok_or_else(|| self.bad("group"))
    }

    pub(super) fn modified(&self) -> Result<i64, TarError> {
        number(&self.raw.as_old().mtime).ok_or_else(|| self.bad("time"))
    }

    /// The permission, set-id and sticky bits.
    pub(super) fn mode(&self) -> Result<u32, TarError> {
        let mode = number(&self.raw.as_old().mode).ok_or_else(|| self.bad("mode"))?;
        Ok((mode & 0o7777) as u32)
    }

    /// The major and minor number.
    pub(super) fn device(&self) -> Result<(u32, u32), TarError> {
        let (major, minor) = match (self.raw.as_ustar(), self.raw.as_gnu()) {
            (Some(ustar), _) => (&ustar.dev_major, &ustar.dev_minor),
            (None, Some(gnu)) => (&gnu.dev_major, &gnu.dev_minor),
            (None, None) => return Err(self.bad("device number")),
        };
        let field = |bytes| unsigned(bytes).and_then(|number| u32::try_from(number).ok());
        field(major).zip(field(minor)).ok_or_else(|| self.bad("device number"))
    }

    /// The name, with ustar's prefix.
    pub(super) fn name(&self) -> Vec<u8> {
        self.raw.path_bytes().into_owned()
    }

    /// The link's target.
    pub(super) fn link(&self) -> Vec<u8> {
        self.raw.link_name_bytes().unwrap_or_default().into_owned()
    }
}

/// Some old writers summed signed bytes; every reader accepts both sums.
fn checksum_matches(header: &tar::Header) -> bool {
    let bytes = header.as_bytes();
    let (mut plain, mut signed) = (0_i64, 0_i64);
    for (index, byte) in bytes.iter().enumerate() {
        let byte = if (148..156).contains(&index) { b' ' } else { *byte };
        plain += i64::from(byte);
        signed += i64::from(byte as i8);
    }
    number(&header.as_old().cksum).is_some_and(|sum| sum == plain || sum == signed)
}

/// A field that cannot be negative.
pub(super) fn unsigned(field: &[u8]) -> Option<u64> {
    number(field).and_then(|number| u64::try_from(number).ok())
}

/// A numeric field: octal digits between blanks, or GNU tar's big-endian two's complement
/// whose first bit is set and not part of the number. A blank field is zero.
pub(super) fn number(field: &[u8]) -> Option<i64> {
    let first = *field.first()?;
    if first & 0x80 != 0 {
        // The bit after the marker is the sign.
        let start =
            if first & 0x40 != 0 { i128::from(first) - 0x100 } else { i128::from(first) - 0x80 };
        let value = field.get(1..)?.iter().try_fold(start, |value, byte| {
            value.checked_mul(256)?.checked_add(i128::from(*byte))
        })?;
        return i64::try_from(value).ok();
    }
    let end = field.iter().position(|byte| *byte == 0).unwrap_or(field.len());
    let digits = field.get(..end)?.trim_ascii();
    digits.iter().try_fold(0_i64, |value, digit| match digit {
        b'0'..=b'7' => value.checked_mul(8)?.checked_add(i64::from(digit - b'0')),
        _ => None,
    })
}
