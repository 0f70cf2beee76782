//! What is recorded of one distro (behaviour reference 1.9).

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use uuid::Uuid;

use super::Activity;
use crate::error::Diagnose;

/// The name of a version 2 distro's disk.
const DISK: &str = "ext4.img";

/// The name of a version 1 distro's root directory.
const DIRECTORY: &str = "rootfs";

/// The name of the directory with a distro's snapshots.
pub(super) const SNAPSHOTS: &str = "wslr-snapshots";

/// The longest name, in bytes.
const MAXIMUM_NAME: usize = 256;

/// One distro's record.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Distro {
    /// Unique, and never reused.
    pub id: Uuid,
    /// Unique, ignoring case.
    pub name: String,
    /// 1: its root is a directory, 2: an ext4 disk of the virtual machine.
    pub version: u32,
    /// The directory that holds the root; absolute.
    pub base_path: PathBuf,
    /// The name of the disk or of the root directory in it.
    pub disk: String,
    /// The name, beside `disk`, of what is being made of it or was before, by a
    /// conversion; it is no part of the distro and may be deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leftover: Option<String>,
    /// The directory that it is being moved to, or was moved from. Where `base_path` has no
    /// root and this one has, the move has happened; else what it has of the distro's is no
    /// part of it and may be deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub elsewhere: Option<PathBuf>,
    /// All blocks of its disk are reserved on the host, and stay so: nothing is given back.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub reserved: bool,
    /// Whether it can be used.
    pub state: State,
    /// What it is held for by whoever has its root's lock; ask [`Distro::held_for`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub activity: Option<Activity>,
    /// The user that commands run as where none is named.
    #[serde(default)]
    pub default_uid: u32,
    /// The first interactive start runs the distro's own set-up (2.4).
    #[serde(default, rename = "runOOBE")]
    pub run_oobe: bool,
    /// `ID` of its os-release, or empty.
    #[serde(default)]
    pub flavor: String,
    /// `VERSION_ID` of its os-release, or empty.
    #[serde(default)]
    pub os_version: String,
    /// Its packages are set up. A distro that was put together from packages sets them up
    /// when it is first started.
    #[serde(default = "configured")]
    pub configured: bool,
    /// How many packages the first start sets up; 0 where none.
    #[serde(default)]
    pub packages: u64,
    /// What a newer version recorded.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// What is being done with a distro.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum State {
    /// It can be used.
    Installed,
    /// An installer writes its disk.
    Installing,
    /// Its disk is being deleted.
    Uninstalling,
}

/// A name that no distro can have.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("Invalid distribution name: \"{name}\".")]
pub struct NameError {
    /// As asked for.
    pub name: String,
}

impl Diagnose for NameError {
    fn code(&self) -> &'static str {
        "E_INVALIDARG"
    }

    fn hint(&self) -> Option<String> {
        Some("a name has up to 256 letters, digits, '.', '_' and '-'".to_owned())
    }
}

impl Distro {
    /// The disk or, of version 1, the root directory. Whoever uses it holds its `flock`.
    #[must_use]
    pub fn disk_path(&self) -> PathBuf {
        self.base_path.join(&self.disk)
    }

    /// The disk or the root directory while an installer writes it.
    #[must_use]
    pub fn partial_disk_path(&self) -> PathBuf {
        self.base_path.join(partial(&self.disk))
    }

    /// The directory with its snapshots.
    #[must_use]
    pub fn snapshots_path(&self) -> PathBuf {
        self.base_path.join(SNAPSHOTS)
    }

    /// Takes a move that was interrupted for done where it was.
    pub(super) fn settle(&mut self) {
        if let Some(elsewhere) = &mut self.elsewhere
            && self.base_path.join(&self.disk).symlink_metadata().is_err()
            && elsewhere.join(&self.disk).symlink_metadata().is_ok()
        {
            std::mem::swap(&mut self.base_path, elsewhere);
        }
    }
}

/// The name of the root of a distro of that version.
#[must_use]
pub fn root_name(version: u32) -> &'static str {
    if version == 1 { DIRECTORY } else { DISK }
}

/// The name of a root while it is written.
pub(super) fn partial(name: &str) -> String {
    format!("{name}.partial")
}

/// Checks what a distro is to be called (B056).
///
/// # Errors
/// Where it is empty, longer than 256 bytes, has other characters than letters, digits,
/// `.`, `_` and `-`, or is `Legacy`.
pub fn check_name(name: &str) -> Result<(), NameError> {
    let valid = (1..=MAXIMUM_NAME).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
        && !name.eq_ignore_ascii_case("Legacy");
    if valid { Ok(()) } else { Err(NameError { name: name.to_owned() }) }
}

fn configured() -> bool {
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn b056_names_are_letters_digits_and_three_marks() {
        for name in ["Debian", "Ubuntu-24.04", "a", "my_distro", &"x".repeat(256)] {
            assert_eq!(check_name(name), Ok(()));
        }
        for name in ["", "invalid!", "a b", "a/b", "é", "Legacy", "legacy", &"x".repeat(257)] {
            assert_eq!(check_name(name), Err(NameError { name: name.to_owned() }));
        }
    }
}
