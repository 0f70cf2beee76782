//! Paths inside a tree: normalised, relative, harmless.
//!
//! A [`TreePath`] cannot name anything outside its tree: it holds no `..`, no empty or `.`
//! component and no NUL, and every component fits a directory entry.

use std::borrow::Borrow;
use std::fmt;

/// The longest component, in bytes (ext4 and Linux `NAME_MAX`).
pub const MAXIMUM_NAME: usize = 255;

/// The longest whole path, in bytes (Linux `PATH_MAX` less its NUL).
pub const MAXIMUM_PATH: usize = 4095;

/// A path relative to the root of a tree; the root itself is empty.
#[derive(Clone, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct TreePath(Vec<u8>);

/// Why bytes are not a path inside a tree.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum PathError {
    /// It would leave the tree.
    #[error("path '{path}' has a '..' component")]
    Parent {
        /// The path.
        path: String,
    },
    /// It holds a NUL byte.
    #[error("path '{path}' holds a NUL byte")]
    Nul {
        /// The path.
        path: String,
    },
    /// It or one of its components is too long.
    #[error("path of {length} bytes, or a name in it, is too long: '{path}'")]
    TooLong {
        /// The length in bytes.
        length: usize,
        /// The path's beginning.
        path: String,
    },
}

impl TreePath {
    /// The root of the tree.
    #[must_use]
    pub fn root() -> Self {
        Self::default()
    }

    /// Reads a path as archives write them: leading `/` and `./`, doubled and trailing
    /// slashes are dropped.
    ///
    /// # Errors
    /// Where the path has a `..`, a NUL, or is too long.
    pub fn new(bytes: &[u8]) -> Result<Self, PathError> {
        let shown = || String::from_utf8_lossy(&bytes[..bytes.len().min(80)]).into_owned();
        if bytes.contains(&0) {
            return Err(PathError::Nul { path: shown() });
        }
        let mut path = Vec::with_capacity(bytes.len());
        for component in bytes.split(|byte| *byte == b'/') {
            match component {
                b"" | b"." => continue,
                b".." => return Err(PathError::Parent { path: shown() }),
                _ if component.len() > MAXIMUM_NAME => {
                    return Err(PathError::TooLong { length: bytes.len(), path: shown() });
                }
                _ => {}
            }
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(component);
        }
        if path.len() > MAXIMUM_PATH {
            return Err(PathError::TooLong { length: path.len(), path: shown() });
        }
        Ok(Self(path))
    }

    /// The bytes, without a leading or trailing slash.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The components, from the top.
    pub fn components(&self) -> impl Iterator<Item = &[u8]> {
        self.0.split(|byte| *byte == b'/').filter(|component| !component.is_empty())
    }

    /// Whether this is the root.
    #[must_use]
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The directory that holds it and its name there; `None` for the root.
    #[must_use]
    pub fn split(&self) -> Option<(&[u8], &[u8])> {
        if self.is_root() {
            return None;
        }
        Some(match self.0.iter().rposition(|byte| *byte == b'/') {
            Some(slash) => (&self.0[..slash], &self.0[slash + 1..]),
            None => (&[], &self.0),
        })
    }
}

impl Borrow<[u8]> for TreePath {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for TreePath {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

impl fmt::Display for TreePath {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "/{}", String::from_utf8_lossy(&self.0).escape_debug())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn archives_spell_the_same_path_in_many_ways() {
        for spelling in ["etc/passwd", "./etc/passwd", "/etc//passwd", "etc/./passwd/"] {
            assert_eq!(TreePath::new(spelling.as_bytes()).unwrap().as_bytes(), b"etc/passwd");
        }
        assert!(TreePath::new(b"./").unwrap().is_root());
    }

    #[test]
    fn a_path_cannot_leave_its_tree() {
        for hostile in [b"../x".as_slice(), b"a/../../x", b"/..", b"a/.."] {
            assert!(matches!(TreePath::new(hostile), Err(PathError::Parent { .. })));
        }
        assert!(matches!(TreePath::new(b"a\0b"), Err(PathError::Nul { .. })));
        assert!(matches!(TreePath::new(&[b'a'; 256]), Err(PathError::TooLong { .. })));
    }

    #[test]
    fn a_path_splits_into_directory_and_name() {
        let path = TreePath::new(b"a/b/c").unwrap();
        assert_eq!(path.split(), Some((b"a/b".as_slice(), b"c".as_slice())));
        assert_eq!(TreePath::new(b"a").unwrap().split(), Some((b"".as_slice(), b"a".as_slice())));
        assert_eq!(TreePath::root().split(), None);
    }
}
