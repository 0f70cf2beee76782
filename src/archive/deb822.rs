//! Paragraphs of `Name: value` fields, as in `Release`, `Packages` and `control`
//! (deb822(5), Debian policy 5.1).

use std::borrow::Cow;
use std::io::{self, BufRead, Read};

/// The longest line that is read.
const MAXIMUM_LINE: u64 = 1024 * 1024;

/// The largest paragraph that is read.
const MAXIMUM_PARAGRAPH: usize = 32 * 1024 * 1024;

/// One paragraph: its fields in order.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Paragraph {
    /// A wanted field borrows its name: an archive has a million fields.
    fields: Vec<(Cow<'static, str>, String)>,
}

/// Why text is not a list of paragraphs.
#[derive(Debug, thiserror::Error)]
pub enum Deb822Error {
    /// A line is neither a field, nor its continuation, nor empty.
    #[error("line {line} is not a field: '{text}'")]
    NoField {
        /// Which line, from 1.
        line: u64,
        /// Its beginning.
        text: String,
    },
    /// The text cannot be read.
    #[error("cannot read line {line}")]
    Read {
        /// Which line, from 1.
        line: u64,
        /// Why.
        source: io::Error,
    },
    /// A line or paragraph is unreasonably large.
    #[error("line {line} makes the paragraph too large")]
    TooLarge {
        /// Which line, from 1.
        line: u64,
    },
}

impl Paragraph {
    /// The value of a field, names compared without case. Continuation lines keep their
    /// newline and lose their leading space.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        let found = self.fields.iter().find(|(known, _)| known.eq_ignore_ascii_case(name))?;
        Some(&found.1)
    }

    /// All fields in order.
    pub fn fields(&self) -> impl Iterator<Item = (&str, &str)> {
        self.fields.iter().map(|(name, value)| (name.as_ref(), value.as_str()))
    }

    /// Forgets some fields and the space for more.
    pub fn forget(&mut self, names: &[&str]) {
        self.fields.retain(|(known, _)| !names.iter().any(|name| known.eq_ignore_ascii_case(name)));
        self.fields.shrink_to_fit();
    }

    /// Whether there are no fields.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }
}

/// Reads paragraphs one at a time.
#[derive(Debug)]
pub struct Paragraphs<R> {
    reader: R,
    line: u64,
    /// Only these fields are kept, where it is not empty.
    wanted: &'static [&'static str],
}

impl<R: BufRead> Paragraphs<R> {
    /// Paragraphs with all their fields.
    pub fn new(reader: R) -> Self {
        Self { reader, line: 0, wanted: &[] }
    }

    /// Paragraphs with only the named fields.
    pub fn of_fields(reader: R, wanted: &'static [&'static str]) -> Self {
        Self { reader, line: 0, wanted }
    }

    /// The next paragraph; `None` at the end.
    ///
    /// # Errors
    /// Where the text cannot be read or is malformed.
    pub fn next_paragraph(&mut self) -> Result<Option<Paragraph>, Deb822Error> {
        let mut paragraph = Paragraph::default();
        let mut seen = false;
        let mut keep = false;
        let mut size = 0_usize;
        let mut bytes = Vec::new();
        while self.read_line(&mut bytes)? {
            let text = String::from_utf8_lossy(&bytes);
            let text = text.trim_end();
            if text.is_empty() {
                if seen {
                    break;
                }
                continue;
            }
            if text.starts_with('#') {
                continue;
            }
            size = size.saturating_add(text.len());
            if size > MAXIMUM_PARAGRAPH {
                return Err(Deb822Error::TooLarge { line: self.line });
            }
            let error =
                || Deb822Error::NoField { line: self.line, text: text.chars().take(80).collect() };
            if let Some(continuation) = text.strip_prefix([' ', '\t']) {
                if !seen {
                    return Err(error());
                }
                if let (true, Some((_, value))) = (keep, paragraph.fields.last_mut()) {
                    value.push('\n');
                    value.push_str(continuation);
                }
                continue;
            }
            let (name, value) = text.split_once(':').ok_or_else(error)?;
            if name.is_empty() || name.contains(char::is_whitespace) {
                return Err(error());
            }
            seen = true;
            let name = if self.wanted.is_empty() {
                Some(Cow::Owned(name.to_owned()))
            } else {
                let known = self.wanted.iter().find(|wanted| wanted.eq_ignore_ascii_case(name));
                known.map(|known| Cow::Borrowed(*known))
            };
            keep = name.is_some();
            paragraph.fields.extend(name.map(|name| (name, value.trim().to_owned())));
        }
        Ok(seen.then_some(paragraph))
    }

    fn read_line(&mut self, bytes: &mut Vec<u8>) -> Result<bool, Deb822Error> {
        bytes.clear();
        self.line = self.line.saturating_add(1);
        let line = self.line;
        let count = (&mut self.reader)
            .take(MAXIMUM_LINE)
            .read_until(b'\n', bytes)
            .map_err(|source| Deb822Error::Read { line, source })?;
        if count as u64 == MAXIMUM_LINE {
            return Err(Deb822Error::TooLarge { line });
        }
        Ok(count > 0)
    }
}

/// The only paragraph of a small text; empty where there is none.
///
/// # Errors
/// Where the text is malformed.
pub fn parse(text: &[u8]) -> Result<Paragraph, Deb822Error> {
    Ok(Paragraphs::new(text).next_paragraph()?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn fields_continue_on_indented_lines() {
        let text = b"\n# comment\nPackage: a\nDescription: short\n long\n .\n\nPackage: b\n";
        let mut paragraphs = Paragraphs::new(text.as_slice());
        let first = paragraphs.next_paragraph().unwrap().unwrap();
        assert_eq!(first.get("package"), Some("a"));
        assert_eq!(first.get("Description"), Some("short\nlong\n."));
        assert_eq!(paragraphs.next_paragraph().unwrap().unwrap().get("Package"), Some("b"));
        assert!(paragraphs.next_paragraph().unwrap().is_none());
    }

    #[test]
    fn unwanted_fields_take_their_continuation_with_them() {
        let text = b"A: 1\n a\nB: 2\n b\nC: 3\n";
        let paragraph =
            Paragraphs::of_fields(text.as_slice(), &["a", "C"]).next_paragraph().unwrap().unwrap();
        let fields: Vec<_> = paragraph.fields().collect();
        assert_eq!(fields, [("a", "1\na"), ("C", "3")]);
    }

    #[test]
    fn malformed_lines_are_named() {
        for (text, line) in [("A: 1\nnonsense\n", 2), (" a\n", 1), ("A: 1\n: x\n", 2)] {
            match parse(text.as_bytes()) {
                Err(Deb822Error::NoField { line: at, .. }) => assert_eq!(at, line, "{text:?}"),
                other => panic!("{other:?}"),
            }
        }
        let huge = vec![b'a'; 2 << 20];
        assert!(matches!(parse(&huge), Err(Deb822Error::TooLarge { line: 1 })));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes: Vec<u8>) {
            let mut paragraphs = Paragraphs::new(bytes.as_slice());
            while let Ok(Some(_)) = paragraphs.next_paragraph() {}
        }

        #[test]
        fn written_fields_are_read_back(
            fields in prop::collection::vec(("[A-Z][A-Za-z-]{0,9}", "[!-~]([ -~]{0,20}[!-~])?"), 1..9)
        ) {
            let text: String =
                fields.iter().map(|(name, value)| format!("{name}: {value}\n")).collect();
            let paragraph = parse(text.as_bytes()).unwrap();
            let read: Vec<_> = paragraph
                .fields()
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect();
            prop_assert_eq!(read, fields);
        }
    }
}
