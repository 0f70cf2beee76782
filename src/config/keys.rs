//! The values of a configuration file whose keys are known (behaviour reference 2.1).
//!
//! A file is checked against a table of its keys: what is wrong with it becomes warnings
//! with their places, and what is left are values of the right kind, each at most once.

use std::collections::HashMap;

use super::syntax::{self, AfterBadLine, Entry};
use super::value::Kind;
use super::{size, value};

/// What a file may hold.
#[derive(Clone, Copy, Debug)]
pub struct Table {
    /// Every key: section, name, kind.
    pub keys: &'static [(&'static str, &'static str, Kind)],
    /// Keys that are another's second name: this `section.key` is that one (B121).
    pub aliases: &'static [(&'static str, &'static str)],
    /// What a line that cannot be read does to the rest.
    pub after_bad_line: AfterBadLine,
}

/// The valid values of a file, by their `section.key` in lower case.
#[derive(Clone, Debug, Default)]
pub struct Values(HashMap<String, String>);

impl Values {
    /// Takes a text out; `None` where it is missing or empty. `name` is in lower case.
    pub fn text(&mut self, name: &str) -> Option<String> {
        self.0.remove(name).filter(|text| !text.is_empty())
    }

    /// Takes a size in bytes out.
    pub fn bytes(&mut self, name: &str) -> Option<u64> {
        size::parse(&self.text(name)?).ok()
    }

    /// Takes an integer out.
    pub fn integer(&mut self, name: &str) -> Option<i64> {
        value::integer(&self.text(name)?)
    }

    /// Takes a boolean out.
    pub fn flag(&mut self, name: &str, default: bool) -> bool {
        self.text(name).and_then(|text| value::boolean(&text)).unwrap_or(default)
    }
}

impl Table {
    /// Reads the text of a file that is called `file` in warnings; gives its values and
    /// the warnings in the order of their lines.
    #[must_use]
    pub fn read(&self, text: &str, file: &str) -> (Values, Vec<String>) {
        let (entries, bad) = syntax::parse(text, self.after_bad_line);
        let place = |line: usize| format!("{file}:{line}");
        let mut warnings: Vec<(usize, String)> = bad
            .into_iter()
            .map(|bad| (bad.line, format!("{} in {}", bad.problem, place(bad.line))))
            .collect();
        let mut seen: HashMap<String, (String, usize)> = HashMap::new();
        let mut values = HashMap::new();
        for entry in entries {
            let name = match entry.section.as_str() {
                "" => entry.key.clone(),
                section => format!("{section}.{}", entry.key),
            };
            let line = entry.line;
            let Some((identity, kind)) = self.known(&entry) else {
                warnings.push((line, format!("Unknown key '{name}' in {}", place(line))));
                continue;
            };
            if let Some((first, first_line)) = seen.get(&identity) {
                let warning = format!(
                    "Duplicated config key '{name}' in {} (Conflicting key: '{first}' in {})",
                    place(line),
                    place(*first_line)
                );
                warnings.push((line, warning));
                continue;
            }
            seen.insert(identity.clone(), (name.clone(), line));
            match kind.problem(&name, &entry.value, &place(line)) {
                Some(problem) => warnings.push((line, problem)),
                None => _ = values.insert(identity, entry.value),
            }
        }
        warnings.sort_by_key(|(line, _)| *line);
        (Values(values), warnings.into_iter().map(|(_, text)| text).collect())
    }

    /// What the entry's key is in lower case, and its kind.
    fn known(&self, entry: &Entry) -> Option<(String, Kind)> {
        let (section, key, kind) = self.keys.iter().find(|(section, key, _)| {
            section.eq_ignore_ascii_case(&entry.section) && key.eq_ignore_ascii_case(&entry.key)
        })?;
        let name = format!("{section}.{key}");
        let alias = self.aliases.iter().find(|(alias, _)| *alias == name);
        Some((alias.map_or(name.as_str(), |(_, key)| key).to_ascii_lowercase(), *kind))
    }
}
