//! The cgroups of the machine: one for all distros, limited so that the machine's own
//! processes always get memory and processor time (B230), and one per distro (B159).

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use uuid::Uuid;

use super::log;
use crate::config::meminfo;

/// Where the hierarchy is mounted.
pub const MOUNT: &str = "/sys/fs/cgroup";

/// The group of all distros.
pub const USER: &str = "/sys/fs/cgroup/wsl-user";

/// The controllers that distros can use.
const CONTROLLERS: [&str; 5] = ["cpu", "cpuset", "io", "memory", "pids"];

/// The memory that distros cannot take, in bytes (behaviour reference 4.2).
const RESERVED_MEMORY: u64 = 32 << 20;

/// The processes and threads that distros cannot take.
const RESERVED_PROCESSES: u64 = 512;

/// Makes the group of all distros. What the kernel does not offer is logged.
pub fn prepare() {
    enable_controllers(Path::new(MOUNT));
    let user = Path::new(USER);
    if let Err(error) = fs::create_dir(user)
        && error.kind() != io::ErrorKind::AlreadyExists
    {
        log::warn(format_args!("cannot make '{USER}': {error}"));
        return;
    }
    enable_controllers(user);
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    set(&user.join("cpu.max"), &format!("{} 100000", processors * 100_000 - 1000));
    if let Some(total) = meminfo::bytes("MemTotal") {
        set(&user.join("memory.max"), &total.saturating_sub(RESERVED_MEMORY).to_string());
    }
    if let Some(total) = total_processes() {
        set(&user.join("pids.max"), &total.saturating_sub(RESERVED_PROCESSES).to_string());
    }
}

/// The group of this process, where the hierarchy is mounted.
///
/// # Errors
/// The system's; `NotFound` where there is no hierarchy of version 2 there.
pub fn of_this_process() -> io::Result<PathBuf> {
    let own = fs::read_to_string("/proc/self/cgroup")?;
    let path = own.lines().find_map(|line| line.strip_prefix("0::/"));
    let group = Path::new(MOUNT).join(path.ok_or(io::ErrorKind::NotFound)?);
    fs::metadata(group.join("cgroup.procs"))?;
    Ok(group)
}

/// Moves this process into a group.
///
/// # Errors
/// The system's.
pub fn join(group: &Path) -> io::Result<()> {
    fs::OpenOptions::new().write(true).open(group.join("cgroup.procs"))?.write_all(b"0")
}

/// Lets the groups below a group use its controllers. One by one: a kernel without one of
/// them has the others.
pub fn enable_controllers(group: &Path) {
    for controller in CONTROLLERS {
        let _ = fs::write(group.join("cgroup.subtree_control"), format!("+{controller}"));
    }
}

fn set(file: &Path, value: &str) {
    if let Err(error) = fs::write(file, value) {
        log::warn(format_args!("cannot set '{}' to {value}: {error}", file.display()));
    }
}

/// How many processes and threads the machine can have.
fn total_processes() -> Option<u64> {
    let read = |name| -> Option<u64> {
        fs::read_to_string(Path::new("/proc/sys/kernel").join(name)).ok()?.trim().parse().ok()
    };
    Some(read("threads-max")?.min(read("pid_max")?))
}

fn path(distro: Uuid) -> PathBuf {
    Path::new(USER).join(format!("distro-{distro}"))
}

/// Makes a distro's group and opens it.
///
/// # Errors
/// The system's.
pub fn create(distro: Uuid) -> io::Result<OwnedFd> {
    open(&path(distro))
}

fn open(path: &Path) -> io::Result<OwnedFd> {
    match fs::create_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    Ok(File::open(path)?.into())
}

fn debug_path(distro: Uuid) -> PathBuf {
    Path::new(MOUNT).join(format!("debug-{distro}"))
}

/// Makes the group of what is beside distros and uses this one's files, and opens it.
///
/// # Errors
/// The system's.
pub fn create_debug(distro: Uuid) -> io::Result<OwnedFd> {
    open(&debug_path(distro))
}

/// Ends what is beside distros and uses this one's files.
pub fn end_debug(distro: Uuid) {
    let _ = fs::write(debug_path(distro).join("cgroup.kill"), "1");
}

/// Removes a distro's group with all that the distro has made in it.
pub fn remove(distro: Uuid) {
    end_debug(distro);
    let path = path(distro);
    let _ = fs::write(path.join("cgroup.kill"), "1");
    remove_tree(&path);
    remove_tree(&debug_path(distro));
}

/// Removes a group with those below it; one that is in use stays.
pub(super) fn remove_tree(group: &Path) {
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path());
        }
    }
    let _ = fs::remove_dir(group);
}
