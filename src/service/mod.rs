//! The service: one process per user that owns the machines that distros run in.
//!
//! The first command that needs it starts it, detached; it leaves when nothing is used.
//! [`daemon`] is the process, [`server`] its socket, [`supervisor`] the lives of what runs
//! in it, [`session`] one command; [`machine`] is all that they know of the machine.

pub mod attempt;
pub mod build;
pub mod clock;
pub mod configure;
pub mod control;
pub mod crash_dumps;
pub mod daemon;
pub mod distro;
pub mod error;
pub mod file_watch;
pub mod host_machine;
pub mod host_settings;
pub mod machine;
pub mod mirror;
pub mod reclaim;
pub mod server;
pub mod session;
pub mod slot;
pub mod supervisor;
pub mod swap;
#[cfg(test)]
mod tests;
pub mod user_disks;
pub mod virtual_machine;
pub mod vm;

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::error::Failure;
use error::ServiceError;

/// The argument that makes the executable the service. Nobody types it.
pub const ARGUMENT: &str = "--service-process";

/// Runs the service to its end; gives its exit status.
#[must_use]
pub fn run() -> u8 {
    daemon::run(|paths| Box::new(virtual_machine::Builder::new(paths.clone())))
}

/// A mutex's content, whether or not a thread died with it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Writes a line to the service's log, which is its standard error.
fn log(text: fmt::Arguments<'_>) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    eprintln!("{}.{:03} {text}", now.as_secs(), now.subsec_millis());
}

/// Runs `work` in a thread of that name.
fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<(), Failure> {
    match thread::Builder::new().name(name.to_owned()).spawn(work) {
        Ok(_) => Ok(()),
        Err(source) => {
            let error = ServiceError::System { action: "start a thread", source };
            Err(Failure::new("Wsl/Service", &error))
        }
    }
}
