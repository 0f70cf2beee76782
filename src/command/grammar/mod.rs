//! The grammar of the command line (behaviour reference 1.2 and 1.3).
//!
//! Words are read from the left. Options come first; the first word that is none starts
//! the command to run, and everything from there on belongs to it unchanged. A verb's
//! words are read by that verb's own table.

mod error;
mod invocation;
mod manage;
mod tail;
mod verbs;

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use uuid::Uuid;

use super::table::{OPTIONS, VERBS};
use crate::protocol::session::{Directory, Program};
pub use error::GrammarError;
pub use invocation::{
    Export, ExportFormat, Import, Install, Invocation, List, Manage, ManageAction, Mount, Run,
    Selection,
};

#[derive(Clone, Copy, Eq, PartialEq)]
enum Shell {
    None,
    Standard,
    Login,
}

/// Reads a command line, without the executable's name.
///
/// `home` is the host's home directory: the host's shell puts it in the place of an
/// unquoted `~`, so it means the same.
///
/// # Errors
/// Where the words are not of the grammar.
pub fn parse(words: Vec<OsString>, home: Option<&OsStr>) -> Result<Invocation, GrammarError> {
    let is_home = |word: &OsStr| word == "~" || (Some(word) == home && !word.is_empty());
    let mut words = words.into_iter().peekable();
    let mut distro = Selection::Default;
    let mut user = None;
    let mut directory = None;
    let mut shell = None;
    if let Some(id) = words.peek().and_then(|word| id(word)) {
        distro = Selection::Id(id);
        words.next();
    }
    if words.peek().is_some_and(|word| is_home(word)) {
        directory = Some(Directory::Home);
        words.next();
    }
    while let Some(word) = words.next_if(|word| word.as_bytes().starts_with(b"-")) {
        if word == "--" {
            break;
        }
        if word == "--help" {
            return Ok(Invocation::Help);
        }
        if word == "--system" {
            return Err(GrammarError::NoSystemDistro);
        }
        if let Some(verb) = VERBS.iter().find(|verb| word.to_str().is_some_and(|w| verb.flag.is(w)))
        {
            return verbs::parse(verb, word, words);
        }
        let (name, attached) = tail::split_value(&word);
        let flag = name.and_then(|name| OPTIONS.iter().find(|flag| flag.is(name)));
        let Some(flag) = flag else { return Err(GrammarError::Invalid { argument: word }) };
        let value = match (flag.value, attached) {
            (Some(_), Some(value)) if flag.is(name.unwrap_or_default()) => value,
            (Some(_), None) => {
                let missing = || GrammarError::ParameterRequired { argument: word.clone() };
                words.next().ok_or_else(missing)?
            }
            (None, None) => OsString::new(),
            _ => return Err(GrammarError::Invalid { argument: word }),
        };
        match flag.long {
            "--cd" if is_home(&value) => directory = Some(Directory::Home),
            "--cd" => directory = Some(cd(value)?),
            "--distribution" if distro != Selection::Default => {
                return Err(GrammarError::AlreadySet);
            }
            "--distribution" => distro = Selection::Name(verbs::text(&value)),
            "--distribution-id" => {
                let incorrect =
                    GrammarError::Parameter { argument: flag.long, value: value.clone() };
                distro = Selection::Id(id(&value).ok_or(incorrect)?);
            }
            "--user" => user = Some(verbs::text(&value)),
            // What follows does not count (B181).
            "--debug-shell" => {
                let (user, directory) = (Some("root".to_owned()), Some(Directory::Home));
                let program = Program::DebugShell;
                return Ok(Invocation::Run(Run { distro, user, directory, program }));
            }
            "--shell-type" => shell = Some(shell_type(value)?),
            // --exec
            _ => {
                shell = Some(Shell::None);
                break;
            }
        }
    }
    let program = program(words.collect(), shell)?;
    Ok(Invocation::Run(Run { distro, user, directory, program }))
}

/// What the rest of the words runs: nothing is the user's shell, one word a line for it,
/// several words are an argument vector unless a shell is asked for.
fn program(mut words: Vec<OsString>, shell: Option<Shell>) -> Result<Program, GrammarError> {
    let login = shell == Some(Shell::Login);
    match (words.len(), shell) {
        (0, Some(Shell::None)) => {
            Err(GrammarError::Parameter { argument: "--exec", value: OsString::new() })
        }
        (0, _) => Ok(Program::Shell),
        (1, None | Some(Shell::Standard | Shell::Login)) => {
            Ok(Program::Line { line: words.remove(0).into_vec(), login })
        }
        (_, None | Some(Shell::None)) => {
            Ok(Program::Arguments(words.into_iter().map(OsString::into_vec).collect()))
        }
        (_, Some(Shell::Standard | Shell::Login)) => {
            Ok(Program::Line { line: quoted(&words), login })
        }
    }
}

/// A shell line that gives exactly these words back.
fn quoted(words: &[OsString]) -> Vec<u8> {
    let mut line = Vec::new();
    for word in words {
        if !line.is_empty() {
            line.push(b' ');
        }
        line.push(b'\'');
        for byte in word.as_bytes() {
            match byte {
                b'\'' => line.extend_from_slice(b"'\\''"),
                byte => line.push(*byte),
            }
        }
        line.push(b'\'');
    }
    line
}

fn cd(value: OsString) -> Result<Directory, GrammarError> {
    match value.as_bytes().first() {
        Some(b'/' | b'~') => Ok(Directory::Path(value.into_vec())),
        _ => Err(GrammarError::Parameter { argument: "--cd", value }),
    }
}

fn shell_type(value: OsString) -> Result<Shell, GrammarError> {
    match value.as_bytes() {
        b"none" => Ok(Shell::None),
        b"standard" => Ok(Shell::Standard),
        b"login" => Ok(Shell::Login),
        _ => Err(GrammarError::Parameter { argument: "--shell-type", value }),
    }
}

/// A distro's id: hyphenated, in either case, with or without braces (B009).
fn id(word: &OsStr) -> Option<Uuid> {
    let text = word.to_str()?;
    let bare = text.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')).unwrap_or(text);
    if bare.len() != 36 {
        return None;
    }
    Uuid::try_parse(bare).ok()
}

#[cfg(test)]
mod tests;
