//! Small root file systems as tar archives.

use tar::{Builder, EntryType, Header};

/// A tar archive in the making.
pub struct Tar(Builder<Vec<u8>>);

impl Tar {
    /// An empty one.
    pub fn new() -> Self {
        Self(Builder::new(Vec::new()))
    }

    /// The smallest tree that is a Linux distro, with an os-release.
    pub fn distro() -> Self {
        Self::new()
            .directory("./")
            .directory("./etc/")
            .file("./etc/os-release", "ID=test\nVERSION_ID=\"1.0\"\n")
            .directory("./bin/")
            .file("./bin/sh", "#!\n")
    }

    /// The same with a default name.
    pub fn named_distro(name: &str) -> Self {
        let conf = format!("[oobe]\ndefaultName = {name}\n");
        Self::distro().file("./etc/wsl-distribution.conf", &conf)
    }

    pub fn directory(self, path: &str) -> Self {
        self.entry(path, EntryType::Directory, "", b"")
    }

    pub fn file(self, path: &str, content: impl AsRef<[u8]>) -> Self {
        self.entry(path, EntryType::Regular, "", content.as_ref())
    }

    /// An entry with its path as it is, however hostile.
    pub fn entry(mut self, path: &str, kind: EntryType, link: &str, content: &[u8]) -> Self {
        let mut header = Header::new_gnu();
        let fields = header.as_gnu_mut().unwrap();
        fields.name[..path.len()].copy_from_slice(path.as_bytes());
        fields.linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(0o755);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1);
        header.set_size(content.len() as u64);
        if kind == EntryType::Char {
            header.set_device_major(1).unwrap();
            header.set_device_minor(3).unwrap();
        }
        header.set_cksum();
        self.0.append(&header, content).unwrap();
        self
    }

    /// The archive.
    pub fn bytes(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}
