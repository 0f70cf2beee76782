//! A whole distro from an archive's packages, as a stream of tree entries.
//!
//! What comes out is what `dpkg --unpack` of all packages into an empty merged-`/usr`
//! system leaves, without running anything: every package is `install ok unpacked` in
//! dpkg's database, configuration files wait as `.dpkg-new`. The first start runs
//! [`CONFIGURE`] inside the distro, which does what only the distro itself can: it runs the
//! packages' scripts.

mod database;
mod placer;
mod system;

use std::path::PathBuf;

use super::index::Package;
use super::{ArchiveError, Repository, closure, deb, minimal};
use crate::error::Diagnose;
use crate::image::tar::{TarError, UnpackError, read_entries};
use crate::tree::path::PathError;
use crate::tree::{Sink, Timestamp};

use self::database::Database;
use self::placer::Placer;

/// The script that configures the packages, run as root at the first start. It prints a
/// line `Setting up <package> ...` for each package, can be interrupted and run again at
/// any time, and removes itself when all is done.
pub const CONFIGURE: &str = "usr/lib/wslr/configure";

/// A file with the number of packages that [`CONFIGURE`] sets up, in decimal.
pub const PACKAGE_COUNT: &str = "usr/lib/wslr/packages";

/// What was assembled.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Assembled {
    /// The packages' names and versions, sorted by name.
    pub packages: Vec<(String, String)>,
}

/// Why a distro could not be assembled.
#[derive(Debug, thiserror::Error)]
pub enum AssembleError<E: std::error::Error + 'static> {
    /// The archive does not give what is needed.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// The data of a package is malformed.
    #[error("the data of the package '{package}' is not sound")]
    Data {
        /// The package.
        package: String,
        /// What is wrong.
        source: TarError,
    },
    /// Two packages have the same file, and neither says that it replaces the other's.
    #[error("the packages '{package}' and '{other}' both have the file '{path}'")]
    FileConflict {
        /// The file.
        path: String,
        /// The second package.
        package: String,
        /// The first.
        other: String,
    },
    /// A file's content cannot be read.
    #[error("cannot read the package '{package}'")]
    Read {
        /// The package.
        package: String,
        /// Why.
        source: std::io::Error,
    },
    /// A path leads through symbolic links without end.
    #[error("the package '{package}' has a file '{path}' behind a loop of symbolic links")]
    LinkLoop {
        /// The package.
        package: String,
        /// The path.
        path: String,
    },
    /// A package's name for a file cannot be in a tree.
    #[error("the package '{package}' has a file that cannot be")]
    Path {
        /// The package.
        package: String,
        /// What is wrong.
        source: PathError,
    },
    /// The tree cannot be written.
    #[error(transparent)]
    Sink(E),
}

impl<E: Diagnose + 'static> Diagnose for AssembleError<E> {
    fn code(&self) -> &'static str {
        match self {
            Self::Archive(error) => error.code(),
            Self::Data { .. }
            | Self::FileConflict { .. }
            | Self::LinkLoop { .. }
            | Self::Path { .. } => "ERROR_INSTALL_PACKAGE_INVALID",
            Self::Read { source, .. } => crate::error::io_code(source),
            Self::Sink(error) => error.code(),
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Archive(error) => error.hint(),
            Self::Sink(error) => error.hint(),
            Self::Read { .. } => Some("run the command again".to_owned()),
            Self::Data { .. }
            | Self::FileConflict { .. }
            | Self::LinkLoop { .. }
            | Self::Path { .. } => {
                Some("the archive may be in the middle of a change: try again later".to_owned())
            }
        }
    }
}

/// The packages of a usable minimal distro of this archive.
///
/// # Errors
/// Where the archive does not have them or what they need.
pub fn packages<'r>(repository: &'r Repository<'_>) -> Result<Vec<&'r Package>, ArchiveError> {
    let index = repository.index();
    // Releases between the two layouts let one choose the package that converts a system or
    // the one that says it is converted: what is made here has no other layout. Elsewhere a
    // package of the base does either.
    let says_so = |(package, _): (&Package, _)| package.is_essential();
    let layout = index
        .newest("usr-is-merged")
        .map(Package::name)
        .filter(|name| !index.providers(name).any(says_so))
        .filter(|_| !closure::base(index).any(|name| name == "usrmerge"));
    let wanted = closure::base(index).chain(minimal::PACKAGES.iter().copied()).chain(layout);
    repository.resolve(wanted)
}

/// Fetches the packages of a usable minimal distro and puts them into `sink`, with
/// everything that makes it the distro `name`.
///
/// # Errors
/// Where a package cannot be had or is malformed, or the sink fails.
pub fn assemble<S: Sink>(
    repository: &Repository<'_>,
    name: &str,
    sink: &mut S,
) -> Result<Assembled, AssembleError<S::Error>> {
    assemble_packages(repository, &packages(repository)?, name, sink)
}

/// As [`assemble`], with just the given packages.
///
/// # Errors
/// As [`assemble`].
pub fn assemble_packages<S: Sink>(
    repository: &Repository<'_>,
    packages: &[&Package],
    name: &str,
    sink: &mut S,
) -> Result<Assembled, AssembleError<S::Error>> {
    let files = repository.download(packages)?;
    let modified =
        Timestamp { seconds: i64::try_from(repository.date()).unwrap_or_default(), nanoseconds: 0 };
    let mut placer = Placer::new(sink, modified);
    let mut database = Database::new(packages);
    system::before(&mut placer)?;
    let total = packages.iter().map(|package| package.size).sum();
    let bar = repository.progress().bytes("unpacking", Some(total));
    for (package, file) in in_order(packages, files) {
        unpack(package, &file, &mut placer, &mut database)?;
        bar.add(package.size);
    }
    database.finish(&mut placer)?;
    system::after(&mut placer, repository.source(), name, &database)?;
    let assembled =
        packages.iter().map(|package| (package.name().into(), package.version().into())).collect();
    Ok(Assembled { packages: assembled })
}

/// The package that makes the directories comes first: the first entry decides the owner
/// and mode of a directory.
fn in_order<'p>(
    packages: &[&'p Package],
    files: Vec<PathBuf>,
) -> impl Iterator<Item = (&'p Package, PathBuf)> {
    let mut pairs: Vec<_> = packages.iter().copied().zip(files).collect();
    pairs.sort_by_key(|(package, _)| package.name() != "base-files");
    pairs.into_iter()
}

fn unpack<S: Sink>(
    package: &Package,
    file: &std::path::Path,
    placer: &mut Placer<'_, S>,
    database: &mut Database,
) -> Result<(), AssembleError<S::Error>> {
    let broken = |source| ArchiveError::Deb { path: file.to_owned(), source };
    let deb = deb::open(file).map_err(broken)?;
    let control = deb.control().map_err(broken)?;
    placer.begin(&control);
    let data = deb.data().map_err(broken)?;
    let mut sink = placer::PackageSink(placer);
    read_entries(data, &mut sink, |path| path).map_err(|error| match error {
        UnpackError::Archive(source) => {
            AssembleError::Data { package: package.name().to_owned(), source }
        }
        UnpackError::Sink(error) => error.into_inner(package.name()),
    })?;
    database.add(control, placer)
}
