//! `--set-default-user`: the user that commands run as where none is named (B090).
//!
//! The distro itself is asked who the user is, by its own `id`, so that users which are not
//! in `/etc/passwd` (of a directory service) are known too.

use std::process::ExitCode;

use crate::command::capture::{self, Captured};
use crate::command::distro::{self, service};
use crate::command::output;
use crate::command::run::Launch;
use crate::config::paths::Paths;
use crate::error::{Diagnose, Failure};
use crate::protocol::session::{Directory, Program};
use crate::registry::Distro;

/// `id` gave something that is no user id.
#[derive(Debug, thiserror::Error)]
#[error("'id -u' in the distribution gave '{answer}', which is no user id")]
struct NoUserId {
    answer: String,
}

impl Diagnose for NoUserId {
    fn code(&self) -> &'static str {
        "E_UNEXPECTED"
    }
}

/// Makes the user of that name the distro's default one. Where the distro does not know
/// the name, what its `id` said and its status are the outcome.
pub(super) fn set(paths: &Paths, distro: &Distro, user: String) -> Result<ExitCode, Failure> {
    let words = [b"id".to_vec(), b"-u".to_vec(), b"--".to_vec(), user.into_bytes()];
    let launch = Launch {
        distro: distro.id,
        program: Program::Arguments(words.to_vec()),
        user: Some("root".to_owned()),
        directory: Directory::Path(b"/".to_vec()),
        environment: Vec::new(),
    };
    let Captured { status, output } = capture::run(paths, launch)?;
    if status != 0 {
        return Ok(ExitCode::from(status));
    }
    let uid = user_id(&output).map_err(|error| Failure::new("Wsl/Service", &error))?;
    distro::update(paths, distro.id, |record| record.default_uid = uid).map_err(service)?;
    output::success()?;
    Ok(ExitCode::SUCCESS)
}

/// What `id -u` printed; the highest number means "none" to the kernel.
fn user_id(output: &[u8]) -> Result<u32, NoUserId> {
    let text = String::from_utf8_lossy(output);
    let number = text.trim_end_matches('\n').parse().ok().filter(|uid| *uid != u32::MAX);
    number.ok_or_else(|| NoUserId { answer: text.trim_end().escape_default().to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_number_is_a_user() {
        assert_eq!(user_id(b"1000\n").ok(), Some(1000));
        for wrong in ["", "\n", "-1", "4294967295\n", "4294967296\n", "0 0\n", "a\u{1b}"] {
            assert!(user_id(wrong.as_bytes()).is_err(), "{wrong:?}");
        }
        let error = user_id(b"a\x1b[2J").unwrap_err();
        assert!(!error.to_string().contains('\u{1b}'), "{error}");
    }
}
