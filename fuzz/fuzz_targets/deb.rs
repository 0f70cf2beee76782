//! Any bytes as a package file.

#![no_main]

use libfuzzer_sys::fuzz_target;
use std::io::{Read, Write, copy, sink};

fuzz_target!(|data: &[u8]| {
    let Ok(mut file) = tempfile::NamedTempFile::new() else { return };
    if file.write_all(data).is_err() {
        return;
    }
    if let Ok(package) = wslr::archive::deb::open(file.path()) {
        let _ = package.control();
        if let Ok(content) = package.data() {
            let _ = copy(&mut content.take(1 << 20), &mut sink());
        }
    }
});
