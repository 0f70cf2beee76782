//! Why an archive cannot be used.

use std::io;
use std::path::PathBuf;

use super::deb::DebError;
use super::deb822::Deb822Error;
use super::release::date;
use super::signature::SignatureError;
use crate::download::{DownloadError, Sha256};
use crate::error::Diagnose;

/// Why packages could not be had from an archive.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The cache cannot be read.
    #[error("cannot read '{}'", path.display())]
    Cache {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Two packages of the selection exclude each other.
    #[error("the packages '{package}' and '{other}' exclude each other")]
    Conflict {
        /// The package that says so.
        package: String,
        /// The other.
        other: String,
    },
    /// A package is not sound.
    #[error("the package '{}' is not sound", path.display())]
    Deb {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: DebError,
    },
    /// A file cannot be fetched.
    #[error(transparent)]
    Download(#[from] DownloadError),
    /// An index is malformed.
    #[error("the package index '{url}' is malformed")]
    Index {
        /// Where it came from.
        url: String,
        /// What is wrong.
        source: Deb822Error,
    },
    /// An index is not the one that was signed.
    #[error("the package index '{url}' has the wrong SHA-256: {actual} where {expected} is signed")]
    IndexHash {
        /// Where it came from.
        url: String,
        /// What was signed.
        expected: Sha256,
        /// What came.
        actual: Sha256,
    },
    /// A package in an index lacks what it needs or has it malformed.
    #[error("the package '{package}' of the index '{url}' has a wrong '{field}'")]
    IndexField {
        /// Where the index came from.
        url: String,
        /// The package's name.
        package: String,
        /// The field.
        field: &'static str,
    },
    /// The compiled-in keys cannot be read.
    #[error("the archive's keys cannot be read: {reason}")]
    Keyring {
        /// What is wrong.
        reason: String,
    },
    /// A suite has no index for a component and this architecture.
    #[error("'{url}' lists no packages of '{component}' for {architecture}")]
    MissingIndex {
        /// The `InRelease`.
        url: String,
        /// The component.
        component: String,
        /// The architecture.
        architecture: &'static str,
    },
    /// A wanted package does not exist.
    #[error("the archive '{mirror}' has no package '{package}'")]
    MissingPackage {
        /// The archive.
        mirror: String,
        /// The package.
        package: String,
    },
    /// A suite's text is from the future.
    #[error("'{url}' is from {}, which is in the future", date(*.made))]
    NotYetValid {
        /// The `InRelease`.
        url: String,
        /// When it was made, in seconds since 1970.
        made: u64,
    },
    /// A package is not the one that the index lists.
    #[error("the package '{url}' has the wrong SHA-256: {actual} where {expected} is signed")]
    PackageHash {
        /// Where it came from.
        url: String,
        /// What was signed.
        expected: Sha256,
        /// What came.
        actual: Sha256,
    },
    /// An index or package has not the size that was signed.
    #[error("'{url}' has {actual} bytes where {expected} are signed")]
    Size {
        /// Where it came from.
        url: String,
        /// What was signed.
        expected: u64,
        /// What came.
        actual: u64,
    },
    /// A suite's signed text is malformed.
    #[error("'{url}' is malformed: {reason}")]
    Release {
        /// The `InRelease`.
        url: String,
        /// What is wrong.
        reason: String,
    },
    /// A suite's signature does not count.
    #[error("'{url}' cannot be trusted")]
    Signature {
        /// The `InRelease`.
        url: String,
        /// Why.
        source: SignatureError,
    },
    /// A suite's text is out of date.
    #[error("'{url}' is out of date: it was valid until {}", date(*.until))]
    Stale {
        /// The `InRelease`.
        url: String,
        /// Until when, in seconds since 1970.
        until: u64,
    },
    /// The signed text is of another suite.
    #[error("'{url}' is of the suite '{actual}' where '{expected}' is expected")]
    Suite {
        /// The `InRelease`.
        url: String,
        /// The suite that was asked for.
        expected: String,
        /// What the text says.
        actual: String,
    },
    /// Nothing fulfils a dependency.
    #[error("the package '{package}' needs '{clause}', which the archive does not have")]
    Unsatisfied {
        /// The package.
        package: String,
        /// The clause of its dependencies.
        clause: String,
    },
}

impl ArchiveError {
    /// Whether the archive did not serve what was asked for, so that another source is
    /// worth trying.
    #[must_use]
    pub fn is_unavailable(&self) -> bool {
        matches!(self, Self::Download(error) if error.is_unavailable())
    }
}

impl Diagnose for ArchiveError {
    fn code(&self) -> &'static str {
        match self {
            Self::Cache { source, .. } => crate::error::io_code(source),
            Self::Conflict { .. } | Self::MissingPackage { .. } | Self::Unsatisfied { .. } => {
                "ERROR_INSTALL_PACKAGE_REJECTED"
            }
            Self::Deb { .. } => "ERROR_INSTALL_PACKAGE_INVALID",
            Self::Download(error) => error.code(),
            Self::Index { .. } | Self::IndexField { .. } | Self::Release { .. } => {
                "ERROR_INVALID_DATA"
            }
            Self::IndexHash { .. } | Self::PackageHash { .. } | Self::Size { .. } => {
                "VerifyChecksum/TRUST_E_BAD_DIGEST"
            }
            Self::Keyring { .. } => "E_UNEXPECTED",
            Self::MissingIndex { .. } | Self::Suite { .. } => "ERROR_NOT_FOUND",
            Self::NotYetValid { .. } | Self::Stale { .. } => "CERT_E_EXPIRED",
            Self::Signature { source, .. } => match source {
                SignatureError::Missing => "TRUST_E_NOSIGNATURE",
                SignatureError::Bad { .. } | SignatureError::Malformed { .. } => {
                    "TRUST_E_BAD_SIGNATURE"
                }
                SignatureError::UnknownKey { .. } => "CERT_E_UNTRUSTEDROOT",
                SignatureError::ExpiredKey { .. }
                | SignatureError::ExpiredSignature { .. }
                | SignatureError::NotYetValid { .. } => "CERT_E_EXPIRED",
                SignatureError::Unusable { .. } => "CERT_E_WRONG_USAGE",
            },
        }
    }

    fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Download(error) => return error.hint(),
            Self::NotYetValid { .. }
            | Self::Signature { source: SignatureError::NotYetValid { .. }, .. } => {
                "check this machine's clock"
            }
            Self::Stale { .. } => {
                "the mirror is not kept up to date, or this machine's clock is wrong; \
                 WSLR_DEBIAN_MIRROR or WSLR_UBUNTU_MIRROR names another mirror"
            }
            Self::Signature { source: SignatureError::UnknownKey { .. }, .. } => {
                "the archive may have new keys: use a newer wslr"
            }
            Self::IndexHash { .. }
            | Self::PackageHash { .. }
            | Self::Size { .. }
            | Self::Signature { .. }
            | Self::Suite { .. } => {
                "the mirror or a proxy on the way changes files: use another one"
            }
            Self::Conflict { .. }
            | Self::Deb { .. }
            | Self::Index { .. }
            | Self::IndexField { .. }
            | Self::MissingIndex { .. }
            | Self::MissingPackage { .. }
            | Self::Release { .. }
            | Self::Unsatisfied { .. } => {
                "the mirror may be incomplete; WSLR_DEBIAN_MIRROR or WSLR_UBUNTU_MIRROR names \
                 another one"
            }
            Self::Cache { .. } => "check the file, or set WSLR_CACHE_DIR to another directory",
            // The executable is damaged.
            Self::Keyring { .. } => "install wslr again",
        };
        Some(hint.to_owned())
    }
}
