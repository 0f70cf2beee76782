//! A kernel of the user's own (`kernel=` in `.wslconfig`, B128).
//!
//! It comes without modules: what it needs to find its disks is built in. A bzImage is
//! unpacked once, into the cache, under a name made of its content.

use std::fs;
use std::io::Write;
use std::path::Path;

use sha2::{Digest, Sha256};

use super::{KernelError, Prepared, image};
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
    let prepared = |vmlinux| Prepared {
        release: String::new(),
        vmlinux,
        modules: Vec::new(),
        modules_disk: None,
        _lock: None,
    };
    if file.starts_with(b"\x7fELF") {
        image::vmlinux(&file, path)?;
        return Ok(prepared(path.to_path_buf()));
    }
    let digest: String =
        Sha256::digest(&file).iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    let directory = paths.cache.join("kernels");
    let unpacked = directory.join(format!("{digest}.vmlinux"));
    if !unpacked.exists() {
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
    }
    Ok(prepared(unpacked))
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
}
