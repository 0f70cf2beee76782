//! The kernel's modules by name, from the tables of `depmod`.
//!
//! The kernel asks for what it lacks by running `/sbin/modprobe` in this machine's root, not in
//! a distro's: [`install`] makes that this executable. So a bridge, a rule of a firewall or a
//! file system is there for whoever asks for it, without a program of the distro's.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use super::{boot, log};
use crate::kernel::modules::{name_of, normal};

/// What the kernel runs, as it is set when it is built.
const LOADER: &str = "/sbin/modprobe";

/// Loads modules and what they need; one that does not exist is logged (B129).
pub fn load(directory: &Path, names: &[String]) {
    let built_in = fs::read_to_string(directory.join("modules.builtin")).unwrap_or_default();
    for module in names {
        let files = load_order(directory, module);
        if files.is_empty() && !built_in.lines().any(|path| name_of(path) == normal(module)) {
            log::warn(format_args!("failed to load module '{module}'"));
        }
        boot::load_modules(&files);
    }
}

/// The files of a module and of what it needs, in the order of loading; none where it is
/// built in or unknown.
pub fn load_order(directory: &Path, module: &str) -> Vec<PathBuf> {
    let table = fs::read_to_string(directory.join("modules.dep")).unwrap_or_default();
    let module = normal(module);
    let line = table.lines().filter_map(|line| line.split_once(':'));
    let Some((module, needs)) = line.into_iter().find(|(path, _)| name_of(path) == module) else {
        return Vec::new();
    };
    let needs = needs.split_ascii_whitespace().rev();
    needs.chain([module]).map(|path| directory.join(path)).collect()
}

/// The files of all modules that answer to a name, which may be an alias such as
/// `rtnl-link-veth`, in the order of loading.
fn asked_for(directory: &Path, name: &str) -> Vec<PathBuf> {
    let order = load_order(directory, name);
    if !order.is_empty() {
        return order;
    }
    let table = fs::read_to_string(directory.join("modules.alias")).unwrap_or_default();
    let name = normal(name);
    let modules: BTreeSet<&str> = table
        .lines()
        .filter_map(|line| {
            let (alias, module) = line.strip_prefix("alias ")?.rsplit_once(' ')?;
            let alias = normal(alias);
            // The kernel asks by whole names; what devices are called it tells elsewhere.
            let is_it = match alias.strip_suffix('*') {
                Some(start) => name.starts_with(start),
                None => name == alias,
            };
            is_it.then_some(module)
        })
        .collect();
    modules.into_iter().flat_map(|module| load_order(directory, module)).collect()
}

/// Makes this executable what the kernel runs for the modules that it lacks.
///
/// # Errors
/// The system's.
pub fn install() -> io::Result<()> {
    fs::create_dir_all("/sbin")?;
    symlink("/init", LOADER)
}

/// Loads what the kernel asks for, and ends, where that is why this process runs.
pub fn run_if_called() {
    let words: Vec<String> =
        std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect();
    let [program, .., name] = &words[..] else { return };
    if program != LOADER {
        return;
    }
    let found = directory().map(|directory| asked_for(&directory, name)).unwrap_or_default();
    boot::load_modules(&found);
    std::process::exit(i32::from(found.is_empty()));
}

/// Where the modules of this kernel are, where there are any.
pub fn directory() -> Option<PathBuf> {
    release().map(|release| directory_of(&release))
}

/// `uname -r`.
pub fn release() -> Option<String> {
    let names = nix::sys::utsname::uname().ok()?;
    Some(names.release().to_string_lossy().into_owned())
}

/// Where the modules of a release are on their disk: its top, or the usual place.
pub fn directory_of(release: &str) -> PathBuf {
    let top = Path::new(boot::MODULES);
    [top.join("lib/modules").join(release), top.join(release)]
        .into_iter()
        .find(|path| path.is_dir())
        .unwrap_or_else(|| top.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_driver_needs_is_loaded_before_it() {
        let directory = tempfile::tempdir().unwrap();
        let table = "kernel/a/xvirtio_net.ko: kernel/x.ko\n\
                     kernel/drivers/net/virtio_net.ko: kernel/net_failover.ko kernel/failover.ko\n";
        fs::write(directory.path().join("modules.dep"), table).unwrap();
        let expected = ["failover.ko", "net_failover.ko", "drivers/net/virtio_net.ko"];
        let expected = expected.map(|name| directory.path().join("kernel").join(name));
        assert_eq!(load_order(directory.path(), "virtio_net"), expected);
        assert_eq!(load_order(directory.path(), "virtio-net"), expected);
        assert!(load_order(directory.path(), "virtio").is_empty());
    }

    #[test]
    fn what_the_kernel_asks_for_is_found_by_each_of_its_names() {
        let directory = tempfile::tempdir().unwrap();
        let table = "kernel/veth.ko:\nkernel/nft_chain-nat.ko: kernel/nf_tables.ko\n\
                     kernel/nf_tables.ko:\nkernel/other.ko:\n";
        fs::write(directory.path().join("modules.dep"), table).unwrap();
        let table = "# Aliases\nalias rtnl-link-veth veth\nalias nft-chain-2-nat nft_chain_nat\n\
                     alias virtio:d00000001v* other\nalias two-names veth\nalias two-names other\n";
        fs::write(directory.path().join("modules.alias"), table).unwrap();
        let find = |name| {
            let found = asked_for(directory.path(), name);
            let names = found.iter().map(|path| path.file_name().unwrap().to_str().unwrap());
            names.map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(find("veth"), ["veth.ko"]);
        assert_eq!(find("rtnl-link-veth"), ["veth.ko"]);
        assert_eq!(find("nft-chain-2-nat"), ["nf_tables.ko", "nft_chain-nat.ko"]);
        assert_eq!(find("nft_chain_nat"), ["nf_tables.ko", "nft_chain-nat.ko"]);
        assert_eq!(find("virtio:d00000001v00001AF4"), ["other.ko"]);
        assert_eq!(find("two-names"), ["other.ko", "veth.ko"]);
        assert_eq!(find("net-pf-99"), [""; 0]);
    }
}
