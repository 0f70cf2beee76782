//! Which archive, which suites of it, and whose signature counts.

use std::env;

use serde::{Deserialize, Serialize};

use super::keyring::Family;

/// A signed archive that a distro can be assembled from, as the manifest describes it.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub struct Source {
    /// Whose compiled-in keys must have signed it.
    pub keyring: Family,
    /// The url above `dists` and `pool`.
    pub mirror: String,
    /// The suites on `mirror` by codename, the release itself first.
    pub suites: Vec<String>,
    /// The url above `dists` and `pool` of the security archive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub security_mirror: Option<String>,
    /// The suites on `security_mirror`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub security_suites: Vec<String>,
    /// The components to take packages from.
    pub components: Vec<String>,
}

impl Source {
    /// Debian's release of this codename with its updates and security updates.
    #[must_use]
    pub fn debian(codename: &str) -> Self {
        let rolling = matches!(codename, "sid" | "unstable");
        let also = |suffix: &str| {
            (!rolling).then(|| format!("{codename}-{suffix}")).into_iter().collect::<Vec<_>>()
        };
        Self {
            keyring: Family::Debian,
            mirror: "http://deb.debian.org/debian".to_owned(),
            suites: [vec![codename.to_owned()], also("updates")].concat(),
            security_mirror: (!rolling).then(|| "http://deb.debian.org/debian-security".to_owned()),
            security_suites: also("security"),
            components: vec!["main".to_owned()],
        }
    }

    /// The same source by way of another mirror, which also has the security suites: at
    /// the same url with `-security` at its end for Debian, at the same url for Ubuntu, as
    /// mirrors are laid out.
    #[must_use]
    pub fn with_mirror(self, mirror: &str) -> Self {
        let mirror = mirror.trim_end_matches('/').to_owned();
        let security_mirror = match self.keyring {
            Family::Debian => format!("{mirror}-security"),
            Family::Ubuntu => mirror.clone(),
        };
        Self {
            security_mirror: self.security_mirror.is_some().then_some(security_mirror),
            mirror,
            ..self
        }
    }

    /// The same source by way of the mirror that the environment names
    /// (`WSLR_DEBIAN_MIRROR`, `WSLR_UBUNTU_MIRROR`), else of `configured` (`.wslconfig`),
    /// else unchanged. `WSLR_DEBIAN_SECURITY_MIRROR` and `WSLR_UBUNTU_SECURITY_MIRROR`
    /// name a security mirror that lies elsewhere.
    #[must_use]
    pub fn with_configured_mirror(self, configured: Option<&str>) -> Self {
        let (mirror, security) = match self.keyring {
            Family::Debian => ("WSLR_DEBIAN_MIRROR", "WSLR_DEBIAN_SECURITY_MIRROR"),
            Family::Ubuntu => ("WSLR_UBUNTU_MIRROR", "WSLR_UBUNTU_SECURITY_MIRROR"),
        };
        let set = |name| env::var(name).ok().filter(|value| !value.trim().is_empty());
        let mut source = match set(mirror).or_else(|| configured.map(str::to_owned)) {
            Some(mirror) => self.with_mirror(mirror.trim()),
            None => self,
        };
        if let (Some(current), Some(security)) = (&mut source.security_mirror, set(security)) {
            security.trim().trim_end_matches('/').clone_into(current);
        }
        source
    }

    /// Every suite with the mirror it is on.
    pub fn locations(&self) -> impl Iterator<Item = (&str, &str)> {
        let main = self.suites.iter().map(|suite| (self.mirror.as_str(), suite.as_str()));
        let security = self.security_mirror.iter().flat_map(|mirror| {
            self.security_suites.iter().map(|suite| (mirror.as_str(), suite.as_str()))
        });
        main.chain(security)
    }

    /// The release's codename: the first suite.
    #[must_use]
    pub fn codename(&self) -> &str {
        self.suites.first().map_or("", String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_mirror_takes_its_security_suites_along() {
        let source = Source::debian("trixie").with_mirror("http://m/x/debian/");
        let locations: Vec<_> = source.locations().collect();
        assert_eq!(
            locations,
            [
                ("http://m/x/debian", "trixie"),
                ("http://m/x/debian", "trixie-updates"),
                ("http://m/x/debian-security", "trixie-security"),
            ]
        );
    }

    #[test]
    fn sid_has_neither_updates_nor_security() {
        let source = Source::debian("sid");
        assert_eq!(source.locations().count(), 1);
    }
}
