//! The guest's first file system: its init, and the modules that init loads.
//!
//! An uncompressed cpio archive in the "newc" format (Linux
//! `Documentation/driver-api/early-userspace/buffer-format.rst`), made anew at each boot of
//! the machine from the running executable, so that host and guest are always the same
//! program. The same input gives the same bytes.

use std::fs;
use std::path::{Path, PathBuf};

use super::KernelError;
use super::elf::Elf;

/// Where the modules are; the kernel's init loads them in the order of their names.
pub const MODULES: &str = "modules";

const DIRECTORY: u32 = 0o040_755;
const EXECUTABLE: u32 = 0o100_755;
const FILE: u32 = 0o100_644;
const CHARACTER_DEVICE: u32 = 0o020_600;

/// Packs `executable` as `/init` and `modules`, in that order, below `/modules`.
///
/// Of the executable only what is loaded is packed: its debugging information would take
/// memory in every guest.
///
/// # Errors
/// Where a file cannot be read or the executable is not an ELF program.
pub fn build(executable: &Path, modules: &[PathBuf]) -> Result<Vec<u8>, KernelError> {
    let read = |path: &Path| fs::read(path).map_err(KernelError::file("read", path));
    let program = read(executable)?;
    let program = Elf::new(&program).and_then(|elf| elf.without_sections()).map_err(|error| {
        let source = std::io::Error::new(std::io::ErrorKind::InvalidData, error);
        KernelError::File { action: "pack", path: executable.to_path_buf(), source }
    })?;
    let mut archive = Archive::default();
    for directory in ["dev", MODULES, "proc", "sys"] {
        archive.directory(directory);
    }
    archive.character_device("dev/console", 5, 1);
    archive.character_device("dev/null", 1, 3);
    archive.character_device("dev/kmsg", 1, 11);
    for (number, path) in modules.iter().enumerate() {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        // The prepared name begins with a number of its own.
        let name = name.trim_start_matches(|character: char| character.is_ascii_digit());
        let name = name.trim_start_matches('-');
        archive.file(&format!("{MODULES}/{number:02}-{name}"), &read(path)?);
    }
    archive.executable("init", &program);
    Ok(archive.finish())
}

/// A cpio archive being made.
#[derive(Debug, Default)]
pub struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    /// Adds a directory, everybody's to enter.
    pub fn directory(&mut self, name: &str) {
        self.add(name, DIRECTORY, (0, 0), &[]);
    }

    /// Adds a file, everybody's to read.
    pub fn file(&mut self, name: &str, content: &[u8]) {
        self.add(name, FILE, (0, 0), content);
    }

    /// Adds a program, everybody's to run.
    pub fn executable(&mut self, name: &str, content: &[u8]) {
        self.add(name, EXECUTABLE, (0, 0), content);
    }

    /// Adds a character device of that major and minor number, root's own.
    pub fn character_device(&mut self, name: &str, major: u32, minor: u32) {
        self.add(name, CHARACTER_DEVICE, (major, minor), &[]);
    }

    fn add(&mut self, name: &str, mode: u32, device: (u32, u32), content: &[u8]) {
        self.entries += 1;
        // Magic, then: inode, mode, uid, gid, links, mtime, size, device (major, minor),
        // device of the node (major, minor), length of the name with its NUL, checksum.
        self.bytes.extend_from_slice(b"070701");
        let fields = [
            self.entries,
            mode,
            0,
            0,
            1,
            0,
            content.len() as u32,
            0,
            0,
            device.0,
            device.1,
            name.len() as u32 + 1,
            0,
        ];
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    /// The archive.
    #[must_use]
    pub fn finish(mut self) -> Vec<u8> {
        self.add("TRAILER!!!", 0, (0, 0), &[]);
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn cpio_reads_the_archive() {
        let directory = tempfile::tempdir().unwrap();
        let module = directory.path().join("07-vsock.ko");
        fs::write(&module, b"module").unwrap();
        let own = Path::new("/proc/self/exe");
        let archive = build(own, std::slice::from_ref(&module)).unwrap();
        assert_eq!(archive, build(own, &[module]).unwrap());
        // tar reads cpio nowhere, cpio everywhere does.
        let mut child = Command::new("cpio")
            .args(["--extract", "--quiet", "--make-directories", "--no-absolute-filenames"])
            .args(["init", "modules/*"])
            .current_dir(directory.path())
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(&archive).unwrap();
        assert!(child.wait().unwrap().success());
        let read = |name: &str| fs::read(directory.path().join(name)).unwrap();
        assert_eq!(read("modules/00-vsock.ko"), b"module");
        let program = read("init");
        assert_eq!(program[64..], fs::read(own).unwrap()[64..program.len()]);
    }
}
