//! The verbs' own options, from split words to [`Invocation`]s.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use super::error::GrammarError;
use super::invocation::{Export, ExportFormat, Import, Install, Invocation, List, Mount};
use super::manage;
use super::tail::Tail;
use crate::command::table::Verb;
use crate::config::size;
use crate::image::compressor::Compression;

/// Reads what follows `verb`, which was typed as `word`.
pub(super) fn parse(
    verb: &'static Verb,
    word: OsString,
    words: impl IntoIterator<Item = OsString>,
) -> Result<Invocation, GrammarError> {
    let mut tail = Tail::parse(verb, words)?;
    if tail.help {
        return Ok(Invocation::HelpFor(verb));
    }
    let json = tail.has("--json");
    let required = verb.operands.iter().filter(|operand| operand.required).count();
    if tail.operands.len() < required && verb.flag.long == "--import" {
        return Err(GrammarError::ValueRequired { argument: word });
    }
    if tail.operands.len() < required {
        return Err(GrammarError::ParameterRequired { argument: word });
    }
    let mut operands = std::mem::take(&mut tail.operands).into_iter();
    let first = operands.next();
    let name = || first.as_deref().map(text).unwrap_or_default();
    Ok(match verb.flag.long {
        "--export" => {
            let format = export_format(&mut tail)?;
            Invocation::Export(Export {
                name: name(),
                file: operands.next().unwrap_or_default(),
                format,
            })
        }
        "--import" => {
            let mut next = || operands.next().unwrap_or_default();
            let (location, file) = (PathBuf::from(next()), next());
            let version = tail.value("--version").map(|value| version(&value)).transpose()?;
            let vhd = tail.has("--vhd");
            if vhd && version == Some(1) {
                let [first, second] = ["--vhd", "--version 1"].map(str::to_owned);
                return Err(GrammarError::Conflict { first, second });
            }
            Invocation::Import(Import { name: name(), location, file, version, vhd })
        }
        "--import-in-place" => Invocation::ImportInPlace {
            name: name(),
            file: operands.next().unwrap_or_default().into(),
        },
        "--install" => Invocation::Install(install(tail, first)?),
        "--list" => Invocation::List(list(&tail)?),
        "--manage" => manage::parse(tail, name())?,
        "--mount" => Invocation::Mount(mount(tail, first.unwrap_or_default())?),
        "--unmount" => Invocation::Unmount { disk: first.map(PathBuf::from) },
        "--set-default" => Invocation::SetDefault { name: name() },
        "--set-default-version" => {
            Invocation::SetDefaultVersion { version: version(&first.unwrap_or_default())? }
        }
        "--set-version" => Invocation::SetVersion {
            name: name(),
            version: version(&operands.next().unwrap_or_default())?,
        },
        "--shutdown" => Invocation::Shutdown { force: tail.has("--force") },
        "--status" => Invocation::Status { json },
        "--terminate" => Invocation::Terminate { name: name() },
        "--unregister" => Invocation::Unregister { name: name() },
        "--update" => Invocation::Update,
        "--version" => Invocation::Version { json },
        _ => Invocation::Help,
    })
}

/// What an export makes (1.6).
fn export_format(tail: &mut Tail) -> Result<ExportFormat, GrammarError> {
    let vhd = tail.has("--vhd");
    let Some(value) = tail.value("--format") else {
        let archive = ExportFormat::Archive(Compression::None);
        return Ok(if vhd { ExportFormat::Disk } else { archive });
    };
    let compression = match value.as_bytes() {
        b"vhd" => return Ok(ExportFormat::Disk),
        b"tar" => Compression::None,
        b"tar.gz" => Compression::Gzip,
        b"tar.xz" => Compression::Xz,
        b"tar.zst" => Compression::Zstd,
        _ => return Err(GrammarError::Format { value }),
    };
    if vhd {
        return Err(GrammarError::Usage { first: "--format", second: "--vhd" });
    }
    Ok(ExportFormat::Archive(compression))
}

fn list(tail: &Tail) -> Result<List, GrammarError> {
    for (first, second) in [
        ("--quiet", "--verbose"),
        ("--all", "--running"),
        ("--verbose", "--online"),
        ("--all", "--online"),
        ("--running", "--online"),
    ] {
        if tail.has(first) && tail.has(second) {
            return Err(GrammarError::Usage { first, second });
        }
    }
    Ok(List {
        all: tail.has("--all"),
        json: tail.has("--json"),
        online: tail.has("--online"),
        quiet: tail.has("--quiet"),
        running: tail.has("--running"),
        verbose: tail.has("--verbose"),
    })
}

fn install(mut tail: Tail, operand: Option<OsString>) -> Result<Install, GrammarError> {
    let conflict = |first: &str, second: &str| GrammarError::Conflict {
        first: first.to_owned(),
        second: second.to_owned(),
    };
    let option = tail.value("--distribution");
    if let (Some(operand), Some(_)) = (&operand, &option) {
        return Err(conflict("--distribution", &text(operand)));
    }
    let distro = option.or(operand).as_deref().map(text);
    let no_distribution = tail.has("--no-distribution");
    let from_file = tail.value("--from-file");
    match (&distro, &from_file) {
        (Some(distro), _) if no_distribution => return Err(conflict("--no-distribution", distro)),
        (_, Some(_)) if no_distribution => {
            return Err(conflict("--no-distribution", "--from-file"));
        }
        (Some(distro), Some(_)) => return Err(conflict("--from-file", distro)),
        _ => {}
    }
    let version = tail.value("--version").map(|value| version(&value)).transpose()?;
    if version == Some(1) && tail.has("--vhd-size") {
        return Err(conflict("--vhd-size", "--version 1"));
    }
    let size = tail.value("--vhd-size").map(|value| size::parse(&text(&value))).transpose()?;
    Ok(Install {
        distro,
        from_file,
        location: tail.value("--location").map(PathBuf::from),
        name: tail.value("--name").as_deref().map(text),
        no_distribution,
        no_launch: tail.has("--no-launch"),
        size,
        version,
    })
}

fn mount(mut tail: Tail, disk: OsString) -> Result<Mount, GrammarError> {
    let bare = tail.has("--bare");
    for option in ["--name", "--type", "--options", "--partition"] {
        if bare && tail.has(option) {
            let [first, second] = ["--bare", option].map(str::to_owned);
            return Err(GrammarError::Conflict { first, second });
        }
    }
    let partition = tail.value("--partition").map(|value| {
        let number = text(&value).parse().ok().filter(|number| *number > 0);
        number.ok_or(GrammarError::Parameter { argument: "--partition", value })
    });
    let mut word = |option: &str| tail.value(option).as_deref().map(text);
    Ok(Mount {
        name: word("--name"),
        kind: word("--type"),
        options: word("--options").unwrap_or_default(),
        partition: partition.transpose()?,
        disk: disk.into(),
        vhd: tail.has("--vhd"),
        bare,
    })
}

/// The version of a distro (1.3).
fn version(value: &OsStr) -> Result<u32, GrammarError> {
    match value.as_bytes() {
        b"1" => Ok(1),
        b"2" => Ok(2),
        _ => Err(GrammarError::Version { value: value.to_owned() }),
    }
}

/// A name as text; bytes that are not UTF-8 make a name that no distro has.
pub(super) fn text(value: &OsStr) -> String {
    value.to_string_lossy().into_owned()
}
