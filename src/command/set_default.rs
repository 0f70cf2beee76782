//! `--set-default`.

use super::output;
use crate::config::paths::Paths;
use crate::error::Failure;
use crate::registry::{self, RegistryError};

/// Makes the distro of that name the default one (B038).
pub(super) fn set_default(paths: &Paths, name: &str) -> Result<(), Failure> {
    registry::update(paths, |registry| {
        registry.default = Some(registry.find(name)?.id);
        Ok(())
    })
    .map_err(|error: RegistryError| Failure::new("Wsl/Service", &error))?;
    output::success()
}
