//! A verified archive: its packages can be looked up, resolved and fetched.
//!
//! Indexes and packages are cached in `<cache>/archive/<sha256>` and hashed again
//! whenever they are used.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, SystemTime};

use super::ArchiveError;
use super::closure;
use super::compression;
use super::index::{Index, Package};
use super::keyring::Keyring;
use super::release::{Listed, Release};
use super::signature;
use super::source::Source;
use crate::download::{Download, DownloadError, Fetcher, Sha256};
use crate::terminal::progress::{Bar, Progress};

/// The architecture as Debian calls it.
pub const ARCHITECTURE: &str = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };

/// The largest `InRelease`.
const RELEASE_LIMIT: u64 = 16 << 20;

/// The largest index as text.
const INDEX_LIMIT: u64 = 1 << 30;

/// How many packages are fetched at once.
const PARALLEL: usize = 4;

/// How often one package is tried, while others arrive.
const ATTEMPTS: u32 = 3;

/// What a repository works with.
#[derive(Clone, Copy, Debug)]
pub struct Options<'a> {
    /// The user's cache directory.
    pub cache: &'a Path,
    /// What fetches.
    pub fetcher: &'a Fetcher,
    /// The keys that count; `None` for the compiled-in keys of the source's family.
    pub keyring: Option<&'a Keyring>,
    /// The time that signatures and `Valid-Until` are checked against.
    pub now: SystemTime,
    /// Where progress shows.
    pub progress: &'a Progress,
}

/// A verified archive.
#[derive(Debug)]
pub struct Repository<'a> {
    date: u64,
    index: Index,
    options: Options<'a>,
    source: Source,
}

impl<'a> Repository<'a> {
    /// Opens an archive with the compiled-in keys, now.
    ///
    /// # Errors
    /// As [`Repository::open_with`].
    pub fn open(
        source: &Source,
        fetcher: &'a Fetcher,
        cache: &'a Path,
        progress: &'a Progress,
    ) -> Result<Self, ArchiveError> {
        let now = SystemTime::now();
        Self::open_with(source, Options { cache, fetcher, keyring: None, now, progress })
    }

    /// Fetches and verifies every suite's `InRelease` and indexes.
    ///
    /// # Errors
    /// Where anything cannot be fetched, or is not signed, current and whole.
    pub fn open_with(source: &Source, options: Options<'a>) -> Result<Self, ArchiveError> {
        let compiled_in;
        let keyring = match options.keyring {
            Some(keyring) => keyring,
            None => {
                compiled_in = Keyring::of(source.keyring)?;
                &compiled_in
            }
        };
        let mut releases = Vec::new();
        for (mirror, suite) in source.locations() {
            let url = format!("{mirror}/dists/{suite}/InRelease");
            let message = options.fetcher.read(&url, RELEASE_LIMIT)?;
            let text = signature::verify(&message, keyring, options.now)
                .map_err(|source| ArchiveError::Signature { url: url.clone(), source })?;
            let release = Release::parse(&text, &url, suite, options.now)?;
            releases.push((mirror, suite, url, release));
        }
        let date = releases.iter().map(|(.., release)| release.date()).max().unwrap_or(0);
        let mut wanted = Vec::new();
        for (mirror, suite, url, release) in &releases {
            for component in &source.components {
                let found =
                    find_index(release, component).ok_or_else(|| ArchiveError::MissingIndex {
                        url: url.clone(),
                        component: component.clone(),
                        architecture: ARCHITECTURE,
                    })?;
                wanted.push(IndexFile { mirror, suite, release, path: found.0, listed: found.1 });
            }
        }
        let mut repository =
            Self { date, index: Index::default(), options, source: source.clone() };
        repository.read_indexes(&wanted)?;
        Ok(repository)
    }

    fn read_indexes(&mut self, wanted: &[IndexFile<'_>]) -> Result<(), ArchiveError> {
        let total = wanted.iter().map(|file| file.listed.size).sum();
        let bar = self.options.progress.bytes("package lists", Some(total));
        for file in wanted {
            let url = file.url();
            let path = self.cached(file.listed.sha256);
            if is_whole(&path, file.listed)? {
                bar.add(file.listed.size);
            } else {
                self.fetch_index(file, &path, &bar)?;
            }
            let cannot_read = |source| ArchiveError::Cache { path: path.clone(), source };
            let opened = File::open(&path).map_err(cannot_read)?;
            let text = compression::by_name(&file.path, opened).map_err(cannot_read)?;
            let text = BufReader::with_capacity(1 << 16, std::io::Read::take(text, INDEX_LIMIT));
            self.index.add(text, file.mirror, &url)?;
        }
        Ok(())
    }

    fn fetch_index(
        &self,
        file: &IndexFile<'_>,
        path: &Path,
        bar: &Bar,
    ) -> Result<(), ArchiveError> {
        let plain = file.url();
        let fetch = |url: &str| {
            self.options.fetcher.fetch(&Download {
                url,
                destination: path,
                sha256: Some(file.listed.sha256),
                size: Some(file.listed.size),
                limit: file.listed.size,
                bar: Some(bar),
            })
        };
        let result = match file.url_by_hash() {
            // Not every mirror keeps them, though the archive does.
            Some(url) => fetch(&url).or_else(|error| match error {
                DownloadError::Status { status: 404, .. } => fetch(&plain),
                error => Err(error),
            }),
            None => fetch(&plain),
        };
        result.map_err(|error| match error {
            DownloadError::Digest { url, expected, actual } => {
                ArchiveError::IndexHash { url, expected, actual }
            }
            DownloadError::Size { url, expected, actual } => {
                ArchiveError::Size { url, expected, actual }
            }
            error => error.into(),
        })
    }

    /// What was opened.
    #[must_use]
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// When the newest of its suites was made, in seconds since 1970.
    #[must_use]
    pub fn date(&self) -> u64 {
        self.date
    }

    /// Where progress shows.
    #[must_use]
    pub fn progress(&self) -> &Progress {
        self.options.progress
    }

    /// All packages.
    #[must_use]
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// The newest version of a package.
    ///
    /// # Errors
    /// Where there is none.
    pub fn package(&self, name: &str) -> Result<&Package, ArchiveError> {
        self.index.newest(name).ok_or_else(|| ArchiveError::MissingPackage {
            mirror: self.source.mirror.clone(),
            package: name.to_owned(),
        })
    }

    /// The wanted packages and all that they need, sorted by name.
    ///
    /// # Errors
    /// Where one does not exist, cannot be fulfilled, or excludes another.
    pub fn resolve<'n>(
        &'n self,
        wanted: impl IntoIterator<Item = &'n str>,
    ) -> Result<Vec<&'n Package>, ArchiveError> {
        closure::resolve(&self.index, &self.source.mirror, wanted)
    }

    /// Fetches packages, several at a time; gives their files in the same order.
    ///
    /// # Errors
    /// Where one cannot be fetched or is not what was signed.
    pub fn download(&self, packages: &[&Package]) -> Result<Vec<PathBuf>, ArchiveError> {
        let total = packages.iter().map(|package| package.size).sum();
        let bar = self.options.progress.bytes(format!("{} packages", packages.len()), Some(total));
        let next = AtomicUsize::new(0);
        let failed = AtomicBool::new(false);
        let failure = Mutex::new(None);
        thread::scope(|scope| {
            for _ in 0..PARALLEL.min(packages.len()) {
                scope.spawn(|| {
                    while !failed.load(Ordering::Relaxed) {
                        let Some(package) = packages.get(next.fetch_add(1, Ordering::Relaxed))
                        else {
                            return;
                        };
                        if let Err(error) = self.fetch_package(package, &bar) {
                            failed.store(true, Ordering::Relaxed);
                            if let Ok(mut failure) = failure.lock() {
                                failure.get_or_insert(error);
                            }
                        }
                    }
                });
            }
        });
        match failure.into_inner() {
            Ok(Some(error)) => Err(error),
            _ => Ok(packages.iter().map(|package| self.cached(package.sha256)).collect()),
        }
    }

    fn fetch_package(&self, package: &Package, bar: &Bar) -> Result<(), ArchiveError> {
        let path = self.cached(package.sha256);
        let listed = Listed { sha256: package.sha256, size: package.size };
        if is_whole(&path, listed)? {
            bar.add(package.size);
            return Ok(());
        }
        let download = Download {
            url: &package.url,
            destination: &path,
            sha256: Some(package.sha256),
            size: Some(package.size),
            limit: package.size,
            bar: Some(bar),
        };
        let mut attempt = 1;
        loop {
            match self.options.fetcher.fetch(&download) {
                Ok(()) => return Ok(()),
                Err(error) if attempt < ATTEMPTS && is_passing(&error) => {
                    thread::sleep(Duration::from_secs(u64::from(attempt)));
                    attempt += 1;
                }
                Err(DownloadError::Digest { url, expected, actual }) => {
                    return Err(ArchiveError::PackageHash { url, expected, actual });
                }
                Err(DownloadError::Size { url, expected, actual }) => {
                    return Err(ArchiveError::Size { url, expected, actual });
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn cached(&self, sha256: Sha256) -> PathBuf {
        self.options.cache.join("archive").join(sha256.to_string())
    }
}

struct IndexFile<'a> {
    mirror: &'a str,
    suite: &'a str,
    release: &'a Release,
    path: String,
    listed: Listed,
}

impl IndexFile<'_> {
    fn url(&self) -> String {
        format!("{}/dists/{}/{}", self.mirror, self.suite, self.path)
    }

    fn url_by_hash(&self) -> Option<String> {
        let directory = self.path.rsplit_once('/')?.0;
        self.release.has_by_hash().then(|| {
            let (mirror, suite, hash) = (self.mirror, self.suite, self.listed.sha256);
            format!("{mirror}/dists/{suite}/{directory}/by-hash/SHA256/{hash}")
        })
    }
}

fn find_index(release: &Release, component: &str) -> Option<(String, Listed)> {
    ["Packages.xz", "Packages.gz", "Packages"].iter().find_map(|name| {
        let path = format!("{component}/binary-{ARCHITECTURE}/{name}");
        Some((path.clone(), release.file(&path)?))
    })
}

/// Whether the file is there and is what is listed.
fn is_whole(path: &Path, listed: Listed) -> Result<bool, ArchiveError> {
    let error = |source| ArchiveError::Cache { path: path.to_owned(), source };
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(missing) if missing.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        Err(other) => return Err(error(other)),
    };
    if file.metadata().map_err(error)?.len() != listed.size {
        return Ok(false);
    }
    Ok(Sha256::of(&mut file).map_err(error)? == listed.sha256)
}

/// Whether the same request may succeed a moment later.
fn is_passing(error: &DownloadError) -> bool {
    match error {
        DownloadError::Connect { .. }
        | DownloadError::Interrupted { .. }
        | DownloadError::Timeout { .. } => true,
        DownloadError::Status { status, .. } => matches!(status, 429 | 500..=599),
        _ => false,
    }
}
