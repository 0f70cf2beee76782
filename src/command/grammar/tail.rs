//! What follows a management verb: its options and operands, in any order.
//!
//! The words are read by clap, by a grammar made from the verb's row of the table; what is
//! refused is told in `wsl`'s words (behaviour reference 1.3). Where clap understands more
//! than `wsl` does, `--opt=value` and `-dNAME`, so do we.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};

use super::error::GrammarError;
use crate::command::table::{Flag, Verb};

/// What clap calls the operands; no option has this name, as theirs begin with dashes.
const OPERANDS: &str = "operands";

/// The option that every verb has.
static HELP: Flag = Flag {
    long: "--help",
    alias: None,
    short: None,
    value: None,
    help: "Show what the command takes.",
};

/// The parsed words after a verb. Of an option given twice the last value counts.
#[derive(Debug)]
pub(super) struct Tail {
    matches: ArgMatches,
    pub(super) operands: Vec<OsString>,
    /// `--help` was there.
    pub(super) help: bool,
}

impl Tail {
    /// Reads the words after `verb` up to their end.
    ///
    /// # Errors
    /// For an option or operand that the verb does not have, and for a missing value.
    pub(super) fn parse(
        verb: &'static Verb,
        words: impl IntoIterator<Item = OsString>,
    ) -> Result<Self, GrammarError> {
        let words: Vec<_> = words.into_iter().collect();
        let mut matches =
            grammar(verb).try_get_matches_from(&words).map_err(|error| refusal(&error, &words))?;
        let operands =
            matches.try_remove_many(OPERANDS).ok().flatten().into_iter().flatten().collect();
        Ok(Self { help: matches.get_flag(HELP.long), matches, operands })
    }

    /// Whether an option of the verb without value was given.
    pub(super) fn has(&self, long: &str) -> bool {
        match self.matches.try_get_one(long) {
            Ok(given) => given == Some(&true),
            // One that takes a value, or none of this verb's.
            Err(_) => self.matches.try_contains_id(long).unwrap_or(false),
        }
    }

    /// Takes the value of an option.
    pub(super) fn value(&mut self, long: &str) -> Option<OsString> {
        self.matches.try_remove_one(long).ok().flatten()
    }
}

/// The verb's row of the table as clap has it.
fn grammar(verb: &'static Verb) -> Command {
    let operands = (!verb.operands.is_empty()).then(|| {
        let several = Arg::new(OPERANDS).num_args(0..=verb.operands.len());
        several.action(ArgAction::Append).value_parser(value_parser!(OsString))
    });
    Command::new(verb.flag.long)
        .no_binary_name(true)
        .disable_help_flag(true)
        .disable_version_flag(true)
        .args_override_self(true)
        .args(verb.options.iter().chain([&HELP]).map(option))
        .args(operands)
}

fn option(flag: &'static Flag) -> Arg {
    let arg = Arg::new(flag.long).long(flag.long.trim_start_matches('-')).short(flag.short);
    match flag.value {
        // The next word is the value whatever it looks like, as in `wsl`.
        Some(_) => arg
            .action(ArgAction::Set)
            .allow_hyphen_values(true)
            .value_parser(value_parser!(OsString)),
        None => arg.action(ArgAction::SetTrue),
    }
}

/// What clap refused, in `wsl`'s words.
fn refusal(error: &clap::Error, words: &[OsString]) -> GrammarError {
    let last = words.last().cloned().unwrap_or_default();
    if error.kind() == ErrorKind::InvalidValue {
        // Only at the end is there no next word.
        return GrammarError::ValueRequired { argument: last };
    }
    let named = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(name)) => name.as_str(),
        _ => "",
    };
    let argument = words.iter().find(|word| is_refused(word, named)).cloned().unwrap_or(last);
    GrammarError::InvalidForVerb { argument }
}

/// Whether a word is the one that clap refused by `named`: itself, one that gives it a value,
/// or a bundle that has it as a letter.
fn is_refused(word: &OsStr, named: &str) -> bool {
    let (name, _) = split_value(word);
    let word = word.to_string_lossy();
    let letter = named.strip_prefix('-').filter(|rest| rest.chars().count() == 1);
    word == named
        || name == Some(named)
        || letter.is_some_and(|letter| {
            word.strip_prefix('-')
                .is_some_and(|letters| !letters.starts_with('-') && letters.contains(letter))
        })
}

/// `--option=value` in its two parts; the name is absent where it is not UTF-8.
pub(super) fn split_value(word: &OsStr) -> (Option<&str>, Option<OsString>) {
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
    use crate::command::table::VERBS;

    fn parse(verb: &str, words: &[&str]) -> Result<Tail, GrammarError> {
        Tail::parse(Verb::named(verb).unwrap(), words.iter().map(OsString::from))
    }

    #[test]
    fn every_verb_is_a_sound_grammar() {
        for verb in VERBS {
            grammar(verb).debug_assert();
        }
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
            assert!(!tail.has("--no-distribution"));
            assert_eq!(tail.value("--name"), Some("N".into()));
            assert_eq!(tail.operands, ["X"]);
        }
    }

    #[test]
    fn b032_letters_bundle_and_one_unknown_letter_refuses_the_word() {
        for words in [["-nd", "X"].as_slice(), &["-ndX"], &["-n", "-d=X"]] {
            let mut tail = parse("--install", words).unwrap();
            assert!(tail.has("--no-launch"));
            assert_eq!(tail.value("--distribution"), Some("X".into()));
        }
        for word in ["-qx", "-v\u{e9}", "--quite", "--quiet=1", "-", "x"] {
            let error = parse("--list", &["-v", "--all", word]).unwrap_err();
            assert_eq!(error, GrammarError::InvalidForVerb { argument: word.into() });
        }
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
    }

    #[test]
    fn values_and_operands_are_taken_as_they_are() {
        let odd = OsString::from_vec(b"\xff=".to_vec());
        let words =
            ["--from-file".into(), "--name".into(), "--name".into(), odd.clone(), odd.clone()];
        let mut tail = Tail::parse(Verb::named("--install").unwrap(), words).unwrap();
        assert_eq!(tail.value("--from-file"), Some("--name".into()));
        assert_eq!(tail.value("--name"), Some(odd.clone()));
        assert_eq!(tail.operands, [odd]);
        let mut tail = parse("--install", &["--name=", "--name", "a", "--name", "b"]).unwrap();
        assert_eq!(tail.value("--name"), Some("b".into()));
    }
}
