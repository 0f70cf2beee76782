//! `--status` and `--version` (behaviour reference 1.5).

use serde_json::json;

use super::output;
use crate::config::paths::Paths;
use crate::error::Failure;
use crate::registry::Registry;

/// The version that new distros get.
const DEFAULT_VERSION: u32 = 2;

/// Prints the default distro and what runs.
pub(super) fn status(paths: &Paths, json: bool) -> Result<(), Failure> {
    let registry = Registry::load(paths).map_err(|error| Failure::new("Wsl/Service", &error))?;
    let default = registry.default_distro().ok().map(|distro| distro.name.as_str());
    if json {
        return output::json(&json!({
            "defaultDistribution": default,
            "defaultVersion": DEFAULT_VERSION,
        }));
    }
    let mut text = String::new();
    if let Some(name) = default {
        text.push_str(&format!("Default Distribution: {name}\n"));
    }
    text.push_str(&format!("Default Version: {DEFAULT_VERSION}\n"));
    output::print(&text)
}

/// Prints the versions of the parts.
pub(super) fn version(_paths: &Paths, json: bool) -> Result<(), Failure> {
    let version = env!("CARGO_PKG_VERSION");
    if json {
        return output::json(&json!({ "wslr": version }));
    }
    output::print(&format!("WSL version: {version}\n"))
}
