//! Any text as a distro's own `wsl.conf`, and any bytes as its `wsl-distribution.conf` and
//! `os-release`.

#![no_main]

use std::io;

use libfuzzer_sys::fuzz_target;
use wslr::config::wslconf::WslConf;
use wslr::image::observer::Observer;
use wslr::tree::path::TreePath;
use wslr::tree::{Entry, Kind, Metadata, Segment, Sink};

struct Null;

impl Sink for Null {
    type Error = io::Error;

    fn add(&mut self, entry: Entry<'_>) -> io::Result<()> {
        if let Kind::File { content, .. } = entry.kind {
            io::copy(content, &mut io::sink())?;
        }
        Ok(())
    }
}

fuzz_target!(|data: &[u8]| {
    if let Ok(text) = std::str::from_utf8(data) {
        let conf = WslConf::parse(text);
        assert!(conf.umask <= 0o777);
    }
    let mut sink = Null;
    let mut observer = Observer::new(&mut sink);
    for name in ["etc/wsl-distribution.conf", "etc/os-release"] {
        let Ok(path) = TreePath::new(name.as_bytes()) else { return };
        let size = data.len() as u64;
        let segments = [Segment { offset: 0, length: size }];
        let mut content = data;
        let kind = Kind::File { size, segments: &segments, content: &mut content };
        let metadata = Metadata::default();
        if observer.add(Entry { path: &path, metadata: &metadata, kind }).is_err() {
            return;
        }
    }
    let description = observer.finish().expect("there is an /etc");
    let is_plain = |text: &str| text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.,".contains(c));
    assert!(is_plain(&description.flavor) && is_plain(&description.os_version));
});
