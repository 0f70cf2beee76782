//! Making a distro's root the root of its namespaces.
//!
//! What comes from outside is copied as detached mounts first, then the distro's root is
//! entered and everything else is detached, and only then are the copies mounted. So a
//! symbolic link in the distro can redirect nothing outside of it.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::unistd::{chdir, pivot_root, sethostname};

use super::{Kernel, Options, Root, files, mounts, protection};
use crate::config::wslconf::WslConf;
use crate::guest::{disk, information, sys};
use crate::protocol::guest::GuestError;

/// Devices of the starter's `/dev` that a distro without the machine's devices gets.
const HARMLESS: [&str; 6] = ["full", "null", "random", "tty", "urandom", "zero"];

/// Where a distro finds the executable of its machine's init.
const INIT: &str = "/init";

/// A distro entered.
#[derive(Debug)]
pub struct Entered {
    /// What its `wsl.conf` says.
    pub conf: WslConf,
    /// Its host name.
    pub hostname: String,
    /// For the user.
    pub warnings: Vec<String>,
}

/// Enters the distro, in the namespaces of this process.
///
/// # Errors
/// Where the root cannot be mounted or is no distro, or a mount it cannot do without fails.
pub fn enter(options: &Options) -> Result<Entered, GuestError> {
    let brought = bring(options)?;
    let mut warnings = Vec::new();
    let kernel = match options.kernel {
        Kernel::Own => Vec::new(),
        Kernel::Shared { .. } => bring_kernel(&mut warnings)?,
    };
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount_at(None, Path::new("/"), None, private, None)
        .map_err(|error| GuestError::system("making mounts private", &error))?;
    let root: PathBuf = match &options.root {
        Root::Directory(directory) => {
            protection::root(directory)
                .and_then(|mount| sys::attach_mount(&mount, directory))
                .map_err(|error| GuestError::system(shown("mounting", directory), &error))?;
            directory.clone()
        }
        Root::Disk { lun, staging } => {
            warnings.extend(disk::mount_root(*lun, staging)?);
            staging.clone()
        }
    };
    change_root(&root).map_err(|error| GuestError::system(shown("entering", &root), &error))?;
    if fs::symlink_metadata("/etc").is_err() && fs::metadata("/bin/sh").is_err() {
        return Err(GuestError::NotALinuxDistro);
    }
    let mut conf = match options.safe_mode {
        true => WslConf::safe(),
        false => files::read_conf(),
    };
    warnings.append(&mut conf.warnings);
    let hostname = conf.network.hostname.as_ref().unwrap_or(&options.hostname).clone();
    sethostname(&hostname)
        .map_err(|error| GuestError::system("setting the host name", &error.into()))?;
    for (mount, target) in kernel {
        warnings.extend(mount.attach(Path::new(target)));
    }
    warnings.extend(mounts::mount_all(options.kernel)?);
    for (mount, place) in brought {
        let target = match place {
            Place::At(target) => target,
            Place::Shared => files::shared(&conf),
        };
        warnings.extend(mount.attach(&target));
    }
    if options.init.is_some() {
        warnings.extend(information::install(Path::new(INIT), &options.networking));
    }
    warnings.extend(files::write_all(&conf, &hostname, options.time_zone.as_deref()));
    if options.kernel == Kernel::Own && conf.automount.mount_fstab {
        warnings.extend(mounts::mount_fstab());
    }
    if let Kernel::Shared { has_one_user, .. } = options.kernel {
        if has_one_user {
            warnings.extend(files::write_for_one_user());
        }
        protection::confine(has_one_user)?;
    }
    Ok(Entered { conf, hostname, warnings })
}

/// A detached mount for a place in the distro, and whether that is a file.
struct Brought {
    mount: OwnedFd,
    is_file: bool,
}

impl Brought {
    /// Mounts it, making the mount point; a failure is a warning.
    fn attach(&self, target: &Path) -> Option<String> {
        let made =
            if self.is_file { mounts::make_file(target) } else { fs::create_dir_all(target) };
        made.and_then(|()| sys::attach_mount(&self.mount, target))
            .err()
            .map(|error| format!("cannot mount '{}': {error}", target.display()))
    }
}

/// Where in the distro something from outside goes.
enum Place {
    At(PathBuf),
    /// The directory that all distros share, where the distro wants it (B146).
    Shared,
}

/// Copies what is mounted into the distro from outside.
fn bring(options: &Options) -> Result<Vec<(Brought, Place)>, GuestError> {
    let mut brought = Vec::new();
    let mut add = |source: &Path, target: Place, read_only: bool, is_file: bool| {
        sys::copy_mount(source)
            .and_then(|mount| {
                if read_only {
                    sys::set_attributes(&mount, libc::MOUNT_ATTR_RDONLY)?;
                }
                brought.push((Brought { mount, is_file }, target));
                Ok(())
            })
            .map_err(|error| GuestError::system(shown("sharing", source), &error))
    };
    if options.kernel != Kernel::Own {
        for name in HARMLESS {
            let path = Path::new("/dev").join(name);
            add(&path, Place::At(path.clone()), false, true)?;
        }
    }
    if let Some(shared) = &options.shared {
        add(shared, Place::Shared, false, false)?;
    }
    if let Some(init) = &options.init {
        add(init, Place::At(INIT.into()), true, true)?;
    }
    if let Some(modules) = &options.modules {
        let target = Path::new("/lib/modules").join(&modules.release);
        add(&modules.directory, Place::At(target), true, false)?;
    }
    Ok(brought)
}

/// Makes the kernel's own file systems for a distro that shares the host's kernel.
fn bring_kernel(warnings: &mut Vec<String>) -> Result<Vec<(Brought, &'static str)>, GuestError> {
    let failed = |path| move |error| GuestError::system(format!("mounting '{path}'"), &error);
    let (proc, warning) = protection::proc().map_err(failed("/proc"))?;
    warnings.extend(warning);
    let sys = protection::sys().map_err(failed("/sys"))?;
    let brought = |mount| Brought { mount, is_file: false };
    Ok(vec![(brought(proc), "/proc"), (brought(sys), "/sys")])
}

/// Makes `root` the root and lets go of the old one.
fn change_root(root: &Path) -> io::Result<()> {
    chdir(root)?;
    // Both the same: the old root is stacked on the new one, from where it is detached.
    pivot_root(".", ".")?;
    umount2(".", MntFlags::MNT_DETACH)?;
    chdir("/")?;
    Ok(())
}

/// `mount` with the error type of the standard library.
pub(in crate::guest) fn mount_at(
    source: Option<&Path>,
    target: &Path,
    kind: Option<&str>,
    flags: MsFlags,
    options: Option<&str>,
) -> io::Result<()> {
    Ok(mount(source, target, kind, flags, options)?)
}

fn shown(action: &str, path: &Path) -> String {
    format!("{action} '{}'", path.display())
}
