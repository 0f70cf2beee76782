//! The file systems every distro has (behaviour reference 4.4).

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::mount::MsFlags;
use nix::sched::{CloneFlags, unshare};
use nix::unistd::Pid;

use super::{Kernel, root};
use crate::guest::{read_file, sys};
use crate::protocol::guest::GuestError;

/// One file system to mount.
struct Mount {
    target: &'static str,
    kind: &'static str,
    flags: MsFlags,
    options: Option<&'static str>,
    /// Whether a distro can do without it.
    optional: bool,
    /// Whether it is the machine's, and not for a distro on the host's kernel.
    machines: bool,
}

const NOTHING: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV).union(MsFlags::MS_NOEXEC);
const DATA: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV);

/// In the order of mounting; `/dev` comes before.
const MOUNTS: [Mount; 9] = [
    of_machine(required("/proc", "proc", NOTHING, None)),
    of_machine(required("/sys", "sysfs", NOTHING, None)),
    required("/dev/pts", "devpts", NOEXEC, Some("newinstance,gid=5,mode=620,ptmxmode=666")),
    optional("/dev/shm", "tmpfs", DATA, Some("mode=1777")),
    optional("/dev/mqueue", "mqueue", NOTHING, None),
    required("/run", "tmpfs", DATA, Some("mode=0755")),
    optional("/run/lock", "tmpfs", NOTHING, Some("mode=1777")),
    // `nsdelegate` can be given only from the first cgroup namespace; a kernel without the
    // controller mount is worth a warning, not a failure.
    optional("/sys/fs/cgroup", "cgroup2", NOTHING.union(MsFlags::MS_RELATIME), Some("nsdelegate")),
    of_machine(optional(
        "/proc/sys/fs/binfmt_misc",
        "binfmt_misc",
        NOTHING.union(MsFlags::MS_RELATIME),
        None,
    )),
];

/// How long the mounts of `/etc/fstab` may take, and how often their end is looked for.
const FSTAB_LIMIT: Duration = Duration::from_secs(10);
const FSTAB_PAUSE: Duration = Duration::from_millis(5);

/// Of the devpts of a user namespace with one user.
const TERMINALS_OF_ONE_USER: &str = "newinstance,mode=620,ptmxmode=666";

const NOEXEC: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NOEXEC);

const fn required(
    target: &'static str,
    kind: &'static str,
    flags: MsFlags,
    options: Option<&'static str>,
) -> Mount {
    Mount { target, kind, flags, options, optional: false, machines: false }
}

const fn optional(
    target: &'static str,
    kind: &'static str,
    flags: MsFlags,
    options: Option<&'static str>,
) -> Mount {
    Mount { target, kind, flags, options, optional: true, machines: false }
}

const fn of_machine(mount: Mount) -> Mount {
    Mount { machines: true, ..mount }
}

/// Mounts everything, but `/proc` and `/sys` where the kernel is the host's; what a distro can do without is a warning where it fails.
///
/// # Errors
/// Where one it cannot do without fails.
pub fn mount_all(kernel: Kernel) -> Result<Vec<String>, GuestError> {
    let mut warnings = Vec::new();
    mount_devices(kernel)?;
    for mount in &MOUNTS {
        let target = Path::new(mount.target);
        let try_with = |options| {
            let source = Some(Path::new(mount.kind));
            root::mount_at(source, target, Some(mount.kind), mount.flags, options)
        };
        let made = match (kernel, mount.kind) {
            (Kernel::Shared { .. }, _) if mount.machines => continue,
            (Kernel::Shared { has_group, .. }, "cgroup2") => mount_groups(has_group),
            (_, "devpts") => make_directory(target).and_then(|()| {
                // A user namespace of one user has no group 5.
                try_with(mount.options).or_else(|_| try_with(Some(TERMINALS_OF_ONE_USER)))
            }),
            _ => make_directory(target).and_then(|()| try_with(mount.options)),
        };
        match made {
            Ok(()) => {}
            // The module of binfmt_misc may be missing; most distros never miss it.
            Err(_) if mount.kind == "binfmt_misc" => {}
            Err(error) if mount.optional => {
                warnings.push(format!("cannot mount '{}': {error}", mount.target));
            }
            Err(error) => {
                return Err(GuestError::system(format!("mounting '{}'", mount.target), &error));
            }
        }
    }
    let _ = symlink("/dev/shm", "/run/shm");
    let _ = make_directory(Path::new("/run/user"));
    Ok(warnings)
}

/// Has the distro mount what its `/etc/fstab` lists. A helper that reads gets nothing, one
/// that takes too long is ended; what fails is a warning (B145).
pub fn mount_fstab() -> Option<String> {
    let table = read_file(Path::new("/etc/fstab")).unwrap_or_default();
    let is_entry = |line: &[u8]| line.first().is_some_and(|first| *first != b'#');
    if !table.split(|byte| *byte == b'\n').any(|line| is_entry(line.trim_ascii_start())) {
        return None;
    }
    let run = || {
        let mut child = Command::new("/bin/mount")
            .arg("-a")
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()?;
        let end = Instant::now() + FSTAB_LIMIT;
        loop {
            if let Some(status) = child.try_wait()? {
                return Ok::<_, io::Error>(status.success());
            }
            if Instant::now() >= end {
                let _ = sys::kill(Pid::from_raw(-child.id().cast_signed()), libc::SIGKILL);
                child.wait()?;
                return Ok(false);
            }
            thread::sleep(FSTAB_PAUSE);
        }
    };
    let is_done = run().unwrap_or(false);
    (!is_done).then(|| "Processing /etc/fstab with mount -a failed.".to_owned())
}

/// Shows a distro on the host's kernel its own cgroup and those below it, and no other.
fn mount_groups(has_group: bool) -> io::Result<()> {
    let mount = if has_group {
        unshare(CloneFlags::CLONE_NEWCGROUP)?;
        let attributes = libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV;
        sys::new_mount(c"cgroup2", attributes | libc::MOUNT_ATTR_NOEXEC)?
    } else {
        sys::new_mount(c"tmpfs", libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOEXEC)?
    };
    sys::attach_mount(&mount, Path::new("/sys/fs/cgroup"))
}

fn mount_devices(kernel: Kernel) -> Result<(), GuestError> {
    let dev = Path::new("/dev");
    let (kind, options) = match kernel {
        Kernel::Own => ("devtmpfs", None),
        Kernel::Shared { .. } => ("tmpfs", Some("mode=0755")),
    };
    make_directory(dev)
        .and_then(|()| {
            let flags = MsFlags::MS_NOSUID;
            root::mount_at(Some(Path::new(kind)), dev, Some(kind), flags, options)
        })
        .map_err(|error| GuestError::system("mounting '/dev'", &error))?;
    if kernel != Kernel::Own {
        let _ = symlink("pts/ptmx", "/dev/ptmx");
    }
    for (name, target) in [
        ("/dev/fd", "/proc/self/fd"),
        ("/dev/stdin", "/proc/self/fd/0"),
        ("/dev/stdout", "/proc/self/fd/1"),
        ("/dev/stderr", "/proc/self/fd/2"),
    ] {
        // The machine's `/dev` is shared: another distro may have made them.
        let _ = symlink(target, name);
    }
    Ok(())
}

/// Makes a directory `0755` where there is none.
pub(super) fn make_directory(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    fs::DirBuilder::new().recursive(true).mode(0o755).create(path)
}

/// Makes an empty file `0755` to mount a file on, where there is none.
pub(super) fn make_file(path: &Path) -> io::Result<()> {
    match OpenOptions::new().write(true).create_new(true).mode(0o755).open(path) {
        Ok(file) => file.set_permissions(fs::Permissions::from_mode(0o755)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}
