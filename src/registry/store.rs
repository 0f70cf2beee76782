//! The registry's file.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tempfile::NamedTempFile;
use uuid::Uuid;

use super::{Distro, RegistryError, State};
use crate::config::paths::Paths;

/// The version of the file's shape that this program writes.
const VERSION: u32 = 1;

/// All that is registered.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Registry {
    version: u32,
    /// The distro that commands without `-d` are for. It may be dangling; ask
    /// [`Registry::default_distro`].
    #[serde(default)]
    pub default: Option<Uuid>,
    /// The version that the user chose for new distros.
    #[serde(default, rename = "defaultVersion", skip_serializing_if = "Option::is_none")]
    pub default_version: Option<u32>,
    /// In the order of registration.
    #[serde(default)]
    pub distros: Vec<Distro>,
    /// What a newer version recorded.
    #[serde(flatten)]
    other: Map<String, Value>,
}

impl Default for Registry {
    fn default() -> Self {
        Self {
            version: VERSION,
            default: None,
            default_version: None,
            distros: Vec::new(),
            other: Map::new(),
        }
    }
}

impl Registry {
    /// Reads the registry; one that was never written is empty.
    ///
    /// # Errors
    /// Where the file cannot be read or is damaged.
    pub fn load(paths: &Paths) -> Result<Self, RegistryError> {
        let path = paths.registry();
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(source) => return Err(RegistryError::Io { action: "read", path, source }),
        };
        let mut registry: Self = serde_json::from_slice(&bytes).map_err(|error| {
            let text = error.to_string();
            let reason = text.split(" at line ").next().unwrap_or_default().to_owned();
            RegistryError::Damaged { path: path.clone(), line: error.line(), reason }
        })?;
        if registry.version > VERSION {
            return Err(RegistryError::Newer { path, version: registry.version, known: VERSION });
        }
        registry.distros.iter_mut().for_each(Distro::settle);
        Ok(registry)
    }

    /// The usable distro of that name, ignoring case (B010).
    ///
    /// # Errors
    /// [`RegistryError::NotFound`].
    pub fn find(&self, name: &str) -> Result<&Distro, RegistryError> {
        self.usable()
            .find(|distro| distro.name.eq_ignore_ascii_case(name))
            .ok_or(RegistryError::NotFound)
    }

    /// The distro of that name in whatever state (1.13).
    ///
    /// # Errors
    /// [`RegistryError::NotFound`].
    pub fn find_any(&self, name: &str) -> Result<&Distro, RegistryError> {
        self.distros
            .iter()
            .find(|distro| distro.name.eq_ignore_ascii_case(name))
            .ok_or(RegistryError::NotFound)
    }

    /// The usable distro of that id.
    ///
    /// # Errors
    /// [`RegistryError::NotFound`].
    pub fn by_id(&self, id: Uuid) -> Result<&Distro, RegistryError> {
        self.usable().find(|distro| distro.id == id).ok_or(RegistryError::NotFound)
    }

    /// The default distro; where it is gone, the first one (B039).
    ///
    /// # Errors
    /// [`RegistryError::NoDefault`].
    pub fn default_distro(&self) -> Result<&Distro, RegistryError> {
        self.default
            .and_then(|id| self.by_id(id).ok())
            .or_else(|| self.usable().next())
            .ok_or(RegistryError::NoDefault)
    }

    /// The record of that id, to change it.
    pub fn record(&mut self, id: Uuid) -> Option<&mut Distro> {
        self.distros.iter_mut().find(|distro| distro.id == id)
    }

    /// The distros that can be used, in the order of registration.
    pub fn usable(&self) -> impl Iterator<Item = &Distro> {
        self.distros.iter().filter(|distro| distro.state == State::Installed)
    }
}

/// Changes the registry: `change` sees it as it is now, under a lock, and what it leaves
/// replaces the file when it succeeds.
///
/// # Errors
/// Those of `change`, and where the file cannot be read, locked or replaced. The registry
/// is then as it was.
pub fn update<T, E: From<RegistryError>>(
    paths: &Paths,
    change: impl FnOnce(&mut Registry) -> Result<T, E>,
) -> Result<T, E> {
    let lock = lock(&paths.data)?;
    let old = Registry::load(paths)?;
    let mut new = old.clone();
    let value = change(&mut new)?;
    let replaced = if new == old { Ok(()) } else { replace(paths, &new) };
    // Before `value`, whose end may change the registry.
    drop(lock);
    replaced?;
    Ok(value)
}

/// Waits for the lock of the registry; it ends with the returned file.
fn lock(data: &Path) -> Result<File, RegistryError> {
    let failed = |action, path: &Path| {
        let path = path.to_owned();
        move |source| RegistryError::Io { action, path, source }
    };
    fs::create_dir_all(data).map_err(failed("create", data))?;
    let path = data.join("registry.lock");
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(failed("open", &path))?;
    file.lock().map_err(failed("lock", &path))?;
    Ok(file)
}

fn replace(paths: &Paths, registry: &Registry) -> Result<(), RegistryError> {
    let path = paths.registry();
    let write = || -> io::Result<()> {
        let mut file = NamedTempFile::with_prefix_in("registry.json.", &paths.data)?;
        serde_json::to_writer_pretty(&mut file, registry)?;
        file.write_all(b"\n")?;
        file.as_file().sync_all()?;
        file.persist(&path).map_err(|error| error.error)?;
        File::open(&paths.data)?.sync_all()
    };
    write().map_err(|source| RegistryError::Io { action: "write", path: path.clone(), source })
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    fn distro(name: &str) -> Distro {
        Distro {
            id: Uuid::new_v4(),
            name: name.to_owned(),
            version: 2,
            base_path: "/nowhere".into(),
            disk: "ext4.img".to_owned(),
            leftover: None,
            elsewhere: None,
            reserved: false,
            state: State::Installed,
            activity: None,
            default_uid: 0,
            run_oobe: false,
            flavor: String::new(),
            os_version: String::new(),
            configured: true,
            packages: 0,
            other: Map::new(),
        }
    }

    fn add(paths: &Paths, name: &str) -> Uuid {
        let distro = distro(name);
        let id = distro.id;
        update::<_, RegistryError>(paths, |registry| {
            registry.distros.push(distro);
            Ok(())
        })
        .unwrap();
        id
    }

    #[test]
    fn what_is_written_is_read_back() {
        let home = tempfile::tempdir().unwrap();
        let paths = Paths::below(home.path());
        assert!(Registry::load(&paths).unwrap().distros.is_empty());
        let id = add(&paths, "Debian");
        let registry = Registry::load(&paths).unwrap();
        assert_eq!(registry.find("DEBIAN").unwrap().id, id);
        assert_eq!(registry.by_id(id).unwrap().name, "Debian");
        assert!(matches!(registry.find("nope"), Err(RegistryError::NotFound)));
    }

    #[test]
    fn a_failed_change_changes_nothing() {
        let home = tempfile::tempdir().unwrap();
        let paths = Paths::below(home.path());
        add(&paths, "Debian");
        let before = fs::read(paths.registry()).unwrap();
        let failed = update(&paths, |registry| {
            registry.distros.clear();
            Err::<(), _>(RegistryError::NotFound)
        });
        assert!(failed.is_err());
        assert_eq!(fs::read(paths.registry()).unwrap(), before);
    }

    #[test]
    fn concurrent_changes_are_all_kept() {
        let home = tempfile::tempdir().unwrap();
        let paths = Paths::below(home.path());
        thread::scope(|scope| {
            for number in 0..8 {
                let paths = &paths;
                scope.spawn(move || add(paths, &format!("distro-{number}")));
            }
        });
        assert_eq!(Registry::load(&paths).unwrap().distros.len(), 8);
    }

    #[test]
    fn unknown_fields_survive_a_change() {
        let home = tempfile::tempdir().unwrap();
        let paths = Paths::below(home.path());
        add(&paths, "Debian");
        let mut value: Value =
            serde_json::from_slice(&fs::read(paths.registry()).unwrap()).unwrap();
        value["future"] = "kept".into();
        value["distros"][0]["color"] = 7.into();
        fs::write(paths.registry(), value.to_string()).unwrap();
        add(&paths, "Ubuntu");
        let after: Value = serde_json::from_slice(&fs::read(paths.registry()).unwrap()).unwrap();
        assert_eq!(after["future"], "kept");
        assert_eq!(after["distros"][0]["color"], 7);
    }

    #[test]
    fn a_damaged_file_is_named_with_its_line_and_left_alone() {
        let home = tempfile::tempdir().unwrap();
        let paths = Paths::below(home.path());
        add(&paths, "Debian");
        let text = fs::read_to_string(paths.registry()).unwrap();
        for (damaged, expected) in [
            (text.replacen("\"distros\": [", "\"distros\": [,", 1), 4),
            (text.replacen("\"name\": \"Debian\"", "\"name\": 7", 1), 7),
            (text[..text.len() / 2].to_owned(), 0),
            (String::new(), 0),
        ] {
            fs::write(paths.registry(), &damaged).unwrap();
            let error = update::<_, RegistryError>(&paths, |_| Ok(())).unwrap_err();
            let RegistryError::Damaged { line, path, .. } = error else { panic!("{error}") };
            assert_eq!(path, paths.registry());
            assert!(expected == 0 || line == expected, "line {line}, expected {expected}");
            assert_eq!(fs::read_to_string(paths.registry()).unwrap(), damaged);
        }
    }

    #[test]
    fn a_newer_file_is_refused() {
        let home = tempfile::tempdir().unwrap();
        let paths = Paths::below(home.path());
        fs::create_dir_all(&paths.data).unwrap();
        fs::write(paths.registry(), r#"{"version":2,"distros":[]}"#).unwrap();
        assert!(matches!(Registry::load(&paths), Err(RegistryError::Newer { version: 2, .. })));
    }

    #[test]
    fn b040_a_dangling_default_falls_to_the_first_distro() {
        let home = tempfile::tempdir().unwrap();
        let paths = Paths::below(home.path());
        assert!(matches!(
            Registry::load(&paths).unwrap().default_distro(),
            Err(RegistryError::NoDefault)
        ));
        let id = add(&paths, "Debian");
        let mut registry = Registry::load(&paths).unwrap();
        registry.default = Some(Uuid::new_v4());
        assert_eq!(registry.default_distro().unwrap().id, id);
    }
}
