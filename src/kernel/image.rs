//! The kernel proper out of the file that distributions ship.
//!
//! A bzImage is a boot sector, setup code, a decompressor and, compressed, the ELF file
//! `vmlinux`. Its header says where (Linux `Documentation/arch/x86/boot.rst`, fields
//! `payload_offset` and `payload_length`). The virtual machine boots `vmlinux`, so it is
//! taken out once and no boot decompresses anything.

use std::borrow::Cow;
use std::path::Path;

use memchr::memmem;

use super::KernelError;
use super::decompress::{Compression, decompress};
use super::elf::Elf;

/// The largest `vmlinux` that is accepted.
pub const LIMIT: u64 = 512 << 20;

/// First byte after the setup header's magic, `HdrS` at 0x202.
const MAGIC: (usize, &[u8]) = (0x202, b"HdrS");
/// The number of 512-byte setup sectors after the boot sector; 0 means 4.
const SETUP_SECTORS: usize = 0x1f1;
/// The boot protocol's version; the payload fields exist from 2.08.
const VERSION: usize = 0x206;
/// Where the payload starts, from the end of the setup code.
const PAYLOAD_OFFSET: usize = 0x248;
/// How long it is.
const PAYLOAD_LENGTH: usize = 0x24c;

/// The `vmlinux` of a kernel file: the file itself if it is one, or what a bzImage holds.
///
/// # Errors
/// Where it is neither, corrupt, or for another machine. `path` is for the error.
pub fn vmlinux<'a>(file: &'a [u8], path: &Path) -> Result<Cow<'a, [u8]>, KernelError> {
    let invalid = |reason: String| KernelError::NotAKernel { path: path.to_path_buf(), reason };
    let kernel = if file.starts_with(b"\x7fELF") {
        Cow::Borrowed(file)
    } else {
        let payload = payload(file).map_err(|reason| invalid(reason.to_owned()))?;
        match Compression::of(payload) {
            Some(compression) => {
                let what = format!("the kernel in '{}'", path.display());
                Cow::Owned(decompress(compression, payload, LIMIT, &what)?)
            }
            None if payload.starts_with(b"\x7fELF") => Cow::Borrowed(payload),
            None => return Err(invalid("its compression is not known".to_owned())),
        }
    };
    Elf::new(&kernel)
        .and_then(|elf| elf.loaded_length())
        .map_err(|error| invalid(error.to_string()))?;
    Ok(kernel)
}

/// The release that an uncompressed kernel tells of itself (`linux_banner`), as
/// `uname -r` would; always a plain file name.
#[must_use]
pub fn release(vmlinux: &[u8]) -> Option<&str> {
    /// `__NEW_UTS_LEN`.
    const LONGEST: usize = 64;
    let banner = b"Linux version ";
    memmem::find_iter(vmlinux, banner).find_map(|at| {
        let text = vmlinux.get(at + banner.len()..)?;
        let end = text.iter().take(LONGEST + 1).position(|byte| *byte == b' ')?;
        let release = std::str::from_utf8(text.get(..end)?).ok()?;
        let is_plain = release.starts_with(|first: char| first.is_ascii_digit())
            && release.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/');
        is_plain.then_some(release)
    })
}

fn payload(file: &[u8]) -> Result<&[u8], &'static str> {
    const NONE: &str = "it is neither an ELF file nor a bzImage";
    let word = |at: usize| {
        let bytes = file.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
        bytes.map(u32::from_le_bytes).ok_or(NONE)
    };
    if file.get(MAGIC.0..MAGIC.0 + 4) != Some(MAGIC.1) {
        return Err(NONE);
    }
    if word(VERSION)? & 0xffff < 0x208 {
        return Err("its boot protocol is older than 2.08");
    }
    let sectors = match file.get(SETUP_SECTORS) {
        None | Some(0) => 4,
        Some(sectors) => usize::from(*sectors),
    };
    let start = (sectors + 1) * 512 + word(PAYLOAD_OFFSET)? as usize;
    let end = start + word(PAYLOAD_LENGTH)? as usize;
    file.get(start..end).ok_or("it is truncated")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_release_is_that_of_the_banner() {
        let file = b"x Linux version %s (%s) Linux version ../7 (a) Linux version 6.12.1+deb (b)";
        assert_eq!(release(file), Some("6.12.1+deb"));
        assert_eq!(release(b"Linux version 6.1/.. (a)"), None);
        assert_eq!(release(b"Linux version 6.1"), None);
        assert_eq!(release(&[b"Linux version 6".as_slice(), &[b'0'; 64], b" "].concat()), None);
    }

    fn bz_image(payload: &[u8]) -> Vec<u8> {
        let mut file = vec![0; 1024 + 16];
        file[SETUP_SECTORS] = 1;
        file[0x202..0x206].copy_from_slice(b"HdrS");
        file[VERSION..VERSION + 2].copy_from_slice(&0x20f_u16.to_le_bytes());
        file[PAYLOAD_OFFSET..PAYLOAD_OFFSET + 4].copy_from_slice(&16_u32.to_le_bytes());
        let length = payload.len() as u32;
        file[PAYLOAD_LENGTH..PAYLOAD_LENGTH + 4].copy_from_slice(&length.to_le_bytes());
        file.extend_from_slice(payload);
        file
    }

    fn program() -> Vec<u8> {
        let own = std::fs::read("/proc/self/exe").unwrap();
        Elf::new(&own).unwrap().without_sections().unwrap()
    }

    #[test]
    fn vmlinux_comes_out_of_every_packing() {
        let kernel = program();
        let path = Path::new("vmlinuz");
        assert_eq!(vmlinux(&kernel, path).unwrap(), kernel);
        assert_eq!(vmlinux(&bz_image(&kernel), path).unwrap(), kernel);
        let mut packed = zstd::encode_all(&kernel[..], 1).unwrap();
        packed.extend_from_slice(&(kernel.len() as u32).to_le_bytes());
        assert_eq!(vmlinux(&bz_image(&packed), path).unwrap(), kernel);
    }

    #[test]
    fn what_is_no_kernel_is_refused() {
        let mut cut = bz_image(&[0x1f; 100]);
        cut.truncate(1050);
        for (file, reason) in [
            (b"MZ".to_vec(), "neither"),
            (vec![0; 4096], "neither"),
            (bz_image(&[7; 100]), "compression"),
            (bz_image(b"\x7fELF\x02\x01"), "truncated"),
            (cut, "truncated"),
        ] {
            let error = vmlinux(&file, Path::new("k")).unwrap_err();
            assert!(matches!(error, KernelError::NotAKernel { .. }));
            assert!(error.to_string().contains(reason), "{error}");
        }
    }
}
