//! The cgroups of version 1 distros, where this host lets the user make any.
//!
//! Root's are below the top of the hierarchy that is seen here. An ordinary user's are
//! below the user's own group, where that is delegated. Without a writable hierarchy of
//! version 2 distros have no group, and do without.
//!
//! Each process that serves distros has a group for theirs and holds a lock on it, by which
//! the next one knows what a killed one has left.

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use uuid::Uuid;

use super::cgroup::remove_tree;
use super::host::is_initial_user_namespace;

/// What the names of the groups of all serving processes begin with.
const PREFIX: &str = "wslr-";

/// A group in which others can be made.
#[derive(Debug)]
pub struct Groups {
    parent: PathBuf,
    /// Holds the lock.
    _parent: File,
}

impl Groups {
    /// The group for distros' groups.
    #[must_use]
    pub fn find() -> Option<Self> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
        let own = fs::read_to_string("/proc/self/cgroup").ok()?;
        let (root, mount) = hierarchy(&mounts)?;
        let parent = if is_initial_user_namespace() {
            mount
        } else {
            let own = own.lines().find_map(|line| line.strip_prefix("0::"))?;
            mount.join(Path::new(own).strip_prefix(root).ok()?)
        };
        clear(&parent);
        let parent = parent.join(format!("{PREFIX}{}", Uuid::new_v4()));
        fs::create_dir(&parent).ok()?;
        let file = File::open(&parent).and_then(|file| Ok(file.try_lock().map(|()| file)?)).ok()?;
        Some(Self { parent, _parent: file })
    }

    fn path(&self, distro: Uuid) -> PathBuf {
        self.parent.join(distro.to_string())
    }

    /// Makes a distro's group and opens it.
    ///
    /// # Errors
    /// The system's.
    pub fn create(&self, distro: Uuid) -> io::Result<OwnedFd> {
        let path = self.path(distro);
        match fs::create_dir(&path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        Ok(File::open(&path)?.into())
    }

    /// Removes a distro's group with all that the distro has made in it.
    pub fn remove(&self, distro: Uuid) {
        let path = self.path(distro);
        let _ = fs::write(path.join("cgroup.kill"), "1");
        remove_tree(&path);
    }
}

impl Drop for Groups {
    fn drop(&mut self) {
        remove_tree(&self.parent);
    }
}

/// Removes the groups of processes that have ended.
fn clear(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let is_ours = entry.file_name().to_string_lossy().starts_with(PREFIX);
        if is_ours && File::open(entry.path()).is_ok_and(|file| file.try_lock().is_ok()) {
            remove_tree(&entry.path());
        }
    }
}

/// The root and the place of the cgroup2 mount in a `mountinfo` (proc_pid_mountinfo(5)).
fn hierarchy(mounts: &str) -> Option<(PathBuf, PathBuf)> {
    mounts.lines().find_map(|line| {
        let (mount, system) = line.split_once(" - ")?;
        let mut fields = mount.split(' ').skip(3);
        let (root, place) = (fields.next()?, fields.next()?);
        // A path with escaped characters is not worth being understood.
        let plain = !root.contains('\\') && !place.contains('\\');
        (system.starts_with("cgroup2 ") && plain).then(|| (root.into(), place.into()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hierarchy_is_found_among_others() {
        let mounts = "23 61 0:21 / /sys rw - sysfs sysfs rw\n\
            30 23 0:26 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu\n\
            31 23 0:27 /a /sys/fs/cgroup/unified rw shared:4 - cgroup2 cgroup rw,nsdelegate\n";
        let found = hierarchy(mounts).unwrap();
        assert_eq!(found, ("/a".into(), "/sys/fs/cgroup/unified".into()));
        assert_eq!(hierarchy("nonsense\n"), None);
    }
}
