//! What the executable takes from its surroundings when it fetches: proxies, certificate
//! authorities, the list's settings.

use std::process::{Command, Output};

use crate::server::{Answer, Server};

/// Runs the executable in an empty home with only these variables.
fn wslr(arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    let home = tempfile::tempdir().unwrap();
    Command::new(env!("CARGO_BIN_EXE_wslr"))
        .args(arguments)
        .env_clear()
        .env("HOME", home.path())
        .env("XDG_RUNTIME_DIR", home.path())
        .envs(environment.iter().copied())
        .output()
        .unwrap()
}

const LIST: &str = r#"{"ModernDistributions": {"F": [{"Name": "F-1", "FriendlyName": "The F",
    "Amd64Url": {"Url": "http://h/f", "Sha256": "0"},
    "Arm64Url": {"Url": "http://h/f", "Sha256": "0"}}]}}"#;

#[test]
fn a_proxy_is_used_where_one_is_set() {
    let server = Server::start();
    server.set("http://nowhere.invalid/list.json", Answer::file(LIST));
    let list = ("WSLR_DISTRIBUTION_LIST_URL", "http://nowhere.invalid/list.json");
    for variable in ["http_proxy", "all_proxy", "ALL_PROXY"] {
        let output = wslr(&["--list", "--online"], &[list, (variable, &server.url("/"))]);
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.contains("F-1"), "{variable}: {}", String::from_utf8_lossy(&output.stderr));
    }
    let exception = ("no_proxy", "nowhere.invalid");
    let output =
        wslr(&["--list", "--online"], &[list, ("http_proxy", &server.url("/")), exception]);
    assert_eq!(output.status.code(), Some(255));
}

#[test]
fn a_machine_without_certificate_authorities_is_told_so() {
    let nothing = [("SSL_CERT_FILE", "/nonexistent"), ("SSL_CERT_DIR", "/nonexistent")];
    let list = ("WSLR_DISTRIBUTION_LIST_URL", "https://nowhere.invalid/list.json");
    let output = wslr(&["--list", "--online"], &[nothing[0], nothing[1], list]);
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("no certificate authorities"), "{text}");
    assert!(text.contains("\nhint: install the package 'ca-certificates'"), "{text}");
    assert_eq!(output.status.code(), Some(255));
    // What needs none works.
    let server = Server::start();
    server.set("/list.json", Answer::file(LIST));
    let url = server.url("/list.json");
    let list = ("WSLR_DISTRIBUTION_LIST_URL", url.as_str());
    let output = wslr(&["--list", "--online"], &[nothing[0], nothing[1], list]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
