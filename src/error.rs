//! What the user is told when something fails.
//!
//! Every part has its own typed error; it becomes a [`Failure`] where a command ends: one
//! line, a `hint:` line where there is one, and the error code as `wsl` writes it
//! (behaviour reference 1.1). A failure can cross the service's socket unchanged.

use std::error::Error;
use std::{fmt, io};

use serde::{Deserialize, Serialize};

/// An error that knows its symbolic code and what would help.
///
/// Implemented by the error enum of every part that a user can meet.
pub trait Diagnose: Error {
    /// The last component of the error code, e.g. `WSL_E_DISTRO_NOT_FOUND`. It may carry
    /// contexts of its own before it, e.g. `VerifyChecksum/TRUST_E_BAD_DIGEST`.
    fn code(&self) -> &'static str;

    /// What the user can do about it, one sentence, lower case, no full stop.
    fn hint(&self) -> Option<String> {
        None
    }
}

/// A failure as the user sees it.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Failure {
    /// One line: the error and its sources, joined by `: `.
    pub message: String,
    /// What would help.
    pub hint: Option<String>,
    /// The whole code path, e.g. `Wsl/InstallDistro/WSL_E_DISTRO_NOT_FOUND`; absent for
    /// the few failures that print none (B017, B039).
    pub code: Option<String>,
}

impl Failure {
    /// A failure of `error` in the given contexts (`Wsl/Service`).
    pub fn new(contexts: &str, error: &impl Diagnose) -> Self {
        Self {
            message: chain(error),
            hint: error.hint(),
            code: Some(format!("{contexts}/{}", error.code())),
        }
    }

    /// A failure without a code line.
    pub fn plain(message: impl Into<String>) -> Self {
        Self { message: message.into(), hint: None, code: None }
    }

    /// The same failure with a code.
    #[must_use]
    pub fn with_code(self, code: impl Into<String>) -> Self {
        Self { code: Some(code.into()), ..self }
    }

    /// The same failure with a hint.
    #[must_use]
    pub fn with_hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.message)?;
        if let Some(hint) = &self.hint {
            write!(formatter, "\nhint: {hint}")?;
        }
        if let Some(code) = &self.code {
            write!(formatter, "\nError code: {code}")?;
        }
        Ok(())
    }
}

impl Error for Failure {}

/// The symbolic code of a failed system call.
#[must_use]
pub fn io_code(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AlreadyExists => "ERROR_FILE_EXISTS",
        io::ErrorKind::DirectoryNotEmpty => "ERROR_DIR_NOT_EMPTY",
        io::ErrorKind::FileTooLarge => "ERROR_FILE_TOO_LARGE",
        io::ErrorKind::InvalidInput => "E_INVALIDARG",
        io::ErrorKind::IsADirectory | io::ErrorKind::NotADirectory => "ERROR_DIRECTORY",
        io::ErrorKind::NotFound => "ERROR_FILE_NOT_FOUND",
        io::ErrorKind::PermissionDenied => "E_ACCESSDENIED",
        io::ErrorKind::QuotaExceeded | io::ErrorKind::StorageFull => "ERROR_DISK_FULL",
        io::ErrorKind::ReadOnlyFilesystem => "ERROR_WRITE_PROTECT",
        io::ErrorKind::TimedOut => "ERROR_TIMEOUT",
        _ => "E_FAIL",
    }
}

/// An error and its sources on one line, control characters made visible.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text.chars()
        .map(
            |character| {
                if character.is_control() && character != '\n' { '\u{fffd}' } else { character }
            },
        )
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot read '{path}'")]
    struct Outer {
        path: &'static str,
        source: std::io::Error,
    }

    impl Diagnose for Outer {
        fn code(&self) -> &'static str {
            "E_FAIL"
        }
    }

    #[test]
    fn a_failure_is_one_line_a_hint_and_a_code() {
        let error = Outer { path: "/x", source: std::io::Error::other("boom") };
        let failure = Failure::new("Wsl/Service", &error).with_hint("try again");
        assert_eq!(
            failure.to_string(),
            "cannot read '/x': boom\nhint: try again\nError code: Wsl/Service/E_FAIL"
        );
    }
}
