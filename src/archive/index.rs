//! The packages that an archive has: one or more verified `Packages` indexes.

use std::collections::HashMap;
use std::io::BufRead;

use super::ArchiveError;
use super::deb822::{Paragraph, Paragraphs};
use super::relation::{self, Clause, RelationError};
use super::version;
use crate::download::Sha256;

const FIELDS: &[&str] = &[
    "Architecture",
    "Breaks",
    "Conflicts",
    "Depends",
    "Essential",
    "Filename",
    "Package",
    "Pre-Depends",
    "Priority",
    "Provides",
    "SHA256",
    "Size",
    "Version",
];

/// One package of an archive.
#[derive(Clone, Debug)]
pub struct Package {
    fields: Paragraph,
    /// Its digest.
    pub sha256: Sha256,
    /// The package file's size in bytes.
    pub size: u64,
    /// Where it is fetched from.
    pub url: String,
}

/// All packages of several suites.
#[derive(Clone, Debug, Default)]
pub struct Index {
    packages: Vec<Package>,
    by_name: HashMap<String, Vec<usize>>,
    /// Virtual packages: who provides them, in which version.
    provided: HashMap<String, Vec<(usize, Option<String>)>>,
}

impl Package {
    fn field(&self, name: &str) -> &str {
        self.fields.get(name).unwrap_or_default()
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.field("Package")
    }

    /// The version.
    #[must_use]
    pub fn version(&self) -> &str {
        self.field("Version")
    }

    /// The architecture, or `all`.
    #[must_use]
    pub fn architecture(&self) -> &str {
        self.field("Architecture")
    }

    /// `required`, `important`, `standard`, `optional` or `extra`.
    #[must_use]
    pub fn priority(&self) -> &str {
        self.field("Priority")
    }

    /// Whether every system must have it.
    #[must_use]
    pub fn is_essential(&self) -> bool {
        self.field("Essential").eq_ignore_ascii_case("yes")
    }

    /// What it needs, `Pre-Depends` first.
    ///
    /// # Errors
    /// Where a field is malformed.
    pub fn dependencies(&self) -> Result<Vec<Clause>, RelationError> {
        let mut clauses = self.pre_dependencies()?;
        clauses.extend(relation::parse(self.field("Depends"))?);
        Ok(clauses)
    }

    /// What must be configured before it is unpacked.
    ///
    /// # Errors
    /// Where the field is malformed.
    pub fn pre_dependencies(&self) -> Result<Vec<Clause>, RelationError> {
        relation::parse(self.field("Pre-Depends"))
    }

    /// What it excludes: `Conflicts` and `Breaks`.
    ///
    /// # Errors
    /// Where a field is malformed.
    pub fn exclusions(&self) -> Result<Vec<Clause>, RelationError> {
        let mut clauses = relation::parse(self.field("Conflicts"))?;
        clauses.extend(relation::parse(self.field("Breaks"))?);
        Ok(clauses)
    }

    /// The virtual packages it provides.
    ///
    /// # Errors
    /// Where the field is malformed.
    pub fn provides(&self) -> Result<Vec<Clause>, RelationError> {
        relation::parse(self.field("Provides"))
    }
}

impl Index {
    /// Adds the packages of one `Packages` text of the archive at `mirror`.
    ///
    /// # Errors
    /// Where it cannot be read or is malformed.
    pub fn add(&mut self, text: impl BufRead, mirror: &str, url: &str) -> Result<(), ArchiveError> {
        let mut paragraphs = Paragraphs::of_fields(text, FIELDS);
        loop {
            let fields = paragraphs
                .next_paragraph()
                .map_err(|source| ArchiveError::Index { url: url.to_owned(), source })?;
            let Some(mut fields) = fields else { return Ok(()) };
            let wrong = |field| ArchiveError::IndexField {
                url: url.to_owned(),
                package: fields.get("Package").unwrap_or_default().to_owned(),
                field,
            };
            let get = |field: &'static str| fields.get(field).ok_or_else(|| wrong(field));
            let name = get("Package")?.to_owned();
            get("Version")?;
            get("Architecture")?;
            let sha256 = Sha256::parse(get("SHA256")?).map_err(|_| wrong("SHA256"))?;
            let size = get("Size")?.parse().map_err(|_| wrong("Size"))?;
            let filename = get("Filename")?;
            let harmless = |byte: u8| byte.is_ascii_graphic() && !b"?#\\".contains(&byte);
            if !filename.bytes().all(harmless) || filename.split('/').any(|part| part == "..") {
                return Err(wrong("Filename"));
            }
            let url = format!("{mirror}/{filename}");
            let position = self.packages.len();
            let provides = relation::parse(fields.get("Provides").unwrap_or_default())
                .map_err(|_| wrong("Provides"))?;
            for relation in provides.into_iter().flat_map(|clause| clause.alternatives) {
                let version = relation.version.map(|(_, version)| version);
                self.provided.entry(relation.name).or_default().push((position, version));
            }
            self.by_name.entry(name).or_default().push(position);
            // What has its own place, or is not asked for again.
            fields.forget(&["Filename", "SHA256", "Size"]);
            self.packages.push(Package { fields, sha256, size, url });
        }
    }

    /// How many packages there are, counting versions.
    #[must_use]
    pub fn len(&self) -> usize {
        self.packages.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.packages.is_empty()
    }

    /// All packages, each version of each.
    pub fn packages(&self) -> impl Iterator<Item = &Package> {
        self.packages.iter()
    }

    /// The newest version of a package.
    #[must_use]
    pub fn newest(&self, name: &str) -> Option<&Package> {
        // Of equal versions the one of the first suite counts.
        self.versions(name)
            .rev()
            .max_by(|left, right| version::compare(left.version(), right.version()))
    }

    /// All versions of a package.
    pub fn versions(&self, name: &str) -> impl DoubleEndedIterator<Item = &Package> {
        let positions = self.by_name.get(name).map(Vec::as_slice).unwrap_or_default();
        positions.iter().filter_map(|position| self.packages.get(*position))
    }

    /// The packages that provide a virtual package, and its version.
    pub fn providers(&self, name: &str) -> impl Iterator<Item = (&Package, Option<&str>)> {
        let provided = self.provided.get(name).map(Vec::as_slice).unwrap_or_default();
        provided.iter().filter_map(|(position, version)| {
            Some((self.packages.get(*position)?, version.as_deref()))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str, version: &str, more: &str) -> String {
        let sha256 = "0".repeat(64);
        format!(
            "Package: {name}\nVersion: {version}\nArchitecture: all\nSize: 1\nSHA256: {sha256}\n\
             Filename: pool/{name}.deb\nDescription: x\n y\n{more}\n"
        )
    }

    #[test]
    fn the_newest_of_several_suites_counts() {
        let mut index = Index::default();
        let first = entry("a", "1.9", "Provides: v (= 3), w\n");
        index.add(first.as_bytes(), "http://m", "u").unwrap();
        index.add(entry("a", "1.10", "").as_bytes(), "http://s", "u").unwrap();
        let newest = index.newest("a").unwrap();
        assert_eq!((newest.version(), newest.url.as_str()), ("1.10", "http://s/pool/a.deb"));
        assert_eq!(index.versions("a").count(), 2);
        let providers: Vec<_> = index.providers("v").map(|(_, version)| version).collect();
        assert_eq!(providers, [Some("3")]);
        assert!(index.newest("b").is_none());
    }

    #[test]
    fn an_entry_that_lacks_something_is_refused() {
        for (from, to, field) in [
            ("Size: 1", "Size: x", "Size"),
            ("SHA256: 0", "SHA256: ", "SHA256"),
            ("pool/", "../", "Filename"),
            ("Version", "Varsion", "Version"),
        ] {
            let text = entry("a", "1", "").replacen(from, to, 1);
            match Index::default().add(text.as_bytes(), "m", "u") {
                Err(ArchiveError::IndexField { field: named, .. }) => assert_eq!(named, field),
                other => panic!("{from}: {other:?}"),
            }
        }
    }
}
