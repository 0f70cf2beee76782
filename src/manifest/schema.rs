//! The manifest as JSON (behaviour reference, section 3). Unknown members are ignored, the
//! order of flavors and entries is kept: it is the order of display.

use std::fmt;

use serde::de::{Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize};

use crate::archive;

/// The whole document.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Document {
    /// A flavor or a name.
    #[serde(default)]
    pub(super) default: Option<String>,
    #[serde(default)]
    pub(super) modern_distributions: Flavors,
}

/// Entries by flavor, in the order of the file.
#[derive(Clone, Debug, Default)]
pub(super) struct Flavors(pub(super) Vec<(String, Vec<Entry>)>);

/// One distro.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) friendly_name: String,
    #[serde(default)]
    pub(super) default: bool,
    #[serde(default)]
    pub(super) amd64_url: Option<Url>,
    #[serde(default)]
    pub(super) arm64_url: Option<Url>,
    #[serde(default)]
    pub(super) archive: Option<archive::Source>,
}

/// One image.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Url {
    pub(super) url: String,
    pub(super) sha256: String,
}

impl<'de> Deserialize<'de> for Flavors {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Ordered;

        impl<'de> Visitor<'de> for Ordered {
            type Value = Flavors;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("lists of distros by flavor")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Flavors, A::Error> {
                let mut flavors = Vec::new();
                while let Some(flavor) = map.next_entry()? {
                    flavors.push(flavor);
                }
                Ok(Flavors(flavors))
            }
        }

        deserializer.deserialize_map(Ordered)
    }
}
