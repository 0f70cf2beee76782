//! Choosing packages: everything that the wanted ones need.
//!
//! The choice depends on nothing but the index and the wish: a clause that is fulfilled
//! already adds nothing, else its first alternative that exists is taken, a real package
//! before one that provides it. What apt would choose for a minimal system is chosen here.

use std::collections::{BTreeMap, HashMap, VecDeque};

use super::ArchiveError;
use super::index::{Index, Package};
use super::relation::{Clause, Relation, RelationError};

/// The packages that `wanted` and all of their dependencies come to, sorted by name.
///
/// # Errors
/// Where a package does not exist, a dependency cannot be fulfilled, or two packages
/// exclude each other.
pub fn resolve<'a>(
    index: &'a Index,
    mirror: &str,
    wanted: impl IntoIterator<Item = &'a str>,
) -> Result<Vec<&'a Package>, ArchiveError> {
    let mut selection = Selection::default();
    for name in wanted {
        let package = index.newest(name).ok_or_else(|| ArchiveError::MissingPackage {
            mirror: mirror.to_owned(),
            package: name.to_owned(),
        })?;
        selection.add(package)?;
    }
    while let Some(package) = selection.queue.pop_front() {
        for clause in package.dependencies().map_err(|error| malformed(package, &error))? {
            if selection.fulfils(&clause) {
                continue;
            }
            let chosen = choose(index, &clause).ok_or_else(|| ArchiveError::Unsatisfied {
                package: package.name().to_owned(),
                clause: clause.to_string(),
            })?;
            selection.add(chosen)?;
        }
    }
    selection.check()?;
    Ok(selection.packages.into_values().collect())
}

/// The names that every system of this archive has: essential ones and those of priority
/// `required`.
pub fn base(index: &Index) -> impl Iterator<Item = &str> {
    let mut names: Vec<_> = index
        .packages()
        .filter(|package| package.is_essential() || package.priority() == "required")
        .map(Package::name)
        .collect();
    names.sort_unstable();
    names.dedup();
    names.into_iter()
}

#[derive(Default)]
struct Selection<'a> {
    packages: BTreeMap<&'a str, &'a Package>,
    provided: HashMap<String, Vec<(&'a Package, Option<String>)>>,
    queue: VecDeque<&'a Package>,
}

impl<'a> Selection<'a> {
    fn add(&mut self, package: &'a Package) -> Result<(), ArchiveError> {
        if self.packages.contains_key(package.name()) {
            return Ok(());
        }
        for relation in package
            .provides()
            .map_err(|error| malformed(package, &error))?
            .into_iter()
            .flat_map(|clause| clause.alternatives)
        {
            let version = relation.version.map(|(_, version)| version);
            self.provided.entry(relation.name).or_default().push((package, version));
        }
        self.packages.insert(package.name(), package);
        self.queue.push_back(package);
        Ok(())
    }

    fn fulfils(&self, clause: &Clause) -> bool {
        clause.alternatives.iter().any(|relation| {
            self.packages
                .get(relation.name.as_str())
                .is_some_and(|package| relation.accepts(package.version()))
                || self.provided.get(&relation.name).is_some_and(|provided| {
                    provided
                        .iter()
                        .any(|(_, version)| relation.accepts_provided(version.as_deref()))
                })
        })
    }

    /// Finds packages that exclude each other. A package may exclude what it provides
    /// itself: that means all other providers (Debian policy 7.6.2).
    fn check(&self) -> Result<(), ArchiveError> {
        for package in self.packages.values() {
            let exclusions = package.exclusions().map_err(|error| malformed(package, &error))?;
            for relation in exclusions.into_iter().flat_map(|clause| clause.alternatives) {
                let real = self.packages.get(relation.name.as_str()).copied();
                let real = real.filter(|other| relation.accepts(other.version()));
                let provider = self.provided.get(&relation.name).and_then(|provided| {
                    provided.iter().find_map(|(other, version)| {
                        let meant = relation.accepts_provided(version.as_deref());
                        (meant && other.name() != package.name()).then_some(*other)
                    })
                });
                let other = real.filter(|other| other.name() != package.name()).or(provider);
                if let Some(other) = other {
                    return Err(ArchiveError::Conflict {
                        package: package.name().to_owned(),
                        other: other.name().to_owned(),
                    });
                }
            }
        }
        Ok(())
    }
}

fn choose<'a>(index: &'a Index, clause: &Clause) -> Option<&'a Package> {
    clause.alternatives.iter().find_map(|relation| {
        let real = index.newest(&relation.name).filter(|found| relation.accepts(found.version()));
        real.or_else(|| provider(index, relation))
    })
}

/// Of several providers the one with the highest priority, then the first by name.
fn provider<'a>(index: &'a Index, relation: &Relation) -> Option<&'a Package> {
    let rank = |package: &Package| {
        let known = ["required", "important", "standard", "optional"];
        known.iter().position(|name| *name == package.priority()).unwrap_or(known.len())
    };
    index
        .providers(&relation.name)
        .filter(|(_, version)| relation.accepts_provided(*version))
        .map(|(package, _)| package)
        .filter(|package| {
            index.newest(package.name()).is_some_and(|newest| newest.version() == package.version())
        })
        .min_by(|left, right| (rank(left), left.name()).cmp(&(rank(right), right.name())))
}

fn malformed(package: &Package, error: &RelationError) -> ArchiveError {
    ArchiveError::Unsatisfied { package: package.name().to_owned(), clause: error.text.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index(entries: &[(&str, &str)]) -> Index {
        let sha256 = "0".repeat(64);
        let text: String = entries
            .iter()
            .map(|(name, more)| {
                format!(
                    "Package: {name}\nVersion: 1\nArchitecture: all\nSize: 1\nSHA256: {sha256}\n\
                     Filename: x\n{more}\n\n"
                )
            })
            .collect();
        let mut index = Index::default();
        index.add(text.as_bytes(), "m", "u").unwrap();
        index
    }

    fn names(index: &Index, wanted: &[&'static str]) -> Result<Vec<String>, ArchiveError> {
        let chosen = resolve(index, "m", wanted.iter().copied())?;
        Ok(chosen.iter().map(|package| package.name().to_owned()).collect())
    }

    #[test]
    fn a_fulfilled_clause_adds_nothing() {
        let index = index(&[("a", "Depends: x | b"), ("b", ""), ("x", "")]);
        assert_eq!(names(&index, &["a", "b"]).unwrap(), ["a", "b"]);
        assert_eq!(names(&index, &["a"]).unwrap(), ["a", "x"]);
    }

    #[test]
    fn the_first_alternative_that_exists_is_taken() {
        let index = index(&[("a", "Pre-Depends: gone | c | b"), ("b", ""), ("c", "Depends: a")]);
        assert_eq!(names(&index, &["a"]).unwrap(), ["a", "c"]);
    }

    #[test]
    fn a_virtual_package_is_provided_in_the_wanted_version() {
        let index = index(&[
            ("a", "Depends: v (>= 2)"),
            ("old", "Provides: v (= 1)\nPriority: required"),
            ("unversioned", "Provides: v\nPriority: required"),
            ("right", "Provides: v (= 3)\nPriority: optional"),
        ]);
        assert_eq!(names(&index, &["a"]).unwrap(), ["a", "right"]);
    }

    #[test]
    fn an_unsatisfied_clause_is_named() {
        let index = index(&[("a", "Depends: b (>= 2) | c"), ("b", "")]);
        match names(&index, &["a"]) {
            Err(ArchiveError::Unsatisfied { package, clause }) => {
                assert_eq!((package.as_str(), clause.as_str()), ("a", "b (>= 2) | c"));
            }
            other => panic!("{other:?}"),
        }
        assert!(matches!(names(&index, &["z"]), Err(ArchiveError::MissingPackage { .. })));
    }

    #[test]
    fn excluding_packages_are_found() {
        let index = index(&[
            ("a", "Depends: b"),
            ("b", "Conflicts: c, v, b"),
            ("c", ""),
            ("d", "Provides: v"),
            ("e", "Provides: v\nConflicts: v\nBreaks: a (<< 1)"),
        ]);
        assert!(names(&index, &["a"]).is_ok());
        assert!(matches!(names(&index, &["a", "c"]), Err(ArchiveError::Conflict { .. })));
        assert!(matches!(names(&index, &["a", "d"]), Err(ArchiveError::Conflict { .. })));
        assert!(names(&index, &["e"]).is_ok());
    }

    #[test]
    fn the_base_is_essential_or_required() {
        let index = index(&[
            ("z", "Essential: yes"),
            ("r", "Priority: required"),
            ("i", "Priority: important"),
        ]);
        assert_eq!(base(&index).collect::<Vec<_>>(), ["r", "z"]);
    }
}
