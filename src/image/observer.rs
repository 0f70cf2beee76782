//! What a root file system tells about itself while it streams by.
//!
//! An [`Observer`] stands before a sink and changes nothing. Afterwards it knows whether
//! the tree is a Linux distro (behaviour reference 1.9), and the few settings that are
//! recorded of one (2.4).

use std::io::{self, Read};

use crate::config::distribution::FirstStart;
use crate::error::Diagnose;
use crate::ext4::reader::{Image, ReadError};
use crate::tree::path::TreePath;
use crate::tree::{Entry, Kind, Sink};

/// The longest file that is looked into, in bytes.
const MAXIMUM_FILE: u64 = 64 << 10;

/// The longest value that is recorded, in bytes.
const MAXIMUM_WORD: usize = 256;

/// The files that are looked into. The first is usually a link to the second.
const FILES: [&str; 3] = ["etc/os-release", "usr/lib/os-release", "etc/wsl-distribution.conf"];

/// A tree that is not a Linux distro.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("this is not a valid Linux distribution: it has neither /etc nor /bin/sh")]
pub struct NotADistro;

impl Diagnose for NotADistro {
    fn code(&self) -> &'static str {
        "WSL_E_NOT_A_LINUX_DISTRO"
    }

    fn hint(&self) -> Option<String> {
        Some("the archive must hold a whole root file system, with '/' as its top".to_owned())
    }
}

/// What a distro says of itself.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Description {
    /// `ID` of its os-release; empty where it has none or one that is not valid (B089).
    pub flavor: String,
    /// `VERSION_ID` of its os-release, likewise.
    pub os_version: String,
    /// `oobe.defaultName` of its wsl-distribution.conf, or empty.
    pub default_name: String,
}

/// Passes entries on, and looks at some of them.
#[derive(Debug)]
pub struct Observer<'a, S> {
    sink: &'a mut S,
    is_distro: bool,
    files: [Vec<u8>; FILES.len()],
}

impl<'a, S: Sink> Observer<'a, S> {
    /// An observer before `sink`.
    pub fn new(sink: &'a mut S) -> Self {
        Self { sink, is_distro: false, files: Default::default() }
    }

    /// What was seen.
    ///
    /// # Errors
    /// [`NotADistro`] where there was neither `/etc` nor `/bin/sh`.
    pub fn finish(self) -> Result<Description, NotADistro> {
        if !self.is_distro {
            return Err(NotADistro);
        }
        Ok(Description::new(self.files))
    }
}

impl Description {
    /// The description of a distro on a disk.
    ///
    /// # Errors
    /// Where the disk's file system is damaged.
    pub fn of_image(image: &Image) -> Result<Self, ReadError> {
        let mut files: [Vec<u8>; FILES.len()] = Default::default();
        for (kept, name) in files.iter_mut().zip(FILES) {
            let Ok(path) = TreePath::new(name.as_bytes()) else { continue };
            if let Some(file) = image.find(&path)?.filter(|file| file.size() <= MAXIMUM_FILE) {
                kept.resize(file.size() as usize, 0);
                let count = image.read_at(&file, 0, kept)?;
                kept.truncate(count);
            }
        }
        Ok(Self::new(files))
    }

    fn new(files: [Vec<u8>; FILES.len()]) -> Self {
        let [etc, usr, conf] = files.map(|file| String::from_utf8_lossy(&file).into_owned());
        let (flavor, os_version) = os_release(&etc, &usr);
        Self {
            flavor,
            os_version,
            default_name: FirstStart::parse(&conf).default_name.unwrap_or_default(),
        }
    }
}

impl<S: Sink> Sink for Observer<'_, S> {
    type Error = S::Error;

    fn add(&mut self, entry: Entry<'_>) -> Result<(), S::Error> {
        let path = entry.path.as_bytes();
        let is_etc = path == b"etc" || path.starts_with(b"etc/");
        self.is_distro |= is_etc || path == b"bin/sh" || path == b"usr/bin/sh";
        let Entry { path, metadata, kind } = entry;
        let watched = FILES.iter().position(|file| file.as_bytes() == path.as_bytes());
        let kept = watched.and_then(|index| self.files.get_mut(index));
        match (kind, kept) {
            (Kind::File { size, segments, content }, Some(kept)) if size <= MAXIMUM_FILE => {
                kept.clear();
                let mut content = Tee { content, copy: kept };
                let kind = Kind::File { size, segments, content: &mut content };
                self.sink.add(Entry { path, metadata, kind })
            }
            (kind, kept) => {
                // A link in its place, or a file too large to be one of these.
                kept.into_iter().for_each(Vec::clear);
                self.sink.add(Entry { path, metadata, kind })
            }
        }
    }
}

struct Tee<'a> {
    content: &'a mut dyn Read,
    copy: &'a mut Vec<u8>,
}

impl Read for Tee<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.content.read(buffer)?;
        self.copy.extend_from_slice(buffer.get(..count).unwrap_or_default());
        Ok(count)
    }
}

/// `ID` and `VERSION_ID` of a distro's two os-release files, the one of `/etc` and the one of
/// `/usr/lib`; empty where it has none or one that is not valid (B089).
#[must_use]
pub fn os_release(etc: &str, usr: &str) -> (String, String) {
    let find = |key| value(etc, key).or_else(|| value(usr, key)).unwrap_or_default();
    (find("ID"), find("VERSION_ID"))
}

/// The value of a key in an os-release file (os-release(5)), where it is one that is
/// recorded: letters, digits, `-`, `_`, `.` and `,` (B089).
#[must_use]
fn value(os_release: &str, key: &str) -> Option<String> {
    let line = os_release.lines().find_map(|line| line.trim().strip_prefix(key)?.strip_prefix('='));
    let text = line?.trim();
    let text = ['"', '\'']
        .iter()
        .find_map(|quote| text.strip_prefix(*quote)?.strip_suffix(*quote))
        .unwrap_or(text);
    is_release_word(text).then(|| text.to_owned())
}

/// Whether a value is one that is recorded.
#[must_use]
pub fn is_release_word(text: &str) -> bool {
    let valid = |c: char| c.is_ascii_alphanumeric() || "-_.,".contains(c);
    (1..=MAXIMUM_WORD).contains(&text.len()) && text.chars().all(valid)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::{Metadata, Segment};

    #[derive(Default)]
    struct Null(usize);

    impl Sink for Null {
        type Error = io::Error;

        fn add(&mut self, entry: Entry<'_>) -> io::Result<()> {
            self.0 += 1;
            if let Kind::File { content, .. } = entry.kind {
                io::copy(content, &mut io::sink())?;
            }
            Ok(())
        }
    }

    fn observe(files: &[(&str, &str)]) -> Result<Description, NotADistro> {
        let mut sink = Null::default();
        let mut observer = Observer::new(&mut sink);
        for (path, text) in files {
            let size = text.len() as u64;
            let segments = [Segment { offset: 0, length: size }];
            let kind = match text.strip_prefix("-> ") {
                Some(target) => Kind::SymbolicLink { target: target.as_bytes() },
                None => Kind::File { size, segments: &segments, content: &mut text.as_bytes() },
            };
            let path = TreePath::new(path.as_bytes()).unwrap();
            let metadata = Metadata::default();
            observer.add(Entry { path: &path, metadata: &metadata, kind }).unwrap();
        }
        let description = observer.finish();
        assert_eq!(sink.0, files.len());
        description
    }

    #[test]
    fn b054_a_distro_has_etc_or_a_shell() {
        assert_eq!(observe(&[]), Err(NotADistro));
        assert_eq!(observe(&[("bin/ls", ""), ("home/etc", "")]), Err(NotADistro));
        for path in ["etc", "etc/passwd", "bin/sh", "usr/bin/sh"] {
            assert!(observe(&[(path, "")]).is_ok());
        }
    }

    #[test]
    fn b089_flavor_and_version_come_from_os_release() {
        for (text, flavor, version) in [
            ("ID=debian\nVERSION_ID=\"13\"\n", "debian", "13"),
            ("NAME=x\nID='a-b_c.d,e'\n", "a-b_c.d,e", ""),
            ("ID=bad!\nVERSION_ID=1|2", "", ""),
            ("ID_LIKE=debian\nVERSION_ID=", "", ""),
        ] {
            for path in ["etc/os-release", "usr/lib/os-release"] {
                let description = observe(&[("etc/x", ""), (path, text)]).unwrap();
                assert_eq!((&*description.flavor, &*description.os_version), (flavor, version));
            }
        }
    }

    #[test]
    fn a_link_to_os_release_is_followed_to_its_usual_place() {
        let files =
            [("etc/os-release", "-> ../usr/lib/os-release"), ("usr/lib/os-release", "ID=x")];
        assert_eq!(observe(&files).unwrap().flavor, "x");
        let replaced =
            [("etc/os-release", "ID=old"), ("etc/os-release", "ID=new"), ("etc/x", "ID=no")];
        assert_eq!(observe(&replaced).unwrap().flavor, "new");
    }

    #[test]
    fn b076_the_default_name_comes_from_wsl_distribution_conf() {
        let conf = "[oobe]\ncommand=/x\ndefaultName = Mine\n[shortcut]\n";
        assert_eq!(observe(&[("etc/wsl-distribution.conf", conf)]).unwrap().default_name, "Mine");
    }
}
