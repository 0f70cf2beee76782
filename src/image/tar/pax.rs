//! PAX extended headers: the records that override or add to a member's header.
//!
//! Values are bytes and may hold anything, newlines and NULs included, so records are
//! cut by their length and not by lines.

use super::{TarError, acl};
use crate::tree::{Segment, Timestamp};

/// The most attributes one entry can have; more cannot be stored by any file system.
const MAXIMUM_ATTRIBUTES: usize = 1024;

/// What extended headers say about a member.
#[derive(Clone, Debug, Default)]
pub(super) struct Extensions {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u64>,
    pub(super) gid: Option<u64>,
    pub(super) modified: Option<Timestamp>,
    pub(super) attributes: Vec<(Vec<u8>, Vec<u8>)>,
    pub(super) sparse: SparseRecords,
    /// Attributes that were left out.
    pub(super) skipped: u64,
    /// Whether the member has an extended header of its own.
    pub(super) local: bool,
}

/// The records of GNU tar's sparse formats 0.0, 0.1 and 1.0.
#[derive(Clone, Debug, Default)]
pub(super) struct SparseRecords {
    pub(super) major: u64,
    pub(super) minor: u64,
    pub(super) name: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    /// The map of 0.0 and 0.1.
    pub(super) map: Vec<Segment>,
    pub(super) has_map: bool,
    offset: Option<u64>,
}

impl SparseRecords {
    /// Whether the member is sparse.
    pub(super) fn is_sparse(&self) -> bool {
        self.size.is_some() && (self.major > 0 || self.has_map)
    }
}

impl Extensions {
    /// Applies the records of a member's own header.
    pub(super) fn apply(&mut self, records: &[u8], offset: u64) -> Result<(), TarError> {
        self.local = true;
        for record in Records(records) {
            let (key, value) = record.ok_or(TarError::Field { field: "PAX record", offset })?;
            if !self.apply_common(key, value, offset)? {
                self.apply_local(key, value, offset)?;
            }
        }
        Ok(())
    }

    /// Applies the records of a header for all members: only what can make sense there.
    pub(super) fn apply_global(&mut self, records: &[u8], offset: u64) -> Result<(), TarError> {
        for record in Records(records) {
            let (key, value) = record.ok_or(TarError::Field { field: "PAX record", offset })?;
            self.apply_common(key, value, offset)?;
        }
        Ok(())
    }

    fn apply_common(&mut self, key: &[u8], value: &[u8], offset: u64) -> Result<bool, TarError> {
        let bad = |field| TarError::Field { field, offset };
        let number = |field| match value {
            b"" => Ok(None),
            _ => decimal(value).map(Some).ok_or_else(|| bad(field)),
        };
        match key {
            b"uid" => self.uid = number("PAX uid")?,
            b"gid" => self.gid = number("PAX gid")?,
            b"mtime" => {
                self.modified = match value {
                    b"" => None,
                    _ => Some(time(value).ok_or_else(|| bad("PAX mtime"))?),
                }
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn apply_local(&mut self, key: &[u8], value: &[u8], offset: u64) -> Result<(), TarError> {
        let bad = |field| TarError::Field { field, offset };
        let text = || Some(value.to_vec()).filter(|value| !value.is_empty());
        let number = |field| decimal(value).ok_or_else(|| bad(field));
        match key {
            b"path" => self.path = text(),
            b"linkpath" => self.link = text(),
            b"size" if value.is_empty() => self.size = None,
            b"size" => self.size = Some(number("PAX size")?),
            b"GNU.sparse.major" => self.sparse.major = number("sparse format")?,
            b"GNU.sparse.minor" => self.sparse.minor = number("sparse format")?,
            b"GNU.sparse.name" => self.sparse.name = text(),
            b"GNU.sparse.size" | b"GNU.sparse.realsize" => {
                self.sparse.size = Some(number("sparse file size")?);
            }
            b"GNU.sparse.numblocks" => self.sparse.has_map = true,
            b"GNU.sparse.offset" => self.sparse.offset = Some(number("sparse file map")?),
            b"GNU.sparse.numbytes" => {
                let length = number("sparse file map")?;
                let offset = self.sparse.offset.take().ok_or_else(|| bad("sparse file map"))?;
                self.sparse.map.push(Segment { offset, length });
            }
            b"GNU.sparse.map" => {
                self.sparse.has_map = true;
                self.sparse.map = map(value).ok_or_else(|| bad("sparse file map"))?;
            }
            b"SCHILY.acl.access" => self.acl(b"system.posix_acl_access", value),
            b"SCHILY.acl.default" => self.acl(b"system.posix_acl_default", value),
            b"RHT.security.selinux" => {
                let mut label = value.to_vec();
                if label.last() != Some(&0) {
                    label.push(0);
                }
                self.attribute(b"security.selinux".to_vec(), label);
            }
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    self.attribute(name.to_vec(), value.to_vec());
                } else if let Some(name) = key.strip_prefix(b"LIBARCHIVE.xattr.") {
                    let name = percent_decoded(name).ok_or_else(|| bad("attribute name"))?;
                    let value = base64_decoded(value).ok_or_else(|| bad("attribute value"))?;
                    self.attribute(name, value);
                }
            }
        }
        Ok(())
    }

    fn acl(&mut self, name: &[u8], text: &[u8]) {
        match acl::from_text(text) {
            Some(value) => self.attribute(name.to_vec(), value),
            None => self.skipped += 1,
        }
    }

    /// Adds an attribute, or replaces it: some writers store each one in two forms.
    fn attribute(&mut self, name: Vec<u8>, value: Vec<u8>) {
        const SPACES: [&[u8]; 4] = [b"user.", b"trusted.", b"security.", b"system."];
        let known = SPACES.iter().any(|space| name.len() > space.len() && name.starts_with(space));
        if let Some(existing) = self.attributes.iter_mut().find(|(other, _)| *other == name) {
            existing.1 = value;
        } else if known && name.len() <= 255 && self.attributes.len() < MAXIMUM_ATTRIBUTES {
            self.attributes.push((name, value));
        } else {
            self.skipped += 1;
        }
    }
}

/// The records of a header: `length key=value\n`, the length counting all of it.
struct Records<'a>(&'a [u8]);

impl<'a> Iterator for Records<'a> {
    /// `None` for a record that is malformed; nothing follows it.
    type Item = Option<(&'a [u8], &'a [u8])>;

    fn next(&mut self) -> Option<Self::Item> {
        // Some writers pad the last record with NULs.
        if self.0.iter().all(|byte| *byte == 0) {
            return None;
        }
        let record = self.split();
        if record.is_none() {
            self.0 = &[];
        }
        Some(record)
    }
}

impl<'a> Records<'a> {
    fn split(&mut self) -> Option<(&'a [u8], &'a [u8])> {
        let space = self.0.iter().take(20).position(|byte| *byte == b' ')?;
        let length = usize::try_from(decimal(self.0.get(..space)?)?).ok()?;
        let (record, rest) = self.0.split_at_checked(length)?;
        let record = record.get(space + 1..)?.strip_suffix(b"\n")?;
        let equals = record.iter().position(|byte| *byte == b'=').filter(|equals| *equals > 0)?;
        self.0 = rest;
        Some((record.get(..equals)?, record.get(equals + 1..)?))
    }
}

/// An unsigned decimal number, digits only.
pub(super) fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |value, digit| match digit {
        b'0'..=b'9' => value.checked_mul(10)?.checked_add(u64::from(digit - b'0')),
        _ => None,
    })
}

/// Seconds with an optional sign and fraction; digits beyond nanoseconds round down.
fn time(text: &[u8]) -> Option<Timestamp> {
    let (negative, text) = match text.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (whole, fraction) = match text.iter().position(|byte| *byte == b'.') {
        Some(point) => (text.get(..point)?, text.get(point + 1..)?),
        None => (text, [].as_slice()),
    };
    let seconds = i64::try_from(decimal(whole)?).ok()?;
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let nanoseconds = (0..9).fold(0_u32, |value, index| {
        value * 10 + fraction.get(index).map_or(0, |digit| u32::from(digit - b'0'))
    });
    Some(match (negative, nanoseconds) {
        (false, _) => Timestamp { seconds, nanoseconds },
        (true, 0) => Timestamp { seconds: -seconds, nanoseconds },
        (true, _) => Timestamp { seconds: -seconds - 1, nanoseconds: 1_000_000_000 - nanoseconds },
    })
}

/// Format 0.1's map: offsets and lengths in turn, separated by commas.
fn map(text: &[u8]) -> Option<Vec<Segment>> {
    let mut segments = Vec::new();
    let mut numbers = text.split(|byte| *byte == b',');
    while let Some(offset) = numbers.next() {
        segments.push(Segment { offset: decimal(offset)?, length: decimal(numbers.next()?)? });
    }
    Some(segments)
}

/// libarchive writes `%` and what is not printable as `%` and two hexadecimal digits.
fn percent_decoded(text: &[u8]) -> Option<Vec<u8>> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, tail)) = rest.split_first() {
        rest = tail;
        if *first == b'%' {
            let (digits, tail) = tail.split_at_checked(2)?;
            decoded.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
            rest = tail;
        } else {
            decoded.push(*first);
        }
    }
    Some(decoded)
}

/// Base64 of RFC 4648 section 4, padding optional as libarchive leaves it out.
fn base64_decoded(text: &[u8]) -> Option<Vec<u8>> {
    let mut decoded = Vec::with_capacity(text.len() / 4 * 3 + 3);
    let (mut bits, mut count) = (0_u32, 0);
    for byte in text.iter().filter(|byte| !matches!(byte, b'=' | b'\n' | b'\r')) {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = (bits << 6) | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            decoded.push(((bits >> count) & 0xff) as u8);
        }
    }
    Some(decoded)
}
