//! What a file cannot be here, noted in an attribute of it.
//!
//! `user.wslr.stat` is text: `KIND MODE UID GID` and for devices ` MAJOR:MINOR`, the mode
//! octal, the rest decimal; KIND is `file`, `directory`, `block` or `character`, or `link`,
//! `pipe` or `socket` in `user.wslr.entry.NAME`, below. It is on
//! a file or directory whose owner could not be set (such an owner is root's here, and
//! set-id bits are only in the note, or they would be root's), and on the empty file of
//! mode 0 that stands for a device node. A link, a pipe or a socket cannot have such an
//! attribute: what its owner would be is noted on its directory, as
//! `user.wslr.entry.NAME`, as far as there is room. `user.wslr.attribute.NAME` holds the value of an
//! attribute that could not be set.
//!
//! Such an attribute can be set by whoever may write the file in the distro. So a note is
//! taken only on (and of) what is owned by root in the distro, a device's only on an empty file of
//! mode 0, and entries that come from elsewhere with attributes of these names lose them.

use crate::tree::Metadata;

/// The attribute of an owner, a mode or a device number.
pub const STAT: &[u8] = b"user.wslr.stat";

/// What the names of our attributes begin with.
pub(super) const OWN: &[u8] = b"user.wslr.";

/// What precedes the name of an entry whose owner is noted on its directory.
const ENTRY: &[u8] = b"user.wslr.entry.";

/// What precedes the name of an attribute that could not be set.
const ASIDE: &[u8] = b"user.wslr.attribute.";

/// What a note is about.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A block device of these numbers.
    Block(u32, u32),
    /// A character device of these numbers.
    Character(u32, u32),
    /// A symbolic link.
    Link,
    /// A named pipe.
    Pipe,
    /// A socket.
    Socket,
}

/// What a file or directory would be.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Note {
    /// What it is about.
    pub kind: Kind,
    /// Permission bits, `0o7777` at most.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

impl Note {
    /// A note of the owner and the mode of `metadata`.
    #[must_use]
    pub fn new(kind: Kind, metadata: &Metadata) -> Self {
        Self { kind, mode: metadata.mode & 0o7777, uid: metadata.uid, gid: metadata.gid }
    }

    /// The attribute's value.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let (kind, device) = match self.kind {
            Kind::File => ("file", None),
            Kind::Directory => ("directory", None),
            Kind::Block(major, minor) => ("block", Some((major, minor))),
            Kind::Character(major, minor) => ("character", Some((major, minor))),
            Kind::Link => ("link", None),
            Kind::Pipe => ("pipe", None),
            Kind::Socket => ("socket", None),
        };
        let mut text = format!("{kind} {:o} {} {}", self.mode, self.uid, self.gid);
        if let Some((major, minor)) = device {
            text += &format!(" {major}:{minor}");
        }
        text.into_bytes()
    }

    /// Reads the attribute's value.
    #[must_use]
    pub fn decode(value: &[u8]) -> Option<Self> {
        let mut words = std::str::from_utf8(value).ok()?.split(' ');
        let kind = words.next()?;
        let mode = u32::from_str_radix(words.next()?, 8).ok().filter(|mode| *mode <= 0o7777)?;
        let uid = words.next()?.parse().ok()?;
        let gid = words.next()?.parse().ok()?;
        let device = match words.next() {
            None => None,
            Some(device) => {
                let (major, minor) = device.split_once(':')?;
                Some((major.parse().ok()?, minor.parse().ok()?))
            }
        };
        let kind = match (kind, device) {
            ("file", None) => Kind::File,
            ("directory", None) => Kind::Directory,
            ("link", None) => Kind::Link,
            ("pipe", None) => Kind::Pipe,
            ("socket", None) => Kind::Socket,
            ("block", Some((major, minor))) => Kind::Block(major, minor),
            ("character", Some((major, minor))) => Kind::Character(major, minor),
            _ => return None,
        };
        words.next().is_none().then_some(Self { kind, mode, uid, gid })
    }
}

/// The name under which the owner of an entry is noted on its directory; `None` where it
/// would be too long.
pub(super) fn entry(name: &[u8]) -> Option<Vec<u8>> {
    (ENTRY.len() + name.len() <= 255).then(|| [ENTRY, name].concat())
}

/// Whether an attribute of a directory is about an entry of it.
pub(super) fn is_of_entry(name: &[u8]) -> bool {
    name.starts_with(ENTRY)
}

/// The name under which an attribute is put aside; `None` where it would be too long.
pub(super) fn aside(name: &[u8]) -> Option<Vec<u8>> {
    (ASIDE.len() + name.len() <= 255).then(|| [ASIDE, name].concat())
}

/// The name of an attribute that was put aside.
pub(super) fn put_aside(name: &[u8]) -> Option<&[u8]> {
    name.strip_prefix(ASIDE)
}

/// Whether an attribute is ours and not the distro's.
pub(super) fn is_own(name: &[u8]) -> bool {
    name.starts_with(OWN)
}

/// Whether the host's own security modules rule an attribute; the distro's is then only
/// kept aside.
pub(super) fn is_hosts(name: &[u8]) -> bool {
    name == b"security.selinux"
        || name == b"security.ima"
        || name == b"security.evm"
        || name == b"security.apparmor"
        || name.starts_with(b"security.SMACK64")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_survives_the_round_trip() {
        for kind in [
            Kind::File,
            Kind::Directory,
            Kind::Block(8, 1_048_575),
            Kind::Character(4095, 0),
            Kind::Link,
            Kind::Pipe,
            Kind::Socket,
        ] {
            let note = Note { kind, mode: 0o4755, uid: u32::MAX - 1, gid: 42 };
            assert_eq!(Note::decode(&note.encode()), Some(note));
        }
    }

    #[test]
    fn nonsense_is_no_note() {
        for text in [
            "",
            "file",
            "file 755 0",
            "file 17777 0 0",
            "file 755 0 0 1:2",
            "block 644 0 0",
            "block 644 0 0 8",
            "link 777 0 0 1:2",
            "door 777 0 0",
            "file 755 0 0 ",
            "file 755 -1 0",
        ] {
            assert_eq!(Note::decode(text.as_bytes()), None, "{text}");
        }
    }
}
