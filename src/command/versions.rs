//! Which versions of distros this machine can run, and which one a new distro gets.
//!
//! What the user says decides: `--version`, then `--set-default-version`. Where nothing is
//! said it is 2 if a tiny guest comes through, else 1 with a warning: found out by trying,
//! never guessed.

use std::env;
use std::path::Path;

use super::output;
use crate::config::paths::Paths;
use crate::error::{Diagnose, Failure, chain};
use crate::namespaces::user::{Mapping, UserError};
use crate::registry::{self, RegistryError};
use crate::vmm::error::VmmError;
use crate::vmm::probe;

/// The versions that this machine is taken to be able to run, e.g. `1,2`, in place of
/// trying it: for whoever prepares distros for another machine, and for tests.
const VARIABLE: &str = "WSLR_VERSIONS";

/// What is said where version 2 is chosen.
const DIFFERENCES: &str =
    "For information on key differences between the versions please see 'man wslr'\n";

/// Where a version that cannot run is refused.
const CONTEXT: &str = "Wsl/Service/RegisterDistro";

/// Why distros of a version cannot run here.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unavailable {
    /// The variable does not name the version.
    #[error("{VARIABLE} leaves it out")]
    LeftOut,
    /// The probe's guest did not come through.
    #[error(transparent)]
    Machine(#[from] VmmError),
    /// The user's processes cannot have a user namespace.
    #[error("this user cannot have a user namespace: {0}")]
    Users(#[from] UserError),
}

impl Diagnose for Unavailable {
    fn code(&self) -> &'static str {
        match self {
            Self::LeftOut => "E_INVALIDARG",
            Self::Machine(error) => error.code(),
            Self::Users(_) => "WSL_E_WSL1_NOT_SUPPORTED",
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::LeftOut => Some(format!("unset {VARIABLE}")),
            Self::Machine(error) => error.hint(),
            Self::Users(error) => error.hint(),
        }
    }
}

impl Unavailable {
    /// The reason and what would help, on one line.
    pub(super) fn line(&self) -> String {
        match self.hint() {
            Some(hint) => format!("{}; {hint}", chain(self)),
            None => chain(self),
        }
    }
}

/// The version that a new distro gets.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct Choice {
    /// 1 or 2.
    pub(super) version: u32,
    /// What the user is to know about it.
    pub(super) warnings: Vec<String>,
}

impl Choice {
    /// Tells the user what there is to know about it.
    pub(super) fn warn(&self) {
        self.warnings.iter().for_each(|warning| output::warning(warning));
    }
}

/// Tries whether version 1 can run here, and as whom. It takes milliseconds.
pub(super) fn version_1() -> Result<Mapping, Unavailable> {
    let mapping = Mapping::of_this_user();
    match given(1) {
        Some(true) => {}
        Some(false) => return Err(Unavailable::LeftOut),
        None => mapping.check(Path::new("/proc/self/exe"))?,
    }
    Ok(mapping)
}

/// Tries whether version 2 can run here. It takes milliseconds, at most [`probe::LIMIT`].
pub(super) fn version_2() -> Result<(), Unavailable> {
    match given(2) {
        Some(true) => Ok(()),
        Some(false) => Err(Unavailable::LeftOut),
        None => Ok(probe::run()?),
    }
}

/// Whether the variable, where it is set, names that version.
fn given(version: u32) -> Option<bool> {
    let versions = env::var(VARIABLE).ok().filter(|versions| !versions.is_empty())?;
    Some(versions.split(',').any(|named| named.trim() == version.to_string()))
}

/// Chooses the version of a new distro from what was asked for and what is set.
///
/// # Errors
/// Where the version that was asked for or set cannot run here, or none can.
pub(super) fn choose(asked: Option<u32>, set: Option<u32>) -> Result<Choice, Failure> {
    choose_with(asked, set, version_1, version_2)
}

fn choose_with(
    asked: Option<u32>,
    set: Option<u32>,
    version_1: impl FnOnce() -> Result<Mapping, Unavailable>,
    version_2: impl FnOnce() -> Result<(), Unavailable>,
) -> Result<Choice, Failure> {
    let first = |mut warnings: Vec<String>| {
        let mapping = version_1().map_err(|error| refused(1, &error, asked, &warnings))?;
        warnings.extend(mapping.warning());
        Ok(Choice { version: 1, warnings })
    };
    let wanted = asked.or(set);
    if wanted == Some(1) {
        return first(Vec::new());
    }
    match version_2() {
        Ok(()) => Ok(Choice { version: 2, warnings: Vec::new() }),
        Err(error) if wanted.is_some() => Err(refused(2, &error, asked, &[])),
        Err(error) => first(vec![format!(
            "version 2 cannot run here, so this is version 1, without a virtual machine: {}",
            error.line()
        )]),
    }
}

/// The failure of an installation whose version cannot run.
fn refused(version: u32, error: &Unavailable, asked: Option<u32>, before: &[String]) -> Failure {
    let failure = Failure::new(CONTEXT, error);
    let instead = match (version, asked) {
        (2, Some(_)) => "; '--version 1' needs no virtual machine",
        (2, None) => "; 'wslr --set-default-version 1' needs no virtual machine",
        _ => "",
    };
    let mut message = format!("version {version} cannot run here: {}", failure.message);
    if !before.is_empty() {
        message += "; nor can version 2, see 'wslr --status'";
    }
    let hint = format!("{}{instead}", failure.hint.as_deref().unwrap_or_default());
    let hint = Some(hint.trim_start_matches("; ").to_owned()).filter(|hint| !hint.is_empty());
    Failure { message, hint, ..failure }
}

/// Sets the version of the distros to come (`--set-default-version`).
pub(super) fn set_default(paths: &Paths, version: u32) -> Result<(), Failure> {
    announce(version)?;
    registry::update::<_, RegistryError>(paths, |registry| {
        registry.default_version = Some(version);
        Ok(())
    })
    .map_err(|error| Failure::new("Wsl/Service", &error))?;
    output::success()
}

/// Says what there is to know of a version that was chosen in words, and warns where
/// distros of it cannot run here or only with limits.
pub(super) fn announce(version: u32) -> Result<(), Failure> {
    if version == 2 {
        output::print(DIFFERENCES)?;
    }
    let tried = match version {
        1 => version_1().map(|mapping| mapping.warning()),
        _ => version_2().map(|()| None),
    };
    let warning = tried.unwrap_or_else(|error| {
        Some(format!("version {version} cannot run here: {}", error.line()))
    });
    warning.iter().for_each(|warning| output::warning(warning));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vmm::kvm::KvmError;

    fn own() -> Result<Mapping, Unavailable> {
        Ok(Mapping::Own)
    }

    fn no_namespace() -> Result<Mapping, Unavailable> {
        Err(UserError::Refused { reason: "not permitted".to_owned() }.into())
    }

    fn denied() -> Result<(), Unavailable> {
        Err(VmmError::from(KvmError::Denied).into())
    }

    fn untried() -> Result<(), Unavailable> {
        panic!("tried although the answer does not matter");
    }

    #[test]
    fn words_come_before_the_setting_and_the_setting_before_the_probe() {
        for (asked, set) in [(Some(1), Some(2)), (None, Some(1)), (Some(1), None)] {
            let choice = choose_with(asked, set, own, untried).unwrap();
            assert_eq!(choice, Choice { version: 1, warnings: Vec::new() });
        }
        for (asked, set) in [(Some(2), Some(1)), (None, Some(2)), (None, None)] {
            let choice = choose_with(asked, set, no_namespace, || Ok(())).unwrap();
            assert_eq!(choice, Choice { version: 2, warnings: Vec::new() });
        }
    }

    #[test]
    fn only_who_chose_nothing_gets_version_1_instead() {
        let choice = choose_with(None, None, own, denied).unwrap();
        let reason = "version 2 cannot run here, so this is version 1, without a virtual machine: \
            no permission to use /dev/kvm; run `sudo usermod -aG kvm $USER` and log in again";
        assert_eq!((choice.version, choice.warnings.len()), (1, 1));
        assert!(choice.warnings[0].starts_with(reason), "{:?}", choice.warnings);
        for (asked, set) in [(Some(2), None), (None, Some(2)), (Some(2), Some(1))] {
            let failure = choose_with(asked, set, own, denied).unwrap_err();
            assert_eq!(failure.message, "version 2 cannot run here: no permission to use /dev/kvm");
            assert_eq!(failure.code.unwrap(), "Wsl/Service/RegisterDistro/E_ACCESSDENIED");
            let instead = if asked.is_some() { "'--version 1'" } else { "--set-default-version 1" };
            assert!(failure.hint.unwrap().contains(instead));
        }
    }

    #[test]
    fn a_single_user_is_warned_and_a_machine_that_can_run_nothing_is_told_so() {
        let single = || Ok(Mapping::Single { reason: "no range".to_owned() });
        let choice = choose_with(Some(1), None, single, untried).unwrap();
        assert!(choice.warnings[0].starts_with("no range"));
        assert_eq!(choose_with(None, None, single, denied).unwrap().warnings.len(), 2);
        let failure = choose_with(Some(1), None, no_namespace, untried).unwrap_err();
        assert_eq!(
            failure.message,
            "version 1 cannot run here: this user cannot have a user namespace: not permitted"
        );
        let failure = choose_with(None, None, no_namespace, denied).unwrap_err();
        assert!(failure.message.ends_with("not permitted; nor can version 2, see 'wslr --status'"));
        assert_eq!(failure.code.unwrap(), "Wsl/Service/RegisterDistro/WSL_E_WSL1_NOT_SUPPORTED");
    }
}
