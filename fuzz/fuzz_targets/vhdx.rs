//! Sound VHDX files with some bytes replaced, opened, read and written: an error or a disk,
//! never a panic.
//!
//! A file's parts are megabytes apart and have checksums, so bytes of its own would never
//! come far. The first byte says which sound file it is. Then come patches: the part, where
//! in it (two bytes), how many bytes, and those. At last the checksums are made right again,
//! unless the highest bit of the first byte is set.

#![no_main]

use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use wslr::disk::vhdx::{self, Options};
use wslr::disk::{self, Format};

/// Where a file has something: both headers, both tables of regions, the log, the metadata,
/// the table of blocks, the first block.
const PARTS: [u64; 8] =
    [0x1_0000, 0x2_0000, 0x3_0000, 0x4_0000, 0x10_0000, 0x20_0000, 0x30_0000, 0x40_0000];

/// What of a part is kept in memory.
const PART: usize = 0x1_0000;

const WRONG_CHECKSUMS: u8 = 0x80;

/// A sound file: its length and its parts.
struct Sound {
    length: u64,
    parts: Vec<(u64, Vec<u8>)>,
}

/// A file in memory, where a flush costs nothing.
fn file() -> File {
    tempfile::tempfile_in(Path::new("/dev/shm")).expect("there is memory")
}

/// Dynamic and fixed, long and short sectors, closed and as a crash leaves it.
fn sound_files() -> &'static [Sound] {
    static FILES: OnceLock<Vec<Sound>> = OnceLock::new();
    FILES.get_or_init(|| {
        let mut files = Vec::new();
        for (fixed, logical_sector, is_closed) in [
            (false, 512, true),
            (false, 512, false),
            (false, 4096, false),
            (true, 512, true),
            (true, 4096, false),
        ] {
            let file = file();
            let options =
                Options { block: Some(1 << 20), fixed, logical_sector, ..Options::new(4 << 20) };
            vhdx::create(&file, &options).expect("the options are right");
            let again = file.try_clone().expect("there are descriptors");
            let disk = disk::open(again, Format::Vhdx, true).expect("it is sound");
            for offset in [0, 3 << 20] {
                disk.write_at(&[5; 4096], offset).expect("it is inside");
                disk.flush().expect("there is memory");
            }
            // What a crash leaves is read before it is closed.
            let disk = if is_closed { None } else { Some(disk) };
            let length = file.metadata().expect("it is open").size();
            let parts = [0].into_iter().chain(PARTS).map(|offset| {
                let mut bytes = vec![0; PART];
                let _ = file.read_at(&mut bytes, offset);
                (offset, bytes)
            });
            files.push(Sound { length, parts: parts.collect() });
            drop(disk);
        }
        files
    })
}

/// Sets the CRC-32C that stands at byte 4 of what it covers.
fn seal(bytes: &mut [u8]) {
    if bytes.len() >= 8 {
        bytes[4..8].fill(0);
        let sum = crc32c::crc32c(bytes);
        bytes[4..8].copy_from_slice(&sum.to_le_bytes());
    }
}

fn seal_all(parts: &mut [(u64, Vec<u8>)]) {
    for (offset, bytes) in parts {
        match *offset {
            0x1_0000 | 0x2_0000 => seal(&mut bytes[..4096]),
            0x3_0000 | 0x4_0000 => seal(bytes),
            0x10_0000 => {
                for start in (0..bytes.len()).step_by(4096) {
                    let rest = &mut bytes[start..];
                    if rest.starts_with(b"loge") {
                        let length = u32::from_le_bytes([rest[8], rest[9], rest[10], rest[11]]);
                        let length = (length as usize).min(rest.len());
                        seal(&mut rest[..length]);
                    }
                }
            }
            _ => {}
        }
    }
}

/// Replaces bytes; `None` at the end of the patches.
fn patch<'a>(parts: &mut [(u64, Vec<u8>)], data: &'a [u8]) -> Option<&'a [u8]> {
    let (&[part, low, high, count], rest) = data.split_first_chunk()?;
    let (bytes, rest) = rest.split_at_checked(usize::from(count))?;
    let (_, content) = parts.get_mut(usize::from(part) % (PARTS.len() + 1))?;
    let start = usize::from(u16::from_le_bytes([low, high]));
    content.get_mut(start..start + bytes.len())?.copy_from_slice(bytes);
    Some(rest)
}

fuzz_target!(|data: &[u8]| {
    let Some((first, mut rest)) = data.split_first() else { return };
    let files = sound_files();
    let sound = &files[usize::from(first & !WRONG_CHECKSUMS) % files.len()];
    let mut parts = sound.parts.clone();
    while let Some(left) = patch(&mut parts, rest) {
        rest = left;
    }
    if first & WRONG_CHECKSUMS == 0 {
        seal_all(&mut parts);
    }
    let file = file();
    if file.set_len(sound.length).is_err() {
        return;
    }
    for (offset, bytes) in &parts {
        if file.write_all_at(bytes, *offset).is_err() {
            return;
        }
    }
    let Ok(disk) = disk::open(file, Format::Vhdx, true) else { return };
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
