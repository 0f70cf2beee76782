//! `--help`, from the table.

use std::fmt::Write as _;

use super::table::{Flag, OPTIONS, Operand, VERBS, Verb};

/// Where the text about an option starts.
const COLUMN: usize = 34;

/// The whole usage.
#[must_use]
pub fn usage() -> String {
    let mut text = "\
Usage: wslr [OPTIONS] [--] [COMMAND...]
       wslr VERB [VERB OPTIONS]

Runs Linux distributions. Without a command it opens the user's shell. One word is a
line for that shell; several words are run as they are.

Options:
"
    .to_owned();
    for flag in OPTIONS {
        line(&mut text, 2, &spelling(flag), flag.help);
    }
    line(&mut text, 2, "~", "As the first word: start in the user's home.");
    line(&mut text, 2, "--", "End the options; the rest is the command.");
    text.push_str("\nVerbs:\n");
    for verb in VERBS {
        verb_lines(&mut text, verb);
    }
    text
}

/// The usage of one verb.
#[must_use]
pub fn of_verb(verb: &Verb) -> String {
    let mut text = format!("Usage: wslr {}", verb.flag.long);
    if !verb.options.is_empty() {
        text.push_str(" [OPTIONS]");
    }
    text.push_str(&operands(verb));
    text.push_str("\n\n");
    verb_lines(&mut text, verb);
    text
}

fn verb_lines(text: &mut String, verb: &Verb) {
    let word = spelling(&verb.flag) + &operands(verb);
    line(text, 2, &word, verb.flag.help);
    for flag in verb.options {
        line(text, 6, &spelling(flag), flag.help);
    }
}

/// What the operands are called, each after a space.
fn operands(verb: &Verb) -> String {
    let shown = |operand: &Operand| match operand.required {
        true => format!(" {}", operand.name),
        false => format!(" [{}]", operand.name),
    };
    verb.operands.iter().map(shown).collect()
}

/// All spellings that are shown, and the value.
fn spelling(flag: &Flag) -> String {
    let mut text = match flag.short {
        Some(short) => format!("-{short}, {}", flag.long),
        None => flag.long.to_owned(),
    };
    if let Some(value) = flag.value {
        _ = write!(text, " {value}");
    }
    text
}

fn line(text: &mut String, indent: usize, left: &str, right: &str) {
    let width = COLUMN - indent;
    _ = writeln!(text, "{:indent$}{left:width$} {right}", "");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn b026_the_usage_names_every_option() {
        let text = usage();
        for flag in VERBS.iter().flat_map(|verb| verb.options).chain(OPTIONS) {
            assert!(text.contains(flag.long));
        }
        for verb in VERBS {
            assert!(text.contains(verb.flag.long));
            assert!(of_verb(verb).contains(verb.flag.help));
        }
        assert!(text.lines().all(|line| line.len() <= 100), "a line is too long:\n{text}");
    }
}
