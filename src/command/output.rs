//! What a command writes: data, success, warnings, failures.

use std::env;
use std::io::{self, Write};

use serde::Serialize;

use crate::error::{Diagnose, Failure, io_code};

/// The line of a management command that succeeded (behaviour reference 1.1).
const SUCCESS: &str = "The operation completed successfully.\n";

/// Standard output cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write to standard output")]
struct OutputError {
    source: io::Error,
}

impl Diagnose for OutputError {
    fn code(&self) -> &'static str {
        io_code(&self.source)
    }
}

/// Writes data to standard output. A reader that is gone (`wslr --help | head`) is no
/// failure.
pub(super) fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        Err(source) => Err(Failure::new("Wsl", &OutputError { source })),
        Ok(()) => Ok(()),
    }
}

/// Writes a value as JSON.
pub(super) fn json(value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|error| Failure::plain(error.to_string()).with_code("Wsl/E_UNEXPECTED"))?;
    print(&(text + "\n"))
}

/// Tells that a management command is done.
pub(super) fn success() -> Result<(), Failure> {
    print(SUCCESS)
}

/// Writes a failure to standard error; there is nowhere to report that it cannot.
pub(super) fn failure(failure: &Failure) {
    let _ = writeln!(io::stderr().lock(), "wslr: {failure}");
}

/// Writes a warning to standard error, unless the user wants none (B029).
pub(super) fn warning(text: &str) {
    if env::var_os("WSL_DISABLE_WARNINGS").is_none_or(|value| value != "1") {
        let _ = writeln!(io::stderr().lock(), "wslr: warning: {text}");
    }
}
