//! A disk that becomes a distro where it lies.

use std::fs::File;
use std::path::Path;

use serde_json::Map;
use uuid::Uuid;

use super::abandoned::clear_abandoned;
use super::installation::{Details, check_free};
use super::lock::failed;
use super::{Distro, RegistryError, State, update};
use crate::config::paths::Paths;

/// Registers the disk in a file as a version 2 distro (B051). The file's directory becomes
/// the distro's own; what else is in it stays its owner's. `lock` is the file's lock.
///
/// # Errors
/// Where the name is invalid or taken, the directory is another distro's, or the path has
/// no last part that is text.
pub fn adopt(
    paths: &Paths,
    disk: &Path,
    lock: &File,
    details: Details,
) -> Result<Distro, RegistryError> {
    update(paths, |registry| {
        clear_abandoned(registry, paths);
        check_free(registry, &details.name, None)?;
        let path = disk.canonicalize().map_err(|source| failed("open", disk, source))?;
        let name = path.file_name().and_then(|name| name.to_str());
        let (Some(base), Some(name)) = (path.parent(), name) else {
            return Err(failed("open", disk, std::io::ErrorKind::InvalidFilename.into()));
        };
        if registry.distros.iter().any(|distro| distro.base_path == base) {
            return Err(RegistryError::LocationInUse { path: base.to_owned() });
        }
        // What was checked is what is registered.
        lock.sync_all().map_err(|source| failed("write", disk, source))?;
        let record = Distro {
            id: Uuid::new_v4(),
            name: details.name,
            version: 2,
            base_path: base.to_owned(),
            disk: name.to_owned(),
            leftover: None,
            elsewhere: None,
            reserved: false,
            state: State::Installed,
            activity: None,
            default_uid: 0,
            run_oobe: false,
            flavor: details.flavor,
            os_version: details.os_version,
            configured: true,
            packages: 0,
            other: Map::new(),
        };
        if registry.default.is_none_or(|default| registry.by_id(default).is_err()) {
            registry.default = Some(record.id);
        }
        registry.distros.push(record.clone());
        Ok(record)
    })
}
