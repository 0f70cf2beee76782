//! The kernel, at the first installation and by `--update`.

use super::Context;
use crate::command::output;
use crate::config::paths::Paths;
use crate::error::Failure;
use crate::kernel;

/// Fetches a kernel where none is prepared and the user has none of his own.
pub(super) fn kernel(context: &Context<'_>) -> Result<(), Failure> {
    if context.config.kernel.is_some() || kernel::store::current_version(context.paths).is_some() {
        return Ok(());
    }
    fetch(context).map(drop)
}

/// Fetches the current kernel (`--update`).
pub(in crate::command) fn update(paths: &Paths) -> Result<(), Failure> {
    let context = Context::new(paths)?;
    let updated = fetch(&context)?;
    output::print(&if updated.changed {
        format!("Kernel {} is installed.\n", updated.release)
    } else {
        format!("The most recent kernel, {}, is already installed.\n", updated.release)
    })
}

fn fetch(context: &Context<'_>) -> Result<kernel::Updated, Failure> {
    let source = kernel::update::source(context.config.debian_mirror.as_deref());
    kernel::update(context.paths, &source, &context.fetcher, &context.progress)
        .map_err(|error| Failure::new("Wsl/UpdatePackage", &error))
}
