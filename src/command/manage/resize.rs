//! `--resize`: another size for a distro's disk (B093, B094).

use super::{Progress, output, unused};
use crate::config::paths::Paths;
use crate::error::Failure;
use crate::registry::Distro;
use crate::storage;

/// Makes a stopped distro's disk larger or smaller.
pub(super) fn resize(paths: &Paths, distro: &Distro, size: u64) -> Result<(), Failure> {
    let progress = Progress::on_terminal();
    unused(paths, distro, "Wsl/Service", || storage::resize(paths, distro.id, size, &progress))?;
    output::success()
}
