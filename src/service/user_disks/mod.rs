//! The user's own disks in the virtual machine: `--mount` and `--unmount` (behaviour
//! reference 1.12).
//!
//! A disk is locked and attached, and then parts of it are mounted in the directory that all
//! distros share. What is attached and mounted is in a [`list`] and done again when the
//! machine starts again; a disk that cannot be had then is a warning. `--shutdown` forgets
//! all of it.

mod error;
pub mod list;

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use uuid::Uuid;

use self::error::UserDiskError;
use self::list::{MountedPart, UserDisk};
use super::control::ControlError;
use super::machine::{Kind, Storage, Use};
use super::supervisor::Supervisor;
use super::vm::Vm;
use super::{lock, log};
use crate::error::{Failure, chain};
use crate::protocol::client::{Mount, Mounted};
use crate::protocol::guest::{GuestError, MountDisk, Request, Root};
use crate::registry::Registry;

/// How long the guest may take to unmount a disk: as long as it waits for its mounts, and
/// some.
const UNMOUNT_LIMIT: Duration = Duration::from_secs(60);

/// The user's disks that are in the machine.
#[derive(Debug, Default)]
pub struct UserDisks {
    /// Locked for as long as one is attached, mounted or let go of.
    attached: Mutex<Attached>,
}

#[derive(Debug, Default)]
struct Attached {
    /// The machine that they are in.
    vm: Weak<Vm>,
    units: HashMap<PathBuf, Root>,
}

impl Attached {
    /// The units in that machine, which knows of none yet where it is another one.
    fn of(&mut self, vm: &Arc<Vm>) -> &mut HashMap<PathBuf, Root> {
        if !std::ptr::eq(self.vm.as_ptr(), Arc::as_ptr(vm)) {
            *self = Self { vm: Arc::downgrade(vm), units: HashMap::new() };
        }
        &mut self.units
    }
}

fn failure(error: &UserDiskError) -> Failure {
    Failure::new("Wsl/Service", error)
}

/// Attaches a disk where it is not, and mounts what is asked for of it.
///
/// # Errors
/// Where it cannot be attached, or the mount's name cannot be had. That the guest does not
/// mount it is no error: the disk stays attached.
pub fn mount(supervisor: &Arc<Supervisor>, request: &Mount) -> Result<Mounted, Failure> {
    let registry =
        Registry::load(&supervisor.paths).map_err(|error| Failure::new("Wsl/Service", &error))?;
    if !registry.usable().any(|distro| distro.version == 2) {
        return Err(failure(&UserDiskError::NoDistro));
    }
    // Before a machine is started for it.
    let missing = |source| failure(&UserDiskError::Open { path: request.shown.clone(), source });
    let path = fs::canonicalize(&request.path).map_err(missing)?;
    check_kind(&path, request).map_err(|error| failure(&error))?;
    let file = supervisor.paths.mounts();
    // One in the list is attached with the machine.
    let is_known = list::load(&file).iter().any(|disk| disk.path == path);
    let storage = if is_known { None } else { Some(open(&path, &request.shown)) };
    let storage = storage.transpose().map_err(|error| failure(&error))?;
    let _hold = supervisor.hold();
    let (vm, _) = supervisor.machine(Uuid::nil(), Kind::Virtual)?;
    let mut attached = lock(&supervisor.user_disks.attached);
    let units = attached.of(&vm);
    let mut disks = list::load(&file);
    let store = |disks: &[UserDisk]| {
        list::store(&file, disks)
            .map_err(|source| failure(&UserDiskError::Store { path: file.clone(), source }))
    };
    let lun = match units.get(&path) {
        Some(_) if request.mount.is_none() => {
            return Err(failure(&UserDiskError::AlreadyAttached { path: request.shown.clone() }));
        }
        Some(root) => root.clone(),
        None => {
            let storage = match storage {
                Some(storage) => storage,
                None => open(&path, &request.shown).map_err(|error| failure(&error))?,
            };
            let root = attach(&vm, storage, &request.shown).map_err(|error| failure(&error))?;
            units.insert(path.clone(), root.clone());
            disks.retain(|disk| disk.path != path);
            let named = request.path.clone();
            disks.push(UserDisk { path: path.clone(), named, mounts: Vec::new() });
            store(&disks)?;
            root
        }
    };
    let part = match &request.mount {
        None => None,
        Some(mount) => {
            let name =
                mount.name.clone().unwrap_or_else(|| list::usual_name(&path, mount.partition));
            let part = MountedPart {
                name,
                partition: mount.partition,
                kind: mount.kind.clone(),
                options: mount.options.clone(),
            };
            check_name(&disks, &path, &part, &request.shown).map_err(|error| failure(&error))?;
            Some(part)
        }
    };
    if let Err(reason) = mount_part(&vm, &lun, part.as_ref()).map_err(|error| failure(&error))? {
        return Ok(Mounted::Not { reason });
    }
    let Some(part) = part else { return Ok(Mounted::Bare) };
    let name = part.name.clone();
    if let Some(disk) = disks.iter_mut().find(|disk| disk.path == path) {
        disk.mounts.push(part);
    }
    store(&disks)?;
    Ok(Mounted::At { name })
}

/// Checks that it is a block device, or a file that is said to be a disk.
fn check_kind(path: &Path, request: &Mount) -> Result<(), UserDiskError> {
    let shown = || request.shown.clone();
    let metadata =
        path.metadata().map_err(|source| UserDiskError::Open { path: shown(), source })?;
    let kind = metadata.file_type();
    if kind.is_block_device() || (request.vhd && kind.is_file()) {
        Ok(())
    } else {
        Err(UserDiskError::NotBlockDevice { path: shown() })
    }
}

/// Checks a mount's name against the rules (B107) and all others (B108).
fn check_name(
    disks: &[UserDisk],
    path: &Path,
    part: &MountedPart,
    shown: &Path,
) -> Result<(), UserDiskError> {
    let name = part.name.clone();
    if name.is_empty() || name == "." || name == ".." || name.contains(['/', '\0']) {
        return Err(UserDiskError::Name { name });
    }
    for disk in disks {
        for other in &disk.mounts {
            if disk.path == path && other.partition == part.partition {
                let (path, name) = (shown.to_owned(), other.name.clone());
                return Err(UserDiskError::AlreadyMounted { path, name });
            }
            if other.name == name {
                return Err(UserDiskError::NameTaken { name });
            }
        }
    }
    Ok(())
}

/// Opens a disk for this process alone, to write where that is allowed.
fn open(path: &Path, shown: &Path) -> Result<Storage, UserDiskError> {
    let (file, read_only) = match open_as(path, true) {
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem
            ) =>
        {
            (open_as(path, false), true)
        }
        result => (result, false),
    };
    let file = file.map_err(|source| match source.kind() {
        io::ErrorKind::ResourceBusy => UserDiskError::InUse { path: shown.to_owned() },
        _ => UserDiskError::Open { path: shown.to_owned(), source },
    })?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            return Err(UserDiskError::InUse { path: shown.to_owned() });
        }
        Err(TryLockError::Error(source)) => {
            return Err(UserDiskError::Open { path: shown.to_owned(), source });
        }
    }
    Ok(Storage { path: path.to_owned(), file, usage: Use::Own { read_only } })
}

fn attach(vm: &Arc<Vm>, storage: Storage, shown: &Path) -> Result<Root, UserDiskError> {
    vm.machine
        .attach(storage)
        .map_err(|source| UserDiskError::Attach { path: shown.to_owned(), source })
}

/// Opens a disk. A device that the host has mounted is busy (B116).
fn open_as(path: &Path, writable: bool) -> io::Result<File> {
    let is_device = path.metadata()?.file_type().is_block_device();
    let flags = if is_device { libc::O_EXCL } else { 0 };
    OpenOptions::new().read(true).write(writable).custom_flags(flags).open(path)
}

/// Has the guest wait for a disk and mount a part of it; why it does not.
fn mount_part(
    vm: &Arc<Vm>,
    root: &Root,
    part: Option<&MountedPart>,
) -> Result<Result<(), String>, UserDiskError> {
    let Root::Disk { lun } = root else { return Ok(Err("it is no disk".to_owned())) };
    let request = MountDisk { lun: *lun, mount: part.map(MountedPart::request) };
    let limit = vm.settings.distribution_start_timeout;
    match vm.control.request(Request::MountDisk(request), limit) {
        Ok(_) => Ok(Ok(())),
        Err(ControlError::Guest(GuestError::System { action, reason })) => {
            Ok(Err(format!("{action}: {reason}")))
        }
        Err(ControlError::Guest(error)) => Ok(Err(error.to_string())),
        Err(error) => Err(UserDiskError::Silent(error)),
    }
}

/// Unmounts a disk, or all of them, and lets go of it.
///
/// # Errors
/// Where it is not attached, or in use in a distro.
pub fn unmount(supervisor: &Arc<Supervisor>, path: Option<&Path>) -> Result<(), Failure> {
    let mut attached = lock(&supervisor.user_disks.attached);
    let file = supervisor.paths.mounts();
    let mut disks = list::load(&file);
    let chosen: Vec<UserDisk> = match path {
        None => disks.clone(),
        Some(path) => {
            // The file may be gone (B114).
            let real = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
            let is_it = |disk: &&UserDisk| disk.path == real || disk.named == path;
            let found: Vec<_> = disks.iter().filter(is_it).cloned().collect();
            if found.is_empty() {
                let error = UserDiskError::NotAttached { path: path.to_owned() };
                return Err(failure(&error));
            }
            found
        }
    };
    let _hold = supervisor.hold();
    let vm = supervisor.running(Kind::Virtual);
    for disk in chosen {
        if let Some(vm) = &vm
            && let Some(root) = attached.of(vm).get(&disk.path).cloned()
        {
            let_go(vm, &root, &disk).map_err(|error| failure(&error))?;
            attached.of(vm).remove(&disk.path);
        }
        disks.retain(|other| other.path != disk.path);
        list::store(&file, &disks)
            .map_err(|source| failure(&UserDiskError::Store { path: file.clone(), source }))?;
    }
    Ok(())
}

fn let_go(vm: &Arc<Vm>, root: &Root, disk: &UserDisk) -> Result<(), UserDiskError> {
    let Root::Disk { lun } = root else { return Ok(()) };
    let names = disk.mounts.iter().map(|part| part.name.clone()).collect();
    match vm.control.request(Request::UnmountDisk { lun: *lun, names }, UNMOUNT_LIMIT) {
        Ok(_) => {}
        Err(ControlError::Guest(error)) => {
            let reason = match error {
                GuestError::System { reason, .. } => reason,
                error => error.to_string(),
            };
            return Err(UserDiskError::Detach { path: disk.named.clone(), reason });
        }
        Err(error) => return Err(UserDiskError::Silent(error)),
    }
    if let Err(error) = vm.machine.detach(root) {
        log(format_args!("'{}': {error}", disk.path.display()));
    }
    Ok(())
}

/// Attaches and mounts in a machine that has just started what was in the one before
/// (B111). What cannot be had any more is a warning (B112), and stays in the list: it may
/// be there the next time.
pub fn restore(supervisor: &Supervisor, vm: &Arc<Vm>) -> Vec<String> {
    let mut warnings = Vec::new();
    let mut attached = lock(&supervisor.user_disks.attached);
    let units = attached.of(vm);
    for disk in list::load(&supervisor.paths.mounts()) {
        let opened = open(&disk.path, &disk.named);
        let root = match opened.and_then(|storage| attach(vm, storage, &disk.named)) {
            Ok(root) => root,
            Err(error) => {
                warnings.push(chain(&error));
                continue;
            }
        };
        units.insert(disk.path.clone(), root.clone());
        for part in &disk.mounts {
            let reason = match mount_part(vm, &root, Some(part)) {
                Ok(Ok(())) => continue,
                Ok(Err(reason)) => reason,
                Err(error) => chain(&error),
            };
            let path = disk.named.display();
            warnings.push(format!("the disk '{path}' was attached but failed to mount: {reason}"));
        }
    }
    warnings
}

/// Forgets all disks, as `--shutdown` does (B112).
pub fn forget(file: &Path) {
    if let Err(error) = list::store(file, &[]) {
        log(format_args!("'{}' cannot be removed: {error}", file.display()));
    }
}
