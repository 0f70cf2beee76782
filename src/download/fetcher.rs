//! The client that fetches.

use std::error::Error;
use std::fs::{self, File};
use std::io::Read;
use std::path::Path;
use std::time::Duration;

use reqwest::blocking::{Client, ClientBuilder, Response};
use reqwest::header::{
    CONTENT_RANGE, ETAG, HeaderMap, HeaderValue, IF_RANGE, LAST_MODIFIED, RANGE,
};
use reqwest::redirect::Policy;
use reqwest::{StatusCode, Url};

use super::partial::Partial;
use super::{DownloadError, Location, Sha256};
use crate::terminal::progress::Bar;

/// How long connecting may take. Fail-over to another source is promised within 10 s.
const CONNECT: Duration = Duration::from_secs(8);

/// How long connecting and the answer's head may take, and then each piece of the body: a
/// host that takes connections and is silent must not hold up the fail-over either. What
/// breaks off inside is continued.
const ANSWER: Duration = Duration::from_secs(8);

/// How often a download is continued within one call.
const ATTEMPTS: u32 = 4;

const REDIRECTS: usize = 10;
const BUFFER: usize = 256 * 1024;

/// One file to fetch.
#[derive(Clone, Copy, Debug)]
pub struct Download<'a> {
    /// Where from: `http`, `https` or `file`.
    pub url: &'a str,
    /// Where to.
    pub destination: &'a Path,
    /// What it must be, where that is known.
    pub sha256: Option<Sha256>,
    /// How many bytes it must have, where that is known.
    pub size: Option<u64>,
    /// How many bytes it may have at most.
    pub limit: u64,
    /// What counts the bytes.
    pub bar: Option<&'a Bar>,
}

/// Fetches files. Proxies are taken from `http_proxy`, `https_proxy`, `all_proxy` and
/// `no_proxy`, certificate authorities from the machine.
#[derive(Clone, Debug)]
pub struct Fetcher {
    client: Client,
    /// Why there is no https.
    no_trust: Option<String>,
}

impl Fetcher {
    /// A client with this machine's proxies and certificate authorities. A machine without
    /// certificate authorities can still fetch from http and file urls.
    ///
    /// # Errors
    /// Where the client cannot be set up.
    pub fn new() -> Result<Self, DownloadError> {
        // It fails only where a provider is installed already, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        match builder().build() {
            Ok(client) => Ok(Self { client, no_trust: None }),
            Err(error) => {
                let reason = crate::error::chain(&error);
                let client = builder().tls_certs_only([]).build().map_err(|error| {
                    DownloadError::Response { url: String::new(), source: Box::new(error) }
                })?;
                Ok(Self { client, no_trust: Some(reason) })
            }
        }
    }

    /// Fetches a file to its destination, continuing what an earlier attempt left.
    ///
    /// # Errors
    /// Where it cannot be had, written, or is not what it should be. The destination is
    /// then untouched.
    pub fn fetch(&self, download: &Download<'_>) -> Result<(), DownloadError> {
        let location = Location::parse(download.url)?;
        let mut partial = Partial::open(download.destination)?;
        let received = match &location {
            Location::File(path) => copy(download, path, &mut partial),
            Location::Network(url) => self.receive(download, url, &mut partial),
        };
        match received.and_then(|()| check(download, &partial)) {
            Ok(()) => partial.complete(download.destination),
            Err(error) => {
                if partial.length() == 0 || is_wrong_file(&error) {
                    partial.discard();
                }
                Err(error)
            }
        }
    }

    /// Fetches a small file of at most `limit` bytes into memory.
    ///
    /// # Errors
    /// Where it cannot be had or is larger.
    pub fn read(&self, url: &str, limit: u64) -> Result<Vec<u8>, DownloadError> {
        let too_large = || DownloadError::TooLarge { url: url.to_owned(), limit };
        let mut bytes = Vec::new();
        match Location::parse(url)? {
            Location::File(path) => {
                let error = |source| DownloadError::Read { path: path.clone(), source };
                let file = File::open(&path).map_err(error)?;
                file.take(limit.saturating_add(1)).read_to_end(&mut bytes).map_err(error)?;
            }
            Location::Network(target) => {
                let response = self.request(url, &target, HeaderMap::new())?;
                let response = accepted(url, response)?;
                response.take(limit.saturating_add(1)).read_to_end(&mut bytes).map_err(
                    |source| DownloadError::Interrupted {
                        url: url.to_owned(),
                        received: bytes.len() as u64,
                        source: Box::new(source),
                    },
                )?;
            }
        }
        if bytes.len() as u64 > limit { Err(too_large()) } else { Ok(bytes) }
    }

    fn receive(
        &self,
        download: &Download<'_>,
        url: &Url,
        partial: &mut Partial,
    ) -> Result<(), DownloadError> {
        let mut attempt = 1;
        let resumed = partial.length() > 0;
        loop {
            match self.receive_once(download, url, partial) {
                // Who has sent something is given more time than who never answers.
                Err(DownloadError::Interrupted { .. })
                    if attempt < ATTEMPTS && partial.length() > 0 =>
                {
                    attempt += 1;
                }
                // What an earlier attempt left can be of another version of the file.
                Ok(()) if resumed && attempt < ATTEMPTS && check(download, partial).is_err() => {
                    uncount(download.bar, partial.length());
                    partial.restart(None)?;
                    attempt = ATTEMPTS;
                }
                result => return result,
            }
        }
    }

    fn receive_once(
        &self,
        download: &Download<'_>,
        url: &Url,
        partial: &mut Partial,
    ) -> Result<(), DownloadError> {
        let validator = partial.validator();
        let resumable = partial.length() > 0
            && (download.sha256.is_some() || validator.is_some())
            && download.size.is_none_or(|size| partial.length() <= size);
        if resumable && download.size == Some(partial.length()) {
            return Ok(());
        }
        let mut headers = HeaderMap::new();
        if resumable {
            let range = HeaderValue::from_str(&format!("bytes={}-", partial.length()));
            headers.extend(range.ok().map(|range| (RANGE, range)));
            let condition = validator.and_then(|text| HeaderValue::from_str(&text).ok());
            headers.extend(condition.map(|condition| (IF_RANGE, condition)));
        }
        let response = self.request(download.url, url, headers)?;
        if response.status() == StatusCode::RANGE_NOT_SATISFIABLE && resumable {
            // The server's file ends where ours does, or earlier: the digest will tell.
            return Ok(());
        }
        let response = accepted(download.url, response)?;
        let continued = response.status() == StatusCode::PARTIAL_CONTENT
            && content_start(&response) == Some(partial.length());
        if !continued {
            if response.status() == StatusCode::PARTIAL_CONTENT {
                return Err(DownloadError::Response {
                    url: download.url.to_owned(),
                    source: "a range that was not asked for".into(),
                });
            }
            partial.restart(validator_of(&response).as_deref())?;
        } else if let Some(bar) = download.bar {
            bar.add(partial.length());
        }
        let expected = response.content_length().map(|length| partial.length() + length);
        if let (Some(bar), None, Some(total)) = (download.bar, download.size, expected) {
            bar.set_total(total);
        }
        if let (Some(expected), Some(actual)) = (download.size, expected)
            && expected != actual
        {
            return Err(DownloadError::Size { url: download.url.to_owned(), expected, actual });
        }
        if expected.is_some_and(|length| length > download.limit) {
            return Err(DownloadError::TooLarge {
                url: download.url.to_owned(),
                limit: download.limit,
            });
        }
        append(download, response, partial)
    }

    fn request(
        &self,
        text: &str,
        url: &Url,
        headers: HeaderMap,
    ) -> Result<Response, DownloadError> {
        if let (Some(reason), "https") = (&self.no_trust, url.scheme()) {
            return Err(DownloadError::Trust { url: text.to_owned(), reason: reason.clone() });
        }
        self.client
            .get(url.clone())
            .headers(headers)
            .send()
            .map_err(|error| request_error(text, error))
    }
}

fn builder() -> ClientBuilder {
    Client::builder()
        .user_agent(concat!("wslr/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(CONNECT)
        .timeout(ANSWER)
        .redirect(Policy::custom(|attempt| {
            let secure = attempt.previous().last().is_some_and(|url| url.scheme() == "https");
            if attempt.previous().len() > REDIRECTS {
                attempt.error("too many redirects")
            } else if secure && attempt.url().scheme() != "https" {
                attempt.error("a redirect from https to http")
            } else {
                attempt.follow()
            }
        }))
}

fn accepted(url: &str, response: Response) -> Result<Response, DownloadError> {
    if response.status().is_success() {
        return Ok(response);
    }
    Err(DownloadError::Status { url: url.to_owned(), status: response.status().as_u16() })
}

fn request_error(url: &str, error: reqwest::Error) -> DownloadError {
    let url = url.to_owned();
    // The url is in our own text.
    let error = error.without_url();
    if error.is_timeout() {
        let seconds = if error.is_connect() { CONNECT } else { ANSWER }.as_secs();
        DownloadError::Timeout { url, seconds }
    } else if error.is_connect() {
        DownloadError::Connect { url, source: Box::new(error) }
    } else {
        DownloadError::Response { url, source: Box::new(error) }
    }
}

fn append(
    download: &Download<'_>,
    mut reader: impl Read,
    partial: &mut Partial,
) -> Result<(), DownloadError> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let count = reader.read(&mut buffer).map_err(|source| DownloadError::Interrupted {
            url: download.url.to_owned(),
            received: partial.length(),
            source: Box::<dyn Error + Send + Sync>::from(source),
        })?;
        let Some(bytes) = buffer.get(..count).filter(|bytes| !bytes.is_empty()) else {
            return Ok(());
        };
        if partial.length().saturating_add(bytes.len() as u64) > download.limit {
            return Err(DownloadError::TooLarge {
                url: download.url.to_owned(),
                limit: download.limit,
            });
        }
        partial.write(bytes)?;
        if let Some(bar) = download.bar {
            bar.add(bytes.len() as u64);
        }
    }
}

fn copy(download: &Download<'_>, path: &Path, partial: &mut Partial) -> Result<(), DownloadError> {
    let error = |source| DownloadError::Read { path: path.to_owned(), source };
    let file = File::open(path).map_err(error)?;
    if fs::metadata(path).map_err(error)?.is_dir() {
        return Err(error(std::io::Error::from(std::io::ErrorKind::IsADirectory)));
    }
    partial.restart(None)?;
    append(download, file, partial)
}

fn check(download: &Download<'_>, partial: &Partial) -> Result<(), DownloadError> {
    let url = || download.url.to_owned();
    if let Some(expected) = download.size.filter(|size| *size != partial.length()) {
        return Err(DownloadError::Size { url: url(), expected, actual: partial.length() });
    }
    let actual = partial.digest();
    match download.sha256 {
        Some(expected) if expected != actual => {
            Err(DownloadError::Digest { url: url(), expected, actual })
        }
        _ => Ok(()),
    }
}

/// Whether what came is of no use to a later attempt.
fn is_wrong_file(error: &DownloadError) -> bool {
    matches!(
        error,
        DownloadError::Digest { .. } | DownloadError::Size { .. } | DownloadError::TooLarge { .. }
    )
}

fn uncount(bar: Option<&Bar>, amount: u64) {
    if let Some(bar) = bar {
        bar.take_back(amount);
    }
}

fn validator_of(response: &Response) -> Option<String> {
    let text = |name| response.headers().get(name)?.to_str().ok();
    let etag = text(ETAG).filter(|etag| !etag.starts_with("W/"));
    etag.or_else(|| text(LAST_MODIFIED)).map(str::to_owned)
}

/// The first byte of a `Content-Range: bytes 5-9/10` (RFC 9110, 14.4).
fn content_start(response: &Response) -> Option<u64> {
    let text = response.headers().get(CONTENT_RANGE)?.to_str().ok()?;
    text.strip_prefix("bytes ")?.split_once('-')?.0.trim().parse().ok()
}
