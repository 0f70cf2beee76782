//! The command line: grammar, verbs, and what they print.
//!
//! [`main`] is the life of one command: read the words, do what they ask, tell how it
//! ended. Data goes to standard output; errors to standard error as `wslr: <message>`, a
//! hint and an `Error code:` line, with status 255 (behaviour reference 1.1).

mod capture;
pub mod client;
mod distro;
mod export;
mod first_start;
mod grammar;
mod install;
mod list;
mod manage;
mod mount;
mod output;
mod proxy;
pub mod run;
mod signals;
mod status;
mod table;
mod usage;
mod versions;

use std::env;
use std::ffi::OsString;
use std::process::ExitCode;

use crate::config::paths::Paths;
use crate::error::Failure;

pub use grammar::{
    Export, ExportFormat, Import, Install, Invocation, List, Manage, ManageAction, Mount, Run,
};
pub use table::{Flag, OPTIONS, Operand, VERBS, Values, Verb};
pub use usage::usage;

/// The status of every failure of the tool itself (`wsl`'s -1), which callers can tell
/// from most statuses of Linux commands.
pub const FAILURE: u8 = 255;

/// Runs one command line, without the executable's name.
#[must_use]
pub fn main(arguments: Vec<OsString>) -> ExitCode {
    match execute(arguments) {
        Ok(status) => status,
        Err(failure) => {
            output::failure(&failure);
            ExitCode::from(FAILURE)
        }
    }
}

fn execute(arguments: Vec<OsString>) -> Result<ExitCode, Failure> {
    let invocation = grammar::parse(arguments, env::var_os("HOME").as_deref())
        .map_err(|error| error.failure())?;
    let paths = || Paths::from_environment().map_err(|error| Failure::new("Wsl", &error));
    match invocation {
        Invocation::Help => output::print(&usage::usage())?,
        Invocation::HelpFor(verb) => output::print(&usage::of_verb(verb))?,
        Invocation::List(list) => list::list(&paths()?, &list)?,
        Invocation::Manage(manage) => return manage::manage(&paths()?, manage),
        Invocation::Mount(mount) => return mount::mount(&paths()?, mount),
        Invocation::Unmount { disk } => mount::unmount(&paths()?, disk.as_deref())?,
        Invocation::SetDefault { name } => distro::set_default(&paths()?, &name)?,
        Invocation::SetDefaultVersion { version } => {
            versions::set_default(&paths()?, version)?;
        }
        Invocation::SetVersion { name, version } => {
            distro::set_version(&paths()?, &name, version)?;
        }
        Invocation::Status { json } => status::status(&paths()?, json)?,
        Invocation::Update => install::update(&paths()?)?,
        Invocation::Version { json } => status::version(&paths()?, json)?,
        Invocation::Install(install) => return install::install(&paths()?, install),
        Invocation::Export(export) => export::export(&paths()?, &export)?,
        Invocation::Import(import) => install::import(&paths()?, &import)?,
        Invocation::ImportInPlace { name, file } => {
            install::import_in_place(&paths()?, &name, &file)?;
        }
        Invocation::Run(run) => return distro::run(&paths()?, run),
        Invocation::Shutdown { force } => distro::shutdown(&paths()?, force)?,
        Invocation::Terminate { name } => distro::terminate(&paths()?, &name)?,
        Invocation::Unregister { name } => distro::unregister(&paths()?, &name)?,
    }
    Ok(ExitCode::SUCCESS)
}
