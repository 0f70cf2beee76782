//! `--mount` and `--unmount`: the user's own disks in all distros (behaviour reference 1.12).

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::grammar::Mount;
use super::{client, output};
use crate::config::paths::Paths;
use crate::error::Failure;
use crate::protocol::client::{Mount as Request, MountPart, Mounted};

/// The status where a disk is attached and not mounted.
const NOT_MOUNTED: u8 = 1;

/// Attaches a disk, and mounts what is asked for of it.
pub(super) fn mount(paths: &Paths, mount: Mount) -> Result<ExitCode, Failure> {
    let part = MountPart {
        name: mount.name,
        partition: mount.partition,
        kind: mount.kind,
        options: mount.options,
    };
    let request = Request {
        path: absolute(&mount.disk),
        shown: mount.disk.clone(),
        vhd: mount.vhd,
        mount: (!mount.bare).then_some(part),
    };
    let disk = mount.disk.display();
    match client::mount(paths, request)? {
        Mounted::Bare => output::success()?,
        Mounted::At { name } => output::print(&format!(
            "The disk was successfully mounted as '/mnt/wsl/{name}'.\n\
             Note: The location will be different if you have modified the automount.root setting \
             in /etc/wsl.conf.\n\
             To unmount and detach the disk, run 'wslr --unmount {disk}'.\n"
        ))?,
        Mounted::Not { reason } => {
            output::print(&format!(
                "The disk was attached but failed to mount: {reason}.\n\
                 For more details, run 'dmesg' inside a distribution.\n\
                 To detach the disk, run 'wslr --unmount {disk}'.\n"
            ))?;
            return Ok(ExitCode::from(NOT_MOUNTED));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Lets go of a disk, or of all.
pub(super) fn unmount(paths: &Paths, disk: Option<&Path>) -> Result<(), Failure> {
    client::unmount(paths, disk.map(absolute))?;
    output::success()
}

/// The service does not share the command's working directory.
fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}
