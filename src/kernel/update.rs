//! `--update`: the newest kernel of Debian's stable release, fetched and prepared.
//!
//! The package `linux-image-cloud-amd64` depends on the newest image, in the main or the
//! security suite, whichever is newer; it changes nothing where that is prepared already.

use std::fs::File;
use std::path::Path;

use super::KernelError;
use super::package::{Package, PrepareError};
use super::store::Store;
use crate::archive::{self, Repository, Source, deb};
use crate::config::paths::Paths;
use crate::download::Fetcher;
use crate::ext4;
use crate::terminal::progress::Progress;

/// The release of Debian whose kernel is used.
const SUITE: &str = "trixie";
/// The package that depends on the newest kernel for virtual machines.
const PACKAGE: &str = "linux-image-cloud-amd64";
/// What the names of kernel packages begin with.
const IMAGE: &str = "linux-image-";

/// The apparent size of the modules disk, of which a kernel's modules fill some 120 MB.
const DISK_SIZE: u64 = 4 << 30;

/// What an update has found.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Updated {
    /// The kernel's release, as `uname -r` tells it.
    pub release: String,
    /// The version of its package.
    pub version: String,
    /// Whether it was not there before.
    pub changed: bool,
}

/// Where the kernel comes from, by way of the mirror that the environment names, or else
/// of `mirror`.
#[must_use]
pub fn source(mirror: Option<&str>) -> Source {
    Source::debian(SUITE).with_configured_mirror(mirror)
}

/// Fetches and prepares the newest kernel, and makes it the one that boots next.
///
/// A running machine keeps its kernel; at most one other is kept beside the new one.
///
/// # Errors
/// Where the archive cannot be reached or trusted, or the kernel cannot be prepared. What
/// was there before is then still there.
pub fn update(
    paths: &Paths,
    source: &Source,
    fetcher: &Fetcher,
    progress: &Progress,
) -> Result<Updated, KernelError> {
    let repository = Repository::open(source, fetcher, &paths.cache, progress)?;
    let image = newest(&repository)?;
    let version = image.version().to_owned();
    let store = Store::open(paths)?;
    let release = image.name().strip_prefix(IMAGE).unwrap_or_default().to_owned();
    if store.has(&release, &version) {
        store.select(&release)?;
        store.prune()?;
        return Ok(Updated { release, version, changed: false });
    }
    for file in repository.download(&[image])? {
        let package = read(&file)?;
        if package.release() != release {
            let reason = format!("it holds {} instead of {release}", package.release());
            return Err(KernelError::InvalidPackage { reason });
        }
        let partial = store.begin(&release)?;
        let prepared = prepare(&package, &partial, progress)
            .and_then(|()| store.finish(&partial, &release, &version));
        if prepared.is_err() {
            store.give_up(&partial);
        }
        prepared?;
    }
    store.select(&release)?;
    store.prune()?;
    Ok(Updated { release, version, changed: true })
}

/// The package of the newest kernel.
fn newest<'a>(repository: &'a Repository<'_>) -> Result<&'a archive::index::Package, KernelError> {
    let clauses = repository.package(PACKAGE)?.dependencies().unwrap_or_default();
    let relation = clauses
        .iter()
        .flat_map(|clause| &clause.alternatives)
        .find(|relation| relation.name.starts_with(IMAGE))
        .ok_or_else(|| KernelError::InvalidPackage {
            reason: format!("{PACKAGE} depends on no kernel"),
        })?;
    let accepted = repository
        .index()
        .versions(&relation.name)
        .rev()
        .find(|package| relation.accepts(package.version()));
    match accepted {
        Some(package) => Ok(package),
        None => Ok(repository.package(&relation.name)?),
    }
}

fn read(file: &Path) -> Result<Package, KernelError> {
    let invalid = |error| KernelError::InvalidPackage { reason: crate::error::chain(&error) };
    Package::read(deb::open(file).and_then(|package| package.data()).map_err(invalid)?)
}

fn prepare(package: &Package, partial: &Path, progress: &Progress) -> Result<(), KernelError> {
    let path = partial.join("modules.img");
    let disk_error = |source| KernelError::Disk { path: path.clone(), source };
    let file = File::create_new(&path).map_err(KernelError::file("create", &path))?;
    let options = ext4::Options {
        size: DISK_SIZE,
        label: "modules".to_owned(),
        journal: false,
        created: package.modified(),
        ..ext4::Options::default()
    };
    let mut disk = ext4::Writer::new(file, options).map_err(disk_error)?;
    let bar = progress.steps("preparing the kernel", 0);
    package
        .prepare(partial, &mut disk, |total| {
            bar.set_total(total as u64);
            bar.add(1);
        })
        .map_err(|error| match error {
            PrepareError::Kernel(error) => error,
            PrepareError::Disk(error) => disk_error(error),
        })?;
    disk.finish().map(drop).map_err(disk_error)
}
