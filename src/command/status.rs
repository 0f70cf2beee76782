//! `--status` and `--version` (behaviour reference 1.5).

use std::fmt::Write as _;
use std::fs;

use serde_json::json;

use super::{client, distro, output};
use crate::config::paths::Paths;
use crate::error::Failure;
use crate::kernel;

/// The version that new distros get.
const DEFAULT_VERSION: u32 = 2;

/// Prints the default distro and what runs.
pub(super) fn status(paths: &Paths, json: bool) -> Result<(), Failure> {
    let registry = distro::load(paths)?;
    let default = registry.default_distro().ok().map(|distro| distro.name.as_str());
    let status = client::status(paths)?;
    let machine = status.as_ref().and_then(|status| status.machine.as_ref());
    let running: Vec<&str> = status
        .iter()
        .flat_map(|status| &status.distros)
        .filter_map(|running| registry.by_id(running.distro).ok())
        .map(|distro| distro.name.as_str())
        .collect();
    if json {
        return output::json(&json!({
            "defaultDistribution": default,
            "defaultVersion": DEFAULT_VERSION,
            "running": running,
            "service": status.as_ref().map(|status| json!({ "process": status.process })),
            "machine": machine.map(|machine| json!({
                "kernel": machine.kernel,
                "memory": machine.memory,
                "processors": machine.processors,
            })),
        }));
    }
    let mut text = String::new();
    if let Some(name) = default {
        _ = writeln!(text, "Default Distribution: {name}");
    }
    _ = writeln!(text, "Default Version: {DEFAULT_VERSION}");
    output::print(&text)
}

/// Prints the versions of the parts, one per line (B041).
pub(super) fn version(paths: &Paths, json: bool) -> Result<(), Failure> {
    let version = env!("CARGO_PKG_VERSION");
    let kernel = kernel::store::current_version(paths).map(|(release, _)| release);
    let host = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let host = host.trim_end();
    if json {
        return output::json(&json!({ "wsl": version, "kernel": kernel, "host": host }));
    }
    let kernel = kernel.as_deref().unwrap_or("none; 'wslr --update' fetches it");
    output::print(&format!(
        "WSL version: {version}\nKernel version: {kernel}\nHost kernel version: {host}\n"
    ))
}
