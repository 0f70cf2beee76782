//! `--clone`: another distro with the same files. Beyond WSL.

use std::path::PathBuf;

use super::{Progress, output, stopped};
use crate::config::paths::Paths;
use crate::error::Failure;
use crate::registry::Distro;
use crate::storage;

/// Makes it, of a distro that is stopped for it.
pub(super) fn clone(
    paths: &Paths,
    distro: &Distro,
    name: &str,
    location: Option<PathBuf>,
) -> Result<(), Failure> {
    let progress = Progress::on_terminal();
    stopped(paths, distro, "Wsl/Service/RegisterDistro", || {
        storage::duplicate(paths, distro.id, name, location.clone(), &progress)
    })?;
    output::success()
}
