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

use super::conversion::clear_strays;
use super::distro::{SNAPSHOTS, partial, root_name};
use super::lock::{failed, is_locked, make_root};
use super::relocation::clear_elsewhere;
use super::removal::{delete_disk, delete_root, remove_directory, roots};
use super::snapshots::clear_snapshots;
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

/// Clears away what installers, converters and removers left that do not live any more,
/// as far as it can be deleted. The registry's lock is held, so none is between two of
/// its steps.
pub(super) fn clear_abandoned(registry: &mut Registry, paths: &Paths) {
    registry.distros.retain(|distro| !distro.is_abandoned() || delete_disk(distro).is_err());
    for distro in &mut registry.distros {
        clear_leftover(distro);
        if distro.state == State::Installed && distro.leftover.is_none() {
            clear_strays(distro, &distro.base_path);
        }
        distro.activity = distro.held_for();
        clear_elsewhere(distro);
        clear_snapshots(distro);
    }
    // A directory that never came to a record.
    let Ok(directories) = fs::read_dir(paths.distros()) else { return };
    for directory in directories.flatten() {
        let id = directory.file_name().to_str().and_then(|name| Uuid::try_parse(name).ok());
        let unknown = |id: &Uuid| registry.distros.iter().all(|distro| distro.id != *id);
        if id.filter(unknown).is_some() {
            let partial = |version| directory.path().join(partial(root_name(version)));
            if delete_root(&partial(1)).is_ok() && delete_root(&partial(2)).is_ok() {
                remove_directory(&directory.path());
            }
        }
    }
}

/// Deletes what a conversion left that does not live any more.
fn clear_leftover(distro: &mut Distro) {
    let Some(name) = &distro.leftover else { return };
    let mut left = vec![partial(name)];
    // A file that was to take the root's place has its name.
    if *name != distro.disk {
        left.push(name.clone());
    }
    let left: Vec<PathBuf> = left.iter().map(|name| distro.base_path.join(name)).collect();
    // A conversion holds one of them until the record is right.
    if left.iter().any(|path| is_locked(path)) {
        return;
    }
    if left.iter().all(|path| delete_root(path).is_ok()) {
        distro.leftover = None;
    }
}

impl Distro {
    /// Whether somebody converts it to the other version now.
    #[must_use]
    pub fn is_converting(&self) -> bool {
        let path = |name: &String| self.base_path.join(partial(name));
        self.leftover.as_ref().is_some_and(|name| is_locked(&path(name)))
    }

    /// Whether whoever installed or removed it has died. The next installation clears it
    /// away.
    #[must_use]
    pub fn is_abandoned(&self) -> bool {
        match self.state {
            State::Installed => false,
            // Whoever installs or removes it holds the lock of its root.
            State::Installing | State::Uninstalling => {
                !roots(self).iter().any(|path| is_locked(path))
            }
        }
    }
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
mod tests {
    use super::super::{Conversion, Relocation, remove};
    use super::*;

    struct Home {
        directory: tempfile::TempDir,
        paths: Paths,
    }

    impl Home {
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let paths = Paths::below(directory.path());
            Self { directory, paths }
        }

        fn begin(&self, name: &str) -> Result<Installation, RegistryError> {
            Installation::begin(&self.paths, &Plan { name: Some(name.into()), ..Plan::default() })
        }

        fn install(&self, name: &str) -> Distro {
            self.begin(name).unwrap().finish(Details::default()).unwrap()
        }

        fn registry(&self) -> Registry {
            Registry::load(&self.paths).unwrap()
        }

        fn distro_directories(&self) -> usize {
            fs::read_dir(self.paths.distros()).map_or(0, Iterator::count)
        }
    }

    /// What `kill -9` leaves of an installation.
    fn kill(installation: Installation) {
        let installation = std::mem::ManuallyDrop::new(installation);
        installation.file.unlock().unwrap();
    }

    #[test]
    fn a_finished_installation_is_usable_and_the_first_is_the_default() {
        let home = Home::new();
        let first = home.install("Debian");
        let second = home.install("Ubuntu");
        let registry = home.registry();
        assert_eq!(registry.default_distro().unwrap().id, first.id);
        assert_eq!(registry.find("ubuntu").unwrap(), &second);
        assert!(first.disk_path().exists() && !first.partial_disk_path().exists());
    }

    #[test]
    fn an_unfinished_installation_leaves_nothing() {
        let home = Home::new();
        drop(home.begin("Debian").unwrap());
        assert!(home.registry().distros.is_empty());
        assert_eq!(home.distro_directories(), 0);
    }

    #[test]
    fn an_installation_in_progress_is_not_usable_and_keeps_its_name() {
        let home = Home::new();
        let running = home.begin("Debian").unwrap();
        assert!(home.registry().find("Debian").is_err());
        assert!(matches!(home.begin("debian"), Err(RegistryError::AlreadyExists { .. })));
        let other = home.install("Ubuntu");
        assert_eq!(home.registry().default, Some(other.id));
        running.finish(Details::default()).unwrap();
        assert_eq!(home.registry().usable().count(), 2);
    }

    #[test]
    fn what_a_killed_installer_left_is_cleared_by_the_next() {
        let home = Home::new();
        kill(home.begin("Debian").unwrap());
        assert_eq!(home.registry().distros.len(), 1);
        assert!(home.registry().find("Debian").is_err());
        home.install("Debian");
        assert_eq!(home.registry().distros.len(), 1);
        assert_eq!(home.distro_directories(), 1);
    }

    #[test]
    fn a_disk_renamed_by_a_killed_installer_is_cleared_by_the_next() {
        let home = Home::new();
        let installation = home.begin("Debian").unwrap();
        let record = installation.record.clone();
        fs::rename(record.partial_disk_path(), record.disk_path()).unwrap();
        kill(installation);
        home.install("Debian");
        assert_eq!(home.distro_directories(), 1);
        assert!(!record.disk_path().exists());
    }

    #[test]
    fn a_directory_without_a_record_is_cleared_by_the_next() {
        let home = Home::new();
        let orphan = home.paths.distros().join(Uuid::new_v4().to_string());
        fs::create_dir_all(&orphan).unwrap();
        fs::write(orphan.join("ext4.img.partial"), "x").unwrap();
        let strange = home.paths.distros().join(Uuid::new_v4().to_string());
        fs::create_dir_all(&strange).unwrap();
        fs::write(strange.join("ext4.img"), "a disk that nobody knows is kept").unwrap();
        home.install("Debian");
        assert!(!orphan.exists() && strange.join("ext4.img").exists());
    }

    #[test]
    fn b055_a_used_location_and_an_existing_disk_are_refused_and_kept() {
        let home = Home::new();
        let location = home.directory.path().join("place");
        let plan = |name: &str| Plan {
            name: Some(name.to_owned()),
            location: Some(location.clone()),
            ..Plan::default()
        };
        let distro = Installation::begin(&home.paths, &plan("a")).unwrap();
        let distro = distro.finish(Details::default()).unwrap();
        assert_eq!(distro.base_path, location.canonicalize().unwrap());
        assert!(matches!(
            Installation::begin(&home.paths, &plan("b")),
            Err(RegistryError::LocationInUse { .. })
        ));
        fs::remove_file(home.paths.registry()).unwrap();
        assert!(matches!(
            Installation::begin(&home.paths, &plan("b")),
            Err(RegistryError::DiskExists { .. })
        ));
        assert!(distro.disk_path().exists());
    }

    #[test]
    fn b077_a_name_from_the_content_is_checked_at_the_end() {
        let home = Home::new();
        home.install("Debian");
        for (name, code) in [("debian", "ERROR_ALREADY_EXISTS"), ("invalid!", "E_INVALIDARG")] {
            let installation = Installation::begin(&home.paths, &Plan::default()).unwrap();
            let details = Details { name: name.to_owned(), ..Details::default() };
            let error = installation.finish(details).unwrap_err();
            assert_eq!(crate::error::Diagnose::code(&error), code);
        }
        assert_eq!(home.registry().distros.len(), 1);
        assert_eq!(home.distro_directories(), 1);
    }

    #[test]
    fn b039_removing_the_default_promotes_another() {
        let home = Home::new();
        let first = home.install("Debian");
        let second = home.install("Ubuntu");
        remove(&home.paths, first.id).unwrap();
        assert!(!first.base_path.exists());
        assert_eq!(home.registry().default, Some(second.id));
        remove(&home.paths, second.id).unwrap();
        assert_eq!(home.registry().default, None);
        assert!(matches!(home.registry().default_distro(), Err(RegistryError::NoDefault)));
    }

    #[test]
    fn b058_a_distro_whose_directory_is_gone_can_be_removed() {
        let home = Home::new();
        let distro = home.install("Debian");
        fs::remove_dir_all(&distro.base_path).unwrap();
        remove(&home.paths, distro.id).unwrap();
        assert!(home.registry().distros.is_empty());
    }

    #[test]
    fn a_disk_in_use_is_not_removed() {
        let home = Home::new();
        let distro = home.install("Debian");
        let user = File::open(distro.disk_path()).unwrap();
        user.lock().unwrap();
        assert!(matches!(remove(&home.paths, distro.id), Err(RegistryError::InUse { .. })));
        assert!(distro.disk_path().exists());
        assert!(home.registry().find("Debian").is_ok());
    }

    /// Whether trees can be deleted here: else that takes another executable.
    fn is_root() -> bool {
        let is_root = nix::unistd::geteuid().is_root();
        if !is_root {
            eprintln!("needs root");
        }
        is_root
    }

    impl Home {
        fn begin_directory(&self, name: &str) -> Installation {
            let name = Some(name.to_owned());
            let plan = Plan { name, version: 1, ..Plan::default() };
            Installation::begin(&self.paths, &plan).unwrap()
        }

        fn install_directory(&self, name: &str) -> Distro {
            let installation = self.begin_directory(name);
            fill(&installation.path());
            installation.finish(Details::default()).unwrap()
        }
    }

    /// A tree with a link that leads out of it.
    fn fill(root: &Path) {
        fs::create_dir_all(root.join("a/b/c")).unwrap();
        fs::write(root.join("a/b/file"), "x").unwrap();
        std::os::unix::fs::symlink("/", root.join("a/out")).unwrap();
    }

    #[test]
    fn a_version_1_distro_is_a_directory_that_others_cannot_enter() {
        let home = Home::new();
        let distro = home.install_directory("Debian");
        assert_eq!((distro.version, distro.disk.as_str()), (1, "rootfs"));
        assert!(distro.disk_path().join("a/b/file").exists());
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode(&distro.base_path), 0o700);
        assert_eq!(mode(&distro.disk_path()), 0o755);
    }

    #[test]
    fn a_version_1_distro_is_removed_with_all_its_files_and_nothing_else() {
        if !is_root() {
            return;
        }
        let home = Home::new();
        let distro = home.install_directory("Debian");
        let outside = home.directory.path().join("outside");
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("file"), "kept").unwrap();
        std::os::unix::fs::symlink(&outside, distro.disk_path().join("link")).unwrap();
        let user = super::super::lock_root(&distro.disk_path()).unwrap();
        assert!(matches!(remove(&home.paths, distro.id), Err(RegistryError::InUse { .. })));
        drop(user);
        remove(&home.paths, distro.id).unwrap();
        assert!(!distro.base_path.exists() && outside.join("file").exists());
    }

    #[test]
    fn an_unfinished_root_directory_leaves_nothing_even_when_it_was_killed() {
        if !is_root() {
            return;
        }
        let home = Home::new();
        let installation = home.begin_directory("Debian");
        fill(&installation.path());
        drop(installation);
        assert_eq!((home.registry().distros.len(), home.distro_directories()), (0, 0));
        let installation = home.begin_directory("Debian");
        fill(&installation.path());
        kill(installation);
        let orphan = home.paths.distros().join(Uuid::new_v4().to_string());
        fill(&orphan.join("rootfs.partial"));
        home.install("Debian");
        assert_eq!((home.registry().distros.len(), home.distro_directories()), (1, 1));
    }

    #[test]
    fn a_conversion_changes_what_the_distro_is_at_one_instant() {
        if !is_root() {
            return;
        }
        let home = Home::new();
        let distro = home.install("Debian");
        let begin = |version| Conversion::begin(&home.paths, distro.id, version);
        assert!(matches!(begin(2), Err(RegistryError::SameVersion { .. })));
        let conversion = begin(1).unwrap();
        assert!(matches!(begin(1), Err(RegistryError::InUse { .. })));
        fill(&conversion.path());
        drop(conversion);
        assert_eq!(fs::read_dir(&distro.base_path).unwrap().count(), 1);
        let conversion = begin(1).unwrap();
        fill(&conversion.path());
        // Another's installation clears nothing of it.
        home.install("Ubuntu");
        let converted = conversion.finish().unwrap();
        assert_eq!((converted.version, converted.disk.as_str()), (1, "rootfs"));
        assert_eq!(home.registry().by_id(distro.id).unwrap(), &converted);
        assert!(converted.disk_path().join("a/b/file").exists());
        assert_eq!(fs::read_dir(&distro.base_path).unwrap().count(), 1);
    }

    #[test]
    fn what_a_killed_conversion_left_is_cleared_and_the_distro_is_not() {
        if !is_root() {
            return;
        }
        let home = Home::new();
        let distro = home.install("Debian");
        let conversion = Conversion::begin(&home.paths, distro.id, 1).unwrap();
        fill(&conversion.path());
        let partial = conversion.path();
        conversion.kill();
        assert_eq!(home.registry().find("Debian").unwrap().disk, "ext4.img");
        home.install("Ubuntu");
        assert!(!partial.exists() && distro.disk_path().exists());
        assert_eq!(home.registry().find("Debian").unwrap(), &distro);
        // As killed after the switch: the old disk is still there.
        let converted = Conversion::begin(&home.paths, distro.id, 1).unwrap().finish().unwrap();
        fs::write(distro.disk_path(), "old").unwrap();
        update::<_, RegistryError>(&home.paths, |registry| {
            registry.record(distro.id).unwrap().leftover = Some("ext4.img".to_owned());
            Ok(())
        })
        .unwrap();
        home.install("Other");
        assert!(!distro.disk_path().exists() && converted.disk_path().exists());
        assert_eq!(home.registry().find("Debian").unwrap(), &converted);
    }

    #[test]
    fn b055_a_conversion_does_not_replace_what_is_not_its_own() {
        let home = Home::new();
        let distro = home.install("Debian");
        fs::create_dir(distro.base_path.join("rootfs")).unwrap();
        fs::write(distro.base_path.join("rootfs/mine"), "x").unwrap();
        assert!(matches!(
            Conversion::begin(&home.paths, distro.id, 1),
            Err(RegistryError::DiskExists { .. })
        ));
        remove(&home.paths, distro.id).unwrap();
        assert!(distro.base_path.join("rootfs/mine").exists());
    }

    #[test]
    fn b095_a_move_that_was_killed_after_its_rename_has_happened() {
        let home = Home::new();
        let distro = home.install("Debian");
        let new = home.directory.path().join("new");
        let relocation = Relocation::begin(&home.paths, distro.id, &new).unwrap();
        let new = relocation.to().to_owned();
        fs::create_dir(distro.snapshots_path()).unwrap();
        fs::write(distro.snapshots_path().join("kept"), "").unwrap();
        fs::rename(distro.disk_path(), new.join(&distro.disk)).unwrap();
        relocation.kill();
        assert_eq!(home.registry().find("Debian").unwrap().base_path, new);
        // Whoever comes next brings the rest.
        home.install("Other");
        let moved = home.registry().find("Debian").unwrap().clone();
        assert_eq!((&moved.base_path, moved.elsewhere.as_ref()), (&new, None));
        assert!(moved.snapshots_path().join("kept").exists() && !distro.base_path.exists());
    }

    #[test]
    fn b095_a_move_that_was_killed_before_its_end_has_not_happened() {
        let home = Home::new();
        let distro = home.install("Debian");
        let new = home.directory.path().join("new");
        let relocation = Relocation::begin(&home.paths, distro.id, &new).unwrap();
        drop(relocation.root().unwrap());
        fs::create_dir(new.join("wslr-snapshots.partial")).unwrap();
        relocation.kill();
        assert_eq!(home.registry().find("Debian").unwrap().base_path, distro.base_path);
        home.install("Other");
        assert!(!new.exists() && distro.disk_path().exists());
        assert_eq!(home.registry().find("Debian").unwrap(), &distro);
    }

    #[test]
    fn what_a_conversion_made_before_it_was_recorded_is_cleared() {
        let home = Home::new();
        let distro = home.install("Debian");
        let stray = distro.base_path.join("rootfs-2.partial");
        fs::create_dir(&stray).unwrap();
        home.install("Other");
        assert!(!stray.exists());
        fs::create_dir(&stray).unwrap();
        remove(&home.paths, distro.id).unwrap();
        assert!(!distro.base_path.exists());
    }

    #[test]
    fn foreign_files_beside_a_disk_are_kept() {
        let home = Home::new();
        let distro = home.install("Debian");
        fs::write(distro.base_path.join("notes"), "mine").unwrap();
        remove(&home.paths, distro.id).unwrap();
        assert!(!distro.disk_path().exists());
        assert!(distro.base_path.join("notes").exists());
    }
}
