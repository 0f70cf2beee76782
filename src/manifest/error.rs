//! Why no distro could be chosen.

use crate::download::DownloadError;
use crate::error::Diagnose;

/// Why the list could not be used.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// The list cannot be fetched (B064).
    #[error("Failed to fetch the distribution list from '{url}'")]
    Fetch {
        /// Where it should be.
        url: String,
        /// Why.
        source: DownloadError,
    },
    /// It is not a list of distros (B065).
    #[error("Invalid JSON document. Parse error: {reason}")]
    Json {
        /// Where it came from.
        url: String,
        /// What is wrong, with line and column.
        reason: String,
    },
    /// No name was given and the list has no default (B067).
    #[error("No default distribution has been configured.")]
    NoDefault,
    /// No distro has this name (B063).
    #[error("Invalid distribution name: '{name}'.")]
    NotFound {
        /// The name.
        name: String,
    },
}

impl Diagnose for ManifestError {
    fn code(&self) -> &'static str {
        match self {
            Self::Fetch { source, .. } => source.code(),
            Self::Json { .. } => "WSL_E_INVALID_JSON",
            Self::NoDefault => "E_UNEXPECTED",
            Self::NotFound { .. } => "WSL_E_DISTRO_NOT_FOUND",
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Fetch { source, .. } => source.hint(),
            Self::Json { url, .. } => Some(format!("the list came from '{url}'")),
            Self::NoDefault | Self::NotFound { .. } => {
                Some("'wslr --list --online' shows what can be installed".to_owned())
            }
        }
    }
}
