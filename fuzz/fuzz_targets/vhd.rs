//! Any bytes as a VHD file, opened, read and written: an error or a disk, never a panic.

#![no_main]

use std::io::Write as _;

use libfuzzer_sys::fuzz_target;
use wslr::disk::{self, Format};

fuzz_target!(|data: &[u8]| {
    let Ok(mut file) = tempfile::tempfile_in("/dev/shm") else { return };
    if file.write_all(data).is_err() {
        return;
    }
    let Ok(disk) = disk::open(file, Format::Vhd, true) else { return };
    let Ok(length) = disk.length() else { return };
    let mut buffer = [0; 8192];
    for offset in [0, length / 2, length.saturating_sub(8192)] {
        let _ = disk.read_at(&mut buffer, offset);
        if disk.write_at(&[7; 4096], offset).is_ok() && disk.flush().is_ok() {
            let mut read = [0; 4096];
            assert!(disk.read_at(&mut read, offset).is_ok() && read == [7; 4096]);
        }
        let _ = disk.discard(offset, 4096);
        let _ = disk.extent(offset);
    }
});
