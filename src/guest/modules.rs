//! The kernel's modules by name, from the table of `depmod`.

use std::fs;
use std::path::{Path, PathBuf};

use super::{boot, log};
use crate::kernel::modules::{name_of, normal};

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
    let name = normal(module);
    let is_it = |path: &str| name_of(path) == name;
    let line = table.lines().filter_map(|line| line.split_once(':'));
    let Some((module, needs)) = line.into_iter().find(|(path, _)| is_it(path)) else {
        return Vec::new();
    };
    let needs = needs.split_ascii_whitespace().rev();
    needs.chain([module]).map(|path| directory.join(path)).collect()
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
}
