//! Any text as a `.wslconfig`.

#![no_main]

use libfuzzer_sys::fuzz_target;
use std::path::Path;

use wslr::config::wslconfig::{Host, WslConfig};

fuzz_target!(|text: &str| {
    let host = Host { memory: 8 << 30, processors: 4 };
    let config = WslConfig::parse(text, Path::new("/home/user/.wslconfig"), host);
    assert!(config.memory <= host.memory);
    assert!((1..=host.processors).contains(&config.processors));
});
