//! What init does before it can talk to anybody: mounts, modules, limits.
//!
//! Nothing here ends init: what fails is logged, and what cannot do without it fails
//! later with its own message.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::unistd::{chdir, chroot};

use super::{cgroup, log, sys};

/// The tmpfs that all distros share (B146).
pub const SHARED: &str = "/mnt/wsl";

/// Where each distro mounts its root, in its own namespace.
pub const STAGING: &str = "/run/root";

/// Where the disk of kernel modules is mounted.
pub const MODULES: &str = "/run/modules";

/// The initramfs's modules, named in the order of loading.
const INITRAMFS_MODULES: &str = "/modules";

const NOTHING: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV).union(MsFlags::MS_NOEXEC);

const MOUNTS: [(&str, &str, MsFlags, Option<&str>); 6] = [
    ("proc", "/proc", NOTHING, None),
    ("sysfs", "/sys", NOTHING, None),
    ("devtmpfs", "/dev", MsFlags::MS_NOSUID, None),
    ("tmpfs", "/run", MsFlags::MS_NOSUID, Some("mode=0755")),
    ("cgroup2", cgroup::MOUNT, NOTHING, Some("nsdelegate")),
    ("tmpfs", SHARED, MsFlags::empty(), Some("mode=0755")),
];

/// Settings of all distros (behaviour reference 4.2).
const SETTINGS: [(&str, &str); 3] = [
    ("kernel/dmesg_restrict", "0"),
    ("fs/inotify/max_user_watches", "524288"),
    ("kernel/print-fatal-signals", "1"),
];

/// Open files and locked memory of every process, soft and hard (behaviour reference 4.2).
const LIMITS: [(Resource, u64, u64); 2] =
    [(Resource::RLIMIT_NOFILE, 10_240, 1_048_576), (Resource::RLIMIT_MEMLOCK, 64 << 20, 64 << 20)];

/// Modules without which nobody can be talked to and no disk be mounted, by a part of
/// their names.
const URGENT: [&str; 3] = ["scsi", "sd_mod", "vsock"];

/// Makes the machine ready to talk to the service; gives the modules that can wait for
/// [`load_modules`], which distros need.
#[must_use]
pub fn prepare() -> Vec<PathBuf> {
    // What the kernel starts by itself sees this root with nothing mounted, and a program
    // without standard output wants this.
    try_to("making '/dev/null'", make_null());
    try_to("entering the root", cover_root());
    for (kind, target, flags, options) in MOUNTS {
        let result = fs::create_dir_all(target)
            .and_then(|()| Ok(mount(Some(kind), target, Some(kind), flags, options)?));
        try_to(format_args!("mounting '{target}'"), result);
    }
    let shared = mount(None::<&str>, SHARED, None::<&str>, MsFlags::MS_SHARED, None::<&str>);
    try_to("sharing '/mnt/wsl'", shared.map_err(io::Error::from));
    try_to("making '/mnt/wsl/resolv.conf'", fs::write(format!("{SHARED}/resolv.conf"), RESOLVER));
    for directory in [STAGING, MODULES] {
        try_to(format_args!("making '{directory}'"), fs::create_dir_all(directory));
    }
    for (name, target) in [
        ("/dev/fd", "/proc/self/fd"),
        ("/dev/stdin", "/proc/self/fd/0"),
        ("/dev/stdout", "/proc/self/fd/1"),
        ("/dev/stderr", "/proc/self/fd/2"),
    ] {
        try_to(format_args!("making '{name}'"), symlink(target, name));
    }
    try_to("becoming the kernel's loader of modules", super::modules::install());
    let mut modules = initramfs_modules();
    let is_urgent = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        URGENT.iter().any(|part| name.contains(part))
    };
    // Earlier ones may be what the urgent ones need.
    let urgent = modules.iter().rposition(is_urgent).map_or(0, |last| last + 1);
    let later = modules.split_off(urgent);
    load_modules(&modules);
    for (name, value) in SETTINGS {
        let path = Path::new("/proc/sys").join(name);
        try_to(format_args!("setting '{name}'"), fs::write(path, value));
    }
    set_limits();
    try_to("protecting init", fs::write("/proc/self/oom_score_adj", "-1000"));
    try_to("bringing up the loopback interface", sys::loopback_up());
    cgroup::prepare();
    later
}

/// Sets the limits of distros' processes, as far as this process's own allow.
pub fn set_limits() {
    for (resource, soft, hard) in LIMITS {
        let result = setrlimit(resource, soft, hard).or_else(|_| {
            let (_, own) = getrlimit(resource)?;
            setrlimit(resource, soft.min(own), hard.min(own))
        });
        try_to("setting limits", result.map_err(io::Error::from));
    }
}

const RESOLVER: &str = "# This file is written by wslr for all distributions.\n";

fn try_to<T>(action: impl std::fmt::Display, result: io::Result<T>) {
    if let Err(error) = result {
        log::warn(format_args!("{action} failed: {error}"));
    }
}

fn make_null() -> io::Result<()> {
    fs::create_dir_all("/dev")?;
    let mode = Mode::from_bits_truncate(0o666);
    Ok(mknod("/dev/null", SFlag::S_IFCHR, mode, makedev(1, 3))?)
}

/// Mounts the initial root file system over itself: the kernel lets only a mounted root
/// be exchanged (pivot_root(2)), and that is how a distro enters its own.
fn cover_root() -> io::Result<()> {
    fs::create_dir_all("/run")?;
    mount(Some("/"), "/run", None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
    chdir("/run")?;
    mount(Some("."), "/", None::<&str>, MsFlags::MS_MOVE, None::<&str>)?;
    chroot(".")?;
    chdir("/")?;
    Ok(())
}

/// The modules of the initramfs in the order of loading.
fn initramfs_modules() -> Vec<PathBuf> {
    let entries = fs::read_dir(INITRAMFS_MODULES).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

/// Loads modules; one that is there already, or cannot be loaded, does not matter here.
pub fn load_modules(paths: &[PathBuf]) {
    for path in paths {
        match File::open(path).and_then(|file| sys::load_module(&file)) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            result => try_to(format_args!("loading '{}'", path.display()), result),
        }
    }
}
