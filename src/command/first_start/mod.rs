//! The first interactive start of a distro (behaviour reference 2.4, B083 to B088).
//!
//! A distro that was installed, not imported, is to be set up by who opens a shell in it
//! first: by the command that its `wsl-distribution.conf` names, or, where it was put
//! together from packages, by making the user's account. Until that has succeeded it is
//! tried at each such start. A command that is run without a shell of its own never
//! meets any of this.
//!
//! What needs the terminal is run by another process of this executable, which sets the
//! terminal up and back as for any command.

mod account;

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, IsTerminal, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::process::Command;

use uuid::Uuid;

use super::capture::{self, Captured};
use super::distro::{self, service};
use super::run::Launch;
use crate::config::distribution::{self, FirstStart};
use crate::config::paths::Paths;
use crate::error::{Diagnose, Failure, io_code};
use crate::protocol::session::{Directory, Program};
use crate::registry::Distro;
use crate::service::daemon::private_directory;

/// Prints the file where there is one.
const READ: &str = "[ ! -f \"$1\" ] || exec cat \"$1\"";

/// The status of a start whose set-up command failed (B085).
const FAILED: u8 = 1;

/// Why the set-up could not be tried.
#[derive(Debug, thiserror::Error)]
enum FirstStartError {
    #[error("cannot {action} for the distribution's first start")]
    System { action: &'static str, source: io::Error },
}

impl Diagnose for FirstStartError {
    fn code(&self) -> &'static str {
        match self {
            Self::System { source, .. } => io_code(source),
        }
    }
}

fn failed(action: &'static str) -> impl Fn(io::Error) -> Failure {
    move |source| Failure::new("Wsl", &FirstStartError::System { action, source })
}

/// Sets the distro up where its first shell is about to be opened; gives the status to exit
/// with where that failed.
pub(super) fn prepare(paths: &Paths, id: Uuid) -> Result<Option<u8>, Failure> {
    if !record(paths, id)?.run_oobe {
        return Ok(None);
    }
    let _turn = take_turn(paths, id)?;
    // Somebody else may have done it meanwhile.
    let record = record(paths, id)?;
    if !record.run_oobe {
        return Ok(None);
    }
    let first_start = read(paths, id)?;
    let uid = match first_start.command {
        Some(command) => {
            let words = ["--exec", "/bin/sh", "-c", &command];
            if !as_root(id, &words)?.success() {
                let shown = command.replace(char::is_control, "\u{fffd}");
                let _ = writeln!(io::stderr(), "OOBE command \"{shown}\" failed, exiting");
                return Ok(Some(FAILED));
            }
            first_start.default_uid
        }
        None if record.packages > 0 => {
            if !(io::stdin().is_terminal() && io::stdout().is_terminal()) {
                return Ok(None);
            }
            match account::make(paths, &record)? {
                Some(uid) => Some(uid),
                None => return Ok(Some(FAILED)),
            }
        }
        None => None,
    };
    distro::update(paths, id, |record| {
        record.run_oobe = false;
        record.default_uid = uid.unwrap_or(record.default_uid);
    })
    .map_err(service)?;
    Ok(None)
}

fn record(paths: &Paths, id: Uuid) -> Result<Distro, Failure> {
    Ok(distro::load(paths)?.by_id(id).map_err(service)?.clone())
}

/// Waits until nobody else sets the distro up.
fn take_turn(paths: &Paths, id: Uuid) -> Result<File, Failure> {
    private_directory(&paths.runtime).map_err(|error| Failure::new("Wsl/Service", &error))?;
    let path = paths.runtime.join(format!("first-start-{id}.lock"));
    let mut options = OpenOptions::new();
    options.create(true).truncate(false).write(true).mode(0o600);
    let file = options.open(path).map_err(failed("make a lock"))?;
    match file.try_lock() {
        Ok(()) => return Ok(file),
        Err(TryLockError::WouldBlock) => {
            let _ = writeln!(io::stderr(), "Waiting for OOBE command to complete...");
        }
        Err(TryLockError::Error(source)) => return Err(failed("take a lock")(source)),
    }
    file.lock().map_err(failed("take a lock"))?;
    Ok(file)
}

/// What the distro's own file says; one that cannot be read says nothing.
fn read(paths: &Paths, id: Uuid) -> Result<FirstStart, Failure> {
    let words = ["/bin/sh", "-c", READ, "sh", distribution::PATH];
    let Captured { status, output } = captured(paths, id, &words)?;
    let text = if status == 0 { String::from_utf8_lossy(&output) } else { "".into() };
    Ok(FirstStart::parse(&text))
}

/// Runs words as root and reads what they write.
fn captured(paths: &Paths, id: Uuid, words: &[&str]) -> Result<Captured, Failure> {
    let launch = Launch {
        distro: id,
        program: Program::Arguments(words.iter().map(|word| word.as_bytes().to_vec()).collect()),
        user: Some("root".to_owned()),
        directory: Directory::Path(b"/".to_vec()),
        environment: Vec::new(),
    };
    capture::run(paths, launch)
}

/// Runs words as root on this process's own descriptors.
fn as_root(id: Uuid, words: &[&str]) -> Result<std::process::ExitStatus, Failure> {
    let id = id.to_string();
    let mut command = Command::new("/proc/self/exe");
    command.arg0("wslr").args(["--distribution-id", &id, "--user", "root", "--cd", "~"]);
    command.args(words).status().map_err(failed("run the executable"))
}
