//! Finding the machine's disks by their logical unit, and mounting them.
//!
//! The kernel names disks as it finds them, so a unit is looked up in sysfs. A unit that
//! is not there yet is asked for (a scan of just that unit) and waited for by the
//! kernel's device events.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, umount2};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket,
};

use super::sys;
use crate::disk::Disk;
use crate::disk::raw::Raw;
use crate::ext4::reader::Image;
use crate::protocol::guest::GuestError;

/// How long a disk may take to appear. The service's own limit is the one users set
/// (`mountDeviceTimeout`); this one only keeps a process from waiting for ever.
const APPEARANCE: Duration = Duration::from_secs(60);

/// The warning of B101.
const READ_ONLY: &str = "the distribution's disk is mounted read-only as a fallback: changes are \
                         kept in memory and lost when it stops";

/// Waits for the disk that is logical unit `lun`; gives its name, e.g. `sda`.
///
/// # Errors
/// [`GuestError::DiskMissing`] where it does not appear, or the system's.
pub fn wait_for(lun: u16) -> Result<String, GuestError> {
    let failed = |error: io::Error| GuestError::system("watching for disks", &error);
    let events = device_events().map_err(failed)?;
    if let Some(name) = find(lun) {
        return Ok(name);
    }
    scan(lun);
    let deadline = Instant::now() + APPEARANCE;
    loop {
        if let Some(name) = find(lun) {
            return Ok(name);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(GuestError::DiskMissing { lun });
        }
        let left = PollTimeout::try_from(left.as_millis() + 1).unwrap_or(PollTimeout::MAX);
        let _ = poll(&mut [PollFd::new(events.as_fd(), PollFlags::POLLIN)], left);
        let mut event = [0; 8192];
        while recv(events.as_raw_fd(), &mut event, MsgFlags::MSG_DONTWAIT).is_ok() {}
    }
}

/// The kernel's device events.
fn device_events() -> io::Result<OwnedFd> {
    let events = socket(
        AddressFamily::Netlink,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkKObjectUEvent,
    )?;
    bind(events.as_raw_fd(), &NetlinkAddr::new(0, 1))?;
    Ok(events)
}

/// The disk of a unit, if the kernel knows it and it can be opened: its name appears a
/// moment before it can (`ENXIO`), its event after.
pub(super) fn find(lun: u16) -> Option<String> {
    for entry in fs::read_dir("/sys/class/scsi_disk").ok()?.flatten() {
        let address = entry.file_name();
        let unit = address.to_str()?.rsplit(':').next()?.parse::<u64>().ok();
        if unit != Some(u64::from(lun)) {
            continue;
        }
        let name = fs::read_dir(entry.path().join("device/block")).ok()?.flatten().next()?;
        let name = name.file_name().into_string().ok()?;
        if File::open(Path::new("/dev").join(&name)).is_ok() {
            return Some(name);
        }
    }
    None
}

/// Asks every host adapter to look at one unit.
fn scan(lun: u16) {
    for host in fs::read_dir("/sys/class/scsi_host").into_iter().flatten().flatten() {
        let _ = fs::write(host.path().join("scan"), format!("0 0 {lun}"));
    }
}

/// Mounts a distro's disk; where it can only be read, an overlay in memory makes it
/// writable (B101). Gives warnings for the user.
///
/// # Errors
/// [`GuestError::DiskCorrupted`], [`GuestError::DiskMissing`], or the system's.
pub fn mount_root(lun: u16, staging: &Path) -> Result<Vec<String>, GuestError> {
    mount_device(&Path::new("/dev").join(wait_for(lun)?), staging)
}

fn mount_device(device: &Path, staging: &Path) -> Result<Vec<String>, GuestError> {
    let length = larger_length(device);
    match mount_ext4(device, staging, MsFlags::empty(), ROOT_OPTIONS) {
        // Where it cannot grow it can be used as it is.
        Ok(()) => Ok(length
            .and_then(|length| grow(staging, length).err())
            .map(|error| error.to_string())
            .into_iter()
            .collect()),
        Err(Errno::EROFS | Errno::EACCES) => {
            // The journal of a disk that cannot be written cannot be replayed.
            mount_ext4(device, staging, MsFlags::MS_RDONLY, "errors=remount-ro")
                .or_else(|_| mount_ext4(device, staging, MsFlags::MS_RDONLY, "noload"))
                .map_err(|error| mount_error(device, error))?;
            overlay(staging).map_err(|error| {
                GuestError::system(format!("mounting over '{}'", staging.display()), &error)
            })?;
            Ok(vec![READ_ONLY.to_owned()])
        }
        Err(error) => Err(mount_error(device, error)),
    }
}

/// The length of a disk whose file system is smaller and should grow to it (B093). What is
/// less than a group's metadata takes is no use to it.
fn larger_length(device: &Path) -> Option<u64> {
    let disk = Raw::new(File::open(device).ok()?);
    let length = disk.length().ok()?;
    let size = Image::examine(&disk).ok()?.size;
    (length.saturating_sub(size) >= SMALLEST_GROWTH).then_some(length)
}

/// Lets a mounted file system grow to `length` bytes.
fn grow(mounted: &Path, length: u64) -> Result<(), GuestError> {
    File::open(mounted)
        .and_then(|root| sys::grow_ext4(&root, length))
        .map_err(|error| GuestError::system("growing the file system to its disk", &error))
}

/// Lets the file system of a running distro, of which `root` is the root directory, grow to
/// its disk, which has become longer. Runs in a job.
///
/// # Errors
/// The system's.
pub fn grow_running(lun: u16, root: &Path) -> Result<(), GuestError> {
    let name = wait_for(lun)?;
    // The event of the adapter may still be on its way.
    let _ = fs::write(format!("/sys/class/block/{name}/device/rescan"), "1");
    let length = File::open(Path::new("/dev").join(name))
        .and_then(|device| Raw::new(device).length())
        .map_err(|error| GuestError::system("measuring the disk", &error))?;
    grow(root, length)
}

/// The smallest growth that is tried, in bytes.
const SMALLEST_GROWTH: u64 = 1 << 20;

const ROOT_OPTIONS: &str = "discard,errors=remount-ro,data=ordered";

fn mount_ext4(device: &Path, target: &Path, flags: MsFlags, options: &str) -> Result<(), Errno> {
    nix::mount::mount(Some(device), target, Some("ext4"), flags, Some(options))
}

fn mount_error(device: &Path, error: Errno) -> GuestError {
    match error {
        // EBADMSG: a wrong checksum.
        Errno::EINVAL | Errno::EUCLEAN | Errno::EBADMSG => {
            GuestError::DiskCorrupted { reason: error.desc().to_owned() }
        }
        _ => GuestError::system(format!("mounting '{}'", device.display()), &error.into()),
    }
}

/// Mounts a writable overlay in memory over `target`.
fn overlay(target: &Path) -> io::Result<()> {
    let memory = target.with_file_name("overlay");
    fs::create_dir_all(&memory)?;
    mount_plain("tmpfs", &memory, "mode=0755")?;
    let (upper, work) = (memory.join("upper"), memory.join("work"));
    fs::create_dir(&upper)?;
    fs::create_dir(&work)?;
    let options = format!(
        "lowerdir={},upperdir={},workdir={}",
        target.display(),
        upper.display(),
        work.display()
    );
    mount_plain("overlay", target, &options)
}

fn mount_plain(kind: &str, target: &Path, options: &str) -> io::Result<()> {
    Ok(nix::mount::mount(Some(kind), target, Some(kind), MsFlags::empty(), Some(options))?)
}

/// Mounts the disk of kernel modules, read-only.
///
/// # Errors
/// As [`mount_root`].
pub fn mount_modules(lun: u16, target: &Path) -> Result<(), GuestError> {
    let device = Path::new("/dev").join(wait_for(lun)?);
    let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount_ext4(&device, target, flags, "noload").map_err(|error| mount_error(&device, error))
}

/// Lets go of the disk of a distro that has ended: takes away what other distros still
/// see of it through shared mounts, waits until no mount holds it, and makes the kernel
/// forget it.
///
/// # Errors
/// Where something keeps holding it.
pub fn release(lun: u16) -> Result<(), GuestError> {
    let Some(name) = find(lun) else { return Ok(()) };
    let device = Path::new("/dev").join(&name);
    let number = fs::read_to_string(format!("/sys/class/block/{name}/dev")).unwrap_or_default();
    unmount_all(number.trim());
    wait_until_free(&device)
        .map_err(|error| GuestError::system(format!("releasing disk {lun}"), &error))?;
    forget(&name);
    Ok(())
}

/// Makes the kernel forget a disk that nothing holds.
pub(super) fn forget(name: &str) {
    let _ = fs::write(format!("/sys/class/block/{name}/device/delete"), "1");
}

/// Waits until no mount holds a device.
///
/// # Errors
/// Where something keeps holding it.
pub(super) fn wait_until_free(device: &Path) -> io::Result<()> {
    // An exclusive open fails while a mount holds the disk. Mounts of a namespace that
    // has ended may still be on their way out; the kernel tells nobody when they are gone.
    let mut wait = Duration::from_millis(1);
    loop {
        match nix::fcntl::open(
            device,
            nix::fcntl::OFlag::O_RDONLY | nix::fcntl::OFlag::O_EXCL | nix::fcntl::OFlag::O_CLOEXEC,
            nix::sys::stat::Mode::empty(),
        ) {
            Err(Errno::EBUSY) if wait < Duration::from_secs(4) => {
                std::thread::sleep(wait);
                wait *= 2;
            }
            Err(Errno::EBUSY) => return Err(Errno::EBUSY.into()),
            _ => return Ok(()),
        }
    }
}

/// Detaches every mount of a device (`major:minor`) that this namespace sees.
fn unmount_all(number: &str) {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    for line in table.lines().rev() {
        let mut fields = line.split(' ');
        if fields.nth(2) == Some(number)
            && let Some(target) = fields.nth(1)
        {
            let _ = umount2(unescape(target).as_str(), MntFlags::MNT_DETACH);
        }
    }
}

/// A path as `/proc/self/mountinfo` writes it, with octal escapes.
fn unescape(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find('\\') {
        let (before, escape) = rest.split_at(start);
        plain.push_str(before);
        match escape.get(1..4).and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                plain.push(char::from(byte));
                rest = escape.get(4..).unwrap_or_default();
            }
            None => {
                plain.push('\\');
                rest = escape.get(1..).unwrap_or_default();
            }
        }
    }
    plain.push_str(rest);
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_point_with_a_blank_is_found() {
        assert_eq!(unescape(r"/mnt/wsl/my\040disk\134x"), r"/mnt/wsl/my disk\x");
        assert_eq!(unescape(r"/a\9"), r"/a\9");
    }
}
