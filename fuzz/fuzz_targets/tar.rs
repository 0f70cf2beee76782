//! Any bytes as an archive, unpacked into an ext4 image: an error or an image, never a panic.

#![no_main]

use libfuzzer_sys::fuzz_target;
use wslr::ext4::{Options, Writer};
use wslr::image;

fuzz_target!(|data: &[u8]| {
    let Ok(file) = tempfile::tempfile() else { return };
    let options = Options { size: 64 << 20, ..Options::default() };
    let Ok(mut writer) = Writer::new(file, options) else { return };
    if image::tar::read_entries(data, &mut writer, |path| path).is_ok() {
        let _ = writer.finish();
    }
});
