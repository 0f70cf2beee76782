//! The user's own disks (`--mount`, `--unmount`), and a disk that grows while it is used.

use super::*;
use crate::protocol::client::{Mount, MountPart, Mounted};

impl Service {
    /// A disk's file in the service's directory.
    fn disk(&self, name: &str) -> std::path::PathBuf {
        let path = self.directory.path().join(name);
        fs::write(&path, vec![0; 1 << 20]).unwrap();
        path
    }

    fn mount(&self, path: &Path, part: Option<MountPart>) -> Answer {
        let (path, shown) = (path.to_owned(), path.to_owned());
        self.ask(&Request::Mount(Mount { path, shown, vhd: true, mount: part }))
    }

    fn unmount(&self, path: Option<&Path>) -> Answer {
        self.ask(&Request::Unmount { path: path.map(Path::to_owned) })
    }
}

fn named(name: &str, partition: Option<u32>) -> Option<MountPart> {
    Some(MountPart { name: Some(name.to_owned()), partition, ..MountPart::default() })
}

#[track_caller]
fn assert_mounted(answer: Answer, expected: &str) {
    match answer {
        Answer::Mounted(Mounted::At { name }) => assert_eq!(name, expected),
        other => panic!("{other:?}"),
    }
}

fn is_locked(path: &Path) -> bool {
    File::open(path).unwrap().try_lock().is_err()
}

#[test]
fn b118_a_disk_needs_a_distro_of_version_2() {
    let service = Service::start("");
    service.distro_of(1, "a", true);
    let answer = service.mount(&service.disk("x.img"), named("x", None));
    assert_eq!(code(answer), "Wsl/Service/AttachDisk/WSL_E_WSL2_NEEDED");
    assert_eq!(service.boots.count.load(Ordering::Relaxed), 0);
}

#[test]
fn b102_b113_a_disk_is_attached_once_and_let_go_of() {
    let service = Service::start("");
    service.distro("a", true);
    let disk = service.disk("x.img");
    assert!(matches!(service.mount(&disk, None), Answer::Mounted(Mounted::Bare)));
    assert!(is_locked(&disk));
    let again = code(service.mount(&disk, None));
    assert_eq!(again, "Wsl/Service/AttachDisk/WSL_E_DISK_ALREADY_ATTACHED");
    // What is attached can be mounted (B104), under the name that its path makes (B103).
    let part = MountPart { partition: Some(1), ..MountPart::default() };
    let text = disk.canonicalize().unwrap().display().to_string();
    let plain: String = text.chars().filter(char::is_ascii_alphanumeric).collect();
    assert_mounted(service.mount(&disk, Some(part)), &format!("{plain}p1"));
    assert_mounted(service.mount(&disk, named("two", Some(2))), "two");
    assert_eq!(lock(&service.guest().disks).len(), 1);
    assert!(matches!(service.unmount(Some(&disk)), Answer::Done));
    assert!(!is_locked(&disk));
    assert!(lock(&service.guest().mounts).is_empty());
    assert!(!service.paths().mounts().exists());
    assert!(matches!(service.unmount(None), Answer::Done));
    let gone = code(service.unmount(Some(&disk)));
    assert_eq!(gone, "Wsl/Service/DetachDisk/ERROR_FILE_NOT_FOUND");
}

#[test]
fn b107_b108_names_are_checked_and_the_disk_stays_attached() {
    let service = Service::start("");
    service.distro("a", true);
    let disk = service.disk("x.img");
    for wrong in ["", ".", "..", "foo/bar"] {
        let answer = code(service.mount(&disk, named(wrong, None)));
        assert_eq!(answer, "Wsl/Service/MountDisk/WSL_E_VM_MODE_INVALID_MOUNT_NAME");
        assert!(is_locked(&disk));
    }
    assert_mounted(service.mount(&disk, named("x", Some(1))), "x");
    let answer = code(service.mount(&disk, named("x", Some(2))));
    assert_eq!(answer, "Wsl/Service/MountDisk/WSL_E_VM_MODE_MOUNT_NAME_ALREADY_EXISTS");
    let answer = code(service.mount(&disk, named("y", Some(1))));
    assert_eq!(answer, "Wsl/Service/MountDisk/WSL_E_DISK_ALREADY_MOUNTED");
    assert_mounted(service.mount(&disk, named("y", Some(2))), "y");
}

#[test]
fn b110_a_disk_that_does_not_mount_stays_attached_and_is_let_go_of() {
    let service = Service::start("");
    service.distro("a", true);
    let disk = service.disk("x.img");
    let part = MountPart { kind: Some("bad".to_owned()), ..MountPart::default() };
    match service.mount(&disk, Some(part)) {
        Answer::Mounted(Mounted::Not { reason }) => {
            assert!(reason.contains("Invalid argument"), "{reason}");
        }
        other => panic!("{other:?}"),
    }
    assert!(is_locked(&disk));
    assert!(matches!(service.unmount(Some(&disk)), Answer::Done));
    assert!(!is_locked(&disk));
    // One that is in use in a distro stays.
    assert_mounted(service.mount(&disk, named("busy", None)), "busy");
    assert_eq!(code(service.unmount(None)), "Wsl/Service/DetachDisk/ERROR_BUSY");
    assert!(is_locked(&disk));
}

#[test]
fn b115_b116_what_is_missing_or_in_use_is_told() {
    let service = Service::start("");
    service.distro("a", true);
    let answer = code(service.mount(Path::new("/no/such"), None));
    assert_eq!(answer, "Wsl/Service/AttachDisk/MountDisk/HCS/ERROR_FILE_NOT_FOUND");
    let disk = service.disk("x.img");
    let held = File::open(&disk).unwrap();
    held.lock().unwrap();
    let answer = code(service.mount(&disk, None));
    assert_eq!(answer, "Wsl/Service/AttachDisk/MountDisk/HCS/ERROR_SHARING_VIOLATION");
    drop(held);
    let request = Mount { path: disk.clone(), shown: disk, vhd: false, mount: None };
    let answer = code(service.ask(&Request::Mount(request)));
    assert_eq!(answer, "Wsl/Service/AttachDisk/MountDisk/HCS/E_INVALIDARG");
}

#[test]
fn b111_b112_b114_mounts_come_back_with_the_machine_until_a_shutdown() {
    let service = Service::start("[wsl2]\nvmIdleTimeout=50\n[general]\ninstanceIdleTimeout=50\n");
    let distro = service.distro("a", true);
    let (disk, lost) = (service.disk("x.img"), service.disk("lost.img"));
    let link = service.directory.path().join("link.img");
    std::os::unix::fs::symlink(&disk, &link).unwrap();
    let part = MountPart { options: "ro".to_owned(), ..named("x", Some(1)).unwrap() };
    assert_mounted(service.mount(&link, Some(part)), "x");
    assert_mounted(service.mount(&disk, named("y", Some(2))), "y");
    assert_mounted(service.mount(&lost, named("lost", None)), "lost");
    service.eventually(|status| status.machine.is_none());
    assert!(!is_locked(&disk));
    fs::remove_file(&lost).unwrap();
    let mut stream = service.begin(distro, &["exit", "3"]);
    let mut warnings = Vec::new();
    loop {
        match frame::read::<Answer>(&mut stream).unwrap() {
            Answer::Warning(warning) => warnings.push(warning),
            Answer::Exited(status) => break assert_eq!(status, ExitStatus::Code(3)),
            _ => {}
        }
    }
    let told = warnings.iter().any(|warning| warning.contains("lost.img"));
    assert!(told, "{warnings:?}");
    let mounts = lock(&service.guest().mounts).clone();
    let parts: Vec<_> = mounts.iter().filter_map(|disk| disk.mount.clone()).collect();
    let shown: Vec<_> = parts.iter().map(|part| (part.name.as_str(), part.partition)).collect();
    assert_eq!(shown, [("x", Some(1)), ("y", Some(2))]);
    assert_eq!(parts[0].options, "ro");
    // By either name, and although the file is gone; also where no machine runs.
    service.eventually(|status| status.machine.is_none());
    assert!(matches!(service.unmount(Some(&lost)), Answer::Done));
    assert!(matches!(service.unmount(Some(&link)), Answer::Done));
    assert_mounted(service.mount(&disk, named("z", None)), "z");
    assert!(service.paths().mounts().exists());
    assert!(matches!(service.ask(&Request::Shutdown { force: false }), Answer::Done));
    assert!(!service.paths().mounts().exists());
}

#[test]
fn b093_the_disk_of_a_running_distro_grows_and_does_not_shrink() {
    let service = Service::start("");
    let distro = service.distro("a", true);
    let path = service.directory.path().join("a/ext4.img");
    fs::write(&path, vec![0; 2 << 20]).unwrap();
    let grow = |size| service.ask(&Request::Grow { distro, size });
    assert_eq!(code(grow(4 << 20)), "Wsl/Service/E_ABORT");
    assert!(exited(&service.run(distro, &["exit", "0"]), 0));
    assert!(matches!(grow(4 << 20), Answer::Done));
    assert_eq!(path.metadata().unwrap().len(), 4 << 20);
    assert_eq!(code(grow(1 << 20)), "Wsl/Service/E_FAIL");
    assert_eq!(path.metadata().unwrap().len(), 4 << 20);
}

#[test]
fn b100_the_free_space_of_a_stopped_distro_comes_back() {
    use std::os::unix::fs::{FileExt, MetadataExt};
    let service = Service::start("");
    let distro = service.distro("a", true);
    let path = service.directory.path().join("a/ext4.img");
    let file = File::options().read(true).write(true).open(&path).unwrap();
    let options = crate::ext4::Options { size: 64 << 20, ..crate::ext4::Options::default() };
    crate::ext4::Writer::new(file.try_clone().unwrap(), options).unwrap().finish().unwrap();
    let before = file.metadata().unwrap().blocks();
    let image = crate::ext4::reader::Image::open(file.try_clone().unwrap()).unwrap();
    image
        .free_runs(|run| {
            file.write_all_at(&vec![7; (run.end - run.start) as usize], run.start).unwrap();
            Ok(true)
        })
        .unwrap();
    file.sync_all().unwrap();
    assert!(file.metadata().unwrap().blocks() > before + (32 << 20) / 512);
    assert!(exited(&service.run(distro, &["exit", "0"]), 0));
    assert!(matches!(service.ask(&Request::Terminate { distro }), Answer::Done));
    assert!(file.metadata().unwrap().blocks() <= before + 64);
}
