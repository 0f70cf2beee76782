//! One distro's way up and down: its files locked, attached, mounted by the guest, set up
//! where this is its first start; and all of it undone.

use std::fs::{OpenOptions, TryLockError};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use super::attempt::Attempt;
use super::configure;
use super::control::ControlError;
use super::error::ServiceError;
use super::log;
use super::machine::{Kind, Storage, Use};
use super::supervisor::Supervisor;
use super::vm::Vm;
use crate::config::paths::Paths;
use crate::config::{hostname, time_zone};
use crate::disk::Format;
use crate::disk::raw::Raw;
use crate::error::Failure;
use crate::ext4::reader::Image;
use crate::image::observer;
use crate::protocol::guest::{GuestError, Request, Root, StartDistro};
use crate::registry::{self, Distro, Registry, RegistryError};
use crate::storage;

/// The contexts of a failed start in the error code.
const CREATE: &str = "Wsl/Service/CreateInstance";

/// How long giving the space of a stopped distro back may take: others may wait for it.
const TRIM_LIMIT: Duration = Duration::from_secs(2);

/// How long a file system may take to grow: it writes little for each group.
const GROW_LIMIT: Duration = Duration::from_secs(120);

/// How long a guest's init may take to answer that it lives.
const ALIVE_LIMIT: Duration = Duration::from_secs(2);

/// How long the guest may look what a distro is used for.
const LOOK_LIMIT: Duration = Duration::from_secs(2);

/// The most uses of a distro that are kept.
const MAXIMUM_USES: usize = 16;

/// Starts the distro and tells all who wait for it.
pub fn start(supervisor: &Arc<Supervisor>, id: Uuid, attempt: &Arc<Attempt>) {
    let result = bring_up(supervisor, id, attempt);
    if let Err(failure) = &result {
        log(format_args!("distro {id} did not start: {failure}"));
        supervisor.discard(id, attempt);
    }
    attempt.finish(result);
}

fn bring_up(
    supervisor: &Arc<Supervisor>,
    id: Uuid,
    attempt: &Arc<Attempt>,
) -> Result<Vec<String>, Failure> {
    let record = find(&supervisor.paths, id)?;
    log(format_args!("distro {id} starts: '{}'", record.name));
    let kind = Kind::of(&record);
    let storage = open(&record.disk_path(), kind, record.reserved)
        .map_err(|error| Failure::new("Wsl/Service", &error))?;
    let state = state_warning(&storage, kind);
    let (vm, mut warnings) = supervisor.machine(id, kind)?;
    warnings.extend(state);
    let stopped = || {
        let error = ServiceError::Stopped { name: record.name.clone() };
        vm.end().cloned().unwrap_or_else(|| Failure::new("Wsl/Service", &error))
    };
    let root = vm
        .machine
        .attach(storage)
        .map_err(|error| Failure::new("Wsl/Service/CreateInstance", &error))?;
    let request = Request::StartDistro(StartDistro {
        distro: id,
        name: record.name.clone(),
        root: root.clone(),
        hostname: hostname(),
        time_zone: time_zone::of_host(),
        // Less than this side waits, so that the guest is the one that ends it, and everything
        // is over in the whole's time.
        stop_limit: vm.settings.stop_limit().mul_f32(0.6),
        safe_mode: vm.settings.safe_mode,
        isolated: vm.settings.networking.isolates(&record.name),
    });
    let mounted = vm
        .control
        .request(request, vm.settings.distribution_start_timeout)
        .map_err(|error| vm.failure(CREATE, &error));
    let result = mounted.and_then(|more| {
        warnings.extend(more);
        supervisor.placed(id, attempt, &vm, &root);
        log(format_args!("distro {id} is up"));
        if !record.configured {
            configure::run(supervisor, &vm, id, &record.name, attempt)?;
            set_configured(&supervisor.paths, id)?;
        }
        if supervisor.started(id, attempt, &vm) { Ok(()) } else { Err(stopped()) }
    });
    match result {
        Ok(()) => Ok(warnings),
        Err(failure) => {
            if supervisor.give_up(id, attempt) {
                take_down(supervisor, id, &vm, &root);
            }
            Err(failure)
        }
    }
}

/// Stops the distro and tells all who wait for it.
pub fn stop(
    supervisor: &Arc<Supervisor>,
    id: Uuid,
    vm: &Arc<Vm>,
    root: &Root,
    attempt: &Arc<Attempt>,
) {
    take_down(supervisor, id, vm, root);
    supervisor.discard(id, attempt);
    attempt.finish(Ok(Vec::new()));
}

/// Makes a running distro's disk longer, and its file system with it (B093).
///
/// # Errors
/// Where it does not run in a virtual machine, shorter is asked for, the disk's format has
/// its length in it, or the guest does not grow it.
pub fn grow(supervisor: &Arc<Supervisor>, id: Uuid, size: u64) -> Result<(), Failure> {
    let record = find(&supervisor.paths, id)?;
    let place = supervisor.place(id).filter(|(vm, _)| vm.kind == Kind::Virtual);
    let Some((vm, root)) = place else {
        let error = ServiceError::Stopped { name: record.name };
        return Err(Failure::new("Wsl/Service", &error));
    };
    storage::grow_running(&record, size).map_err(|error| Failure::new("Wsl/Service", &error))?;
    vm.machine.measure_again(&root).map_err(|error| Failure::new("Wsl/Service", &error))?;
    vm.control
        .request(Request::GrowDistro { distro: id }, GROW_LIMIT)
        .map(drop)
        .map_err(|error| vm.failure("Wsl/Service", &error))
}

/// What the distro is used for beside its sessions; nothing where that cannot be told.
pub fn uses(vm: &Vm, id: Uuid) -> Vec<String> {
    let uses = vm.control.request(Request::Look { distro: id }, LOOK_LIMIT).unwrap_or_default();
    let printable = |text: String| text.replace(char::is_control, "?");
    uses.into_iter().take(MAXIMUM_USES).map(printable).collect()
}

/// Lets go of the files of a distro that ended by itself.
pub fn release(
    supervisor: &Arc<Supervisor>,
    id: Uuid,
    vm: &Arc<Vm>,
    root: &Root,
    attempt: &Arc<Attempt>,
) {
    let _ = vm.machine.detach(root);
    give_back(supervisor, id, vm.kind);
    supervisor.discard(id, attempt);
    attempt.finish(Ok(Vec::new()));
}

/// Stops the distro in the guest and takes its files away.
///
/// A guest that does not stop it in time loses a disk anyway. Where even its init no
/// longer answers, or nothing else runs in it, the machine is killed: its journal makes the
/// disk whole at the next start, which a disk torn from a living mount does no better.
fn take_down(supervisor: &Arc<Supervisor>, id: Uuid, vm: &Arc<Vm>, root: &Root) {
    log(format_args!("distro {id} stops"));
    let request = Request::StopDistro { distro: id };
    match vm.control.request(request, vm.settings.stop_limit()) {
        Ok(_) | Err(ControlError::Guest(GuestError::NotRunning) | ControlError::Lost(_)) => {}
        Err(ControlError::Timeout { .. }) => {
            log(format_args!("distro {id} does not stop"));
            // No distro has this id: only a living init says so.
            let nobody = Request::StopDistro { distro: Uuid::nil() };
            let alive =
                matches!(vm.control.request(nobody, ALIVE_LIMIT), Err(ControlError::Guest(_)));
            if !alive || !supervisor.others(id, vm) {
                log(format_args!("killing the machine (init answers: {alive})"));
                supervisor.kill(vm);
                return;
            }
        }
        Err(error) => log(format_args!("distro {id} did not stop in good order: {error}")),
    }
    if let Err(error) = vm.machine.detach(root) {
        log(format_args!("distro {id}: {error}"));
    }
    give_back(supervisor, id, vm.kind);
}

/// The registered distro of that id.
///
/// # Errors
/// Where there is none, or the registry cannot be read.
pub fn find(paths: &Paths, id: Uuid) -> Result<Distro, Failure> {
    Registry::load(paths)
        .and_then(|registry| registry.by_id(id).cloned())
        .map_err(|error| Failure::new("Wsl/Service", &error))
}

fn set_configured(paths: &Paths, id: Uuid) -> Result<(), Failure> {
    registry::update(paths, |registry| {
        registry.record(id).ok_or(RegistryError::NotFound)?.configured = true;
        Ok(())
    })
    .map_err(|error: RegistryError| Failure::new("Wsl/Service", &error))
}

/// Records what a distro says of itself; what it does not say, or says badly, stays as it
/// was (B089). In a thread: the registry may be in use.
pub fn describe(paths: &Paths, id: Uuid, flavor: String, os_version: String) {
    let paths = paths.clone();
    let work = move || {
        let updated = registry::update(&paths, |registry| {
            let record = registry.record(id).ok_or(RegistryError::NotFound)?;
            for (place, word) in
                [(&mut record.flavor, flavor), (&mut record.os_version, os_version)]
            {
                if observer::is_release_word(&word) {
                    *place = word;
                }
            }
            Ok(())
        });
        if let Err::<(), RegistryError>(error) = updated {
            log(format_args!("distro {id}: {error}"));
        }
    };
    if let Err(failure) = super::spawn("describe", work) {
        log(format_args!("{failure}"));
    }
}

/// Opens a distro's disk, or its directory, for this process alone. The lock lives as long
/// as the file is open.
fn open(path: &Path, kind: Kind, reserved: bool) -> Result<Storage, ServiceError> {
    let failed = |source| ServiceError::Disk { path: path.to_owned(), source };
    let mut options = OpenOptions::new();
    match kind {
        Kind::Host => options.read(true).custom_flags(libc::O_DIRECTORY),
        Kind::Virtual => options.read(true).write(true),
    };
    let file = options.open(path).map_err(failed)?;
    match file.try_lock() {
        Ok(()) if registry::is_at(&file, path) => {
            Ok(Storage { path: path.to_owned(), file, usage: Use::Root { reserved } })
        }
        // Another root has taken its place.
        Ok(()) => Err(ServiceError::DiskInUse { path: path.to_owned() }),
        Err(TryLockError::WouldBlock) => Err(ServiceError::DiskInUse { path: path.to_owned() }),
        Err(TryLockError::Error(source)) => Err(failed(source)),
    }
}

/// What the user is to know of a disk before it is mounted: the kernel would go on using a
/// file system in which it has met errors.
fn state_warning(storage: &Storage, kind: Kind) -> Option<String> {
    if kind != Kind::Virtual || Format::of(&storage.path) != Format::Raw {
        return None;
    }
    let disk = Raw::new(storage.file.try_clone().ok()?);
    Image::examine(&disk).ok().filter(|health| health.has_errors)?;
    let path = storage.path.display();
    Some(format!("the disk '{path}' has errors: stop the distribution and run 'e2fsck -f' on it"))
}

/// Gives the space that a stopped distro's disk has free back to the host: most of it came
/// back when it was deleted, but not what a disk from elsewhere brought along.
fn give_back(supervisor: &Supervisor, id: Uuid, kind: Kind) {
    if kind != Kind::Virtual {
        return;
    }
    let Ok(record) = find(&supervisor.paths, id) else { return };
    match storage::trim(&record, TRIM_LIMIT) {
        Ok(0) => {}
        Ok(bytes) => log(format_args!("distro {id}: {bytes} bytes of its disk came back")),
        Err(error) => log(format_args!("distro {id}: its disk is not trimmed: {error}")),
    }
}

/// The host's name as a distro may carry it (B141).
fn hostname() -> String {
    let name = nix::unistd::gethostname().unwrap_or_default();
    hostname::clean(&name.to_string_lossy())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_used_by_one_at_a_time() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ext4.img");
        assert!(matches!(open(&path, Kind::Virtual, false), Err(ServiceError::Disk { .. })));
        std::fs::write(&path, b"").unwrap();
        let first = open(&path, Kind::Virtual, false).unwrap();
        assert!(matches!(open(&path, Kind::Virtual, false), Err(ServiceError::DiskInUse { .. })));
        drop(first);
        open(&path, Kind::Virtual, false).unwrap();
    }
}
