//! `--install` and `--list --online` by the manifest, with images and mirrors on the
//! loopback interface.

use std::fs;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::install::home;
use crate::support::Home;
use crate::support::server::{Answer, Server};
use crate::support::tar::Tar;

const ONLINE_HINT: Option<&str> = Some("'wslr --list --online' shows what can be installed");

fn hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What a web installation writes to standard output (B068).
fn web_installed(friendly: &str, name: &str) -> String {
    format!("Downloading: {friendly}\n{}", file_installed(friendly, name))
}

fn file_installed(friendly: &str, name: &str) -> String {
    format!(
        "Installing: {friendly}\n\
         Distribution successfully installed. It can be launched via 'wslr -d {name}'\n"
    )
}

/// A home with a manifest of its own.
fn home_with(manifest: Value) -> Home {
    let home = home();
    let path = home.write("manifest.json", manifest.to_string());
    home.env("WSLR_DISTRIBUTION_LIST_URL", format!("file://{}", path.display()))
}

fn entry(name: &str, url: &str, sha256: &str, default: bool) -> Value {
    json!({
        "Name": name, "FriendlyName": format!("{name} the friendly"), "Default": default,
        "Amd64Url": {"Url": url, "Sha256": sha256}, "Arm64Url": {"Url": url, "Sha256": sha256},
    })
}

fn one(url: &str, sha256: &str) -> Value {
    json!({"Default": "Test", "ModernDistributions": {"Test": [entry("Test-1", url, sha256, true)]}})
}

#[test]
fn b068_a_web_installation_prints_three_lines() {
    let tar = Tar::distro().bytes();
    let server = Server::start().file("/distro.tar?foo=bar&key=value", tar.clone());
    let url = server.url("/distro.tar?foo=bar&key=value");
    let home = home_with(one(&url, &format!("0x{}", hash(&tar).to_uppercase())));
    home.wslr(["--install", "-n"]).stdout(web_installed("Test-1 the friendly", "Test-1")).run();
    home.wslr(["-l", "-q"]).stdout("Test-1\n").run();
    let left = home.tree(".cache");
    assert!(!left.iter().any(|name| name.contains(".wsl")), "the image is not kept: {left:?}");
}

#[test]
fn b068_a_file_url_is_not_downloaded() {
    let tar = Tar::distro().bytes();
    let files = Home::new();
    let path = files.write("distro.tar", &tar);
    for url in [format!("file://{}", path.display()), format!("file:/{}", path.display())] {
        let home = home_with(one(&url, &hash(&tar)));
        home.wslr(["--install", "-n", "-d", "test"])
            .stdout(file_installed("Test-1 the friendly", "Test-1"))
            .run();
    }
}

#[test]
fn b063_unknown_names_and_b067_no_default() {
    let home = home_with(json!({"ModernDistributions": {}}));
    home.wslr(["--install", "foo"])
        .fails(
            "Invalid distribution name: 'foo'.",
            ONLINE_HINT,
            Some("Wsl/InstallDistro/WSL_E_DISTRO_NOT_FOUND"),
        )
        .run();
    home.wslr(["--install"])
        .fails(
            "No default distribution has been configured.",
            ONLINE_HINT,
            Some("Wsl/InstallDistro/E_UNEXPECTED"),
        )
        .run();
}

#[test]
fn b064_a_manifest_that_cannot_be_had() {
    let home = home().env("WSLR_DISTRIBUTION_LIST_URL", "http://127.0.0.1:9/list.json");
    for (words, context) in
        [(["--install", "X"].as_slice(), "Wsl/InstallDistro"), (&["--list", "--online"], "Wsl")]
    {
        home.wslr(words)
            .fails(
                "Failed to fetch the distribution list from 'http://127.0.0.1:9/list.json': [..]",
                Some("[..]"),
                Some(&format!("{context}/WININET_E_CANNOT_CONNECT")),
            )
            .run();
    }
}

#[test]
fn b065_a_manifest_that_is_not_json() {
    let server = Server::start().file("/list.json", "not { json");
    let home = home().env("WSLR_DISTRIBUTION_LIST_URL", server.url("/list.json"));
    home.wslr(["--install", "X"])
        .fails(
            "Invalid JSON document. Parse error: [..]",
            Some("the list came from '[..]'"),
            Some("Wsl/InstallDistro/WSL_E_INVALID_JSON"),
        )
        .run();
}

#[test]
fn b070_a_wrong_hash_registers_nothing() {
    let tar = Tar::distro().bytes();
    let server = Server::start().file("/d.tar", tar.clone());
    let wrong = hash(b"another file");
    let home = home_with(one(&server.url("/d.tar"), &wrong));
    home.wslr(["--install", "-n", "Test"])
        .stdout("Downloading: Test-1 the friendly\n")
        .fails(
            &format!(
                "The distribution hash doesn't match. Expected: 0x{wrong}, actual hash: 0x{}",
                hash(&tar)
            ),
            Some("try again; if it stays so, [..]"),
            Some("Wsl/InstallDistro/VerifyChecksum/TRUST_E_BAD_DIGEST"),
        )
        .run();
    home.wslr(["-l", "-q"]).run();
    assert_eq!(home.tree(".local/share/wslr/distros").len(), 0);
    for malformed in ["xyz", "abc"] {
        let home = home_with(one(&server.url("/d.tar"), malformed));
        home.wslr(["--install", "-n", "Test"])
            .fails(
                &format!("Invalid hex string: {malformed}"),
                Some("a SHA-256 has 64 hexadecimal digits"),
                Some("Wsl/InstallDistro/VerifyChecksum/E_INVALIDARG"),
            )
            .run();
    }
}

#[test]
fn b071_a_name_in_use_is_refused_before_any_download() {
    let tar = Tar::distro().bytes();
    let server = Server::start().file("/d.tar", tar.clone());
    let home = home_with(one(&server.url("/d.tar"), &hash(&tar)));
    let words = ["--install", "-n", "Test"];
    home.wslr(words).stdout(web_installed("Test-1 the friendly", "Test-1")).run();
    let before = server.requests().len();
    let hint = Some("choose another name with --name");
    let code = Some("Wsl/InstallDistro/ERROR_ALREADY_EXISTS");
    home.wslr(words)
        .fails("A distribution with the name 'Test-1' already exists.", hint, code)
        .run();
    home.wslr(["--install", "-n", "Test", "--name", "TEST-1"])
        .fails("A distribution with the name 'TEST-1' already exists.", hint, code)
        .run();
    assert_eq!(server.requests().len(), before);
    home.wslr(["--install", "-n", "Test", "--name", "Other"])
        .stdout(web_installed("Test-1 the friendly", "Other"))
        .run();
}

#[test]
fn b072_an_override_manifest_goes_first_and_is_told() {
    let (old, new) = (Tar::distro().bytes(), Tar::distro().file("./new", "x").bytes());
    let server = Server::start().file("/old.tar", old.clone()).file("/new.tar", new.clone());
    let main = json!({"Default": "Other", "ModernDistributions": {"Test": [
        entry("Test-1", &server.url("/old.tar"), &hash(&old), true),
        entry("Test-0", &server.url("/old.tar"), &hash(&old), false),
    ]}});
    let home = home_with(main);
    let addition = one(&server.url("/new.tar"), &hash(&new)).to_string();
    let addition = home.write("addition.json", addition);
    let home =
        home.env("WSLR_DISTRIBUTION_LIST_URL_APPEND", format!("file://{}", addition.display()));
    home.wslr(["--install", "-n"])
        .stdout(web_installed("Test-1 the friendly", "Test-1"))
        .stderr("wslr: warning: 'Test-1' is provided by an override manifest\n")
        .run();
    home.wslr(["--install", "-n", "--name", "B", "test-1"])
        .env("WSL_DISABLE_WARNINGS", "1")
        .stdout(web_installed("Test-1 the friendly", "B"))
        .run();
    home.wslr(["--install", "-n", "test-0"])
        .stdout(web_installed("Test-0 the friendly", "Test-0"))
        .run();
    let requests = server.requests();
    assert_eq!(requests, ["/new.tar", "/new.tar", "/old.tar"]);
}

#[test]
fn b073_the_online_listing() {
    let many: Vec<Value> =
        (1..=6).map(|n| entry(&format!("Many-{n}"), "http://x/y", &hash(b""), n == 6)).collect();
    let manifest = json!({"Default": "Many", "ModernDistributions": {
        "Many": many,
        "One": [entry("One", "http://x/y", &hash(b""), true)],
    }});
    let home = home_with(manifest);
    home.wslr(["--list", "--online"])
        .stdout(
            "The following is a list of valid distributions that can be installed.\n\
             Install using 'wslr --install <Distro>'.\n\
             \n\
             NAME      FRIENDLY NAME\n\
             Many-1    Many-1 the friendly\n\
             Many-2    Many-2 the friendly\n\
             Many-3    Many-3 the friendly\n\
             Many-4    Many-4 the friendly\n\
             One       One the friendly\n",
        )
        .run();
    home.wslr(["-l", "-o", "-q"]).stdout("Many-1\nMany-2\nMany-3\nMany-4\nOne\n").run();
    let output = home.wslr(["-l", "-o", "--json"]).command().output().unwrap();
    let value: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(value[4], json!({"name": "One", "friendlyName": "One the friendly"}));
}

#[test]
fn a_missing_image_and_a_dead_host() {
    let server = Server::start();
    let home = home_with(one(&server.url("/gone.tar"), &hash(b"")));
    home.wslr(["--install", "-n", "Test"])
        .stdout("Downloading: Test-1 the friendly\n")
        .fails(
            "'[..]/gone.tar' answered with status 404",
            Some("the file may have moved: try again later, or a newer wslr"),
            Some("Wsl/InstallDistro/HTTP_E_STATUS_NOT_FOUND"),
        )
        .run();
    let home = home_with(one("http://127.0.0.1:9/d.tar", &hash(b"")));
    home.wslr(["--install", "-n", "Test"])
        .stdout("Downloading: Test-1 the friendly\n")
        .fails(
            "cannot connect to 'http://127.0.0.1:9/d.tar': [..]",
            Some("check the network connection, and 'https_proxy' if there is a proxy"),
            Some("Wsl/InstallDistro/WININET_E_CANNOT_CONNECT"),
        )
        .run();
    assert_eq!(home.tree(".local/share/wslr/distros").len(), 0);
}

#[test]
fn a_download_that_breaks_off_continues_where_it_was() {
    let tar = Tar::distro().file("./large", vec![3; 300_000]).bytes();
    let cut = Answer { status: 200, body: tar.clone(), cut: Some(100_000) };
    let server = Server::start().answer("/d.tar", cut);
    let home = home_with(one(&server.url("/d.tar"), &hash(&tar)));
    let output = home.wslr(["--install", "-n", "Test"]).command().output().unwrap();
    assert_eq!(output.status.code(), Some(255));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("hint: run the command again: the download continues\n"), "{stderr}");
    let server = server.file("/d.tar", tar);
    home.wslr(["--install", "-n", "Test"])
        .stdout(web_installed("Test-1 the friendly", "Test-1"))
        .run();
    drop(server);
}

#[test]
fn an_image_host_that_does_not_answer_falls_over_to_the_archive_within_ten_seconds() {
    // A host that takes no connection: its queue is full.
    let silent = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let url = format!("http://{}/d.wsl", silent.local_addr().unwrap());
    let mut entry = entry("Test-1", &url, &hash(b""), true);
    entry["Archive"] = json!({
        "Keyring": "debian", "Mirror": "http://127.0.0.1:9/debian", "Suites": ["trixie"],
        "Components": ["main"],
    });
    let home = home_with(json!({"ModernDistributions": {"Test": [entry]}}));
    let begin = Instant::now();
    home.wslr(["--install", "-n", "Test"])
        .stdout("Downloading: Test-1 the friendly\n")
        .stderr(
            "wslr: warning: the image of Test-1 the friendly cannot be had: [..]; it is put \
             together from the package archive 'http://127.0.0.1:9/debian' instead\n\
             wslr: cannot connect to 'http://127.0.0.1:9/debian/dists/trixie/InRelease': [..]\n\
             hint: check the network connection, and 'https_proxy' if there is a proxy\n\
             Error code: Wsl/InstallDistro/WININET_E_CANNOT_CONNECT\n",
        )
        .status(255)
        .run();
    let took = begin.elapsed();
    assert!(took < Duration::from_secs(10), "the failover took {took:?}");
    assert_eq!(home.tree(".local/share/wslr/distros").len(), 0);
}

#[test]
fn a_failure_of_the_installation_keeps_no_image() {
    let text = "no archive\n".repeat(100).into_bytes();
    let server = Server::start().file("/d.tar", text.clone());
    let home = home_with(one(&server.url("/d.tar"), &hash(&text)));
    home.wslr(["--install", "-n", "Test"])
        .stdout("Downloading: Test-1 the friendly\nInstalling: Test-1 the friendly\n")
        .fails(
            "Importing the distribution failed: Unrecognized archive format",
            Some(
                "the file must be a tar archive, plain or compressed with gzip, bzip2, xz or zstd",
            ),
            Some("Wsl/Service/RegisterDistro/WSL_E_IMPORT_FAILED"),
        )
        .run();
    assert!(!home.tree(".cache").iter().any(|name| name.contains(".wsl")));
    assert!(fs::metadata(home.data("registry.json")).is_ok());
}
