//! A real Debian to install as a file: a tar that is made once and kept.

use std::env;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The archive: `WSLR_TEST_DISTRO` where that is set, else one that is made of Debian's
/// packages, which needs the network the first time.
pub fn archive() -> File {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    let path = PATH.get_or_init(|| match env::var_os("WSLR_TEST_DISTRO") {
        Some(path) => path.into(),
        None => {
            let cache = env::var_os("WSLR_TEST_CACHE")
                .map_or_else(|| env::temp_dir().join("wslr-test-cache"), PathBuf::from);
            let path = cache.join("debian-trixie.tar");
            let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/make-debian");
            let output = Command::new(script).arg(&path).output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "the Debian of the tests cannot be made:\n{said}");
            path
        }
    });
    File::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
