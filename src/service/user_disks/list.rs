//! The list of the user's disks, in a file: it outlives the machine and the service, but not
//! the host's boot.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tempfile::NamedTempFile;

use crate::protocol::guest::Mount;

/// One disk of the user's.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct UserDisk {
    /// The image or the device; absolute, without symbolic links.
    pub path: PathBuf,
    /// The same as it was named, absolute.
    pub named: PathBuf,
    /// What is mounted of it.
    pub mounts: Vec<MountedPart>,
}

/// A mount of a disk or of a partition of it.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct MountedPart {
    /// The name of the directory in `/mnt/wsl`.
    pub name: String,
    /// The partition; the whole disk where absent.
    pub partition: Option<u32>,
    /// The file system, where it was named.
    pub kind: Option<String>,
    /// Mount options.
    pub options: String,
}

impl MountedPart {
    /// As the guest is asked for it.
    pub fn request(&self) -> Mount {
        Mount {
            name: self.name.clone(),
            partition: self.partition,
            kind: self.kind.clone(),
            options: self.options.clone(),
        }
    }
}

/// Reads the list; one that is not there, or damaged, is empty: it holds nothing that the
/// user could not ask for again.
pub fn load(file: &Path) -> Vec<UserDisk> {
    let bytes = fs::read(file).unwrap_or_default();
    serde_json::from_slice(&bytes).unwrap_or_default()
}

/// Replaces the list.
///
/// # Errors
/// The system's.
pub fn store(file: &Path, disks: &[UserDisk]) -> io::Result<()> {
    if disks.is_empty() {
        return match fs::remove_file(file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result,
        };
    }
    let directory = file.parent().unwrap_or(Path::new("/"));
    let mut new = NamedTempFile::with_prefix_in("mounts.", directory)?;
    serde_json::to_writer(&mut new, disks)?;
    new.flush()?;
    new.persist(file).map_err(|error| error.error)?;
    Ok(())
}

/// The name of a mount where none is given: the letters and digits of the path, and the
/// partition.
pub fn usual_name(path: &Path, partition: Option<u32>) -> String {
    let text = path.to_string_lossy();
    let mut name: String = text.chars().filter(char::is_ascii_alphanumeric).collect();
    // The longest name of a file, less the partition's.
    let start = name.len().saturating_sub(240);
    name.drain(..start);
    if let Some(partition) = partition {
        name += &format!("p{partition}");
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn b103_a_mount_is_called_after_the_disk() {
        assert_eq!(usual_name(Path::new("/home/me/My disk.vhdx"), None), "homemeMydiskvhdx");
        assert_eq!(usual_name(Path::new("/dev/sdb"), Some(1)), "devsdbp1");
        assert!(usual_name(Path::new(&"x".repeat(5000)), Some(7)).len() < 255);
    }

    #[test]
    fn b111_the_list_is_read_back_and_an_empty_one_is_no_file() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("mounts.json");
        assert!(load(&file).is_empty());
        let part = MountedPart {
            name: "x".to_owned(),
            partition: Some(2),
            kind: Some("vfat".to_owned()),
            options: "ro".to_owned(),
        };
        let disk = UserDisk { path: "/a".into(), named: "/b".into(), mounts: vec![part] };
        store(&file, std::slice::from_ref(&disk)).unwrap();
        assert_eq!(load(&file), [disk]);
        store(&file, &[]).unwrap();
        store(&file, &[]).unwrap();
        assert!(!file.exists());
    }
}
