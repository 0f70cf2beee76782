//! PAX extended headers in the making: one record per thing that a header cannot say.

use crate::tree::Timestamp;

/// The records of one header.
#[derive(Debug, Default)]
pub(super) struct Records(Vec<u8>);

impl Records {
    /// Adds a record: `length key=value\n`, the length counting all of it.
    pub(super) fn add(&mut self, key: &[u8], value: &[u8]) {
        let rest = key.len() + value.len() + 3;
        let mut length = rest + 1;
        while rest + length.to_string().len() != length {
            length = rest + length.to_string().len();
        }
        self.0.extend_from_slice(length.to_string().as_bytes());
        self.0.push(b' ');
        self.0.extend_from_slice(key);
        self.0.push(b'=');
        self.0.extend_from_slice(value);
        self.0.push(b'\n');
    }

    /// Adds a name, which may be any bytes. The standard wants UTF-8 where nothing else is
    /// said.
    pub(super) fn add_name(&mut self, key: &[u8], name: &[u8]) {
        const BINARY: (&[u8], &[u8]) = (b"hdrcharset", b"BINARY");
        if std::str::from_utf8(name).is_err() && !self.0.starts_with(b"21 hdrcharset") {
            let mut first = Self::default();
            first.add(BINARY.0, BINARY.1);
            first.0.append(&mut self.0);
            *self = first;
        }
        self.add(key, name);
    }

    /// Adds an extended attribute: as most archivers do, or as libarchive does where the
    /// name would not survive that.
    pub(super) fn add_attribute(&mut self, name: &[u8], value: &[u8]) {
        let is_plain = |byte: &u8| byte.is_ascii_graphic() && !matches!(byte, b'=' | b'%');
        if name.iter().all(is_plain) {
            self.add(&[b"SCHILY.xattr.", name].concat(), value);
            return;
        }
        let mut key = b"LIBARCHIVE.xattr.".to_vec();
        for byte in name {
            match is_plain(byte) {
                true => key.push(*byte),
                false => key.extend_from_slice(format!("%{byte:02X}").as_bytes()),
            }
        }
        self.add(&key, &base64(value));
    }

    /// Adds a time with its nanoseconds.
    pub(super) fn add_time(&mut self, key: &[u8], time: Timestamp) {
        self.add(key, decimal(time).as_bytes());
    }

    /// The header's content; empty where it says nothing.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Seconds with a fraction, as short as it is exact.
fn decimal(time: Timestamp) -> String {
    let (sign, seconds, nanoseconds) = match (time.seconds, time.nanoseconds) {
        (seconds @ 0.., nanoseconds) => ("", seconds.unsigned_abs(), nanoseconds),
        (seconds, 0) => ("-", seconds.unsigned_abs(), 0),
        (seconds, nanoseconds) => {
            ("-", seconds.unsigned_abs() - 1, 1_000_000_000_u32.saturating_sub(nanoseconds))
        }
    };
    let text = format!("{sign}{seconds}.{nanoseconds:09}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Base64 of RFC 4648 section 4, without padding as libarchive has it.
fn base64(bytes: &[u8]) -> Vec<u8> {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = Vec::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let word = chunk.iter().fold(0_u32, |word, byte| word << 8 | u32::from(*byte));
        let word = word << (8 * (3 - chunk.len()));
        for index in 0..=chunk.len() {
            let digit = (word >> (18 - 6 * index)) & 63;
            text.extend(DIGITS.get(digit as usize));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_counts_its_own_length() {
        let mut records = Records::default();
        records.add(b"k", b"v");
        records.add(b"path", &[b'x'; 90]);
        records.add(b"path", &[b'x'; 91]);
        let text = String::from_utf8(records.bytes().to_vec()).unwrap();
        let x = |count| "x".repeat(count);
        assert_eq!(text, format!("6 k=v\n99 path={}\n101 path={}\n", x(90), x(91)));
    }

    #[test]
    fn a_name_that_is_not_text_is_announced_once_and_first() {
        let mut records = Records::default();
        records.add(b"uid", b"7");
        records.add_name(b"path", b"\xff");
        records.add_name(b"linkpath", b"\xfe");
        assert_eq!(
            records.bytes(),
            b"21 hdrcharset=BINARY\n8 uid=7\n9 path=\xff\n14 linkpath=\xfe\n"
        );
    }

    #[test]
    fn times_are_exact() {
        for (seconds, nanoseconds, expected) in [
            (0, 0, "0"),
            (5, 100, "5.0000001"),
            (-1, 500_000_000, "-0.5"),
            (-2, 0, "-2"),
            (-2, 999_999_999, "-1.000000001"),
            (i64::MAX, 999_999_999, "9223372036854775807.999999999"),
            (100, 0, "100"),
        ] {
            assert_eq!(decimal(Timestamp { seconds, nanoseconds }), expected);
        }
    }

    #[test]
    fn base64_is_without_padding() {
        let text = |bytes: &[u8]| String::from_utf8(base64(bytes)).unwrap();
        assert_eq!([text(b""), text(b"a"), text(b"ab"), text(b"abc")], ["", "YQ", "YWI", "YWJj"]);
    }
}
