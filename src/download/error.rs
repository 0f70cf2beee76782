//! Why a file could not be had.

use std::io;
use std::path::PathBuf;

use super::{ChecksumError, Sha256};
use crate::error::{Diagnose, io_code};

/// Why a download failed.
#[derive(Debug, thiserror::Error)]
pub enum DownloadError {
    /// The checksum that a file should have is not one.
    #[error(transparent)]
    Checksum(#[from] ChecksumError),
    /// Nobody answers.
    #[error("cannot connect to '{url}'")]
    Connect {
        /// The url.
        url: String,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The file came whole, but is another one (text of B070).
    #[error("The distribution hash doesn't match. Expected: 0x{expected}, actual hash: 0x{actual}")]
    Digest {
        /// The url.
        url: String,
        /// What the file should be.
        expected: Sha256,
        /// What it is.
        actual: Sha256,
    },
    /// The connection ended or stalled in the middle.
    #[error("the download of '{url}' broke off after {received} bytes")]
    Interrupted {
        /// The url.
        url: String,
        /// How much is there; a later attempt continues.
        received: u64,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A file on this machine cannot be read.
    #[error("cannot read '{}'", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There is no answer to be made sense of.
    #[error("'{url}' gave no valid answer")]
    Response {
        /// The url.
        url: String,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The file has another size than it should.
    #[error("'{url}' has {actual} bytes where {expected} are expected")]
    Size {
        /// The url.
        url: String,
        /// What it should have.
        expected: u64,
        /// What it has.
        actual: u64,
    },
    /// The server refused.
    #[error("'{url}' answered with status {status}")]
    Status {
        /// The url.
        url: String,
        /// The HTTP status.
        status: u16,
    },
    /// The server did not answer in time.
    #[error("'{url}' did not answer within {seconds} s")]
    Timeout {
        /// The url.
        url: String,
        /// The limit.
        seconds: u64,
    },
    /// The file is larger than it may be.
    #[error("'{url}' is larger than {limit} bytes")]
    TooLarge {
        /// The url.
        url: String,
        /// How large it may be.
        limit: u64,
    },
    /// No certificates to check a server against.
    #[error("this machine has no certificate authorities to check '{url}' against")]
    Trust {
        /// The url.
        url: String,
        /// What the TLS library says.
        reason: String,
    },
    /// Not a url that can be fetched.
    #[error("'{url}' is not an http, https or file url")]
    Url {
        /// What was given.
        url: String,
    },
    /// A file on this machine cannot be written.
    #[error("cannot write '{}'", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl DownloadError {
    /// Whether the host did not serve the file, so that another source is worth trying: a
    /// file that is wrong, or a disk that is full, is no reason to go elsewhere.
    #[must_use]
    pub fn is_unavailable(&self) -> bool {
        match self {
            Self::Connect { .. }
            | Self::Interrupted { .. }
            | Self::Response { .. }
            | Self::Status { .. }
            | Self::Timeout { .. }
            | Self::Trust { .. } => true,
            Self::Checksum(_)
            | Self::Digest { .. }
            | Self::Read { .. }
            | Self::Size { .. }
            | Self::TooLarge { .. }
            | Self::Url { .. }
            | Self::Write { .. } => false,
        }
    }
}

impl Diagnose for DownloadError {
    fn code(&self) -> &'static str {
        match self {
            Self::Checksum(error) => error.code(),
            Self::Connect { .. } => "WININET_E_CANNOT_CONNECT",
            Self::Digest { .. } => "VerifyChecksum/TRUST_E_BAD_DIGEST",
            Self::Interrupted { .. } => "WININET_E_CONNECTION_ABORTED",
            Self::Read { source, .. } | Self::Write { source, .. } => io_code(source),
            Self::Response { .. } => "WININET_E_INVALID_SERVER_RESPONSE",
            Self::Size { .. } => "VerifyChecksum/ERROR_INVALID_DATA",
            Self::Status { status, .. } => match status {
                401 => "HTTP_E_STATUS_DENIED",
                403 => "HTTP_E_STATUS_FORBIDDEN",
                404 => "HTTP_E_STATUS_NOT_FOUND",
                410 => "HTTP_E_STATUS_GONE",
                500 => "HTTP_E_STATUS_SERVER_ERROR",
                502 => "HTTP_E_STATUS_BAD_GATEWAY",
                503 => "HTTP_E_STATUS_SERVICE_UNAVAIL",
                504 => "HTTP_E_STATUS_GATEWAY_TIMEOUT",
                _ => "HTTP_E_STATUS_UNEXPECTED",
            },
            Self::Timeout { .. } => "WININET_E_TIMEOUT",
            Self::TooLarge { .. } => "ERROR_FILE_TOO_LARGE",
            Self::Trust { .. } => "WININET_E_SECURITY_CHANNEL_ERROR",
            Self::Url { .. } => "E_INVALIDARG",
        }
    }

    fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Checksum(_) => "a SHA-256 has 64 hexadecimal digits",
            Self::Connect { .. } | Self::Timeout { .. } => {
                "check the network connection, and 'https_proxy' if there is a proxy"
            }
            Self::Digest { .. } | Self::Size { .. } => {
                "try again; if it stays so, the file is another one than the list of \
                 distributions or the archive names"
            }
            Self::Interrupted { .. } => "run the command again: the download continues",
            Self::Read { .. } => "check that the file is there and can be read",
            Self::Response { .. } => "a proxy or a login page may be answering in its place",
            Self::Status { .. } => "the file may have moved: try again later, or a newer wslr",
            Self::TooLarge { .. } => "check that the url is the right one",
            Self::Trust { .. } => "install the package 'ca-certificates', or set SSL_CERT_FILE",
            Self::Write { source, .. } => match source.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                    "free some space, or set WSLR_CACHE_DIR to a directory with more"
                }
                io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied => {
                    "set WSLR_CACHE_DIR to a directory that can be written"
                }
                _ => "check the directory, or set WSLR_CACHE_DIR to another one",
            },
            Self::Url { .. } => "a url begins with 'https://', 'http://' or 'file:///'",
        };
        Some(hint.to_owned())
    }
}
