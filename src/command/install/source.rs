//! The sources of a manifest's entry, one after the other until one answers.

use std::fs::{self, File};
use std::path::PathBuf;

use super::{Context, disk};
use crate::archive::keyring::Family;
use crate::archive::{self, ArchiveError, Repository, assemble};
use crate::command::output;
use crate::download::{Download, DownloadError, Location, Sha256};
use crate::error::Failure;
use crate::ext4;
use crate::manifest::{Distro, Image, Source};
use crate::registry::{Details, Installation};

/// The largest image, in bytes.
const IMAGE_LIMIT: u64 = 64 << 30;

/// An image on this machine. One that was downloaded is deleted with this value.
struct Fetched {
    file: File,
    downloaded: Option<PathBuf>,
}

impl Drop for Fetched {
    fn drop(&mut self) {
        if let Some(path) = &self.downloaded {
            let _ = fs::remove_file(path);
        }
    }
}

/// Writes the disk from the first source that answers.
pub(super) fn write(
    context: &Context<'_>,
    installation: &Installation,
    options: ext4::Options,
    entry: &Distro,
) -> Result<Details, Failure> {
    let failed = |error: &DownloadError| Failure::new("Wsl/InstallDistro", error);
    let mut announced = false;
    let mut sources = entry.sources.iter().peekable();
    while let Some(source) = sources.next() {
        match source {
            Source::Image(image) => match fetch(context, entry, image, &mut announced)? {
                Ok(fetched) => {
                    let length = fetched.file.metadata().ok().map(|metadata| metadata.len());
                    output::print(&format!("Installing: {}\n", entry.friendly_name))?;
                    return disk::unpack(context, installation, options, &fetched.file, length);
                }
                Err(error) if error.is_unavailable() && sources.peek().is_some() => {
                    tell_next(entry, &error, sources.peek().copied());
                }
                Err(error) => return Err(failed(&error)),
            },
            Source::Archive(source) => {
                announce(entry, &mut announced)?;
                let source = mirrored(context, source);
                let result = packages(context, installation, &source);
                let repository = result.map_err(|error| match error {
                    PackagesError::Archive(error) => Failure::new("Wsl/InstallDistro", &error),
                    PackagesError::Failure(failure) => failure,
                })?;
                output::print(&format!("Installing: {}\n", entry.friendly_name))?;
                return disk::put_together(installation, options, &repository, &entry.name);
            }
        }
    }
    // An entry without a source is not in the catalog.
    Err(Failure::plain(format!("'{}' has no source", entry.name)).with_code("Wsl/E_UNEXPECTED"))
}

/// The source by way of the mirror that the user has set.
fn mirrored(context: &Context<'_>, source: &archive::Source) -> archive::Source {
    let mirror = match source.keyring {
        Family::Debian => &context.config.debian_mirror,
        Family::Ubuntu => &context.config.ubuntu_mirror,
    };
    source.clone().with_configured_mirror(mirror.as_deref())
}

enum PackagesError {
    Archive(ArchiveError),
    Failure(Failure),
}

impl From<ArchiveError> for PackagesError {
    fn from(error: ArchiveError) -> Self {
        Self::Archive(error)
    }
}

/// Fetches what a distro of this archive needs.
fn packages<'a>(
    context: &'a Context<'_>,
    installation: &Installation,
    source: &archive::Source,
) -> Result<Repository<'a>, PackagesError> {
    let cache = &context.paths.cache;
    let repository = Repository::open(source, &context.fetcher, cache, &context.progress)?;
    let packages = assemble::packages(&repository)?;
    let needed = packages.iter().map(|package| package.size).fold(0, u64::saturating_add);
    disk::check_space(installation, needed).map_err(PackagesError::Failure)?;
    repository.download(&packages)?;
    drop(packages);
    Ok(repository)
}

/// Fetches and checks an image. The outer error is one of this machine's own.
fn fetch(
    context: &Context<'_>,
    entry: &Distro,
    image: &Image,
    announced: &mut bool,
) -> Result<Result<Fetched, DownloadError>, Failure> {
    let location = match Location::parse(&image.url) {
        Ok(location) => location,
        Err(error) => return Ok(Err(error)),
    };
    let sha256 = match Sha256::parse(&image.sha256) {
        Ok(sha256) => sha256,
        Err(error) => return Ok(Err(error.into())),
    };
    match location {
        Location::File(path) => Ok(open(path, &image.url, sha256)),
        Location::Network(_) => {
            announce(entry, announced)?;
            Ok(download(context, entry, image, sha256))
        }
    }
}

/// Opens and checks an image on this machine.
fn open(path: PathBuf, url: &str, expected: Sha256) -> Result<Fetched, DownloadError> {
    let read = || -> std::io::Result<(File, Sha256)> {
        let mut file = File::open(&path)?;
        let actual = Sha256::of(&mut file)?;
        std::io::Seek::rewind(&mut file)?;
        Ok((file, actual))
    };
    let (file, actual) = read().map_err(|source| DownloadError::Read { path, source })?;
    if actual != expected {
        return Err(DownloadError::Digest { url: url.to_owned(), expected, actual });
    }
    Ok(Fetched { file, downloaded: None })
}

fn download(
    context: &Context<'_>,
    entry: &Distro,
    image: &Image,
    sha256: Sha256,
) -> Result<Fetched, DownloadError> {
    let path = context.paths.cache.join("images").join(format!("{sha256}.wsl"));
    let bar = context.progress.bytes(entry.friendly_name.clone(), None);
    context.fetcher.fetch(&Download {
        url: &image.url,
        destination: &path,
        sha256: Some(sha256),
        size: None,
        limit: IMAGE_LIMIT,
        bar: Some(&bar),
    })?;
    let file =
        File::open(&path).map_err(|source| DownloadError::Read { path: path.clone(), source })?;
    Ok(Fetched { file, downloaded: Some(path) })
}

/// Says once that something is downloaded (B068).
fn announce(entry: &Distro, announced: &mut bool) -> Result<(), Failure> {
    if std::mem::replace(announced, true) {
        return Ok(());
    }
    output::print(&format!("Downloading: {}\n", entry.friendly_name))
}

/// Tells which source comes next, and why.
fn tell_next(entry: &Distro, error: &DownloadError, next: Option<&Source>) {
    let next = match next {
        Some(Source::Archive(source)) => {
            format!("it is put together from the package archive '{}' instead", source.mirror)
        }
        Some(Source::Image(image)) => format!("'{}' is tried instead", image.url),
        None => return,
    };
    let name = &entry.friendly_name;
    output::warning(&format!("the image of {name} cannot be had: {error}; {next}"));
}
