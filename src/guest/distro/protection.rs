//! What keeps the host from a distro on the host's kernel.
//!
//! Namespaces and the root of its own keep the host's files, processes and mounts out of
//! sight. Here is the rest: paths of `/proc` and `/sys` through which the kernel is set or
//! tells too much, capabilities, system calls. As in the usual container runtimes. Without
//! CAP_SYS_ADMIN nothing of it can be undone; in a mount namespace that a distro makes in a
//! user namespace of its own these mounts are locked, and no new `/proc` can be mounted,
//! because this one is not wholly visible.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use crate::guest::sys;
use crate::namespaces::{capabilities, seccomp};
use crate::protocol::guest::GuestError;

/// What may be read.
const READ_ONLY: [&str; 7] = [
    "/proc/asound",
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/mtrr",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// What is empty.
const MASKED: [&str; 18] = [
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/key-users",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
    // Where `/sys` is the host's, with what is mounted below it.
    "/sys/fs/bpf",
    "/sys/fs/pstore",
    "/sys/kernel/config",
    "/sys/kernel/debug",
    "/sys/kernel/security",
    "/sys/kernel/tracing",
];

/// What nothing but `/proc` and `/sys` may do.
const NOTHING: u64 = libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOEXEC;

/// A new `/proc` of this PID namespace. Must be made before the host's is out of sight:
/// the kernel gives a user namespace no more than what is visible already. Where that is
/// too little, as in some containers, it is the starter's, and a warning.
///
/// # Errors
/// The system's.
pub fn proc() -> io::Result<(OwnedFd, Option<String>)> {
    match sys::new_mount(c"proc", NOTHING) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            let warning = "this system does not allow a new /proc: the distribution sees the \
                           processes of this system, and few programs work in it";
            Ok((sys::copy_mount(Path::new("/proc"))?, Some(warning.to_owned())))
        }
        result => Ok((result?, None)),
    }
}

/// A read-only `/sys`. To a user namespace that shares the host's network the kernel gives
/// no new one, but it may show the host's.
///
/// # Errors
/// The system's.
pub fn sys() -> io::Result<OwnedFd> {
    let attributes = NOTHING | libc::MOUNT_ATTR_RDONLY;
    match sys::new_mount(c"sysfs", attributes) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            let mount = sys::copy_mount(Path::new("/sys"))?;
            sys::set_attributes(&mount, attributes)?;
            Ok(mount)
        }
        result => result,
    }
}

/// The distro's files, without the devices that may be among them.
///
/// # Errors
/// The system's.
pub fn root(directory: &Path) -> io::Result<OwnedFd> {
    let mount = sys::copy_mount(directory)?;
    sys::set_attributes(&mount, libc::MOUNT_ATTR_NODEV)?;
    Ok(mount)
}

/// Takes from this process, inside the distro's root, and from all that come from it, what
/// they shall not have. The last step before anything of the distro runs. In a distro with
/// one user files are given to others without effect.
///
/// # Errors
/// Where anything of it fails.
pub fn confine(has_one_user: bool) -> Result<(), GuestError> {
    for path in READ_ONLY {
        cover(path, |path| {
            let mount = sys::copy_mount(path)?;
            sys::set_attributes(&mount, libc::MOUNT_ATTR_RDONLY)?;
            Ok(mount)
        })?;
    }
    for path in MASKED {
        cover(path, |path| {
            if fs::symlink_metadata(path)?.is_dir() {
                sys::new_mount(c"tmpfs", NOTHING | libc::MOUNT_ATTR_RDONLY)
            } else {
                sys::copy_mount(Path::new("/dev/null"))
            }
        })?;
    }
    seccomp::install(has_one_user)
        .map_err(|error| GuestError::system("filtering system calls", &error))?;
    capabilities::limit().map_err(|error| GuestError::system("limiting capabilities", &error))
}

/// Mounts over a path, where it exists.
fn cover(path: &str, mount: impl FnOnce(&Path) -> io::Result<OwnedFd>) -> Result<(), GuestError> {
    let place = Path::new(path);
    match mount(place).and_then(|mount| sys::attach_mount(&mount, place)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => {
            result.map_err(|error| GuestError::system(format!("protecting '{path}'"), &error))
        }
    }
}
