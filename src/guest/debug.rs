//! A root shell beside all distros (B181): in the machine's own PID, IPC and UTS namespaces
//! and outside of the limits of distros, with the files of a distro that runs, since the
//! machine has none of its own. The machine's root is `/proc/1/root` there.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;

use nix::mount::MsFlags;
use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::Pid;
use uuid::Uuid;

use super::distro::link;
use super::distro::root::mount_at;
use super::server::Arrived;
use super::session::{Handover, Surroundings, relay};
use super::sys::{self, Forked};
use super::{cgroup, log};
use crate::config::wslconf::WslConf;
use crate::protocol::frame;
use crate::protocol::session::Output;

/// Starts the shell with the files of the distro whose first process that is. It ends with
/// the distro.
///
/// # Errors
/// The system's.
pub fn start(distro: Uuid, first: Pid, session: Arrived) -> io::Result<()> {
    let mounts = File::open(format!("/proc/{first}/ns/mnt"))?;
    let group = cgroup::create_debug(distro)?;
    if sys::fork_into(0, Some(group.as_fd()))? == Forked::Child {
        let Arrived { request, control, streams, .. } = session;
        let mut keep = link::descriptors(&request, &control, &streams);
        keep.push(mounts.as_raw_fd());
        sys::close_all_except(&keep);
        if let Err(error) = enter(&mounts) {
            log::warn(format_args!("a debug shell does not start: {error}"));
            let failure = Output::Failed(relay::system("entering the distribution")(error));
            let _ = frame::write(&mut File::from(control), &failure);
            std::process::exit(1);
        }
        drop(mounts);
        let hostname = nix::unistd::gethostname().unwrap_or_default();
        let surroundings = Surroundings {
            distro: String::new(),
            hostname: hostname.to_string_lossy().into_owned(),
            conf: WslConf::default(),
        };
        let request = File::from(request);
        let handover = Handover { request, control, streams, warnings: Vec::new(), logins: None };
        relay::run(&surroundings, handover)
    }
    Ok(())
}

/// Enters a copy of the distro's mounts, in which `/proc` shows the machine's processes.
fn enter(mounts: &File) -> io::Result<()> {
    setns(mounts, CloneFlags::CLONE_NEWNS)?;
    unshare(CloneFlags::CLONE_NEWNS)?;
    // What others mount in `/mnt/wsl` is still seen.
    let slave = MsFlags::MS_REC | MsFlags::MS_SLAVE;
    mount_at(None, Path::new("/"), None, slave, None)?;
    let proc = Path::new("/proc");
    mount_at(Some(Path::new("proc")), proc, Some("proc"), MsFlags::MS_NOSUID, None)
}
