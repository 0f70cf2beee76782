//! What the service knows from its user's files: the registered distros and the settings.
//!
//! Behind a trait, so that tests of the distros' life need no files.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use uuid::Uuid;

use crate::error::Failure;

/// A registered distro, as far as the service cares.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Record {
    /// Its name.
    pub name: String,
    /// Its disk.
    pub disk: PathBuf,
    /// Who commands run as, where nobody else is asked for.
    pub default_uid: u32,
    /// Its packages are configured. Not so before the first start of a distro that was
    /// assembled from a package archive.
    pub configured: bool,
}

/// What the user's `.wslconfig` asks of a machine about to start.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Settings {
    /// Memory in bytes.
    pub memory: u64,
    /// Virtual processors.
    pub processors: u32,
    /// A kernel of the user's own.
    pub kernel: Option<PathBuf>,
    /// Appended to the kernel's command line.
    pub command_line: String,
    /// How long a machine without distros lives on; `None` is for ever.
    pub machine_idle: Option<Duration>,
    /// How long a distro without sessions lives on; `None` is for ever.
    pub distro_idle: Option<Duration>,
    /// How long the kernel may take to reach its init.
    pub boot_limit: Duration,
    /// How long a distro may take to take sessions.
    pub start_limit: Duration,
    /// What is wrong with the file, for the user.
    pub warnings: Vec<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            memory: 1 << 30,
            processors: 1,
            kernel: None,
            command_line: String::new(),
            machine_idle: Some(Duration::from_secs(60)),
            distro_idle: Some(Duration::from_secs(15)),
            boot_limit: Duration::from_secs(30),
            start_limit: Duration::from_secs(60),
            warnings: Vec::new(),
        }
    }
}

impl Settings {
    /// How long the guest may take to stop something in good order: a sixth of the time
    /// to start it, which leaves 10 s by default and follows a slow host.
    #[must_use]
    pub fn stop_limit(&self) -> Duration {
        (self.start_limit / 6).max(Duration::from_secs(2))
    }
}

/// Where the service looks things up.
pub trait Host: fmt::Debug + Send + Sync {
    /// The registered distro of that id.
    ///
    /// # Errors
    /// Where there is none, or the registry cannot be read.
    fn find(&self, distro: Uuid) -> Result<Record, Failure>;

    /// Notes that the distro's packages are configured.
    ///
    /// # Errors
    /// Where the registry cannot be written.
    fn set_configured(&self, distro: Uuid) -> Result<(), Failure>;

    /// The settings as they are now.
    fn settings(&self) -> Settings;
}
