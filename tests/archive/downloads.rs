//! Single files: resumed, verified, refused.

use std::fs;
use std::net::TcpListener;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use wslr::download::{Download, DownloadError, Fetcher, Sha256};
use wslr::error::Diagnose;

use crate::fixture::sha256;
use crate::server::{Answer, Server};

struct Case {
    server: Server,
    directory: TempDir,
    body: Vec<u8>,
}

impl Case {
    fn new() -> Self {
        let body: Vec<u8> = (0..100_000_u32).flat_map(|number| number.to_le_bytes()).collect();
        let case = Self { server: Server::start(), directory: tempfile::tempdir().unwrap(), body };
        case.serve(|answer| answer);
        case
    }

    fn serve(&self, change: impl FnOnce(Answer) -> Answer) {
        self.server.set("/file", change(Answer::file(self.body.clone())));
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn fetch(&self, sha256: Option<Sha256>) -> Result<(), DownloadError> {
        self.fetch_from(&self.server.url("/file"), sha256)
    }

    fn fetch_from(&self, url: &str, sha256: Option<Sha256>) -> Result<(), DownloadError> {
        let destination = self.path("file");
        let download = Download {
            url,
            destination: &destination,
            sha256,
            size: None,
            limit: 1 << 20,
            bar: None,
        };
        Fetcher::new().unwrap().fetch(&download)
    }

    fn hash(&self) -> Option<Sha256> {
        Some(sha256(&self.body))
    }

    /// The file is there, whole, and nothing else is.
    #[track_caller]
    fn check_whole(&self) {
        assert_eq!(fs::read(self.path("file")).unwrap(), self.body);
        assert_eq!(fs::read_dir(self.directory.path()).unwrap().count(), 1);
    }

    fn ranges(&self) -> Vec<Option<String>> {
        let requests = self.server.requests().into_iter();
        requests.map(|request| request.headers.get("range").cloned()).collect()
    }
}

#[test]
fn a_file_is_fetched_and_says_who_asks() {
    let case = Case::new();
    case.fetch(case.hash()).unwrap();
    case.check_whole();
    let agent = &case.server.requests()[0].headers["user-agent"];
    assert_eq!(agent, concat!("wslr/", env!("CARGO_PKG_VERSION")));
}

#[test]
fn an_earlier_attempt_is_continued() {
    let case = Case::new();
    fs::write(case.path("file.partial"), &case.body[..1000]).unwrap();
    case.fetch(case.hash()).unwrap();
    case.check_whole();
    assert_eq!(case.ranges(), [Some("bytes=1000-".to_owned())]);
}

#[test]
fn an_earlier_attempt_without_hash_or_validator_is_started_over() {
    let case = Case::new();
    fs::write(case.path("file.partial"), b"of something else").unwrap();
    case.fetch(None).unwrap();
    case.check_whole();
    assert_eq!(case.ranges(), [None]);
}

#[test]
fn an_earlier_attempt_of_another_version_is_started_over() {
    let case = Case::new();
    case.serve(|answer| answer.header("ETag", "\"new\""));
    fs::write(case.path("file.partial"), b"old").unwrap();
    fs::write(case.path("file.validator"), "\"old\"").unwrap();
    case.fetch(None).unwrap();
    case.check_whole();
    let request = &case.server.requests()[0];
    assert_eq!(request.headers["if-range"], "\"old\"");
}

#[test]
fn a_partial_file_that_does_not_fit_its_hash_is_started_over() {
    let case = Case::new();
    fs::write(case.path("file.partial"), vec![7; 1000]).unwrap();
    case.fetch(case.hash()).unwrap();
    case.check_whole();
    assert_eq!(case.ranges(), [Some("bytes=1000-".to_owned()), None]);
}

#[test]
fn a_partial_file_longer_than_the_file_is_started_over() {
    let case = Case::new();
    fs::write(case.path("file.partial"), vec![7; case.body.len() + 1]).unwrap();
    case.fetch(case.hash()).unwrap();
    case.check_whole();
}

#[test]
fn a_partial_file_that_is_whole_is_taken() {
    let case = Case::new();
    fs::write(case.path("file.partial"), &case.body).unwrap();
    case.fetch(case.hash()).unwrap();
    case.check_whole();
}

#[test]
fn a_server_without_ranges_is_read_from_the_start() {
    let case = Case::new();
    case.serve(|answer| Answer { ranges: false, ..answer });
    fs::write(case.path("file.partial"), &case.body[..1000]).unwrap();
    case.fetch(case.hash()).unwrap();
    case.check_whole();
}

#[test]
fn a_connection_that_breaks_keeps_what_came() {
    let case = Case::new();
    case.serve(|answer| Answer { cut: Some(50_000), ..answer });
    let error = case.fetch(case.hash()).unwrap_err();
    assert_eq!(error.code(), "WININET_E_CONNECTION_ABORTED");
    assert!(!case.path("file").exists());
    assert_eq!(fs::read(case.path("file.partial")).unwrap(), &case.body[..200_000]);
    case.serve(|answer| answer);
    case.fetch(case.hash()).unwrap();
    case.check_whole();
    assert_eq!(case.ranges().last().unwrap().as_deref(), Some("bytes=200000-"));
}

#[test]
fn b070_a_wrong_hash_leaves_nothing() {
    let case = Case::new();
    let other = sha256(b"other");
    let error = case.fetch(Some(other)).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "The distribution hash doesn't match. Expected: 0x{other}, actual hash: 0x{}",
            case.hash().unwrap()
        )
    );
    assert_eq!(error.code(), "VerifyChecksum/TRUST_E_BAD_DIGEST");
    assert!(!error.is_unavailable());
    assert_eq!(fs::read_dir(case.directory.path()).unwrap().count(), 0);
}

#[test]
fn a_refusal_is_named_with_its_status() {
    let case = Case::new();
    for (status, code) in [
        (404, "HTTP_E_STATUS_NOT_FOUND"),
        (403, "HTTP_E_STATUS_FORBIDDEN"),
        (503, "HTTP_E_STATUS_SERVICE_UNAVAIL"),
        (418, "HTTP_E_STATUS_UNEXPECTED"),
    ] {
        case.server.set("/file", Answer::status(status));
        let error = case.fetch(None).unwrap_err();
        assert_eq!(error.code(), code);
        assert!(error.to_string().ends_with(&format!("answered with status {status}")));
        assert!(error.is_unavailable());
        assert!(!case.path("file").exists());
    }
}

#[test]
fn a_larger_file_than_may_be_is_refused() {
    let case = Case::new();
    let destination = case.path("file");
    let url = case.server.url("/file");
    let download = Download {
        url: &url,
        destination: &destination,
        sha256: None,
        size: None,
        limit: 1000,
        bar: None,
    };
    let error = Fetcher::new().unwrap().fetch(&download).unwrap_err();
    assert_eq!(error.code(), "ERROR_FILE_TOO_LARGE");
    assert!(Fetcher::new().unwrap().read(&url, 1000).is_err());
    assert_eq!(Fetcher::new().unwrap().read(&url, 1 << 20).unwrap(), case.body);
    assert_eq!(fs::read_dir(case.directory.path()).unwrap().count(), 0);
}

#[test]
fn redirects_are_followed_up_to_a_limit() {
    let case = Case::new();
    case.server.set("/start", Answer::status(302).header("Location", "/file"));
    case.fetch_from(&case.server.url("/start"), case.hash()).unwrap();
    case.check_whole();
    case.server.set("/loop", Answer::status(302).header("Location", "/loop"));
    let error = case.fetch_from(&case.server.url("/loop"), case.hash()).unwrap_err();
    assert_eq!(error.code(), "WININET_E_INVALID_SERVER_RESPONSE");
}

#[test]
fn a_dead_host_is_told_within_ten_seconds() {
    let case = Case::new();
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let dead = format!("http://{}/file", listener.local_addr().unwrap());
    drop(listener);
    let nowhere = "http://nowhere.invalid/file".to_owned();
    for url in [dead, nowhere] {
        let start = Instant::now();
        let error = case.fetch_from(&url, None).unwrap_err();
        assert!(start.elapsed() < Duration::from_secs(10), "{url}: {:?}", start.elapsed());
        assert!(error.is_unavailable(), "{error}");
        assert!(error.to_string().contains(&url), "{error}");
        assert!(error.hint().is_some());
    }
}

#[test]
fn a_silent_host_is_told_within_ten_seconds() {
    let case = Case::new();
    // Connections are made by the kernel and nobody ever takes them.
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let start = Instant::now();
    let url = format!("http://{}/file", listener.local_addr().unwrap());
    let error = case.fetch_from(&url, None).unwrap_err();
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    assert_eq!(error.code(), "WININET_E_TIMEOUT");
    assert!(error.is_unavailable());
}

#[test]
fn b074_a_file_url_is_copied_and_verified() {
    let case = Case::new();
    let source = tempfile::tempdir().unwrap();
    let path = source.path().join("an image.wsl");
    fs::write(&path, &case.body).unwrap();
    case.fetch_from(&format!("file://{}", path.display()), case.hash()).unwrap();
    case.check_whole();
    let error = case.fetch_from("file:///nonexistent/x", None).unwrap_err();
    assert_eq!(error.code(), "ERROR_FILE_NOT_FOUND");
    let error = case.fetch_from(&format!("file://{}", source.path().display()), None).unwrap_err();
    assert_eq!(error.code(), "ERROR_DIRECTORY");
    case.check_whole();
}

#[test]
fn a_destination_that_cannot_be_written_is_named() {
    let case = Case::new();
    fs::write(case.path("plain"), "").unwrap();
    let destination = case.path("plain/file");
    let url = case.server.url("/file");
    let download = Download {
        url: &url,
        destination: &destination,
        sha256: None,
        size: None,
        limit: 1 << 20,
        bar: None,
    };
    let error = Fetcher::new().unwrap().fetch(&download).unwrap_err();
    assert!(matches!(error, DownloadError::Write { .. }), "{error}");
    assert!(!error.is_unavailable());
}

#[test]
fn two_at_once_give_one_file() {
    let case = Case::new();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| case.fetch(case.hash()).unwrap());
        }
    });
    case.check_whole();
}
