//! `--install` (behaviour reference 1.10).
//!
//! The name and the place are reserved before anything is fetched; the disk is written
//! beside its final name; one replacement of the registry makes the distro usable. A kill
//! at any instant leaves a distro that is installed or one that is not.

mod content;
mod disk;
mod error;
mod import;
mod prepare;
mod source;

use std::path::Path;
use std::process::ExitCode;

use super::grammar::{self, Import, Install, Selection};
use super::{distro, output, versions};
use crate::config::paths::Paths;
use crate::config::wslconfig::WslConfig;
use crate::download::Fetcher;
use crate::error::Failure;
use crate::ext4;
use crate::protocol::session::{Directory, Program};
use crate::registry::{Distro, Installation, Plan, RegistryError};
use crate::terminal::progress::Progress;

use self::content::Content;
use crate::terminal::interrupt::Guard;

pub(super) use self::prepare::update;

/// What all steps of an installation use.
struct Context<'a> {
    paths: &'a Paths,
    config: WslConfig,
    fetcher: Fetcher,
    progress: Progress,
}

impl<'a> Context<'a> {
    fn new(paths: &'a Paths) -> Result<Self, Failure> {
        let config = WslConfig::load(paths);
        let fetcher = Fetcher::new().map_err(|error| Failure::new("Wsl", &error))?;
        Ok(Self { paths, config, fetcher, progress: Progress::on_terminal() })
    }
}

/// Installs a distro and opens it; gives the status of its shell.
pub(super) fn install(paths: &Paths, install: Install) -> Result<ExitCode, Failure> {
    let context = Context::new(paths)?;
    if install.no_launch || install.no_distribution {
        // Else the service tells them, when the distro is opened.
        context.config.warnings.iter().for_each(|warning| output::warning(warning));
    }
    let set = distro::load(paths)?.default_version;
    let choice = versions::choose(install.version, set)?;
    if install.no_distribution {
        if choice.version == 2 {
            prepare::kernel(&context)?;
        }
        choice.warn();
        output::success()?;
        return Ok(ExitCode::SUCCESS);
    }
    let content = Content::choose(&context, &install)?;
    choice.warn();
    if choice.version == 1 && install.size.is_some() {
        output::warning("--vhd-size is ignored: a version 1 distribution has no disk");
    }
    let distro = register(&context, &install, choice.version, content)?;
    output::print(&format!(
        "Distribution successfully installed. It can be launched via 'wslr -d {}'\n",
        distro.name
    ))?;
    let prepared = match distro.version {
        1 => Ok(()),
        _ => prepare::kernel(&context),
    };
    if install.no_launch {
        if let Err(failure) = prepared {
            output::warning(&format!(
                "no kernel yet, 'wslr --update' fetches it: {}",
                failure.message
            ));
        }
        return Ok(ExitCode::SUCCESS);
    }
    prepared?;
    output::print(&format!("Launching {}...\n", distro.name))?;
    let run = grammar::Run {
        distro: Selection::Id(distro.id),
        user: None,
        directory: Some(Directory::Home),
        program: Program::Shell,
    };
    distro::launch(paths, distro.id, run)
}

/// Writes the disk and registers the distro.
fn register(
    context: &Context<'_>,
    install: &Install,
    version: u32,
    content: Content,
) -> Result<Distro, Failure> {
    let named = content.name().map(str::to_owned);
    let from_file = named.is_none();
    let plan = Plan {
        name: install.name.clone().or(named),
        location: install.location.clone(),
        install_path: context.config.distribution_install_path.clone(),
        version,
        disk: None,
        is_import: false,
    };
    let refused_here = |error| match error {
        RegistryError::AlreadyExists { .. } if !from_file => {
            Failure::new("Wsl/InstallDistro", &error)
        }
        error => refused(&error),
    };
    let installation = Installation::begin(context.paths, &plan).map_err(refused_here)?;
    let _guard = Guard::new(installation.undo())
        .map_err(|error| Failure::plain(error.to_string()).with_code("Wsl/E_FAIL"))?;
    let options = options(context, &installation, install.size);
    let details = content.write(context, &installation, options)?;
    if plan.name.is_none() && details.name.is_empty() {
        return Err(content.without_name());
    }
    installation.finish(details).map_err(refused_here)
}

/// The failure of a registration.
fn refused(error: &RegistryError) -> Failure {
    Failure::new(disk::REGISTER, error)
}

/// What a new disk is to be.
fn options(context: &Context<'_>, installation: &Installation, size: Option<u64>) -> ext4::Options {
    ext4::Options {
        size: size.unwrap_or(context.config.default_vhd_size),
        uuid: installation.id(),
        ..ext4::Options::default()
    }
}

/// Makes a distro of an archive or of a disk (`--import`).
pub(super) fn import(paths: &Paths, import: &Import) -> Result<(), Failure> {
    import::import(paths, import)
}

/// Makes a distro of a disk where it lies (`--import-in-place`).
pub(super) fn import_in_place(paths: &Paths, name: &str, file: &Path) -> Result<(), Failure> {
    import::import_in_place(paths, name, file)
}
