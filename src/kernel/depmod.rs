//! The tables below `/lib/modules/<release>` that `modprobe` works with.
//!
//! The same files as kmod's `depmod` makes, in both forms: the binary one for kmod's
//! `modprobe`, the text for that of busybox and for people. A line of `modules.dep` names
//! what a module needs so that loading goes from its end to its beginning.

use super::KernelError;
use super::index::Index;
use super::modules::{Module, Modules, normal, strings};

/// The names and contents of all tables. `built_in_information` is the package's
/// `modules.builtin.modinfo`.
///
/// # Errors
/// Where a module needs one that does not exist, or itself.
pub fn tables(
    modules: &Modules,
    built_in_information: &[u8],
) -> Result<Vec<(&'static str, Vec<u8>)>, KernelError> {
    let mut dependencies = Table::default();
    let mut aliases = Table::headed("# Aliases extracted from modules themselves.\n");
    let mut symbols = Table::headed("# Aliases for symbols, used by symbol_request().\n");
    let mut soft_dependencies =
        String::from("# Soft dependencies extracted from modules themselves.\n");
    let mut device_names = String::from("# Device nodes to trigger on-demand module loading.\n");
    for (priority, module) in (0_u32..).zip(modules.all()) {
        let mut needs = modules.load_order([module.name.as_str()])?;
        needs.pop();
        let needs: Vec<&str> = needs.iter().rev().map(|needed| needed.path.as_str()).collect();
        let mut line = format!("{}:", module.path);
        for needed in needs {
            line.push(' ');
            line.push_str(needed);
        }
        dependencies.add(&module.name, &line, &line, priority);
        for alias in &module.aliases {
            let line = format!("alias {alias} {}", module.name);
            aliases.add(&normal_pattern(alias), &module.name, &line, priority);
        }
        for symbol in &module.symbols {
            let key = format!("symbol:{symbol}");
            let line = format!("alias {key} {}", module.name);
            symbols.add(&key, &module.name, &line, priority);
        }
        for soft in &module.soft_dependencies {
            soft_dependencies.push_str(&format!("softdep {} {soft}\n", module.name));
        }
        if let Some(device) = device(module) {
            device_names.push_str(&format!("{} {device}\n", module.name));
        }
    }
    let mut built_in = Index::default();
    for name in modules.built_in() {
        built_in.insert(name, "", 0);
    }
    let mut built_in_aliases = Index::default();
    for entry in strings(built_in_information) {
        if let Some((name, alias)) = entry.split_once(".alias=") {
            built_in_aliases.insert(&normal_pattern(alias), &normal(name), 0);
        }
    }
    Ok(vec![
        ("modules.alias", aliases.text.into_bytes()),
        ("modules.alias.bin", aliases.index.to_bytes()),
        ("modules.builtin.alias.bin", built_in_aliases.to_bytes()),
        ("modules.builtin.bin", built_in.to_bytes()),
        ("modules.dep", dependencies.text.into_bytes()),
        ("modules.dep.bin", dependencies.index.to_bytes()),
        ("modules.devname", device_names.into_bytes()),
        ("modules.softdep", soft_dependencies.into_bytes()),
        ("modules.symbols", symbols.text.into_bytes()),
        ("modules.symbols.bin", symbols.index.to_bytes()),
    ])
}

/// One table in both forms.
#[derive(Default)]
struct Table {
    text: String,
    index: Index,
}

impl Table {
    fn headed(head: &str) -> Self {
        Self { text: head.to_owned(), ..Self::default() }
    }

    fn add(&mut self, key: &str, value: &str, line: &str, priority: u32) {
        self.index.insert(key, value, priority);
        self.text.push_str(line);
        self.text.push('\n');
    }
}

/// An alias pattern with `-` as `_`, except in a bracket, where it makes a range.
fn normal_pattern(alias: &str) -> String {
    let mut in_bracket = false;
    let normal = |character| {
        match character {
            '[' => in_bracket = true,
            ']' => in_bracket = false,
            '-' if !in_bracket => return '_',
            _ => {}
        }
        character
    };
    alias.chars().map(normal).collect()
}

/// The device node whose opening loads the module: `net/tun c10:200`.
fn device(module: &Module) -> Option<String> {
    let name = module.aliases.iter().find_map(|alias| alias.strip_prefix("devname:"))?;
    let number = module.aliases.iter().find_map(|alias| {
        let (kind, rest) = alias
            .strip_prefix("char-major-")
            .map(|rest| ('c', rest))
            .or_else(|| alias.strip_prefix("block-major-").map(|rest| ('b', rest)))?;
        let (major, minor) = rest.split_once('-')?;
        let (major, minor) = (major.parse::<u32>().ok()?, minor.parse::<u32>().ok()?);
        Some(format!("{kind}{major}:{minor}"))
    })?;
    Some(format!("{name} {number}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find<'a>(tables: &'a [(&str, Vec<u8>)], name: &str) -> &'a str {
        let (_, content) = tables.iter().find(|(other, _)| *other == name).unwrap();
        std::str::from_utf8(content).unwrap()
    }

    #[test]
    fn the_text_tables_are_those_of_depmod() {
        let module = |name: &str, depends: &[&str], aliases: &[&str]| Module {
            name: name.to_owned(),
            path: format!("kernel/{name}.ko"),
            depends: depends.iter().map(|name| (*name).to_owned()).collect(),
            aliases: aliases.iter().map(|alias| (*alias).to_owned()).collect(),
            ..Module::default()
        };
        let list = vec![
            module("tun", &[], &["devname:net/tun", "char-major-10-200"]),
            module("net_failover", &["failover"], &[]),
            module("failover", &[], &[]),
            module("virtio_net", &["net_failover"], &["virtio:d00000001v*"]),
        ];
        let modules = Modules::new("6", list, "", "kernel/lib/crc-ccitt.ko\n");
        let tables = tables(&modules, b"").unwrap();
        assert!(
            find(&tables, "modules.dep")
                .contains("kernel/virtio_net.ko: kernel/net_failover.ko kernel/failover.ko\n")
        );
        assert!(find(&tables, "modules.alias").contains("alias virtio:d00000001v* virtio_net\n"));
        assert!(find(&tables, "modules.devname").ends_with("tun net/tun c10:200\n"));
    }

    #[test]
    fn a_range_in_a_pattern_stays() {
        assert_eq!(normal_pattern("acpi-x[0-9]-*"), "acpi_x[0-9]_*");
    }
}
