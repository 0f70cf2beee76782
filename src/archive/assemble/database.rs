//! dpkg's database of packages that are unpacked and not configured (dpkg(1), FILES;
//! deb-conffiles(5), deb-triggers(5)).

use std::fmt::Write as _;

use super::super::deb::Control;
use super::super::index::Package;
use super::super::minimal;
use super::AssembleError;
use super::placer::Placer;
use crate::tree::Sink;

const DIRECTORY: &str = "var/lib/dpkg";

/// What dpkg knows, collected package by package.
#[derive(Debug, Default)]
pub(super) struct Database {
    status: Vec<(String, String)>,
    /// Packages whose `preinst` is to be run, with the name of their files.
    scripts: Vec<Script>,
    /// `triggers/File`: who is interested in which path.
    file_triggers: Vec<String>,
    /// `triggers/<name>`: who is interested in which trigger.
    triggers: Vec<(String, String)>,
    /// What apt may remove when nothing needs it any more.
    automatic: Vec<(String, String)>,
}

/// A `preinst` that has not run.
#[derive(Debug)]
pub(super) struct Script {
    /// The package's name.
    pub(super) package: String,
    /// Its architecture.
    pub(super) architecture: String,
    /// The name of its files in dpkg's database.
    pub(super) file: String,
}

impl Database {
    /// An empty database.
    pub(super) fn new(packages: &[&Package]) -> Self {
        let wanted = |package: &Package| {
            package.is_essential()
                || package.priority() == "required"
                || minimal::PACKAGES.contains(&package.name())
        };
        let automatic = packages
            .iter()
            .filter(|package| !wanted(package))
            .map(|package| (package.name().to_owned(), package.architecture().to_owned()))
            .collect();
        Self { automatic, ..Self::default() }
    }

    /// How many packages there are.
    pub(super) fn len(&self) -> usize {
        self.status.len()
    }

    /// The scripts to run before anything is configured.
    pub(super) fn scripts(&self) -> &[Script] {
        &self.scripts
    }

    /// Adds a package whose data is in the tree, and writes its files.
    pub(super) fn add<S: Sink>(
        &mut self,
        control: Control,
        placer: &mut Placer<'_, S>,
    ) -> Result<(), AssembleError<S::Error>> {
        let field = |name| control.fields.get(name).unwrap_or_default();
        let package = field("Package");
        // Packages that can be there once per architecture carry it in their name.
        let name = match field("Multi-Arch") {
            "same" => format!("{package}:{}", field("Architecture")),
            _ => package.to_owned(),
        };
        let list = placer.take_list();
        placer.file(&format!("{DIRECTORY}/info/{name}.list"), 0o644, &list)?;
        for file in control.files.iter().filter(|file| file.name != "control") {
            let path = format!("{DIRECTORY}/info/{name}.{}", file.name);
            placer.file_of(&path, file.mode, file.modified, &file.content)?;
        }
        if control.file("preinst").is_some() {
            self.scripts.push(Script {
                package: package.to_owned(),
                architecture: field("Architecture").to_owned(),
                file: name.clone(),
            });
        }
        self.add_triggers(&control, &name);
        self.status.push((name, paragraph(&control)));
        Ok(())
    }

    fn add_triggers(&mut self, control: &Control, name: &str) {
        let text = String::from_utf8_lossy(control.file("triggers").unwrap_or_default());
        for line in text.lines().map(|line| line.split('#').next().unwrap_or_default()) {
            let mut words = line.split_whitespace();
            let (Some(directive), Some(trigger)) = (words.next(), words.next()) else { continue };
            let interested = match directive {
                "interest" | "interest-await" => name.to_owned(),
                "interest-noawait" => format!("{name}/noawait"),
                _ => continue,
            };
            if trigger.starts_with('/') {
                self.file_triggers.push(format!("{trigger} {interested}\n"));
            } else if !trigger.contains('/') {
                self.triggers.push((trigger.to_owned(), format!("{interested}\n")));
            }
        }
    }

    /// Writes what is not a single package's.
    pub(super) fn finish<S: Sink>(
        &mut self,
        placer: &mut Placer<'_, S>,
    ) -> Result<(), AssembleError<S::Error>> {
        self.status.sort();
        for directory in ["info", "parts", "triggers", "updates", "alternatives"] {
            placer.directory(&format!("{DIRECTORY}/{directory}"))?;
        }
        let status: String = self.status.iter().map(|(_, text)| text.as_str()).collect();
        placer.file(&format!("{DIRECTORY}/status"), 0o644, status.as_bytes())?;
        placer.file(&format!("{DIRECTORY}/available"), 0o644, b"")?;
        placer.file(&format!("{DIRECTORY}/info/format"), 0o644, b"1\n")?;
        let file_triggers = self.file_triggers.concat();
        placer.file(&format!("{DIRECTORY}/triggers/File"), 0o644, file_triggers.as_bytes())?;
        placer.file(&format!("{DIRECTORY}/triggers/Unincorp"), 0o644, b"")?;
        self.triggers.sort();
        for group in self.triggers.chunk_by(|left, right| left.0 == right.0) {
            let Some((trigger, _)) = group.first() else { continue };
            let interested: String = group.iter().map(|(_, line)| line.as_str()).collect();
            let path = format!("{DIRECTORY}/triggers/{trigger}");
            placer.file(&path, 0o644, interested.as_bytes())?;
        }
        let mut automatic = String::new();
        for (package, architecture) in &self.automatic {
            let architecture = match architecture.as_str() {
                // apt keeps them under the architecture they were chosen for.
                "all" => super::super::repository::ARCHITECTURE,
                other => other,
            };
            let _ = write!(
                automatic,
                "Package: {package}\nArchitecture: {architecture}\nAuto-Installed: 1\n\n"
            );
        }
        placer.file("var/lib/apt/extended_states", 0o644, automatic.as_bytes())
    }
}

/// The paragraph of `status`.
fn paragraph(control: &Control) -> String {
    let mut text = String::new();
    let mut field = |name: &str, value: &str| {
        let mut lines = value.split('\n');
        let first = lines.next().unwrap_or_default();
        let _ = writeln!(text, "{name}:{}{first}", if first.is_empty() { "" } else { " " });
        for line in lines {
            let _ = writeln!(text, " {line}");
        }
    };
    for (name, value) in control.fields.fields() {
        field(name, value);
        if name.eq_ignore_ascii_case("Package") {
            field("Status", "install ok unpacked");
        }
    }
    let mut files = String::new();
    let list = String::from_utf8_lossy(control.file("conffiles").unwrap_or_default());
    for line in list.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let _ = match line.split_once(char::is_whitespace) {
            Some((flag, path)) if !line.starts_with('/') => {
                write!(files, "\n{} newconffile {flag}", path.trim())
            }
            _ => write!(files, "\n{line} newconffile"),
        };
    }
    if !files.is_empty() {
        field("Conffiles", &files);
    }
    text.push('\n');
    text
}
