//! `--list` (behaviour reference 1.4).

use std::fmt::Write as _;

use serde::Serialize;
use serde_json::json;
use uuid::Uuid;

use super::grammar::List;
use super::{client, distro, output};
use crate::config::paths::Paths;
use crate::download::Fetcher;
use crate::error::Failure;
use crate::manifest::{Catalog, Settings};
use crate::protocol::client::RunningDistro;
use crate::registry::{Activity, Distro, Registry, RegistryError, State};

/// One row of a listing.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Row<'a> {
    name: &'a str,
    id: Uuid,
    default: bool,
    state: &'static str,
    version: u32,
    base_path: &'a std::path::Path,
    flavor: &'a str,
    os_version: &'a str,
    /// What keeps it running, where it runs.
    #[serde(flatten)]
    running: Option<Running<'a>>,
}

/// What a distro runs for.
#[derive(Debug, Serialize)]
struct Running<'a> {
    sessions: u32,
    uses: &'a [String],
}

/// Prints the listing that is asked for.
pub(super) fn list(paths: &Paths, list: &List) -> Result<(), Failure> {
    if list.online {
        return online(list);
    }
    let registry = distro::load(paths)?;
    let status = client::status(paths, list.json && list.verbose)?.unwrap_or_default();
    let rows = rows(&registry, list, &status.distros);
    if list.json {
        return output::json(&rows);
    }
    if list.quiet {
        return output::print(
            &rows.iter().map(|row| format!("{}\n", row.name)).collect::<String>(),
        );
    }
    if list.running && rows.is_empty() {
        return Err(Failure::plain("There are no running distributions."));
    }
    if rows.is_empty() {
        return Err(distro::no_default(RegistryError::NoDefault));
    }
    output::print(&if list.verbose { verbose(&rows) } else { plain(&rows) })
}

/// Prints what can be installed (B073).
fn online(list: &List) -> Result<(), Failure> {
    let fetcher = Fetcher::new().map_err(|error| Failure::new("Wsl", &error))?;
    let catalog = Catalog::load(&Settings::from_environment(), &fetcher)
        .map_err(|error| Failure::new("Wsl", &error))?;
    let distros = catalog.online();
    if list.json {
        let rows: Vec<_> = distros
            .iter()
            .map(|distro| json!({"name": distro.name, "friendlyName": distro.friendly_name}))
            .collect();
        return output::json(&rows);
    }
    if list.quiet {
        let names: String = distros.iter().map(|distro| format!("{}\n", distro.name)).collect();
        return output::print(&names);
    }
    let longest = distros.iter().map(|distro| distro.name.len()).max().unwrap_or(0);
    let width = longest.max("NAME".len()) + 4;
    let mut text = format!(
        "The following is a list of valid distributions that can be installed.\n\
         Install using 'wslr --install <Distro>'.\n\n\
         {:width$}FRIENDLY NAME\n",
        "NAME"
    );
    for distro in distros {
        _ = writeln!(text, "{:width$}{}", distro.name, distro.friendly_name);
    }
    output::print(&text)
}

/// The distros to show, the default one first.
fn rows<'a>(registry: &'a Registry, list: &List, running: &'a [RunningDistro]) -> Vec<Row<'a>> {
    let default = registry.default_distro().ok().map(|distro| distro.id);
    let of = |id: Uuid| running.iter().find(|running| running.distro == id);
    let shown = |distro: &&Distro| {
        let usable = distro.state == State::Installed
            && !distro.is_converting()
            && (of(distro.id).is_some() || distro.held_for().is_none());
        let wanted = usable || list.all || list.verbose;
        let abandoned = distro.state == State::Installing && distro.is_abandoned();
        wanted && !abandoned && (!list.running || list.verbose || of(distro.id).is_some())
    };
    let mut rows: Vec<Row<'_>> = registry
        .distros
        .iter()
        .filter(shown)
        .map(|distro| Row {
            name: &distro.name,
            id: distro.id,
            default: default == Some(distro.id),
            state: match distro.state {
                State::Installing => "Installing",
                State::Uninstalling => "Uninstalling",
                State::Installed if distro.is_converting() => "Converting",
                State::Installed if of(distro.id).is_some() => "Running",
                State::Installed if distro.held_for() == Some(Activity::Exporting) => "Exporting",
                State::Installed => "Stopped",
            },
            version: distro.version,
            base_path: &distro.base_path,
            flavor: &distro.flavor,
            os_version: &distro.os_version,
            // What it is used for is asked only where all is to be told.
            running: of(distro.id)
                .filter(|_| list.json && list.verbose)
                .map(|running| Running { sessions: running.sessions, uses: &running.uses }),
        })
        .collect();
    rows.sort_by_key(|row| !row.default);
    rows
}

fn plain(rows: &[Row<'_>]) -> String {
    let mut text = "Windows Subsystem for Linux Distributions:\n".to_owned();
    for row in rows {
        let mark = if row.default { " (Default)" } else { "" };
        _ = writeln!(text, "{}{mark}", row.name);
    }
    text
}

fn verbose(rows: &[Row<'_>]) -> String {
    let longest = rows.iter().map(|row| row.name.len()).max().unwrap_or(0).max("NAME".len());
    let width = longest + 4;
    let mut text = format!("{} {:width$}{:16}{}\n", ' ', "NAME", "STATE", "VERSION");
    for row in rows {
        let mark = if row.default { '*' } else { ' ' };
        _ = writeln!(text, "{mark} {:width$}{:16}{}", row.name, row.state, row.version);
    }
    text
}
