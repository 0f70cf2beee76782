//! Changes to the registry, and what is left of those that were killed.

use super::*;
use crate::registry::{Conversion, Relocation, lock_root, remove};

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
    let user = lock_root(&distro.disk_path()).unwrap();
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
