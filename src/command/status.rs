//! `--status` and `--version` (behaviour reference 1.5).
//!
//! Beyond `wsl`, the status tells of each version whether distros of it can run here, how,
//! and what would help where they cannot.

use std::fmt::Write as _;
use std::fs;

use serde_json::{Value, json};

use super::versions::{self, Unavailable};
use super::{client, distro, output};
use crate::config::paths::Paths;
use crate::error::{Diagnose, Failure, chain};
use crate::kernel;
use crate::namespaces::user::Mapping;
use crate::network::ports::Forwarded;
use crate::protocol::client::RunningDistro;

/// Prints the defaults, what can run, and what runs.
pub(super) fn status(paths: &Paths, json: bool) -> Result<(), Failure> {
    let registry = distro::load(paths)?;
    let default = registry.default_distro().ok().map(|distro| distro.name.as_str());
    let (first, second) = (versions::version_1(), versions::version_2());
    let status = client::status(paths, true)?;
    let running: Vec<(&str, &RunningDistro)> = status
        .iter()
        .flat_map(|status| &status.distros)
        .filter_map(|running| Some((registry.by_id(running.distro).ok()?.name.as_str(), running)))
        .collect();
    let usual = if second.is_ok() { 2 } else { 1 };
    let default_version = registry.default_version.unwrap_or(usual);
    if !json {
        let mut text = String::new();
        if let Some(name) = default {
            _ = writeln!(text, "Default Distribution: {name}");
        }
        _ = writeln!(text, "Default Version: {default_version}");
        let first = first.as_ref().map_or_else(no, users);
        let second = second.as_ref().map_or_else(no, |()| "yes".to_owned());
        _ = writeln!(text, "Version 1 can run: {first}\nVersion 2 can run: {second}");
        for (name, running) in running {
            _ = writeln!(text, "Running: {name} ({})", reasons(running));
        }
        return output::print(&text);
    }
    let machine = status.as_ref().and_then(|status| status.machine.as_ref());
    let ports: Vec<Value> = status
        .iter()
        .flat_map(|status| &status.ports)
        .map(|port| port_json(port, registry.by_id(port.distro).ok().map(|one| &*one.name)))
        .collect();
    output::json(&json!({
        "defaultDistribution": default,
        "defaultVersion": default_version,
        "versions": [
            version_json(1, first.as_ref().err(), first.as_ref().ok().map(users_json)),
            version_json(2, second.as_ref().err(), None),
        ],
        "running": running.iter().map(|(name, _)| name).collect::<Vec<_>>(),
        "uses": running
            .iter()
            .map(|(name, running)| json!({
                "name": name,
                "sessions": running.sessions,
                "uses": running.uses,
            }))
            .collect::<Vec<_>>(),
        "ports": ports,
        "service": status.as_ref().map(|status| json!({ "process": status.process })),
        "machine": machine.map(|machine| json!({
            "kernel": machine.kernel,
            "memory": machine.memory,
            "processors": machine.processors,
        })),
    }))
}

/// Why a distro has not been ended.
fn reasons(running: &RunningDistro) -> String {
    let sessions = match running.sessions {
        0 => None,
        1 => Some("1 session".to_owned()),
        count => Some(format!("{count} sessions")),
    };
    let reasons: Vec<String> = sessions.into_iter().chain(running.uses.iter().cloned()).collect();
    if reasons.is_empty() { "idle".to_owned() } else { reasons.join("; ") }
}

/// A port that a distro listens on.
fn port_json(port: &Forwarded, distro: Option<&str>) -> Value {
    json!({
        "protocol": port.transport,
        "port": port.port,
        "distribution": distro,
        "address": port.address,
        "process": port.process,
        "state": if port.problem.is_none() { "active" } else { "wanted" },
        "reason": port.problem,
    })
}

fn no(error: &Unavailable) -> String {
    format!("no, {}", error.line())
}

/// Whose the files of a version 1 distro are, for people.
fn users(mapping: &Mapping) -> String {
    match mapping {
        Mapping::Own => "yes, as root".to_owned(),
        Mapping::Range { users, .. } => {
            let count: u64 = users.iter().map(|range| u64::from(range.count)).sum();
            format!("yes, with {count} users of /etc/subuid")
        }
        Mapping::Single { reason } => format!("yes, with one user only, since {reason}"),
    }
}

/// The same for programs.
fn users_json(mapping: &Mapping) -> Value {
    let (kind, count, reason) = match mapping {
        Mapping::Own => ("own", None, None),
        Mapping::Range { users, .. } => {
            ("range", Some(users.iter().map(|range| u64::from(range.count)).sum::<u64>()), None)
        }
        Mapping::Single { reason } => ("single", Some(1), Some(reason)),
    };
    json!({ "mapping": kind, "count": count, "reason": reason })
}

fn version_json(version: u32, error: Option<&Unavailable>, users: Option<Value>) -> Value {
    json!({
        "version": version,
        "available": error.is_none(),
        "reason": error.map(|error| chain(error)),
        "remedy": error.and_then(Diagnose::hint),
        "users": users,
    })
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
