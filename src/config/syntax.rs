//! The syntax that `.wslconfig` and `/etc/wsl.conf` share (behaviour reference 2.1).
//!
//! Text goes in, entries and the lines that are none come out. Nothing here knows a key.

/// A `key = value` line.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Entry {
    /// The section's name as written; empty before the first.
    pub section: String,
    /// The key as written.
    pub key: String,
    /// The value, its quotes and escapes resolved.
    pub value: String,
    /// Counted from 1.
    pub line: usize,
}

/// What to do after a line that cannot be read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum AfterBadLine {
    /// Skip it, as in `.wslconfig`.
    Continue,
    /// Ignore all that follows, as in `/etc/wsl.conf`.
    Stop,
}

/// A line that cannot be read.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct BadLine {
    /// Why.
    pub problem: Problem,
    /// Counted from 1.
    pub line: usize,
}

/// Why a line cannot be read.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Problem {
    /// `[a-b]`.
    #[error("Invalid section name")]
    SectionName,
    /// `1key = x`.
    #[error("Invalid key name")]
    KeyName,
    /// `key`.
    #[error("Expected '='")]
    ExpectedEquals,
    /// `[section`.
    #[error("Expected ']'")]
    ExpectedBracket,
    /// `key = "value`.
    #[error("Expected '\"'")]
    ExpectedQuote,
    /// `key = \m`.
    #[error("Invalid escaped character: '{0}'")]
    Escape(char),
}

/// Reads a whole file.
#[must_use]
pub fn parse(text: &str, after_bad_line: AfterBadLine) -> (Vec<Entry>, Vec<BadLine>) {
    let mut reader = Reader { rest: text, line: 1 };
    let mut entries = Vec::new();
    let mut bad = Vec::new();
    let mut section = String::new();
    while !reader.rest.is_empty() {
        let line = reader.line;
        match reader.line(&mut section) {
            Ok(None) => {}
            Ok(Some((key, value))) => {
                entries.push(Entry { section: section.clone(), key, value, line });
            }
            Err(problem) => {
                bad.push(BadLine { problem, line: reader.line });
                reader.skip_line();
                if after_bad_line == AfterBadLine::Stop {
                    break;
                }
            }
        }
    }
    (entries, bad)
}

struct Reader<'a> {
    rest: &'a str,
    line: usize,
}

impl Reader<'_> {
    /// Reads one line with its end; an error leaves the reader in front of the end.
    fn line(&mut self, section: &mut String) -> Result<Option<(String, String)>, Problem> {
        self.blanks();
        if self.eat('[') {
            self.blanks();
            let name = self.name();
            self.blanks();
            match self.peek() {
                Some(']') if !name.is_empty() => _ = self.eat(']'),
                None | Some('\n' | '#') => return Err(Problem::ExpectedBracket),
                _ => return Err(Problem::SectionName),
            }
            *section = name;
            self.blanks();
        }
        match self.peek() {
            None | Some('\n' | '#') => {
                self.skip_line();
                return Ok(None);
            }
            Some(first) if !first.is_ascii_alphabetic() => return Err(Problem::KeyName),
            _ => {}
        }
        let key = self.name();
        let blank = self.blanks();
        match self.peek() {
            Some('=') => _ = self.eat('='),
            None | Some('\n' | '#') => return Err(Problem::ExpectedEquals),
            _ if blank => return Err(Problem::ExpectedEquals),
            _ => return Err(Problem::KeyName),
        }
        let value = self.value()?;
        self.skip_line();
        Ok(Some((key, value)))
    }

    /// Reads a value up to the end of its line or its comment.
    fn value(&mut self) -> Result<String, Problem> {
        self.blanks();
        let mut value = String::new();
        // How much of the value stays when blanks at its end are dropped.
        let mut kept = 0;
        let mut quoted = false;
        loop {
            match self.peek() {
                None | Some('\n') if quoted => return Err(Problem::ExpectedQuote),
                None | Some('\n') => break,
                Some('#') if !quoted => break,
                Some('"') => {
                    quoted = !quoted;
                    self.advance();
                    kept = value.len();
                }
                Some('\\') => {
                    self.advance();
                    self.escape(&mut value)?;
                    kept = value.len();
                }
                Some(character) => {
                    self.advance();
                    value.push(character);
                    if quoted || !character.is_ascii_whitespace() {
                        kept = value.len();
                    }
                }
            }
        }
        value.truncate(kept);
        Ok(value)
    }

    /// Reads what follows a backslash.
    fn escape(&mut self, value: &mut String) -> Result<(), Problem> {
        if self.rest.starts_with("\r\n") {
            self.advance();
        }
        let Some(character) = self.peek() else { return Ok(()) };
        value.push(match character {
            '\\' | '"' => character,
            'b' => '\u{8}',
            'n' => '\n',
            't' => '\t',
            '\n' => {
                self.advance();
                return Ok(());
            }
            _ => return Err(Problem::Escape(character)),
        });
        self.advance();
        Ok(())
    }

    /// Reads letters and digits.
    fn name(&mut self) -> String {
        let end = self.rest.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(self.rest.len());
        let (name, rest) = self.rest.split_at(end);
        self.rest = rest;
        name.to_owned()
    }

    /// Skips blanks, and says whether there were any.
    fn blanks(&mut self) -> bool {
        let trimmed = self.rest.trim_start_matches([' ', '\t', '\r']);
        let skipped = trimmed.len() < self.rest.len();
        self.rest = trimmed;
        skipped
    }

    /// Skips what is left of a line, and its end.
    fn skip_line(&mut self) {
        match self.rest.split_once('\n') {
            Some((_, rest)) => {
                self.rest = rest;
                self.line += 1;
            }
            None => self.rest = "",
        }
    }

    fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    fn eat(&mut self, character: char) -> bool {
        let found = self.peek() == Some(character);
        if found {
            self.advance();
        }
        found
    }

    fn advance(&mut self) {
        let mut characters = self.rest.chars();
        if characters.next() == Some('\n') {
            self.line += 1;
        }
        self.rest = characters.as_str();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn values(text: &str) -> Vec<(String, String, usize)> {
        let (entries, bad) = parse(text, AfterBadLine::Continue);
        assert_eq!(bad, []);
        entries
            .into_iter()
            .map(|entry| (format!("{}.{}", entry.section, entry.key), entry.value, entry.line))
            .collect()
    }

    fn value(text: &str) -> String {
        let all = values(text);
        assert_eq!(all.len(), 1, "{text:?} gave {all:?}");
        all[0].1.clone()
    }

    #[test]
    fn sections_keys_comments_and_blank_lines_are_read() {
        let text = "# head\r\n\r\n[wsl2] # one\r\nmemory = 4GB # of it\r\n[general]a=b\nlast=1";
        assert_eq!(
            values(text),
            [
                ("wsl2.memory".to_owned(), "4GB".to_owned(), 4),
                ("general.a".to_owned(), "b".to_owned(), 5),
                ("general.last".to_owned(), "1".to_owned(), 6),
            ]
        );
    }

    #[test]
    fn values_are_trimmed_unquoted_and_unescaped() {
        for (text, expected) in [
            ("a =  x y  ", "x y"),
            ("a=", ""),
            ("a=#x", ""),
            ("a=\" x # \" ", " x # "),
            (r"a=C:\\Users\\me", r"C:\Users\me"),
            (r#"a=\"q\"\t|"#, "\"q\"\t|"),
            ("a=one \\\n  two", "one   two"),
            ("a=one\\\r\ntwo", "onetwo"),
            ("a=\"x\"\"y\"", "xy"),
        ] {
            assert_eq!(value(text), expected, "{text:?}");
        }
    }

    #[test]
    fn a_continued_value_counts_its_lines() {
        let (entries, bad) = parse("a=1\\\n2\nb=3\n[x\n", AfterBadLine::Continue);
        assert_eq!(entries.iter().map(|entry| entry.line).collect::<Vec<_>>(), [1, 3]);
        assert_eq!(bad, [BadLine { problem: Problem::ExpectedBracket, line: 4 }]);
    }

    #[test]
    fn b120_each_bad_line_has_its_problem_and_number() {
        for (text, problem) in [
            ("[wsl2\n", Problem::ExpectedBracket),
            ("[ws-l2]\n", Problem::SectionName),
            ("[]\n", Problem::SectionName),
            ("memory\n", Problem::ExpectedEquals),
            ("memory 4GB\n", Problem::ExpectedEquals),
            ("1memory=4GB\n", Problem::KeyName),
            ("mem-ory=4GB\n", Problem::KeyName),
            ("a=\\m\n", Problem::Escape('m')),
            ("a=\"x\n", Problem::ExpectedQuote),
        ] {
            let text = format!("\n{text}ok=1\n");
            let (entries, bad) = parse(&text, AfterBadLine::Continue);
            assert_eq!(bad, [BadLine { problem, line: 2 }], "{text:?}");
            assert_eq!(entries.len(), 1, "the rest of {text:?} is used");
            let (entries, bad) = parse(&text, AfterBadLine::Stop);
            assert_eq!((entries.len(), bad.len()), (0, 1), "{text:?} stops");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read(text in "(\\PC|[\\[\\]=#\"\\\\\r\n a]){0,200}") {
            let (entries, bad) = parse(&text, AfterBadLine::Continue);
            prop_assert!(entries.len() + bad.len() <= text.lines().count());
        }

        #[test]
        fn a_quoted_value_is_read_back(value in "[^\u{8}]*") {
            let escaped =
                value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let (entries, bad) = parse(&format!("k = \"{escaped}\"\n"), AfterBadLine::Stop);
            prop_assert_eq!(bad, []);
            prop_assert_eq!(&entries[0].value, &value);
        }
    }
}
