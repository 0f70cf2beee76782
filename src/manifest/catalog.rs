//! What can be installed on this machine, and which one a name means.

use std::env;

use super::ManifestError;
use super::schema::{Document, Entry};
use crate::archive;
use crate::download::Fetcher;

const BUILT_IN: &str = include_str!("../../distros.json");

/// The largest manifest.
const LIMIT: u64 = 16 << 20;

/// How many entries of a flavor are shown (B073).
const SHOWN: usize = 4;

/// Where the list comes from.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Settings {
    /// A manifest that replaces the built-in one.
    pub replacement: Option<String>,
    /// A manifest that goes before it.
    pub addition: Option<String>,
}

/// All distros that have a source for this machine.
#[derive(Clone, Debug)]
pub struct Catalog {
    /// The one that is consulted first, first.
    manifests: Vec<Manifest>,
}

#[derive(Clone, Debug)]
struct Manifest {
    default: Option<String>,
    flavors: Vec<(String, Vec<Distro>)>,
}

/// A distro that can be installed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Distro {
    /// The name it is asked for and registered by.
    pub name: String,
    /// The name it is shown by.
    pub friendly_name: String,
    /// Whether its flavor's name alone means it.
    pub is_default: bool,
    /// Whether it comes from [`Settings::addition`], which the user is told (B072).
    pub is_override: bool,
    /// Where it comes from, the first to be tried first; never empty.
    pub sources: Vec<Source>,
}

/// Where a distro comes from.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Source {
    /// A root file system in one file.
    Image(Image),
    /// A signed package archive.
    Archive(archive::Source),
}

/// A root file system in one file.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Image {
    /// Where it is: `http`, `https` or `file`.
    pub url: String,
    /// Its SHA-256 as the manifest writes it, for
    /// [`Sha256::parse`](crate::download::Sha256::parse).
    pub sha256: String,
}

impl Settings {
    /// The settings of the environment: `WSLR_DISTRIBUTION_LIST_URL` and
    /// `WSLR_DISTRIBUTION_LIST_URL_APPEND`.
    #[must_use]
    pub fn from_environment() -> Self {
        let set = |name| env::var(name).ok().filter(|value| !value.is_empty());
        Self {
            replacement: set("WSLR_DISTRIBUTION_LIST_URL"),
            addition: set("WSLR_DISTRIBUTION_LIST_URL_APPEND"),
        }
    }
}

impl Catalog {
    /// The list that the settings ask for.
    ///
    /// # Errors
    /// Where a manifest cannot be fetched or is malformed.
    pub fn load(settings: &Settings, fetcher: &Fetcher) -> Result<Self, ManifestError> {
        let fetch = |url: &str, is_override| {
            let bytes = fetcher
                .read(url, LIMIT)
                .map_err(|source| ManifestError::Fetch { url: url.to_owned(), source })?;
            Manifest::parse(&bytes, url, is_override)
        };
        let mut manifests = Vec::new();
        if let Some(url) = &settings.addition {
            manifests.push(fetch(url, true)?);
        }
        manifests.push(match &settings.replacement {
            Some(url) => fetch(url, false)?,
            None => Manifest::parse(BUILT_IN.as_bytes(), "distros.json", false)?,
        });
        Ok(Self { manifests })
    }

    /// The distro that a name or a flavor means, in any case; without a name the default.
    ///
    /// # Errors
    /// [`ManifestError::NotFound`] and [`ManifestError::NoDefault`].
    pub fn resolve(&self, name: Option<&str>) -> Result<&Distro, ManifestError> {
        let default = || self.manifests.iter().find_map(|manifest| manifest.default.as_deref());
        let name = name.or_else(default).ok_or(ManifestError::NoDefault)?;
        self.manifests
            .iter()
            .find_map(|manifest| manifest.resolve(name))
            .ok_or_else(|| ManifestError::NotFound { name: name.to_owned() })
    }

    /// The distros that `--list --online` shows, in its order.
    #[must_use]
    pub fn online(&self) -> Vec<&Distro> {
        let mut shown: Vec<&Distro> = Vec::new();
        let flavors = self.manifests.iter().flat_map(|manifest| &manifest.flavors);
        for distro in flavors.flat_map(|(_, distros)| distros.iter().take(SHOWN)) {
            if !shown.iter().any(|known| known.name == distro.name) {
                shown.push(distro);
            }
        }
        shown
    }
}

impl Manifest {
    fn parse(bytes: &[u8], url: &str, is_override: bool) -> Result<Self, ManifestError> {
        let document: Document = serde_json::from_slice(bytes).map_err(|error| {
            ManifestError::Json { url: url.to_owned(), reason: error.to_string() }
        })?;
        let flavors = document
            .modern_distributions
            .0
            .into_iter()
            .map(|(flavor, entries)| {
                let distros = entries.into_iter().filter_map(|entry| distro(entry, is_override));
                (flavor, distros.collect())
            })
            .collect();
        Ok(Self { default: document.default, flavors })
    }

    fn resolve(&self, name: &str) -> Option<&Distro> {
        self.flavors.iter().find_map(|(flavor, distros)| {
            let by_flavor = flavor.eq_ignore_ascii_case(name);
            distros.iter().find(|distro| {
                (by_flavor && distro.is_default) || distro.name.eq_ignore_ascii_case(name)
            })
        })
    }
}

/// The entry as a distro, if it has a source for this machine.
fn distro(entry: Entry, is_override: bool) -> Option<Distro> {
    let url = if cfg!(target_arch = "aarch64") { entry.arm64_url } else { entry.amd64_url };
    let image = url.map(|url| Source::Image(Image { url: url.url, sha256: url.sha256 }));
    let sources: Vec<_> = image.into_iter().chain(entry.archive.map(Source::Archive)).collect();
    (!sources.is_empty()).then_some(Distro {
        name: entry.name,
        friendly_name: entry.friendly_name,
        is_default: entry.default,
        is_override,
        sources,
    })
}

#[cfg(test)]
mod tests;
