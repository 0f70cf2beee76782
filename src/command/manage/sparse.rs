//! `--set-sparse` and `--compact`: what a distro's disk takes on the host (B097).

use indicatif::BinaryBytes;

use super::{Progress, output, unused};
use crate::config::paths::Paths;
use crate::error::Failure;
use crate::registry::Distro;
use crate::storage;

/// Chooses whether a stopped distro's disk gives its free space back by itself.
pub(super) fn set(paths: &Paths, distro: &Distro, sparse: bool) -> Result<(), Failure> {
    unused(paths, distro, "Wsl/Service", || storage::set_sparse(paths, distro.id, sparse))?;
    output::success()
}

/// Gives a stopped distro's free space back, and says how much that was.
pub(super) fn compact(paths: &Paths, distro: &Distro) -> Result<(), Failure> {
    let progress = Progress::on_terminal();
    let compacted =
        unused(paths, distro, "Wsl/Service", || storage::compact(paths, distro.id, &progress))?;
    output::print(&format!(
        "{} came back; the disk takes {} now.\n",
        BinaryBytes(compacted.before - compacted.after),
        BinaryBytes(compacted.after)
    ))?;
    output::success()
}
