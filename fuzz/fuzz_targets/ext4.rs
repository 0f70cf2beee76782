//! Any bytes as an ext4 image, read to the end: an error or a tree and what is free, never a
//! panic.

#![no_main]

use std::io::{self, Read, Write};

use libfuzzer_sys::fuzz_target;
use wslr::ext4::reader::Image;
use wslr::tree::{Entry, Kind, Sink};

/// Reads all content, up to a limit that sparse files would exceed by far.
struct Null(u64);

impl Sink for Null {
    type Error = io::Error;

    fn add(&mut self, entry: Entry<'_>) -> io::Result<()> {
        if let Kind::File { content, .. } = entry.kind {
            self.0 -= io::copy(&mut content.take(self.0), &mut io::sink())?;
            if self.0 == 0 {
                return Err(io::ErrorKind::StorageFull.into());
            }
        }
        Ok(())
    }
}

fuzz_target!(|data: &[u8]| {
    let Ok(mut file) = tempfile::tempfile_in("/dev/shm") else { return };
    if file.write_all(data).is_err() {
        return;
    }
    if let Ok(image) = Image::open(file) {
        let _ = image.read_tree(&mut Null(64 << 20));
        let _ = image.used();
        let _ = image.free_runs(|_| Ok(true));
    }
});
