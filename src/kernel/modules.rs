//! The modules of one kernel: what they are called, what they need, what they are for.
//!
//! Debian's package holds no dependency tables (its installation script runs `depmod`), so
//! they are read out of the modules themselves, whose `.modinfo` section is a list of
//! `key=value` strings.

use std::collections::{HashMap, HashSet};

use super::KernelError;
use super::elf::Elf;

/// One module.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Module {
    /// Its name as the kernel writes it: `-` is `_`.
    pub name: String,
    /// Its path below the release's directory, `kernel/fs/overlayfs/overlay.ko`.
    pub path: String,
    /// The modules that must be loaded before it, by name.
    pub depends: Vec<String>,
    /// Patterns that it is loaded for.
    pub aliases: Vec<String>,
    /// Its soft dependencies as written: `pre: crc32c`.
    pub soft_dependencies: Vec<String>,
    /// The symbols it exports.
    pub symbols: Vec<String>,
}

impl Module {
    /// Reads a decompressed module.
    ///
    /// # Errors
    /// Where it is no module for x86-64.
    pub fn read(path: &str, content: &[u8]) -> Result<Self, KernelError> {
        let invalid = |reason: String| KernelError::InvalidModule { path: path.to_owned(), reason };
        let elf = Elf::new(content).map_err(|error| invalid(error.to_string()))?;
        let section = |name: &[u8]| elf.section(name).map_err(|error| invalid(error.to_string()));
        let information = section(b".modinfo")?
            .ok_or_else(|| invalid("it has no .modinfo section".to_owned()))?;
        let mut module = Self { name: name_of(path), path: path.to_owned(), ..Self::default() };
        for (key, value) in strings(information).filter_map(|entry| entry.split_once('=')) {
            match key {
                "alias" => module.aliases.push(value.to_owned()),
                "depends" => {
                    let names = value.split(',').filter(|name| !name.is_empty());
                    module.depends.extend(names.map(normal));
                }
                "softdep" => module.soft_dependencies.push(value.to_owned()),
                _ => {}
            }
        }
        // `__ksymtab_strings` would hold the name spaces of symbols as well.
        let symbols = section(b".strtab")?.unwrap_or_default();
        let exported = strings(symbols).filter_map(|name| name.strip_prefix("__ksymtab_"));
        module.symbols = exported.map(str::to_owned).collect();
        Ok(module)
    }
}

/// The strings of a section, those that are not UTF-8 or hold a line end left out.
pub(super) fn strings(section: &[u8]) -> impl Iterator<Item = &str> {
    section
        .split(|byte| *byte == 0)
        .filter_map(|entry| std::str::from_utf8(entry).ok())
        .filter(|entry| !entry.is_empty() && !entry.contains('\n'))
}

/// A module's name with `-` as `_`.
#[must_use]
pub fn normal(name: &str) -> String {
    name.replace('-', "_")
}

/// The name of the module in a file: `virtio_rng` of `kernel/x/virtio-rng.ko.xz`.
#[must_use]
pub fn name_of(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    normal(file.split(".ko").next().unwrap_or(file))
}

/// All modules of a kernel.
#[derive(Debug, Default)]
pub struct Modules {
    release: String,
    list: Vec<Module>,
    by_name: HashMap<String, usize>,
    built_in: HashSet<String>,
}

impl Modules {
    /// The modules of kernel `release`, in the order of its `modules.order` where that
    /// names them, and what its `modules.builtin` says needs no module.
    #[must_use]
    pub fn new(release: &str, mut list: Vec<Module>, order: &str, built_in: &str) -> Self {
        let order: HashMap<String, usize> =
            order.lines().enumerate().map(|(index, path)| (name_of(path), index)).collect();
        list.sort_by(|one, other| {
            let rank = |module: &Module| order.get(&module.name).copied().unwrap_or(usize::MAX);
            rank(one).cmp(&rank(other)).then_with(|| one.path.cmp(&other.path))
        });
        let by_name =
            list.iter().enumerate().map(|(index, module)| (module.name.clone(), index)).collect();
        let built_in = built_in.lines().map(name_of).collect();
        Self { release: release.to_owned(), list, by_name, built_in }
    }

    /// Every module, in priority order.
    #[must_use]
    pub fn all(&self) -> &[Module] {
        &self.list
    }

    /// Names of what is built in, sorted.
    #[must_use]
    pub fn built_in(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.built_in.iter().map(String::as_str).collect();
        names.sort_unstable();
        names
    }

    /// The named modules and all they need, each after what it needs. What is built in
    /// is left out.
    ///
    /// # Errors
    /// Where a module does not exist or needs itself.
    pub fn load_order<'a>(
        &self,
        names: impl IntoIterator<Item = &'a str>,
    ) -> Result<Vec<&Module>, KernelError> {
        let mut loaded = Vec::new();
        let mut state = HashMap::new();
        for name in names {
            self.visit(&normal(name), &mut state, &mut loaded)?;
        }
        Ok(loaded)
    }

    /// Adds a module after what it needs; `state` is false while a module's needs are
    /// being added. As deep as the longest chain, which is no longer than the list.
    fn visit<'s>(
        &'s self,
        name: &str,
        state: &mut HashMap<&'s str, bool>,
        loaded: &mut Vec<&'s Module>,
    ) -> Result<(), KernelError> {
        let Some(module) = self.by_name.get(name).and_then(|index| self.list.get(*index)) else {
            if self.built_in.contains(name) {
                return Ok(());
            }
            return Err(KernelError::MissingModule {
                release: self.release.clone(),
                module: name.to_owned(),
            });
        };
        match state.get(module.name.as_str()) {
            Some(true) => return Ok(()),
            Some(false) => return Err(KernelError::DependencyCycle { module: name.to_owned() }),
            None => {}
        }
        state.insert(&module.name, false);
        for needed in &module.depends {
            self.visit(needed, state, loaded)?;
        }
        state.insert(&module.name, true);
        loaded.push(module);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::elf::tests::object;

    fn module(name: &str, depends: &[&str]) -> Module {
        Module {
            name: name.to_owned(),
            path: format!("kernel/{name}.ko"),
            depends: depends.iter().map(|name| (*name).to_owned()).collect(),
            ..Module::default()
        }
    }

    #[test]
    fn a_module_tells_its_needs() {
        let file = object(&[
            (".modinfo", b"license=GPL\0\0alias=virtio:d00000010v*\0softdep=pre: crc32c\0depends=scsi-mod,x\0"),
            (".strtab", b"\0__ksymtab_one\0one\0__ksymtab_two\0"),
        ]);
        let module = Module::read("kernel/drivers/scsi/virtio-scsi.ko", &file).unwrap();
        assert_eq!(module.name, "virtio_scsi");
        assert_eq!(module.depends, ["scsi_mod", "x"]);
        assert_eq!(module.aliases, ["virtio:d00000010v*"]);
        assert_eq!(module.soft_dependencies, ["pre: crc32c"]);
        assert_eq!(module.symbols, ["one", "two"]);
        let error = Module::read("x.ko", &object(&[])).unwrap_err();
        assert!(matches!(error, KernelError::InvalidModule { .. }));
    }

    #[test]
    fn modules_load_after_what_they_need() {
        let list = vec![
            module("sd_mod", &["scsi_mod"]),
            module("scsi_mod", &["scsi_common"]),
            module("virtio_scsi", &["scsi_mod", "virtio"]),
            module("scsi_common", &[]),
        ];
        let modules = Modules::new("6", list, "", "kernel/drivers/virtio/virtio.ko\n");
        let names: Vec<&str> = modules
            .load_order(["virtio", "virtio-scsi", "sd_mod"])
            .unwrap()
            .iter()
            .map(|module| module.name.as_str())
            .collect();
        assert_eq!(names, ["scsi_common", "scsi_mod", "virtio_scsi", "sd_mod"]);
        assert!(matches!(
            modules.load_order(["vsock"]),
            Err(KernelError::MissingModule { module, .. }) if module == "vsock"
        ));
    }

    #[test]
    fn a_circle_is_an_error() {
        let list = vec![module("a", &["b"]), module("b", &["a"])];
        let modules = Modules::new("6", list, "", "");
        assert!(matches!(modules.load_order(["a"]), Err(KernelError::DependencyCycle { .. })));
    }
}
