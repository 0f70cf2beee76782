//! Where state lives: one type that every part asks, so that a test can move it all.
//!
//! Data and cache follow the XDG base directories, the socket lives in the user's runtime
//! directory, and each of the four can be moved by its own environment variable.

use std::env;
use std::path::{Path, PathBuf};

use directories::BaseDirs;
use nix::unistd::Uid;

use crate::error::Diagnose;

/// The directories and files that belong to one user.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Paths {
    /// Downloads that can be fetched again (`WSLR_CACHE_DIR`).
    pub cache: PathBuf,
    /// The user's configuration file (`WSLR_CONFIG`).
    pub config: PathBuf,
    /// The registry, the disks and the kernels (`WSLR_DATA_DIR`).
    pub data: PathBuf,
    /// The service's socket and lock (`WSLR_RUNTIME_DIR`).
    pub runtime: PathBuf,
}

/// Why the paths could not be told.
#[derive(Debug, thiserror::Error)]
pub enum PathsError {
    /// No home directory is known.
    #[error("no home directory is known for user {uid}")]
    NoHome {
        /// The user.
        uid: u32,
    },
}

impl Diagnose for PathsError {
    fn code(&self) -> &'static str {
        "E_UNEXPECTED"
    }

    fn hint(&self) -> Option<String> {
        Some("set HOME".to_owned())
    }
}

impl Paths {
    /// The paths of the current user.
    ///
    /// # Errors
    /// Where neither `HOME` nor the password database names a home directory.
    pub fn from_environment() -> Result<Self, PathsError> {
        let uid = Uid::effective().as_raw();
        let base = BaseDirs::new().ok_or(PathsError::NoHome { uid })?;
        let runtime = base.runtime_dir().map_or_else(
            || env::temp_dir().join(format!("wslr-{uid}")),
            |directory| directory.join("wslr"),
        );
        let moved = |variable: &str, usual: PathBuf| {
            let path = env::var_os(variable)
                .filter(|value| !value.is_empty())
                .map_or(usual, PathBuf::from);
            // The service does not share the command's working directory.
            std::path::absolute(&path).unwrap_or(path)
        };
        Ok(Self {
            cache: moved("WSLR_CACHE_DIR", base.cache_dir().join("wslr")),
            config: moved("WSLR_CONFIG", base.home_dir().join(".wslconfig")),
            data: moved("WSLR_DATA_DIR", base.data_dir().join("wslr")),
            runtime: moved("WSLR_RUNTIME_DIR", runtime),
        })
    }

    /// The file that holds the registered distros.
    #[must_use]
    pub fn registry(&self) -> PathBuf {
        self.data.join("registry.json")
    }

    /// The directory with one directory per distro, where no other is asked for.
    #[must_use]
    pub fn distros(&self) -> PathBuf {
        self.data.join("distros")
    }

    /// The directory with one directory per kernel release.
    #[must_use]
    pub fn kernels(&self) -> PathBuf {
        self.data.join("kernels")
    }

    /// The service's socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.runtime.join("service.sock")
    }

    /// The list of the user's disks that are attached to the VM.
    #[must_use]
    pub fn mounts(&self) -> PathBuf {
        self.runtime.join("mounts.json")
    }

    /// The logs of the VM's kernel, newest last.
    #[must_use]
    pub fn logs(&self) -> PathBuf {
        self.data.join("logs")
    }

    /// The memory images of processes that crashed in the VM, where no other place is asked
    /// for.
    #[must_use]
    pub fn crashes(&self) -> PathBuf {
        self.data.join("crashes")
    }

    /// All of the user's state below one directory, as tests use it.
    #[must_use]
    pub fn below(directory: &Path) -> Self {
        Self {
            cache: directory.join("cache"),
            config: directory.join(".wslconfig"),
            data: directory.join("data"),
            runtime: directory.join("runtime"),
        }
    }
}
