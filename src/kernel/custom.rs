//! A kernel of the user's own (`kernel=` in `.wslconfig`, B128).
//!
//! It comes without modules: what it needs to find its disks is built in, or it is of a
//! release that is stored, and then that one's modules are its own. A bzImage is unpacked
//! once, into the cache, under a name made of its content.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::{KernelError, Prepared, image, store};
use crate::config::paths::Paths;

/// The kernel in `path`, ready to boot.
///
/// # Errors
/// Where there is none ([`KernelError::CustomNotFound`]), or it is not one.
pub fn custom(paths: &Paths, path: &Path) -> Result<Prepared, KernelError> {
    let metadata = fs::metadata(path);
    let Some(metadata) = metadata.ok().filter(fs::Metadata::is_file) else {
        return Err(KernelError::CustomNotFound { path: path.to_path_buf() });
    };
    if metadata.len() > image::LIMIT {
        let what = format!("'{}'", path.display());
        return Err(KernelError::TooLarge { what, limit: image::LIMIT });
    }
    let file = fs::read(path).map_err(KernelError::file("read", path))?;
    if file.starts_with(b"\x7fELF") {
        image::vmlinux(&file, path)?;
        return prepared(paths, path.to_path_buf(), &file);
    }
    let digest: String =
        Sha256::digest(&file).iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    let directory = paths.cache.join("kernels");
    let unpacked = directory.join(format!("{digest}.vmlinux"));
    if let Ok(kernel) = fs::read(&unpacked) {
        return prepared(paths, unpacked, &kernel);
    }
    let kernel = image::vmlinux(&file, path)?;
    fs::create_dir_all(&directory).map_err(KernelError::file("create", &directory))?;
    let write = || -> std::io::Result<()> {
        let mut partial = tempfile::NamedTempFile::new_in(&directory)?;
        partial.write_all(&kernel)?;
        partial.as_file().sync_all()?;
        partial.persist(&unpacked)?;
        Ok(())
    };
    write().map_err(KernelError::file("write", &unpacked))?;
    prepared(paths, unpacked, &kernel)
}

/// The kernel in `vmlinux`, whose content is `kernel`, with the modules of its release.
fn prepared(paths: &Paths, vmlinux: PathBuf, kernel: &[u8]) -> Result<Prepared, KernelError> {
    let stored = match image::release(kernel) {
        Some(release) => store::stored(paths, release)?,
        None => None,
    };
    let none = Prepared {
        release: String::new(),
        vmlinux: PathBuf::new(),
        modules: Vec::new(),
        modules_disk: None,
        _lock: None,
    };
    Ok(Prepared { vmlinux, ..stored.unwrap_or(none) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Diagnose;

    #[test]
    fn b128_a_missing_kernel_has_its_code() {
        let directory = tempfile::tempdir().unwrap();
        let paths = Paths::below(directory.path());
        for path in [directory.path().join("none"), directory.path().to_path_buf()] {
            let error = custom(&paths, &path).unwrap_err();
            assert!(matches!(error, KernelError::CustomNotFound { .. }));
            assert_eq!(error.code(), "WSL_E_CUSTOM_KERNEL_NOT_FOUND");
        }
    }

    #[test]
    fn an_elf_kernel_boots_from_where_it_is() {
        let directory = tempfile::tempdir().unwrap();
        let paths = Paths::below(directory.path());
        let kernel = directory.path().join("vmlinux");
        fs::copy("/proc/self/exe", &kernel).unwrap();
        assert_eq!(custom(&paths, &kernel).unwrap().vmlinux, kernel);
        fs::write(&kernel, b"\x7fELF\x02\x01\x01").unwrap();
        assert!(matches!(custom(&paths, &kernel), Err(KernelError::NotAKernel { .. })));
    }
    #[test]
    fn a_kernel_of_a_stored_release_has_its_modules() {
        let directory = tempfile::tempdir().unwrap();
        let paths = Paths::below(directory.path());
        let stored = paths.kernels().join("6.12.1-test");
        fs::create_dir_all(stored.join("modules")).unwrap();
        for name in ["lock", "vmlinux", "modules.img", "modules/00-vsock.ko"] {
            fs::write(stored.join(name), b"").unwrap();
        }
        // The tests' own banners are in this executable too.
        let mut kernel = fs::read("/proc/self/exe").unwrap();
        while let Some(at) = memchr::memmem::find(&kernel, b"Linux version ") {
            kernel[at] = b'l';
        }
        let path = directory.path().join("vmlinux");
        fs::write(&path, &kernel).unwrap();
        assert!(custom(&paths, &path).unwrap().modules.is_empty());
        kernel.extend_from_slice(b"Linux version 6.12.1-test (somebody) #1\n");
        fs::write(&path, &kernel).unwrap();
        let prepared = custom(&paths, &path).unwrap();
        assert_eq!(prepared.vmlinux, path);
        assert_eq!(prepared.modules, [stored.join("modules/00-vsock.ko")]);
        assert_eq!(prepared.modules_disk, Some(stored.join("modules.img")));
    }
}
