//! Prepares the rig's machine with this project's own means: `prepare-rig SCRIPTS TARGET`.
//!
//! The kernel and its modules disk are fetched and made as for any user, the root disk is
//! assembled from Debian's packages and written by the ext4 writer, and the initramfs that
//! joins them is packed by what packs the guest's. No privileges, no other tools.
//! `SCRIPTS` is `tests/rig`; `TARGET` gets `data/kernels`, `kernel/` (what the tests boot),
//! `initramfs`, `root.img`, and `packages.img`: a distro put together as for any user.

use std::collections::HashMap;
use std::error::Error;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use wslr::archive::assemble::{assemble, assemble_packages};
use wslr::archive::{Repository, closure, deb};
use wslr::config::paths::Paths;
use wslr::download::Fetcher;
use wslr::ext4;
use wslr::kernel::initramfs::Archive;
use wslr::kernel::package::Package;
use wslr::kernel::{self, Prepared};
use wslr::terminal::progress::Progress;
use wslr::tree::path::TreePath;
use wslr::tree::{Entry, Kind, Metadata, Segment, Sink};

/// What the machine has besides everything essential or required.
const PACKAGES: &[&str] = &[
    "busybox-static",
    "ca-certificates",
    "dropbear-bin",
    "e2fsprogs",
    "file",
    "iproute2",
    "kmod",
    "procps",
    "qemu-system-x86",
    "strace",
];

/// The apparent size of the disks.
const ROOT_SIZE: u64 = 16 << 30;

/// Where busybox is in its package.
const BUSYBOX: &str = "usr/bin/busybox";

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args_os().skip(1).map(PathBuf::from);
    let (Some(scripts), Some(target)) = (arguments.next(), arguments.next()) else {
        return Err("usage: prepare-rig SCRIPTS TARGET".into());
    };
    let paths = Paths::below(&target);
    let (fetcher, progress) = (Fetcher::new()?, Progress::on_terminal());
    let source = kernel::update::source(None);
    let updated = kernel::update(&paths, &source, &fetcher, &progress)?;
    let prepared = kernel::current(&paths)?;
    let repository = Repository::open(&source, &fetcher, &paths.cache, &progress)?;

    let busybox = write_root(&repository, &target)?;
    let options = ext4::Options { size: ROOT_SIZE, ..ext4::Options::default() };
    let mut disk = ext4::Writer::new(File::create(target.join("packages.img"))?, options)?;
    let assembled = assemble(&repository, "Debian", &mut disk)?;
    disk.finish()?;
    fs::write(target.join("packages.count"), assembled.packages.len().to_string())?;
    let script = |name: &str| fs::read(scripts.join(name));
    let mut first = initramfs(&script("init")?, &busybox, &prepared)?;
    first.executable("rig-init", &script("outer-init")?);
    fs::write(target.join("initramfs"), first.finish())?;

    let tests = target.join("kernel");
    fs::create_dir_all(tests.join("modules"))?;
    fs::copy(&prepared.vmlinux, tests.join("vmlinux"))?;
    for module in &prepared.modules {
        fs::copy(module, tests.join("modules").join(module.file_name().unwrap_or_default()))?;
    }
    let sample = initramfs(&script("sample-init")?, &busybox, &prepared)?;
    fs::write(tests.join("initramfs.cpio"), sample.finish())?;
    let image = repository.package(&format!("linux-image-{}", updated.release))?;
    for file in repository.download(&[image])? {
        let package = Package::read(deb::open(&file)?.data()?)?;
        fs::write(tests.join("vmlinuz"), package.kernel())?;
    }
    Ok(())
}

/// Writes the root disk; gives the busybox on it.
fn write_root(repository: &Repository<'_>, target: &Path) -> Result<Vec<u8>, Box<dyn Error>> {
    let partial = target.join("root.img.partial");
    let options = ext4::Options { size: ROOT_SIZE, ..ext4::Options::default() };
    let disk = ext4::Writer::new(File::create(&partial)?, options)?;
    let mut root = Root { disk, kept: HashMap::new() };
    let wanted = closure::base(repository.index()).chain(PACKAGES.iter().copied());
    let packages = repository.resolve(wanted)?;
    assemble_packages(repository, &packages, "rig", &mut root)?;

    let key = fs::read(target.join("key.pub"))?;
    let files: [(&str, u32, &[u8]); 6] = [
        ("etc/group", 0o644, b"root:x:0:\ntty:x:5:\nkvm:x:104:user\nuser:x:1000:\n"),
        ("etc/hosts", 0o644, b"127.0.0.1 localhost rig\n"),
        ("etc/passwd", 0o644, b"root:x:0:0::/root:/bin/sh\nuser:x:1000:1000::/tmp:/bin/sh\n"),
        ("etc/resolv.conf", 0o644, b"nameserver 10.0.2.3\n"),
        ("etc/shells", 0o644, b"/bin/sh\n/bin/bash\n"),
        ("root/.ssh/authorized_keys", 0o600, &key),
    ];
    root.directory("root", 0o700)?;
    root.directory("root/.ssh", 0o700)?;
    root.directory("etc/dropbear", 0o755)?;
    for (path, mode, content) in files {
        root.file(path, mode, content)?;
    }
    root.disk.finish()?;
    fs::rename(partial, target.join("root.img"))?;
    root.kept.remove(BUSYBOX).ok_or_else(|| format!("no package has {BUSYBOX}").into())
}

/// An initramfs with `script` as its init, busybox, and the modules of the kernel.
fn initramfs(script: &[u8], busybox: &[u8], kernel: &Prepared) -> io::Result<Archive> {
    let mut archive = Archive::default();
    for directory in ["bin", "dev", "modules", "proc", "root", "sys"] {
        archive.directory(directory);
    }
    archive.character_device("dev/console", 5, 1);
    archive.character_device("dev/kmsg", 1, 11);
    archive.executable("bin/busybox", busybox);
    for module in &kernel.modules {
        let name = module.file_name().unwrap_or_default().to_string_lossy();
        archive.file(&format!("modules/{name}"), &fs::read(module)?);
    }
    archive.executable("init", script);
    Ok(archive)
}

/// The root disk, and the contents of the files that are needed elsewhere too.
struct Root {
    disk: ext4::Writer,
    kept: HashMap<String, Vec<u8>>,
}

impl Root {
    fn directory(&mut self, path: &str, mode: u32) -> Result<(), Box<dyn Error>> {
        let metadata = Metadata { mode, ..Metadata::default() };
        let path = TreePath::new(path.as_bytes())?;
        Ok(self.disk.add(Entry { path: &path, metadata: &metadata, kind: Kind::Directory })?)
    }

    fn file(&mut self, path: &str, mode: u32, mut content: &[u8]) -> Result<(), Box<dyn Error>> {
        let metadata = Metadata { mode, ..Metadata::default() };
        let path = TreePath::new(path.as_bytes())?;
        let size = content.len() as u64;
        let segments = [Segment { offset: 0, length: size }];
        let kind = Kind::File { size, segments: &segments, content: &mut content };
        Ok(self.disk.add(Entry { path: &path, metadata: &metadata, kind })?)
    }
}

impl Sink for Root {
    type Error = ext4::Error;

    fn add(&mut self, entry: Entry<'_>) -> Result<(), ext4::Error> {
        match entry {
            Entry { path, metadata, kind: Kind::File { size, segments, content } }
                if path.as_bytes() == BUSYBOX.as_bytes() =>
            {
                let mut bytes = Vec::new();
                content.read_to_end(&mut bytes)?;
                let mut content = bytes.as_slice();
                let kind = Kind::File { size, segments, content: &mut content };
                self.disk.add(Entry { path, metadata, kind })?;
                self.kept.insert(BUSYBOX.to_owned(), bytes);
                Ok(())
            }
            entry => self.disk.add(entry),
        }
    }
}
