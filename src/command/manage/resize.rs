//! `--resize`: another size for a distro's disk (B093, B094).

use super::{Progress, client, output, runs, unused};
use crate::config::paths::Paths;
use crate::disk::Format;
use crate::error::Failure;
use crate::registry::Distro;
use crate::storage;

/// Makes a stopped distro's disk larger or smaller, or that of one that runs larger.
pub(super) fn resize(paths: &Paths, distro: &Distro, size: u64) -> Result<(), Failure> {
    let length = distro.disk_path().metadata().map_or(0, |metadata| metadata.len());
    let can_grow = distro.version == 2 && Format::of(&distro.disk_path()) == Format::Raw;
    if can_grow && size > length && runs(paths, distro)? {
        client::grow(paths, distro.id, size)?;
        return output::success();
    }
    let progress = Progress::on_terminal();
    unused(paths, distro, "Wsl/Service", || storage::resize(paths, distro.id, size, &progress))?;
    output::success()
}
