//! Any bytes as a control file, and its relations.

#![no_main]

use libfuzzer_sys::fuzz_target;
use wslr::archive::{deb822, relation};

fuzz_target!(|data: &[u8]| {
    if let Ok(paragraph) = deb822::parse(data) {
        for (_, value) in paragraph.fields() {
            let _ = relation::parse(value);
        }
    }
});
