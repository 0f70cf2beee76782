//! A kernel package made ready to boot: what a machine needs out of what Debian ships.
//!
//! Everything is read in one pass over the package's data: the kernel and the still
//! compressed modules stay in memory (30 MB), which lets the order of loading be known
//! before the first module is written. On the modules disk they lie uncompressed, because
//! not every distro's `modprobe` can decompress.

use std::fs;
use std::io::{self, Read};
use std::path::Path;

use super::decompress::{Compression, decompress};
use super::modules::{Module, Modules};
use super::{KernelError, depmod, image};
use crate::image::tar;
use crate::tree::path::TreePath;
use crate::tree::{Entry, Kind, Metadata, Segment, Sink, Timestamp};

/// What the guest's init loads before it can reach disks and the service, in this order,
/// and what it needs to start distros.
const INITIAL: [&str; 7] = [
    "virtio_mmio",
    "virtio_rng",
    "virtio_scsi",
    "sd_mod",
    "vmw_vsock_virtio_transport",
    "overlay",
    "binfmt_misc",
];

/// The largest kernel, module or table in a package.
const FILE_LIMIT: u64 = 256 << 20;
/// The most that is taken out of a package.
const PACKAGE_LIMIT: u64 = 512 << 20;

/// What a kernel package holds.
#[derive(Debug, Default)]
pub struct Package {
    /// The release, from the name of the kernel.
    release: String,
    /// The kernel as shipped.
    kernel: Vec<u8>,
    /// The files below `lib/modules/<release>`, with their paths there.
    files: Vec<(String, Vec<u8>)>,
    size: u64,
    modified: Timestamp,
}

/// What the disk's sink and the kernel can go wrong with.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError<E: std::error::Error + 'static> {
    /// The kernel.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The disk.
    #[error("cannot write the modules disk")]
    Disk(#[source] E),
}

impl Package {
    /// Reads the data of a kernel package, a plain tar stream.
    ///
    /// # Errors
    /// Where the stream is no tar archive, is too large, or holds no kernel.
    pub fn read(data: impl Read) -> Result<Self, KernelError> {
        let mut package = Self::default();
        tar::read_entries(data, &mut package, |path| path)
            .map_err(|error| KernelError::InvalidPackage { reason: crate::error::chain(&error) })?;
        let release = &package.release;
        let reason = if package.kernel.is_empty() {
            "it holds no kernel"
        } else if !release.starts_with(|first: char| first.is_ascii_digit()) {
            "its kernel has no release"
        } else {
            let directory = format!("{release}/");
            package.files.retain_mut(|(path, _)| match path.strip_prefix(&directory) {
                Some(inside) => {
                    *path = inside.to_owned();
                    true
                }
                None => false,
            });
            package.files.sort();
            return Ok(package);
        };
        Err(KernelError::InvalidPackage { reason: reason.to_owned() })
    }

    /// The kernel's release, as `uname -r` tells it.
    #[must_use]
    pub fn release(&self) -> &str {
        &self.release
    }

    /// The kernel as shipped, a bzImage.
    #[must_use]
    pub fn kernel(&self) -> &[u8] {
        &self.kernel
    }

    /// When the kernel was built.
    #[must_use]
    pub fn modified(&self) -> Timestamp {
        self.modified
    }

    /// Writes `vmlinux` and the modules that init loads to `directory`, and all modules
    /// with their tables to the sink `disk`. `step` is called for each module with their
    /// number.
    ///
    /// # Errors
    /// Where the kernel or a module is not one, or something cannot be written.
    pub fn prepare<S: Sink>(
        &self,
        directory: &Path,
        disk: &mut S,
        mut step: impl FnMut(usize),
    ) -> Result<(), PrepareError<S::Error>> {
        let shipped = Path::new("boot").join(format!("vmlinuz-{}", self.release));
        let vmlinux = image::vmlinux(&self.kernel, &shipped)?;
        write(&directory.join("vmlinux"), &vmlinux)?;
        let packed: Vec<&(String, Vec<u8>)> =
            self.files.iter().filter(|(path, _)| plain_name(path).is_some()).collect();
        let mut modules = Vec::new();
        for (path, content) in &packed {
            let path = plain_name(path).unwrap_or(path);
            let content = plain(path, content)?;
            modules.push(Module::read(path, &content)?);
            self.add(disk, path, &content).map_err(PrepareError::Disk)?;
            step(packed.len());
        }
        let modules = self.modules(modules);
        for (number, module) in modules.load_order(INITIAL)?.iter().enumerate() {
            let packed = packed.iter().find(|(path, _)| plain_name(path) == Some(&module.path));
            if let Some((path, content)) = packed {
                let name = format!("modules/{number:02}-{}.ko", module.name);
                write(&directory.join(name), &plain(path, content)?)?;
            }
        }
        for (path, content) in &self.files {
            if plain_name(path).is_none() {
                self.add(disk, path, content).map_err(PrepareError::Disk)?;
            }
        }
        for (path, content) in depmod::tables(&modules, self.file("modules.builtin.modinfo"))? {
            self.add(disk, path, &content).map_err(PrepareError::Disk)?;
        }
        Ok(())
    }

    fn modules(&self, list: Vec<Module>) -> Modules {
        let text = |name| String::from_utf8_lossy(self.file(name));
        Modules::new(&self.release, list, &text("modules.order"), &text("modules.builtin"))
    }

    fn file(&self, name: &str) -> &[u8] {
        self.files.iter().find(|(path, _)| path == name).map_or(&[], |(_, content)| content)
    }

    fn add<S: Sink>(&self, disk: &mut S, path: &str, mut content: &[u8]) -> Result<(), S::Error> {
        let path = TreePath::new(path.as_bytes()).map_err(io::Error::other)?;
        let size = content.len() as u64;
        let metadata = Metadata { mode: 0o644, modified: self.modified, ..Metadata::default() };
        let segments = [Segment { offset: 0, length: size }];
        let segments = if size == 0 { &[][..] } else { &segments };
        let kind = Kind::File { size, segments, content: &mut content };
        disk.add(Entry { path: &path, metadata: &metadata, kind })
    }
}

/// Takes what a boot needs and passes over the rest.
impl Sink for Package {
    type Error = io::Error;

    fn add(&mut self, entry: Entry<'_>) -> Result<(), io::Error> {
        let Kind::File { size, segments, content } = entry.kind else { return Ok(()) };
        let path = String::from_utf8_lossy(entry.path.as_bytes());
        // The modules are below /lib in Debian 12 and below /usr/lib since.
        let path = path.strip_prefix("usr/").unwrap_or(&path);
        let release = path.strip_prefix("boot/vmlinuz-");
        let module = path.strip_prefix("lib/modules/");
        if release.is_none() && module.is_none() {
            return io::copy(content, &mut io::sink()).map(drop);
        }
        self.size = self.size.saturating_add(size);
        let is_whole = segments.iter().map(|segment| segment.length).sum::<u64>() == size;
        if size > FILE_LIMIT || self.size > PACKAGE_LIMIT || !is_whole {
            return Err(io::Error::other(format!(
                "'{path}' of {size} bytes is too large or sparse"
            )));
        }
        let mut bytes = Vec::new();
        content.read_to_end(&mut bytes)?;
        if let Some(release) = release {
            release.clone_into(&mut self.release);
            self.kernel = bytes;
            self.modified = entry.metadata.modified;
        } else if let Some(path) = module {
            self.files.push((path.to_owned(), bytes));
        }
        Ok(())
    }
}

/// The name of a module once it is decompressed; `None` for other files.
fn plain_name(path: &str) -> Option<&str> {
    let end = path.rfind(".ko")? + ".ko".len();
    let (name, suffix) = path.split_at(end);
    ["", ".xz", ".zst", ".gz"].contains(&suffix).then_some(name)
}

fn plain(path: &str, content: &[u8]) -> Result<Vec<u8>, KernelError> {
    match Compression::of(content) {
        Some(compression) => {
            decompress(compression, content, FILE_LIMIT, &format!("the module '{path}'"))
        }
        None => Ok(content.to_vec()),
    }
}

fn write(path: &Path, content: &[u8]) -> Result<(), KernelError> {
    fs::write(path, content).map_err(KernelError::file("write", path))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::kernel::elf::Elf;
    use crate::kernel::elf::tests::object;

    #[derive(Default)]
    struct Files(BTreeMap<String, Vec<u8>>);

    impl Sink for Files {
        type Error = io::Error;

        fn add(&mut self, entry: Entry<'_>) -> Result<(), io::Error> {
            if let Kind::File { content, .. } = entry.kind {
                let mut bytes = Vec::new();
                content.read_to_end(&mut bytes)?;
                self.0.insert(entry.path.to_string(), bytes);
            }
            Ok(())
        }
    }

    fn archive(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut builder = ::tar::Builder::new(Vec::new());
        for (path, content) in files {
            let mut header = ::tar::Header::new_ustar();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            builder.append_data(&mut header, path, *content).unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn module(information: &str) -> Vec<u8> {
        object(&[(".modinfo", information.as_bytes())])
    }

    fn kernel() -> Vec<u8> {
        Elf::new(&fs::read("/proc/self/exe").unwrap()).unwrap().without_sections().unwrap()
    }

    #[test]
    fn a_package_becomes_a_kernel_modules_and_a_disk() {
        let kernel = kernel();
        let packed = |information: &str| zstd::encode_all(&module(information)[..], 1).unwrap();
        let scsi = packed("depends=scsi_mod\0");
        let vsock = packed("depends=\0");
        let data = archive(&[
            ("./boot/vmlinuz-6.1-x", &kernel),
            ("./boot/config-6.1-x", b"CONFIG"),
            ("./lib/modules/6.1-x/kernel/sd_mod.ko.zst", &scsi),
            ("./lib/modules/6.1-x/kernel/scsi_mod.ko.zst", &packed("")),
            ("./lib/modules/6.1-x/kernel/vmw_vsock_virtio_transport.ko.zst", &vsock),
            (
                "./lib/modules/6.1-x/modules.builtin",
                b"a/virtio_mmio.ko\na/virtio-rng.ko\na/virtio_scsi.ko\nfs/overlay.ko\na/binfmt_misc.ko\n",
            ),
        ]);
        let package = Package::read(&data[..]).unwrap();
        assert_eq!(package.release(), "6.1-x");
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("modules")).unwrap();
        let mut disk = Files::default();
        let mut steps = 0;
        package.prepare(directory.path(), &mut disk, |_| steps += 1).unwrap();
        assert_eq!(steps, 3);
        assert_eq!(fs::read(directory.path().join("vmlinux")).unwrap(), kernel);
        let first = fs::read(directory.path().join("modules/00-scsi_mod.ko")).unwrap();
        assert_eq!(first, module(""));
        assert!(directory.path().join("modules/01-sd_mod.ko").exists());
        assert_eq!(disk.0["/kernel/scsi_mod.ko"], module(""));
        assert_eq!(
            disk.0["/modules.dep"],
            b"kernel/scsi_mod.ko:\nkernel/sd_mod.ko: kernel/scsi_mod.ko\nkernel/vmw_vsock_virtio_transport.ko:\n"
        );
    }

    #[test]
    fn a_package_without_a_kernel_is_refused() {
        for data in [
            archive(&[("./usr/share/doc/x", b"x")]),
            archive(&[("./boot/vmlinuz-.x", b"x")]),
            b"no tar at all".repeat(100),
        ] {
            let error = Package::read(&data[..]).unwrap_err();
            assert!(matches!(error, KernelError::InvalidPackage { .. }), "{error}");
        }
    }

    #[test]
    fn only_modules_have_a_plain_name() {
        assert_eq!(plain_name("kernel/a.ko.xz"), Some("kernel/a.ko"));
        assert_eq!(plain_name("kernel/a.ko"), Some("kernel/a.ko"));
        assert_eq!(plain_name("modules.order"), None);
        assert_eq!(plain_name("kernel/a.kotlin"), None);
    }
}
