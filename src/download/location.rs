//! What a url points at: a file of this machine or something on the network.
//!
//! WSL takes `file:///p`, `file://p` and both styles of slash, and nothing else that
//! merely looks like it (B074).

use std::path::{Path, PathBuf};

use reqwest::Url;

use super::DownloadError;

/// Where a url leads.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Location {
    /// A file of this machine.
    File(PathBuf),
    /// An `http` or `https` url.
    Network(Url),
}

impl Location {
    /// Reads a url.
    ///
    /// # Errors
    /// Where it is malformed or of another scheme.
    pub fn parse(text: &str) -> Result<Self, DownloadError> {
        if let Some(path) = local_path(text) {
            return Ok(Self::File(path));
        }
        let error = || DownloadError::Url { url: text.to_owned() };
        let url = Url::parse(text).map_err(|_| error())?;
        match url.scheme() {
            "http" | "https" if url.has_host() => Ok(Self::Network(url)),
            _ => Err(error()),
        }
    }

    /// The last segment of the path, without a query.
    #[must_use]
    pub fn file_name(&self) -> Option<String> {
        match self {
            Self::File(path) => Some(path.file_name()?.to_string_lossy().into_owned()),
            Self::Network(url) => {
                url.path_segments()?.next_back().filter(|name| !name.is_empty()).map(str::to_owned)
            }
        }
    }
}

fn local_path(text: &str) -> Option<PathBuf> {
    let (scheme, rest) = text.split_at_checked("file:".len())?;
    if !scheme.eq_ignore_ascii_case("file:") {
        return None;
    }
    let rest = rest.replace('\\', "/");
    let path = rest.strip_prefix("//")?;
    // Three slashes: the path is absolute. Two: it is absolute as well where such a
    // file would be, for `file://home/x` is written by people, never for a host.
    let path = path.trim_start_matches('/');
    let path = percent_decoded(path)?;
    (!path.is_empty() && !path.contains(&0)).then(|| {
        use std::os::unix::ffi::OsStrExt;
        Path::new("/").join(std::ffi::OsStr::from_bytes(&path))
    })
}

fn percent_decoded(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes().iter();
    while let Some(byte) = rest.next() {
        let escape = rest
            .as_slice()
            .get(..2)
            .filter(|_| *byte == b'%')
            .and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok());
        match escape {
            Some(escaped) => {
                bytes.push(escaped);
                rest.nth(1);
            }
            None => bytes.push(*byte),
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn b074_the_forms_of_a_file_url_are_one_path() {
        for url in ["file:///a/b.wsl", "file://a/b.wsl", "file:\\\\\\a\\b.wsl", "FILE:///a/b.wsl"] {
            assert_eq!(Location::parse(url).unwrap(), Location::File("/a/b.wsl".into()), "{url}");
        }
        assert_eq!(
            Location::parse("file:///a%20b/100%.wsl").unwrap(),
            Location::File("/a b/100%.wsl".into())
        );
    }

    #[test]
    fn b074_what_only_looks_like_a_file_url_is_not_one() {
        for url in ["notfile:///a", "file:/a", "file:", "file://", "a.wsl", "ftp://h/a", "http://"]
        {
            assert!(matches!(Location::parse(url), Err(DownloadError::Url { .. })), "{url}");
        }
    }

    #[test]
    fn b069_a_query_is_no_part_of_the_name() {
        let location = Location::parse("https://h/x/distro.tar?foo=bar&key=value").unwrap();
        assert_eq!(location.file_name().as_deref(), Some("distro.tar"));
    }
}
