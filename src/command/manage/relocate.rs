//! `--move`: another directory for a distro's files (B095).

use std::path::Path;

use super::{Progress, output, unused};
use crate::config::paths::Paths;
use crate::error::Failure;
use crate::registry::Distro;
use crate::storage;

/// Moves a stopped distro.
pub(super) fn relocate(paths: &Paths, distro: &Distro, to: &Path) -> Result<(), Failure> {
    let progress = Progress::on_terminal();
    unused(paths, distro, "Wsl/Service/MoveDistro", || {
        storage::relocate(paths, distro.id, to, &progress)
    })?;
    output::success()
}
