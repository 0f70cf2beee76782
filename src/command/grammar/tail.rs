//! The words after a verb, split by that verb's table (behaviour reference 1.3).
//!
//! Options and operands may be mixed; `-abc` bundles letters; `--` ends the options; the
//! value of an option is the next word, or follows `=` in the same word.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use super::error::GrammarError;
use crate::command::table::{Flag, Verb};

/// What a verb was given.
#[derive(Debug, Default)]
pub(super) struct Tail {
    flags: Vec<(&'static str, Option<OsString>)>,
    /// The operands that are there: no more than the verb takes.
    pub(super) operands: Vec<OsString>,
    /// `--help` was among the options.
    pub(super) help: bool,
}

impl Tail {
    /// Splits what follows `verb`.
    pub(super) fn parse(
        verb: &'static Verb,
        words: impl IntoIterator<Item = OsString>,
    ) -> Result<Self, GrammarError> {
        let mut words = words.into_iter();
        let mut tail = Self::default();
        let mut options = true;
        while let Some(word) = words.next() {
            let bytes = word.as_bytes();
            if options && bytes == b"--" {
                options = false;
            } else if options && bytes == b"--help" {
                tail.help = true;
            } else if options && bytes.starts_with(b"--") {
                tail.long(verb, word, &mut words)?;
            } else if options && bytes.starts_with(b"-") && bytes.len() > 1 {
                tail.bundle(verb, word, &mut words)?;
            } else if tail.operands.len() < verb.operands.len() {
                tail.operands.push(word);
            } else {
                return Err(GrammarError::InvalidForVerb { argument: word });
            }
        }
        Ok(tail)
    }

    /// Whether the option was given.
    pub(super) fn has(&self, long: &str) -> bool {
        self.flags.iter().any(|(name, _)| *name == long)
    }

    /// The option's value; the last one where it was given several times.
    pub(super) fn value(&mut self, long: &str) -> Option<OsString> {
        self.flags.iter_mut().rev().find(|(name, _)| *name == long)?.1.take()
    }

    fn long(
        &mut self,
        verb: &Verb,
        word: OsString,
        words: &mut impl Iterator<Item = OsString>,
    ) -> Result<(), GrammarError> {
        let (name, attached) = split_value(&word);
        let flag = name.and_then(|name| verb.options.iter().find(|flag| flag.is(name)));
        match (flag, attached) {
            (Some(flag), Some(value)) if flag.value.is_some() => {
                self.flags.push((flag.long, Some(value)));
                Ok(())
            }
            (Some(flag), None) => self.flag(flag, word, words),
            _ => Err(GrammarError::InvalidForVerb { argument: word }),
        }
    }

    fn bundle(
        &mut self,
        verb: &Verb,
        word: OsString,
        words: &mut impl Iterator<Item = OsString>,
    ) -> Result<(), GrammarError> {
        let letters: Vec<char> = word.to_string_lossy().chars().skip(1).collect();
        let flags: Option<Vec<&Flag>> = letters
            .iter()
            .map(|letter| verb.options.iter().find(|flag| flag.short == Some(*letter)))
            .collect();
        let Some(flags) = flags else {
            return Err(GrammarError::InvalidForVerb { argument: word });
        };
        let before_last = flags.len().saturating_sub(1);
        if flags.iter().take(before_last).any(|flag| flag.value.is_some()) {
            return Err(GrammarError::InvalidForVerb { argument: word });
        }
        flags.into_iter().try_for_each(|flag| self.flag(flag, word.clone(), words))
    }

    fn flag(
        &mut self,
        flag: &Flag,
        word: OsString,
        words: &mut impl Iterator<Item = OsString>,
    ) -> Result<(), GrammarError> {
        let value = match flag.value {
            Some(_) => Some(words.next().ok_or(GrammarError::ValueRequired { argument: word })?),
            None => None,
        };
        self.flags.push((flag.long, value));
        Ok(())
    }
}

/// `--option=value` in its two parts; the name is absent where it is not UTF-8.
pub(super) fn split_value(word: &OsString) -> (Option<&str>, Option<OsString>) {
    let bytes = word.as_bytes();
    match bytes.iter().position(|byte| *byte == b'=') {
        Some(equals) => (
            std::str::from_utf8(&bytes[..equals]).ok(),
            Some(OsString::from_vec(bytes[equals + 1..].to_vec())),
        ),
        None => (std::str::from_utf8(bytes).ok(), None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(verb: &str, words: &[&str]) -> Result<Tail, GrammarError> {
        Tail::parse(Verb::named(verb).unwrap(), words.iter().map(OsString::from))
    }

    #[test]
    fn b032_options_stand_before_and_after_the_operand() {
        for words in [
            ["--name", "N", "X", "-n"].as_slice(),
            &["X", "--name", "N", "-n"],
            &["-n", "X", "--name=N"],
        ] {
            let mut tail = parse("--install", words).unwrap();
            assert!(tail.has("--no-launch"));
            assert_eq!(tail.value("--name"), Some("N".into()));
            assert_eq!(tail.operands, ["X"]);
        }
    }

    #[test]
    fn b032_letters_bundle_and_one_unknown_letter_refuses_the_word() {
        let mut tail = parse("--install", &["-nd", "X"]).unwrap();
        assert!(tail.has("--no-launch"));
        assert_eq!(tail.value("--distribution"), Some("X".into()));
        for word in ["-qx", "-vé"] {
            let error = parse("--list", &[word]).unwrap_err();
            assert_eq!(error, GrammarError::InvalidForVerb { argument: word.into() });
        }
        assert!(parse("--install", &["-dn", "X"]).is_err());
    }

    #[test]
    fn b032_two_dashes_make_an_operand_of_what_follows() {
        assert_eq!(parse("--install", &["--", "--c"]).unwrap().operands, ["--c"]);
        assert_eq!(parse("--install", &["-"]).unwrap().operands, ["-"]);
        assert!(parse("--list", &["-"]).is_err());
        assert!(parse("--install", &["a", "b"]).is_err());
    }

    #[test]
    fn b032_a_missing_value_names_the_word_as_typed() {
        let error = parse("--install", &["-f"]).unwrap_err();
        assert_eq!(error, GrammarError::ValueRequired { argument: "-f".into() });
        assert!(parse("--list", &["--quiet=1"]).is_err());
    }
}
