//! What is wrong with a command line.

use std::ffi::OsString;

use crate::config::size::SizeError;
use crate::error::{Diagnose, Failure};

/// Why words are not a command line.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum GrammarError {
    /// A word that is neither true nor false (B092).
    #[error("{} is not a valid boolean, <true|false>", value.display())]
    Boolean {
        /// As typed.
        value: OsString,
    },
    /// `--manage` without an action (1.11).
    #[error("--manage changes one thing of a distribution, and none is named.")]
    ActionRequired,
    /// `-d` or its like a second time (B010).
    #[error("The distribution name has already been set.")]
    AlreadySet,
    /// Two options that exclude each other (B075).
    #[error("Arguments {first} and {second} can't be specified at same time.")]
    Conflict {
        /// The one.
        first: String,
        /// The other.
        second: String,
    },
    /// A format that an export cannot have (B047).
    #[error("Invalid format: {}", value.display())]
    Format {
        /// As typed.
        value: OsString,
    },
    /// A word that is no option (B017).
    #[error("Invalid command line argument: {}", argument.display())]
    Invalid {
        /// As typed.
        argument: OsString,
    },
    /// The same, among a verb's words (B032).
    #[error("Invalid command line argument: {}", argument.display())]
    InvalidForVerb {
        /// As typed.
        argument: OsString,
    },
    /// `--system`: what `wsl` keeps in a distribution of its own is part of this program.
    #[error("There is no system distribution: what it is for in WSL, wslr does by itself.")]
    NoSystemDistro,
    /// `--exec` without a command, a relative `--cd`, an id that is none (B004, B009, B013).
    #[error("The parameter is incorrect: {argument} {}", value.display())]
    Parameter {
        /// The option.
        argument: &'static str,
        /// Its value.
        value: OsString,
    },
    /// An option or a verb that stands last and needs a value (B017).
    #[error("Argument {} is missing a required parameter.", argument.display())]
    ParameterRequired {
        /// As typed.
        argument: OsString,
    },
    /// A size that is none (B033).
    #[error(transparent)]
    Size(#[from] SizeError),
    /// Options of a listing or an export that exclude each other (B037, B047).
    #[error("Arguments {first} and {second} can't be specified at same time.")]
    Usage {
        /// The one.
        first: &'static str,
        /// The other.
        second: &'static str,
    },
    /// An option of a verb that stands last and needs a value (B032).
    #[error("Command line argument {} requires a value.", argument.display())]
    ValueRequired {
        /// As typed.
        argument: OsString,
    },
    /// A version other than 1 or 2 (1.3, B031).
    #[error("Invalid version: {}", value.display())]
    Version {
        /// As typed.
        value: OsString,
    },
}

impl Diagnose for GrammarError {
    fn code(&self) -> &'static str {
        match self {
            Self::NoSystemDistro => "WSL_E_GUI_APPLICATIONS_DISABLED",
            Self::Version { .. } => "ERROR_VERSION_PARSE_ERROR",
            Self::Size(error) => error.code(),
            _ => "E_INVALIDARG",
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Parameter { argument: "--cd", .. } => {
                Some("a directory starts with '/' or '~'".to_owned())
            }
            Self::Parameter { argument: "--exec", .. } => {
                Some("a command has to follow --exec".to_owned())
            }
            Self::Parameter { argument: "--distribution-id", .. } => {
                Some("'wslr --list --json' shows the ids".to_owned())
            }
            // A slip that would cost a distro is met with the right word (B030).
            Self::Invalid { argument } if argument == "--uninstall" => {
                Some("'wslr --unregister NAME' removes a distribution".to_owned())
            }
            Self::NoSystemDistro => Some("'wslr' without --system runs a distribution".to_owned()),
            Self::Format { .. } => {
                Some("a format is tar, tar.gz, tar.xz, tar.zst or vhd".to_owned())
            }
            Self::ActionRequired => Some("'wslr --manage --help' lists the actions".to_owned()),
            Self::Version { .. } => Some("a version is 1 or 2".to_owned()),
            Self::Size(error) => error.hint(),
            _ => Some("'wslr --help' lists the arguments".to_owned()),
        }
    }
}

impl GrammarError {
    /// The failure; errors of the words before a verb carry no code (B017, B037).
    pub(in crate::command) fn failure(&self) -> Failure {
        let failure = Failure::new("Wsl", self);
        match self {
            Self::ActionRequired
            | Self::Invalid { .. }
            | Self::ParameterRequired { .. }
            | Self::Usage { .. } => Failure { code: None, ..failure },
            _ => failure,
        }
    }
}
