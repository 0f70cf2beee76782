//! Which build this executable is: two commands may only share a service when they are the
//! same executable, because their messages carry no other compatibility.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::OnceLock;

/// The note that the linker writes (`NT_GNU_BUILD_ID`, ELF gABI notes).
const BUILD_ID_NOTE: u32 = 3;
const PROGRAM_NOTE: u32 = 4;

/// The running executable's identity: its version, and the identifier the linker gave it,
/// or its size and time where it gave none.
pub fn id() -> &'static str {
    static ID: OnceLock<String> = OnceLock::new();
    ID.get_or_init(|| {
        let mark = File::open("/proc/self/exe").and_then(|file| {
            linked(&file)?.map_or_else(
                || {
                    let metadata = file.metadata()?;
                    Ok(format!("{}-{}", metadata.size(), metadata.mtime()))
                },
                Ok,
            )
        });
        format!("{} {}", env!("CARGO_PKG_VERSION"), mark.unwrap_or_default())
    })
}

/// The build identifier of a 64-bit ELF file, in hexadecimal.
fn linked(file: &File) -> io::Result<Option<String>> {
    let mut head = [0; 4096];
    let length = file.read_at(&mut head, 0)?;
    let head = head.get(..length).unwrap_or_default();
    let headers = (number(head, 32, 8), number(head, 54, 2), number(head, 56, 2));
    let (Some(start), Some(size), Some(count)) = headers else { return Ok(None) };
    for index in 0..count.min(64) {
        let Some(at) = index.checked_mul(size).and_then(|offset| offset.checked_add(start)) else {
            return Ok(None);
        };
        if number(head, at, 4) != Some(u64::from(PROGRAM_NOTE)) {
            continue;
        }
        let (Some(offset), Some(length)) =
            (number(head, at.saturating_add(8), 8), number(head, at.saturating_add(32), 8))
        else {
            continue;
        };
        let mut notes = vec![0; usize::try_from(length.min(4096)).unwrap_or(0)];
        let length = file.read_at(&mut notes, offset)?;
        if let Some(id) = build_id(notes.get(..length).unwrap_or_default()) {
            return Ok(Some(id));
        }
    }
    Ok(None)
}

fn build_id(mut notes: &[u8]) -> Option<String> {
    loop {
        let name = usize::try_from(number(notes, 0, 4)?).ok()?;
        let length = usize::try_from(number(notes, 4, 4)?).ok()?;
        let kind = number(notes, 8, 4)?;
        let body = 12_usize.checked_add(name.checked_next_multiple_of(4)?)?;
        let end = body.checked_add(length)?;
        if kind == u64::from(BUILD_ID_NOTE) && notes.get(12..)?.starts_with(b"GNU\0") {
            return Some(notes.get(body..end)?.iter().map(|byte| format!("{byte:02x}")).collect());
        }
        notes = notes.get(end.checked_next_multiple_of(4)?..)?;
    }
}

/// The little-endian number of that many bytes at that place.
fn number(bytes: &[u8], at: u64, width: usize) -> Option<u64> {
    let at = usize::try_from(at).ok()?;
    let bytes = bytes.get(at..at.checked_add(width)?)?;
    Some(bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_build_is_the_linkers_identifier() {
        let executable = std::env::current_exe().unwrap();
        let listed = std::process::Command::new("readelf").arg("-n").arg(executable).output();
        let listed = String::from_utf8(listed.unwrap().stdout).unwrap();
        let expected = listed.lines().find_map(|line| line.trim().strip_prefix("Build ID: "));
        assert_eq!(linked(&File::open("/proc/self/exe").unwrap()).unwrap().as_deref(), expected);
    }

    #[test]
    fn a_file_without_notes_has_no_identifier() {
        assert_eq!(build_id(&[]), None);
        assert_eq!(build_id(&[0xff; 64]), None);
    }
}
