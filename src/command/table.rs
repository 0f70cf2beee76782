//! Every option and verb, once.
//!
//! The parser, `--help`, the man page and the shell completions all read this table, so
//! they cannot disagree.

/// An option, or the word that names a verb.
#[derive(Debug, Eq, PartialEq)]
pub struct Flag {
    /// The long spelling, with its dashes.
    pub long: &'static str,
    /// Another long spelling that is understood but not shown.
    pub alias: Option<&'static str>,
    /// The short spelling's letter.
    pub short: Option<char>,
    /// What its value is called; `None` where it takes none.
    pub value: Option<&'static str>,
    /// One line for the user, upper case at its start, full stop at its end.
    pub help: &'static str,
}

/// A management command.
#[derive(Debug, Eq, PartialEq)]
pub struct Verb {
    /// What it is called. Its `value` is never set.
    pub flag: Flag,
    /// Its operands, in their order; those that have to be there come first.
    pub operands: &'static [Operand],
    /// Its own options.
    pub options: &'static [Flag],
}

/// A word of a verb that is no option.
#[derive(Debug, Eq, PartialEq)]
pub struct Operand {
    /// What it is called.
    pub name: &'static str,
    /// Whether it has to be there.
    pub required: bool,
    /// What it can be, for completions.
    pub values: Values,
}

/// What an operand can be.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Values {
    /// A distribution that can be installed.
    Available,
    /// A file or a directory of the host.
    Files,
    /// An installed distribution.
    Installed,
    /// A name that nothing has yet.
    New,
    /// The version of a distribution: 1 or 2.
    Versions,
}

impl Operand {
    const fn new(name: &'static str, values: Values) -> Self {
        Self { name, required: true, values }
    }
}

impl Flag {
    const fn new(long: &'static str, help: &'static str) -> Self {
        Self { long, alias: None, short: None, value: None, help }
    }

    const fn short(self, short: char) -> Self {
        Self { short: Some(short), ..self }
    }

    const fn alias(self, alias: &'static str) -> Self {
        Self { alias: Some(alias), ..self }
    }

    const fn value(self, value: &'static str) -> Self {
        Self { value: Some(value), ..self }
    }

    /// Whether `word` is one of its long spellings or its short one, exactly.
    #[must_use]
    pub fn is(&self, word: &str) -> bool {
        let mut characters = word.chars();
        self.long == word
            || self.alias == Some(word)
            || (characters.next() == Some('-')
                && self.short.is_some()
                && characters.next() == self.short
                && characters.next().is_none())
    }
}

impl Verb {
    /// The verb of that long spelling.
    #[must_use]
    pub fn named(long: &str) -> Option<&'static Self> {
        VERBS.iter().find(|verb| verb.flag.long == long)
    }
}

const NAME: &[Operand] = &[Operand::new("NAME", Values::Installed)];

const JSON: Flag = Flag::new("--json", "Print JSON.");

/// The options that stand before a command to run.
pub const OPTIONS: &[Flag] = &[
    Flag::new("--cd", "Start in this directory: '/...' or '~' in the distribution.").value("DIR"),
    Flag::new("--distribution", "Run this distribution instead of the default one.")
        .short('d')
        .value("NAME"),
    Flag::new("--distribution-id", "Run the distribution with this id.").value("ID"),
    Flag::new("--user", "Run as this user instead of the default one.").short('u').value("NAME"),
    Flag::new("--exec", "Run the words that follow without a shell.").short('e'),
    Flag::new("--shell-type", "How the command is run: standard, login or none.").value("TYPE"),
    Flag::new("--debug-shell", "Open a root shell beside all distributions."),
];

/// The management commands.
pub const VERBS: &[Verb] = &[
    Verb { flag: Flag::new("--help", "Show this text."), operands: &[], options: &[] },
    Verb {
        flag: Flag::new("--export", "Make an archive or a disk of a distribution."),
        operands: &[Operand::new("NAME", Values::Installed), Operand::new("FILE", Values::Files)],
        options: &[
            Flag::new("--format", "tar, tar.gz, tar.xz, tar.zst or vhd.").value("FORMAT"),
            Flag::new("--vhd", "Make a disk: .vhdx, or .vhd for a fixed one."),
        ],
    },
    Verb {
        flag: Flag::new("--import", "Make a distribution of an archive or a disk."),
        operands: &[
            Operand::new("NAME", Values::New),
            Operand::new("DIR", Values::Files),
            Operand::new("FILE", Values::Files),
        ],
        options: &[
            Flag::new("--version", "1 is without a virtual machine, 2 in it.").value("VERSION"),
            Flag::new("--vhd", "The file is a disk, .vhd or .vhdx."),
        ],
    },
    Verb {
        flag: Flag::new(
            "--import-in-place",
            "Make a distribution of a .vhd, .vhdx or raw disk where it lies.",
        ),
        operands: &[Operand::new("NAME", Values::New), Operand::new("FILE", Values::Files)],
        options: &[],
    },
    Verb {
        flag: Flag::new("--install", "Install a distribution, and open it."),
        operands: &[Operand { required: false, ..Operand::new("NAME", Values::Available) }],
        options: &[
            Flag::new("--distribution", "The distribution, as its operand.")
                .short('d')
                .value("NAME"),
            Flag::new("--from-file", "Install from an archive; '-' is standard input.")
                .short('f')
                .value("FILE"),
            Flag::new("--location", "Keep the distribution in this directory.")
                .short('l')
                .value("DIR"),
            Flag::new("--name", "Register it under this name.").value("NAME"),
            Flag::new("--no-distribution", "Prepare the kernel only."),
            Flag::new("--no-launch", "Do not open it.").short('n'),
            Flag::new("--version", "1 is without a virtual machine, 2 in it.").value("VERSION"),
            Flag::new("--vhd-size", "The size of its disk, e.g. 64GB.").value("SIZE"),
        ],
    },
    Verb {
        flag: Flag::new("--list", "List the installed distributions.").short('l'),
        operands: &[],
        options: &[
            Flag::new("--all", "Also those being installed, converted or removed."),
            Flag::new("--running", "Only those that run."),
            Flag::new("--quiet", "Names only.").short('q'),
            Flag::new("--verbose", "With state and version.").short('v'),
            Flag::new("--online", "Those that can be installed.").short('o'),
            JSON,
        ],
    },
    Verb {
        flag: Flag::new("--manage", "Change one thing of a distribution."),
        operands: NAME,
        options: &[
            Flag::new("--set-default-user", "Run its commands as this user.").value("USER"),
            Flag::new("--move", "Keep it in this directory.").short('m').value("DIR"),
            Flag::new("--resize", "Make its disk larger or smaller, e.g. 64GB.")
                .short('r')
                .value("SIZE"),
            Flag::new("--set-sparse", "Give space back by itself: true, or false.")
                .short('s')
                .value("BOOLEAN"),
            Flag::new("--allow-unsafe", "For scripts of 'wsl': nothing needs it here."),
            Flag::new("--compact", "Give the space of its free blocks back now."),
            Flag::new("--clone", "Make another distribution of it.").value("NEWNAME"),
            Flag::new("--location", "Keep the clone in this directory.").short('l').value("DIR"),
            Flag::new("--snapshot", "Keep it as it is under a name.").value("SNAPSHOT"),
            Flag::new("--restore", "Make it what it was then.").value("SNAPSHOT"),
            Flag::new("--list-snapshots", "Show its snapshots."),
            Flag::new("--delete-snapshot", "Delete one.").value("SNAPSHOT"),
            JSON,
        ],
    },
    Verb {
        flag: Flag::new("--mount", "Mount a disk of this machine in all distributions."),
        operands: &[Operand::new("DISK", Values::Files)],
        options: &[
            Flag::new("--vhd", "It is a file: .vhd, .vhdx or a raw disk."),
            Flag::new("--bare", "Attach it, and mount nothing."),
            Flag::new("--name", "Mount it as /mnt/wsl/NAME.").short('n').value("NAME"),
            Flag::new("--type", "Its file system; found out where not given.")
                .short('t')
                .value("TYPE"),
            Flag::new("--options", "Mount options, separated by commas.")
                .short('o')
                .value("OPTIONS"),
            Flag::new("--partition", "The number of the partition.").short('p').value("NUMBER"),
        ],
    },
    Verb {
        flag: Flag::new("--set-default", "Make a distribution the default one.")
            .short('s')
            .alias("--setdefault"),
        operands: NAME,
        options: &[],
    },
    Verb {
        flag: Flag::new("--set-default-version", "Choose the version of new distributions."),
        operands: &[Operand::new("VERSION", Values::Versions)],
        options: &[],
    },
    Verb {
        flag: Flag::new("--set-version", "Convert a distribution to the other version."),
        operands: &[
            Operand::new("NAME", Values::Installed),
            Operand::new("VERSION", Values::Versions),
        ],
        options: &[],
    },
    Verb {
        flag: Flag::new("--shutdown", "End all distributions and the virtual machine."),
        operands: &[],
        options: &[Flag::new("--force", "Do not wait for anything.")],
    },
    Verb {
        flag: Flag::new("--status", "Show the defaults and what can run here."),
        operands: &[],
        options: &[JSON],
    },
    Verb {
        flag: Flag::new("--terminate", "End a distribution.").short('t'),
        operands: NAME,
        options: &[],
    },
    Verb {
        flag: Flag::new("--unmount", "Let go of a mounted disk, or of all."),
        operands: &[Operand { required: false, ..Operand::new("DISK", Values::Files) }],
        options: &[],
    },
    Verb {
        flag: Flag::new("--unregister", "Remove a distribution and all its files."),
        operands: NAME,
        options: &[],
    },
    Verb { flag: Flag::new("--update", "Fetch the current kernel."), operands: &[], options: &[] },
    Verb {
        flag: Flag::new("--version", "Show the versions of the parts.").short('v'),
        operands: &[],
        options: &[JSON],
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_flags_of_one_place_share_a_spelling() {
        let top = OPTIONS.iter().chain(VERBS.iter().map(|verb| &verb.flag));
        assert_distinct(top);
        for verb in VERBS {
            assert_distinct(verb.options.iter());
        }
    }

    fn assert_distinct(flags: impl Iterator<Item = &'static Flag>) {
        let mut seen = Vec::new();
        for flag in flags {
            let short = flag.short.map(|short| format!("-{short}"));
            for spelling in [Some(flag.long.to_owned()), flag.alias.map(str::to_owned), short] {
                let Some(spelling) = spelling else { continue };
                assert!(!seen.contains(&spelling), "{spelling} stands twice");
                seen.push(spelling);
            }
        }
    }

    #[test]
    fn optional_operands_come_last() {
        for verb in VERBS {
            assert!(verb.operands.is_sorted_by_key(|operand| !operand.required));
        }
    }

    #[test]
    fn a_flag_is_known_by_each_of_its_spellings() {
        let flag = &Verb::named("--set-default").unwrap().flag;
        assert!(flag.is("--set-default") && flag.is("--setdefault") && flag.is("-s"));
        assert!(!flag.is("-") && !flag.is("-ss") && !flag.is("--set"));
    }
}
