//! A distro on its way into the registry.
//!
//! [`Installation::begin`] makes the disk's file or the root directory, locks it, and
//! records the distro as being installed, all under the registry's lock. The lock of the
//! root lives as long as the installer: a record or a root without it belongs to an
//! installer that died, and the next installation clears it away. [`Installation::finish`] makes the distro usable
//! in one replacement of the registry.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::Map;
use uuid::Uuid;

use super::abandoned::clear_abandoned;
use super::distro::{SNAPSHOTS, root_name};
use super::lock::{failed, make_root};
use super::removal::{delete_disk, remove_directory};
use super::{Distro, Registry, RegistryError, State, check_name, update};
use crate::config::paths::Paths;

/// What is known of a distro before its content is.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Plan {
    /// Its name, where the content does not say it.
    pub name: Option<String>,
    /// Exactly the directory of its root (B078). For version 1 it is closed to others.
    pub location: Option<PathBuf>,
    /// The directory for one directory per distro, in place of the usual one.
    pub install_path: Option<PathBuf>,
    /// 1 for a root directory; anything else for a disk (version 2).
    pub version: u32,
    /// The name of the disk, where it is not the usual one.
    pub disk: Option<String>,
    /// The distro's own set-up is not run (1.7).
    pub is_import: bool,
}

/// What its content tells of a distro.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Details {
    /// Its name, where the plan had none.
    pub name: String,
    /// `ID` of its os-release.
    pub flavor: String,
    /// `VERSION_ID` of its os-release.
    pub os_version: String,
    /// How many packages the first start has to set up.
    pub packages: u64,
}

/// A distro being installed. Dropped unfinished, it leaves nothing.
#[derive(Debug)]
pub struct Installation {
    paths: Paths,
    record: Distro,
    file: File,
    finished: bool,
}

impl Installation {
    /// Reserves the name and the place, and clears away what dead installers left.
    ///
    /// # Errors
    /// Where the name or the place is taken or cannot be had.
    pub fn begin(paths: &Paths, plan: &Plan) -> Result<Self, RegistryError> {
        update(paths, |registry| {
            clear_abandoned(registry, paths);
            if let Some(name) = &plan.name {
                check_free(registry, name, None)?;
            }
            let id = Uuid::new_v4();
            let base = match (&plan.location, &plan.install_path) {
                (Some(location), _) => location.clone(),
                (None, Some(parent)) => parent.join(id.to_string()),
                (None, None) => paths.distros().join(id.to_string()),
            };
            fs::create_dir_all(&base).map_err(|source| failed("create", &base, source))?;
            let result = reserve(registry, &base, id, plan);
            if result.is_err() {
                remove_directory(&base);
            }
            let (record, file) = result?;
            registry.distros.push(record.clone());
            Ok(Self { paths: paths.clone(), record, file, finished: false })
        })
    }

    /// What the root is written to: a file, or an open directory; empty at first.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }

    /// 1 for a directory, 2 for a disk.
    #[must_use]
    pub fn version(&self) -> u32 {
        self.record.version
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.record.partial_disk_path()
    }

    /// The distro's id.
    #[must_use]
    pub fn id(&self) -> Uuid {
        self.record.id
    }

    /// Lets the distro be used as another one is: by the same user, set up as far.
    pub fn inherit(&mut self, from: &Distro) {
        self.record.default_uid = from.default_uid;
        self.record.run_oobe = from.run_oobe;
        self.record.other = from.other.clone();
    }

    /// Makes the distro usable: its root is complete and gets its final name. The first
    /// distro, and one that meets a dangling default, becomes the default (B040).
    ///
    /// # Errors
    /// Where the name from the content is invalid or taken, or a file cannot be written.
    /// Nothing is then left.
    pub fn finish(mut self, details: Details) -> Result<Distro, RegistryError> {
        let partial = self.record.partial_disk_path();
        let disk = self.record.disk_path();
        self.file.sync_all().map_err(|source| failed("write", &partial, source))?;
        let record = update::<_, RegistryError>(&self.paths, |registry| {
            let id = self.record.id;
            let name = match self.record.name.as_str() {
                "" => details.name,
                name => name.to_owned(),
            };
            check_free(registry, &name, Some(id))?;
            fs::rename(&partial, &disk)
                .and_then(|()| File::open(&self.record.base_path)?.sync_all())
                .map_err(|source| failed("create", &disk, source))?;
            if registry.default.is_none_or(|default| registry.by_id(default).is_err()) {
                registry.default = Some(id);
            }
            let record = registry.record(id).ok_or(RegistryError::NotFound)?;
            record.name = name;
            record.state = State::Installed;
            record.default_uid = self.record.default_uid;
            record.run_oobe = self.record.run_oobe;
            record.other = self.record.other.clone();
            record.flavor = details.flavor;
            record.os_version = details.os_version;
            record.configured = details.packages == 0;
            record.packages = details.packages;
            Ok(record.clone())
        })?;
        self.finished = true;
        Ok(record)
    }

    /// What undoes this installation when the process is told to end.
    pub fn undo(&self) -> impl FnOnce() + Send + 'static {
        let (paths, record) = (self.paths.clone(), self.record.clone());
        move || undo(&paths, &record)
    }
}

impl Drop for Installation {
    fn drop(&mut self) {
        if !self.finished {
            undo(&self.paths, &self.record);
        }
    }
}

/// Takes back an installation that has not become usable. What cannot be taken back now
/// is cleared away by the next installation.
fn undo(paths: &Paths, record: &Distro) {
    let _ = update::<_, RegistryError>(paths, |registry| {
        if registry.by_id(record.id).is_err() {
            delete_disk(record)?;
            registry.distros.retain(|distro| distro.id != record.id);
        }
        Ok(())
    });
}

/// Makes and locks the disk's file or the root directory in its directory.
fn reserve(
    registry: &Registry,
    base: &Path,
    id: Uuid,
    plan: &Plan,
) -> Result<(Distro, File), RegistryError> {
    let base = base.canonicalize().map_err(|source| failed("open", base, source))?;
    let same = |distro: &Distro| distro.base_path == base;
    if registry.distros.iter().any(same) {
        return Err(RegistryError::LocationInUse { path: base });
    }
    let version = if plan.version == 1 { 1 } else { 2 };
    let record = Distro {
        id,
        name: plan.name.clone().unwrap_or_default(),
        version,
        base_path: base,
        disk: plan.disk.clone().unwrap_or_else(|| root_name(version).to_owned()),
        leftover: None,
        elsewhere: None,
        reserved: false,
        state: State::Installing,
        activity: None,
        default_uid: 0,
        run_oobe: !plan.is_import,
        flavor: String::new(),
        os_version: String::new(),
        configured: true,
        packages: 0,
        other: Map::new(),
    };
    for name in [record.disk.as_str(), "ext4.vhdx", SNAPSHOTS] {
        let disk = record.base_path.join(name);
        if disk.symlink_metadata().is_ok() {
            return Err(RegistryError::DiskExists { path: disk });
        }
    }
    if version == 1 {
        make_private(&record.base_path)?;
    }
    let file = make_root(&record.partial_disk_path(), version == 1)?;
    Ok((record, file))
}

/// Closes the directory of a root directory to other users: its files are theirs to open
/// otherwise, set-user-ID programs among them.
pub(super) fn make_private(base: &Path) -> Result<(), RegistryError> {
    fs::set_permissions(base, Permissions::from_mode(0o700))
        .map_err(|source| failed("close to others", base, source))
}

/// Checks that a name is valid and nobody else's.
pub(super) fn check_free(
    registry: &Registry,
    name: &str,
    own: Option<Uuid>,
) -> Result<(), RegistryError> {
    check_name(name)?;
    let taken = registry
        .distros
        .iter()
        .any(|distro| Some(distro.id) != own && distro.name.eq_ignore_ascii_case(name));
    if taken { Err(RegistryError::AlreadyExists { name: name.to_owned() }) } else { Ok(()) }
}

#[cfg(test)]
mod tests;
