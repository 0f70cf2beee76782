//! The prepared kernels of one user, on disk.
//!
//! `kernels/current` is a symbolic link to the release that boots. A release's directory
//! appears whole, by a rename, and holds `vmlinux`, `modules/NN-name.ko`, `modules.img`,
//! `package` (the version of the package it came from) and `lock`. Whoever uses a release
//! holds a shared lock on that file; one that is locked is not removed.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};

use super::KernelError;
use crate::config::paths::Paths;

/// How many releases are kept: the one that boots and the one before.
const KEPT: usize = 2;

/// The files without which a release is not there.
const FILES: [&str; 2] = ["vmlinux", "modules.img"];

/// A kernel that can be booted. It stays on disk as long as this value lives.
#[derive(Debug)]
pub struct Prepared {
    /// Its release, as `uname -r` tells it; empty for a custom kernel of no stored release.
    pub release: String,
    /// The uncompressed kernel.
    pub vmlinux: PathBuf,
    /// The modules that init loads, in order.
    pub modules: Vec<PathBuf>,
    /// The disk with all modules: the content of `/lib/modules/<release>` is its root.
    pub modules_disk: Option<PathBuf>,
    /// Keeps it from being removed.
    pub(super) _lock: Option<Flock<File>>,
}

/// The kernel that boots.
///
/// # Errors
/// Where none was prepared, or it cannot be read.
pub fn current(paths: &Paths) -> Result<Prepared, KernelError> {
    let kernels = paths.kernels();
    let link = kernels.join("current");
    // An update may remove what the link named a moment ago.
    for _ in 0..8 {
        let target = match fs::read_link(&link) {
            Ok(target) => target,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(KernelError::NotInstalled);
            }
            Err(error) => return Err(KernelError::file("read", link)(error)),
        };
        let directory = kernels.join(&target);
        let Some(lock) = lock(&directory, FlockArg::LockSharedNonblock)? else { continue };
        let release = target.to_string_lossy().into_owned();
        return whole(&directory, release, lock)?.ok_or(KernelError::NotInstalled);
    }
    Err(KernelError::NotInstalled)
}

/// A release that is stored, whether it is the one that boots or not.
///
/// # Errors
/// Where it cannot be read.
pub(super) fn stored(paths: &Paths, release: &str) -> Result<Option<Prepared>, KernelError> {
    let directory = paths.kernels().join(release);
    match lock(&directory, FlockArg::LockSharedNonblock)? {
        Some(lock) => whole(&directory, release.to_owned(), lock),
        None => Ok(None),
    }
}

/// A locked release; `None` where a file of it is missing.
fn whole(
    directory: &Path,
    release: String,
    lock: Flock<File>,
) -> Result<Option<Prepared>, KernelError> {
    if !FILES.iter().all(|name| directory.join(name).is_file()) {
        return Ok(None);
    }
    Ok(Some(Prepared {
        release,
        vmlinux: directory.join("vmlinux"),
        modules: list(&directory.join("modules"))?,
        modules_disk: Some(directory.join("modules.img")),
        _lock: Some(lock),
    }))
}

/// The version of the package that the current release was prepared from.
#[must_use]
pub fn current_version(paths: &Paths) -> Option<(String, String)> {
    let directory = paths.kernels().join("current");
    let release = fs::read_link(&directory).ok()?.to_string_lossy().into_owned();
    let version = fs::read_to_string(directory.join("package")).ok()?;
    Some((release, version.trim_end().to_owned()))
}

/// Locks a release; `None` where it is locked otherwise or has just gone.
fn lock(directory: &Path, how: FlockArg) -> Result<Option<Flock<File>>, KernelError> {
    let path = directory.join("lock");
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(KernelError::file("open", path)(error)),
    };
    match Flock::lock(file, how) {
        // The directory may have been removed before the lock was taken.
        Ok(lock) if path.exists() => Ok(Some(lock)),
        Ok(_) | Err((_, nix::Error::EWOULDBLOCK)) => Ok(None),
        Err((_, error)) => Err(KernelError::file("lock", path)(error.into())),
    }
}

fn list(directory: &Path) -> Result<Vec<PathBuf>, KernelError> {
    let read = || -> io::Result<Vec<PathBuf>> {
        let mut files = Vec::new();
        for entry in fs::read_dir(directory)? {
            files.push(entry?.path());
        }
        files.sort();
        Ok(files)
    };
    read().map_err(KernelError::file("list", directory))
}

/// The right to change what is stored: one process at a time.
#[derive(Debug)]
pub(super) struct Store {
    directory: PathBuf,
    _lock: Flock<File>,
}

impl Store {
    /// Waits until no other process changes the kernels, and removes what one that died
    /// has left half done.
    pub(super) fn open(paths: &Paths) -> Result<Self, KernelError> {
        let directory = paths.kernels();
        fs::create_dir_all(&directory).map_err(KernelError::file("create", &directory))?;
        let path = directory.join("lock");
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(KernelError::file("open", &path))?;
        let lock = Flock::lock(file, FlockArg::LockExclusive)
            .map_err(|(_, error)| KernelError::file("lock", path)(error.into()))?;
        let store = Self { directory, _lock: lock };
        for entry in list(&store.directory)? {
            if entry.to_string_lossy().ends_with(".partial") {
                remove(&entry)?;
            }
        }
        Ok(store)
    }

    /// Whether `release` is stored, made from that version of its package.
    pub(super) fn has(&self, release: &str, version: &str) -> bool {
        let directory = self.directory.join(release);
        let is_whole = FILES.iter().all(|name| directory.join(name).is_file());
        let package = fs::read_to_string(directory.join("package"));
        is_whole && package.is_ok_and(|text| text.trim_end() == version)
    }

    /// An empty directory to prepare a release in.
    pub(super) fn begin(&self, release: &str) -> Result<PathBuf, KernelError> {
        let partial = self.directory.join(format!(".{release}.partial"));
        remove(&partial)?;
        let modules = partial.join("modules");
        fs::create_dir_all(&modules).map_err(KernelError::file("create", &modules))?;
        Ok(partial)
    }

    /// Removes what could not be prepared; what cannot be removed the next update tries.
    pub(super) fn give_up(&self, partial: &Path) {
        let _ = remove(partial);
    }

    /// Makes what was prepared in `partial` a release.
    pub(super) fn finish(
        &self,
        partial: &Path,
        release: &str,
        version: &str,
    ) -> Result<(), KernelError> {
        for (name, content) in [("lock", String::new()), ("package", format!("{version}\n"))] {
            let path = partial.join(name);
            fs::write(&path, content).map_err(KernelError::file("write", path))?;
        }
        for entry in list(&partial.join("modules"))?.into_iter().chain(list(partial)?) {
            sync(&entry)?;
        }
        sync(partial)?;
        let path = self.directory.join(release);
        if path.exists() {
            // The same release from a newer package.
            let old = self.directory.join(format!(".{release}.old.partial"));
            fs::rename(&path, &old).map_err(KernelError::file("rename", &path))?;
        }
        fs::rename(partial, &path).map_err(KernelError::file("rename", &path))?;
        sync(&self.directory)
    }

    /// Makes a stored release the one that boots.
    pub(super) fn select(&self, release: &str) -> Result<(), KernelError> {
        let link = self.directory.join("current");
        let new = self.directory.join("current.partial");
        remove(&new)?;
        symlink(release, &new).map_err(KernelError::file("create", &new))?;
        fs::rename(&new, &link).map_err(KernelError::file("replace", &link))?;
        sync(&self.directory)
    }

    /// Removes all but the current release and the newest other, and none in use.
    pub(super) fn prune(&self) -> Result<(), KernelError> {
        let current = fs::read_link(self.directory.join("current")).unwrap_or_default();
        let mut others = Vec::new();
        for path in list(&self.directory)? {
            let is_link = path.is_symlink();
            if !is_link && path.join("package").exists() && !path.ends_with(&current) {
                let modified = path.metadata().and_then(|metadata| metadata.modified());
                others.push((modified.ok(), path));
            }
        }
        others.sort();
        let surplus = others.len().saturating_sub(KEPT - 1);
        for (_, path) in others.into_iter().take(surplus) {
            if let Some(_lock) = lock(&path, FlockArg::LockExclusiveNonblock)? {
                // Renamed first: half a release must not look like one.
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                let gone = self.directory.join(format!(".{name}.old.partial"));
                fs::rename(&path, &gone).map_err(KernelError::file("rename", &path))?;
                remove(&gone)?;
            }
        }
        Ok(())
    }
}

fn remove(path: &Path) -> Result<(), KernelError> {
    let result = match path.symlink_metadata() {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match result {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(KernelError::file("remove", path)(error))
        }
        _ => Ok(()),
    }
}

fn sync(path: &Path) -> Result<(), KernelError> {
    File::open(path).and_then(|file| file.sync_all()).map_err(KernelError::file("sync", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(store: &Store, release: &str, version: &str) {
        let partial = store.begin(release).unwrap();
        fs::write(partial.join("vmlinux"), version).unwrap();
        fs::write(partial.join("modules.img"), b"disk").unwrap();
        fs::write(partial.join("modules/00-a.ko"), b"a").unwrap();
        store.finish(&partial, release, version).unwrap();
        store.select(release).unwrap();
    }

    fn releases(paths: &Paths) -> Vec<String> {
        let names = list(&paths.kernels()).unwrap();
        let names = names.iter().map(|path| path.file_name().unwrap().to_string_lossy());
        names.filter(|name| name.starts_with('6')).map(|name| name.into_owned()).collect()
    }

    #[test]
    fn two_releases_are_kept_and_none_in_use_is_removed() {
        let directory = tempfile::tempdir().unwrap();
        let paths = Paths::below(directory.path());
        assert!(matches!(current(&paths), Err(KernelError::NotInstalled)));
        let store = Store::open(&paths).unwrap();
        add(&store, "6.1", "1");
        let used = current(&paths).unwrap();
        assert_eq!(used.modules, [paths.kernels().join("6.1/modules/00-a.ko")]);
        for release in ["6.2", "6.3", "6.4"] {
            add(&store, release, "1");
            store.prune().unwrap();
        }
        assert_eq!(current(&paths).unwrap().release, "6.4");
        assert!(used.vmlinux.exists());
        drop(used);
        store.prune().unwrap();
        assert_eq!(releases(&paths), ["6.3", "6.4"]);
    }

    #[test]
    fn a_half_prepared_release_is_never_seen() {
        let directory = tempfile::tempdir().unwrap();
        let paths = Paths::below(directory.path());
        let store = Store::open(&paths).unwrap();
        add(&store, "6.1", "1");
        let partial = store.begin("6.2").unwrap();
        drop(store);
        assert_eq!(current(&paths).unwrap().release, "6.1");
        let store = Store::open(&paths).unwrap();
        assert!(!partial.exists());
        assert!(store.has("6.1", "1") && !store.has("6.1", "2") && !store.has("6.2", "1"));
    }

    #[test]
    fn a_damaged_release_is_prepared_again() {
        let directory = tempfile::tempdir().unwrap();
        let paths = Paths::below(directory.path());
        let store = Store::open(&paths).unwrap();
        add(&store, "6.1", "1");
        fs::remove_file(paths.kernels().join("6.1/modules.img")).unwrap();
        assert!(matches!(current(&paths), Err(KernelError::NotInstalled)));
        assert!(!store.has("6.1", "1"));
        add(&store, "6.1", "1");
        assert!(store.has("6.1", "1") && current(&paths).is_ok());
        store.give_up(&store.begin("6.2").unwrap());
        assert!(!paths.kernels().join(".6.2.partial").exists());
    }

    #[test]
    fn a_new_version_of_a_release_replaces_it() {
        let directory = tempfile::tempdir().unwrap();
        let paths = Paths::below(directory.path());
        let store = Store::open(&paths).unwrap();
        add(&store, "6.1", "1");
        add(&store, "6.1", "2");
        drop(store);
        let store = Store::open(&paths).unwrap();
        store.prune().unwrap();
        assert_eq!(current_version(&paths), Some(("6.1".to_owned(), "2".to_owned())));
        assert_eq!(fs::read(current(&paths).unwrap().vmlinux).unwrap(), b"2");
        assert_eq!(list(&paths.kernels()).unwrap().len(), 3);
    }
}
