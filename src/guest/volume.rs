//! The user's own disks in the machine (`--mount`): a partition or a whole disk mounted in
//! the directory that all distros share, and let go of again.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MsFlags, mount, umount2};

use super::disk;
use super::job::Outcome;
use super::{boot, modules};
use crate::protocol::guest::{GuestError, MountDisk};

/// What tells a file system: where, which bytes, and the name of its driver.
const SIGNATURES: [(u64, &[u8], &str); 11] = [
    (0x438, &[0x53, 0xef], "ext4"),
    (0, b"XFSB", "xfs"),
    (0x1_0040, b"_BHRfS_M", "btrfs"),
    (3, b"EXFAT   ", "exfat"),
    (3, b"NTFS    ", "ntfs3"),
    (54, b"FAT", "vfat"),
    (82, b"FAT32", "vfat"),
    (0, b"hsqs", "squashfs"),
    (0x8001, b"CD001", "iso9660"),
    (0x400, &[0x10, 0x20, 0xf5, 0xf2], "f2fs"),
    (0x400, &[0xe2, 0xe1, 0xf5, 0xe0], "erofs"),
];

/// What drivers ask for by themselves, for which there is nobody to answer here.
const CODE_PAGES: [&str; 4] = ["nls_cp437", "nls_ascii", "nls_iso8859-1", "nls_utf8"];

/// The words of mount options that are flags; with `false` they take one away.
const FLAGS: [(&str, MsFlags, bool); 22] = [
    ("ro", MsFlags::MS_RDONLY, true),
    ("rw", MsFlags::MS_RDONLY, false),
    ("sync", MsFlags::MS_SYNCHRONOUS, true),
    ("async", MsFlags::MS_SYNCHRONOUS, false),
    ("dirsync", MsFlags::MS_DIRSYNC, true),
    ("nosuid", MsFlags::MS_NOSUID, true),
    ("suid", MsFlags::MS_NOSUID, false),
    ("nodev", MsFlags::MS_NODEV, true),
    ("dev", MsFlags::MS_NODEV, false),
    ("noexec", MsFlags::MS_NOEXEC, true),
    ("exec", MsFlags::MS_NOEXEC, false),
    ("noatime", MsFlags::MS_NOATIME, true),
    ("atime", MsFlags::MS_NOATIME, false),
    ("nodiratime", MsFlags::MS_NODIRATIME, true),
    ("diratime", MsFlags::MS_NODIRATIME, false),
    ("relatime", MsFlags::MS_RELATIME, true),
    ("norelatime", MsFlags::MS_RELATIME, false),
    ("strictatime", MsFlags::MS_STRICTATIME, true),
    ("lazytime", MsFlags::MS_LAZYTIME, true),
    ("nolazytime", MsFlags::MS_LAZYTIME, false),
    ("silent", MsFlags::MS_SILENT, true),
    ("loud", MsFlags::MS_SILENT, false),
];

/// Waits for a disk, and mounts what is asked for of it. Runs in a job.
///
/// # Errors
/// Where the disk or the partition is not there, or the system's.
pub fn attach(request: &MountDisk, modules: Option<&Path>) -> Outcome {
    let name = disk::wait_for(request.lun)?;
    let Some(target) = &request.mount else { return Ok(Vec::new()) };
    let device = match target.partition {
        None => name,
        Some(number) => partition(&name, number)
            .ok_or_else(|| missing("finding the partition", io::ErrorKind::NotFound))?,
    };
    let device = Path::new("/dev").join(device);
    let kind = match &target.kind {
        Some(kind) => kind.clone(),
        None => detect(&device)
            .map_err(|error| GuestError::system("reading the disk", &error))?
            .ok_or_else(|| missing("detecting the file system", io::ErrorKind::InvalidData))?
            .to_owned(),
    };
    if let Some(modules) = modules {
        let driver = if kind == "iso9660" { "isofs" } else { kind.as_str() };
        let pages: &[&str] = if kind == "vfat" { &CODE_PAGES } else { &[] };
        for module in pages.iter().chain([&driver]) {
            boot::load_modules(&modules::load_order(modules, module));
        }
    }
    let place = place(&target.name)?;
    fs::create_dir(&place).map_err(|error| GuestError::system("making the directory", &error))?;
    let (flags, data) = options(&target.options);
    mount(Some(&device), &place, Some(kind.as_str()), flags, Some(data.as_str())).map_err(
        |error| {
            let _ = fs::remove_dir(&place);
            GuestError::system("mounting it", &error.into())
        },
    )?;
    Ok(Vec::new())
}

/// Where a mount of that name is. The service has checked the name; a path that leaves the
/// directory is refused all the same.
fn place(name: &str) -> Result<PathBuf, GuestError> {
    let is_plain = Path::new(name).file_name() == Some(name.as_ref());
    if is_plain {
        Ok(Path::new(boot::SHARED).join(name))
    } else {
        Err(missing("making the directory", io::ErrorKind::InvalidInput))
    }
}

fn missing(action: &str, kind: io::ErrorKind) -> GuestError {
    let error = match kind {
        io::ErrorKind::NotFound => Errno::ENOENT.into(),
        io::ErrorKind::InvalidData => io::Error::other("no known file system is on it"),
        _ => Errno::EINVAL.into(),
    };
    GuestError::system(action, &error)
}

/// The name of a disk's partition.
fn partition(disk: &str, number: u32) -> Option<String> {
    partitions(disk).into_iter().find(|name| {
        let path = format!("/sys/class/block/{name}/partition");
        fs::read_to_string(path).is_ok_and(|text| text.trim().parse() == Ok(number))
    })
}

/// The names of all partitions of a disk.
fn partitions(disk: &str) -> Vec<String> {
    let entries = fs::read_dir(format!("/sys/class/block/{disk}")).into_iter().flatten().flatten();
    let names = entries.filter(|entry| entry.path().join("partition").exists());
    names.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// The driver of the file system on a device, where it is one of those that are known.
fn detect(device: &Path) -> io::Result<Option<&'static str>> {
    let file = File::open(device)?;
    for (offset, signature, kind) in SIGNATURES {
        let mut bytes = [0; 8];
        let Some(bytes) = bytes.get_mut(..signature.len()) else { continue };
        match file.read_exact_at(bytes, offset) {
            Ok(()) if bytes == signature => return Ok(Some(kind)),
            Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => return Err(error),
            _ => {}
        }
    }
    Ok(None)
}

/// Mount options as the system call takes them: flags, and the rest (1.12).
fn options(text: &str) -> (MsFlags, String) {
    let mut flags = MsFlags::empty();
    let mut rest = Vec::new();
    for word in text.split(',').filter(|word| !word.is_empty() && *word != "defaults") {
        match FLAGS.iter().find(|(known, ..)| *known == word) {
            Some((_, flag, is_set)) => flags.set(*flag, *is_set),
            None => rest.push(word),
        }
    }
    (flags, rest.join(","))
}

/// Unmounts all that is mounted of a disk and makes the kernel forget it. Runs in a job.
///
/// # Errors
/// Where it is in use; what could be unmounted is.
pub fn detach(lun: u16, names: &[String]) -> Outcome {
    let Some(disk) = disk::find(lun) else { return Ok(Vec::new()) };
    for name in names {
        let place = place(name)?;
        match umount2(&place, nix::mount::MntFlags::UMOUNT_NOFOLLOW) {
            // Whoever unmounted it from inside a distro.
            Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => _ = fs::remove_dir(&place),
            Err(error) => return Err(GuestError::system("unmounting it", &error.into())),
        }
    }
    // Elsewhere in a distro it may be mounted still.
    for device in partitions(&disk).iter().chain([&disk]) {
        disk::wait_until_free(&Path::new("/dev").join(device))
            .map_err(|error| GuestError::system("releasing it", &error))?;
    }
    disk::forget(&disk);
    Ok(Vec::new())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn b109_words_that_are_flags_become_flags_and_the_rest_stays() {
        assert_eq!(
            options("data=ordered,sync"),
            (MsFlags::MS_SYNCHRONOUS, "data=ordered".to_owned())
        );
        assert_eq!(options("ro,noatime,rw"), (MsFlags::MS_NOATIME, String::new()));
        assert_eq!(options("defaults,,uid=5,x"), (MsFlags::empty(), "uid=5,x".to_owned()));
    }

    #[test]
    fn b105_file_systems_are_known_by_their_signatures() {
        let path = tempfile::NamedTempFile::new().unwrap();
        let file = path.as_file();
        assert_eq!(detect(path.path()).unwrap(), None);
        for (offset, signature, kind) in SIGNATURES {
            file.set_len(0).unwrap();
            file.set_len(1 << 20).unwrap();
            file.write_all_at(signature, offset).unwrap();
            assert_eq!(detect(path.path()).unwrap(), Some(kind));
        }
    }

    #[test]
    fn b107_a_name_leads_nowhere_else() {
        assert_eq!(place("disk").unwrap(), Path::new("/mnt/wsl/disk"));
        for wrong in ["", ".", "..", "a/b", "/etc", "a/"] {
            assert!(place(wrong).is_err(), "{wrong}");
        }
    }
}
