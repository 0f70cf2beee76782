//! `--manage`: one thing of a distro is changed (behaviour reference 1.11). Each action is a
//! file of its own.

mod clone;
mod default_user;
mod relocate;
mod resize;
mod snapshot;
mod sparse;

use std::process::ExitCode;
use std::thread;

use super::grammar::{Manage, ManageAction};
use super::{client, distro, output};
use crate::config::paths::Paths;
use crate::error::{Diagnose, Failure};
use crate::registry::Distro;
use crate::storage::StorageError;
use crate::terminal::progress::Progress;

/// Does the action; gives the status to exit with.
pub(super) fn manage(paths: &Paths, manage: Manage) -> Result<ExitCode, Failure> {
    let registry = distro::load(paths)?;
    let distro = registry.find(&manage.name).map_err(distro::service)?;
    match manage.action {
        ManageAction::SetDefaultUser { user } => return default_user::set(paths, distro, user),
        ManageAction::Clone { name, location } => clone::clone(paths, distro, &name, location)?,
        ManageAction::Compact => sparse::compact(paths, distro)?,
        ManageAction::DeleteSnapshot { snapshot } => {
            snapshot::delete(paths, distro, &snapshot)?;
        }
        ManageAction::ListSnapshots { json } => snapshot::list(distro, json)?,
        ManageAction::Move { to } => relocate::relocate(paths, distro, &to)?,
        ManageAction::Resize { size } => resize::resize(paths, distro, size)?,
        ManageAction::Restore { snapshot } => snapshot::restore(paths, distro, &snapshot)?,
        ManageAction::Snapshot { snapshot } => snapshot::take(paths, distro, &snapshot)?,
        ManageAction::SetSparse { sparse } => sparse::set(paths, distro, sparse)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Does what reads a distro's root only, for which one that runs is stopped.
fn stopped<T>(
    paths: &Paths,
    record: &Distro,
    context: &str,
    work: impl FnMut() -> Result<T, StorageError>,
) -> Result<T, Failure> {
    let is_busy = |error: &StorageError| error.code() == IN_USE;
    distro::once_ended(paths, record.id, context, is_busy, work)
        .map_err(|failure| in_use(paths, record, failure))
}

/// Does what changes a distro's root, for which the user has to stop it (B094).
fn unused<T>(
    paths: &Paths,
    record: &Distro,
    context: &str,
    mut work: impl FnMut() -> Result<T, StorageError>,
) -> Result<T, Failure> {
    // A distro on its way up may not have its files yet.
    if runs(paths, record)? {
        return Err(Failure::new(context, &Busy::Running { name: record.name.clone() }));
    }
    let mut attempt = 1;
    loop {
        match work() {
            // A service may be about to let go of the root of a distro that has ended.
            Err(error) if error.code() == IN_USE && attempt < distro::ATTEMPTS => {
                thread::sleep(distro::PAUSE);
            }
            result => {
                return result
                    .map_err(|error| in_use(paths, record, Failure::new(context, &error)));
            }
        }
        attempt += 1;
    }
}

/// A failure because somebody has the root, told by who that is (B096).
fn in_use(paths: &Paths, distro: &Distro, failure: Failure) -> Failure {
    let context = failure.code.as_deref().and_then(|code| code.strip_suffix(IN_USE));
    let Some(context) = context else { return failure };
    let name = distro.name.clone();
    let busy = match runs(paths, distro) {
        Ok(true) => Busy::Running { name },
        _ => Busy::Locked { name },
    };
    Failure::new(context.trim_end_matches('/'), &busy)
}

fn runs(paths: &Paths, distro: &Distro) -> Result<bool, Failure> {
    let status = client::status(paths, false)?.unwrap_or_default();
    Ok(status.distros.iter().any(|running| running.distro == distro.id))
}

/// The code of a root that another process has.
const IN_USE: &str = "ERROR_SHARING_VIOLATION";

/// Why a distro cannot be changed now.
#[derive(Debug, thiserror::Error)]
enum Busy {
    /// It is being installed, exported, converted or copied.
    #[error(
        "The distribution '{name}' cannot be changed now: it is being installed, exported, \
         converted or copied, or another process has its disk open."
    )]
    Locked {
        /// Its name.
        name: String,
    },
    /// It runs.
    #[error("The operation could not be completed because the distribution '{name}' is running.")]
    Running {
        /// Its name.
        name: String,
    },
}

impl Diagnose for Busy {
    fn code(&self) -> &'static str {
        match self {
            Self::Locked { .. } => "E_ILLEGAL_STATE_CHANGE",
            Self::Running { .. } => "WSL_E_DISTRO_NOT_STOPPED",
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Locked { .. } => None,
            Self::Running { name } => Some(format!("'wslr --terminate {name}' stops it")),
        }
    }
}
