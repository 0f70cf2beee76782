//! Commands for one distro: run, `--terminate`, `--shutdown`, `--unregister`,
//! `--set-default`, `--set-version`.

use std::os::unix::ffi::OsStringExt;
use std::process::ExitCode;
use std::time::Duration;
use std::{env, thread};

use uuid::Uuid;

use super::grammar::{Run, Selection};
use super::run::{self, Launch};
use super::{client, first_start, output, proxy, versions};
use crate::config::paths::Paths;
use crate::config::wslconfig::WslConfig;
use crate::convert::{self, ConvertError};
use crate::error::{Diagnose, Failure};
use crate::protocol::session::{Directory, Program};
use crate::registry::{self, Distro, Registry, RegistryError};
use crate::terminal::progress::Progress;

/// How often a root that a service has just let go of is tried.
pub(super) const ATTEMPTS: u32 = 20;

/// How long lies between two of these.
pub(super) const PAUSE: Duration = Duration::from_millis(50);

/// Runs a command, and gives its status.
pub(super) fn run(paths: &Paths, run: Run) -> Result<ExitCode, Failure> {
    let registry = load(paths)?;
    let distro = match &run.distro {
        Selection::Name(name) => registry.find(name).map_err(service)?,
        Selection::Id(id) => registry
            .by_id(*id)
            .map_err(|error| Failure::new("Wsl/Service/CreateInstance/ReadDistroConfig", &error))?,
        Selection::Default => registry.default_distro().map_err(no_default)?,
    };
    launch(paths, distro.id, run).map_err(|failure| with_way_out(failure, &distro.name))
}

/// The same failure; where it is that no virtual machine can run, with the other way.
fn with_way_out(failure: Failure, name: &str) -> Failure {
    let no_machine = failure.code.as_deref().is_some_and(|code| {
        code.ends_with("/CreateVm/WSL_E_VIRTUAL_MACHINE_PLATFORM_REQUIRED")
            || code.ends_with("/CreateVm/E_ACCESSDENIED")
    });
    if !no_machine {
        return failure;
    }
    let way_out = format!("'wslr --set-version {name} 1' makes it run without a virtual machine");
    let hint = match &failure.hint {
        Some(hint) => format!("{hint}; or {way_out}"),
        None => way_out,
    };
    failure.with_hint(hint)
}

/// Runs a command in the distro of that id.
pub(super) fn launch(paths: &Paths, distro: Uuid, run: Run) -> Result<ExitCode, Failure> {
    let here = || match env::current_dir() {
        Ok(directory) => Directory::Path(directory.into_os_string().into_vec()),
        Err(_) => Directory::Home,
    };
    // A user who is named is not the one that a first start is for.
    if matches!(run.program, Program::Shell)
        && run.user.is_none()
        && let Some(status) = first_start::prepare(paths, distro)?
    {
        return Ok(ExitCode::from(status));
    }
    let launch = Launch {
        distro,
        program: run.program,
        user: run.user,
        directory: run.directory.unwrap_or_else(here),
        environment: proxy(paths, distro)?,
    };
    run::run(paths, launch).map(ExitCode::from)
}

/// The variables with the host's proxy (B217).
fn proxy(paths: &Paths, distro: Uuid) -> Result<proxy::Variables, Failure> {
    let version = load(paths)?.by_id(distro).map_err(service)?.version;
    let config = WslConfig::load(paths);
    let (variables, warning) =
        proxy::variables(version, &config.networking, |name| env::var_os(name));
    if let Some(warning) = warning {
        output::warning(&warning);
    }
    Ok(variables)
}

/// Makes the distro of that name the default one (B038).
pub(super) fn set_default(paths: &Paths, name: &str) -> Result<(), Failure> {
    registry::update(paths, |registry| {
        registry.default = Some(registry.find(name)?.id);
        Ok(())
    })
    .map_err(service)?;
    output::success()
}

/// Converts the distro of that name to the other version (B061).
pub(super) fn set_version(paths: &Paths, name: &str, version: u32) -> Result<(), Failure> {
    let distro = load(paths)?.find(name).map_err(service)?.clone();
    if distro.version == version {
        return Err(service(RegistryError::SameVersion { name: distro.name, version }));
    }
    output::print("Conversion in progress, this may take a few minutes.\n")?;
    versions::announce(version)?;
    let progress = Progress::on_terminal();
    let is_busy =
        |error: &ConvertError| matches!(error, ConvertError::Registry(RegistryError::InUse { .. }));
    once_ended(paths, distro.id, "Wsl/Service", is_busy, || {
        convert::convert(paths, distro.id, version, &progress)
    })?;
    output::success()
}

/// Ends the VM with all distros, and the service.
pub(super) fn shutdown(paths: &Paths, force: bool) -> Result<(), Failure> {
    client::shutdown(paths, force)
}

/// Ends the distro of that name; one that does not run is fine.
pub(super) fn terminate(paths: &Paths, name: &str) -> Result<(), Failure> {
    let distro = load(paths)?.find(name).map_err(service)?.id;
    client::terminate(paths, distro)?;
    output::success()
}

/// Removes the distro of that name with its disk, also one whose removal was interrupted
/// (B058).
pub(super) fn unregister(paths: &Paths, name: &str) -> Result<(), Failure> {
    let distro = load(paths)?.find_any(name).map_err(service)?.id;
    let is_busy = |error: &RegistryError| matches!(error, RegistryError::InUse { .. });
    once_ended(paths, distro, "Wsl/Service/UnregisterDistro", is_busy, || {
        registry::remove(paths, distro)
    })?;
    output::success()
}

/// Ends a distro and does what needs it ended. Again where it is busy: somebody started it
/// in between, or the service is about to let go of its root.
pub(super) fn once_ended<T, E: Diagnose>(
    paths: &Paths,
    distro: Uuid,
    context: &str,
    is_busy: impl Fn(&E) -> bool,
    mut work: impl FnMut() -> Result<T, E>,
) -> Result<T, Failure> {
    let mut attempt = 1;
    loop {
        client::terminate(paths, distro)?;
        match work() {
            Err(error) if is_busy(&error) && attempt < ATTEMPTS => thread::sleep(PAUSE),
            result => return result.map_err(|error| Failure::new(context, &error)),
        }
        attempt += 1;
    }
}

/// The registry, for a command.
pub(super) fn load(paths: &Paths) -> Result<Registry, Failure> {
    Registry::load(paths).map_err(service)
}

/// What is said where nothing is installed; without a code (B039).
pub(super) fn no_default(error: RegistryError) -> Failure {
    match error {
        RegistryError::NoDefault => Failure { code: None, ..Failure::new("Wsl", &error) },
        error => service(error),
    }
}

/// Changes the record of a distro.
pub(super) fn update(
    paths: &Paths,
    id: Uuid,
    change: impl FnOnce(&mut Distro),
) -> Result<(), RegistryError> {
    registry::update(paths, |registry| {
        change(registry.record(id).ok_or(RegistryError::NotFound)?);
        Ok(())
    })
}

/// The failure of the registry.
pub(super) fn service(error: RegistryError) -> Failure {
    Failure::new("Wsl/Service", &error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_no_virtual_machine_is_told_the_other_way() {
        let failure = |code: &str| Failure::plain("x").with_code(code).with_hint("buy one");
        let code = "Wsl/Service/CreateInstance/CreateVm/WSL_E_VIRTUAL_MACHINE_PLATFORM_REQUIRED";
        assert_eq!(
            with_way_out(failure(code), "D").hint.unwrap(),
            "buy one; or 'wslr --set-version D 1' makes it run without a virtual machine"
        );
        let other = failure("Wsl/Service/E_ACCESSDENIED");
        assert_eq!(with_way_out(other.clone(), "D"), other);
    }
}
