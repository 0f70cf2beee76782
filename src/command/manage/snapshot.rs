//! `--snapshot`, `--restore`, `--list-snapshots` and `--delete-snapshot`. Beyond WSL.

use std::fmt::Write as _;

use indicatif::BinaryBytes;

use super::{Progress, output, stopped, unused};
use crate::archive::release::date;
use crate::command::distro;
use crate::config::paths::Paths;
use crate::error::Failure;
use crate::registry::{self, Distro, Snapshot};
use crate::storage;

/// Keeps a distro, which is stopped for it, as it is.
pub(super) fn take(paths: &Paths, distro: &Distro, name: &str) -> Result<(), Failure> {
    let progress = Progress::on_terminal();
    stopped(paths, distro, "Wsl/Service", || storage::take(paths, distro.id, name, &progress))?;
    output::success()
}

/// Makes a stopped distro what it was.
pub(super) fn restore(paths: &Paths, distro: &Distro, name: &str) -> Result<(), Failure> {
    let progress = Progress::on_terminal();
    unused(paths, distro, "Wsl/Service", || storage::restore(paths, distro.id, name, &progress))?;
    output::success()
}

/// Deletes a snapshot, also while its distro runs.
pub(super) fn delete(paths: &Paths, distro: &Distro, name: &str) -> Result<(), Failure> {
    registry::delete_snapshot(paths, distro.id, name).map_err(distro::service)?;
    output::success()
}

/// Shows the snapshots, the oldest first.
pub(super) fn list(distro: &Distro, json: bool) -> Result<(), Failure> {
    let snapshots = registry::snapshots(distro).map_err(distro::service)?;
    if json {
        return output::json(&snapshots);
    }
    output::print(&table(&snapshots))
}

fn table(snapshots: &[Snapshot]) -> String {
    let longest = snapshots.iter().map(|snapshot| snapshot.name.len()).max().unwrap_or(0);
    let width = longest.max("NAME".len()) + 4;
    let mut text = format!("{:width$}{:24}{:14}VERSION\n", "NAME", "CREATED", "SIZE");
    for Snapshot { name, created, size, version, .. } in snapshots {
        let size = BinaryBytes(*size).to_string();
        _ = writeln!(text, "{name:width$}{:24}{size:14}{version}", date(*created));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listing_has_a_line_for_each() {
        let snapshot = Snapshot {
            name: "before-upgrade".to_owned(),
            created: 1_789_199_741,
            size: 3 << 29,
            version: 2,
            disk: "ext4.img".to_owned(),
            default_uid: 0,
            run_oobe: false,
            configured: true,
            packages: 0,
        };
        assert_eq!(
            table(&[snapshot]),
            "NAME              CREATED                 SIZE          VERSION\n\
             before-upgrade    2026-09-12 07:55 UTC    1.50 GiB      2\n"
        );
    }
}
