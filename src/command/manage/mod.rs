//! `--manage`: one thing of a distro is changed (behaviour reference 1.11). Each action is a
//! file of its own.

mod default_user;

use std::process::ExitCode;

use super::distro;
use super::grammar::{Manage, ManageAction};
use crate::config::paths::Paths;
use crate::error::Failure;

/// Does the action; gives the status to exit with.
pub(super) fn manage(paths: &Paths, manage: Manage) -> Result<ExitCode, Failure> {
    let registry = distro::load(paths)?;
    let distro = registry.find(&manage.name).map_err(distro::service)?;
    match manage.action {
        ManageAction::SetDefaultUser { user } => default_user::set(paths, distro, user),
    }
}
