use std::collections::HashSet;
use std::fs;

use super::super::schema::{Document, Url};
use super::*;
use crate::archive::keyring::Family;
use crate::download::{Location, Sha256};
use crate::error::Diagnose;

const SHA256: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

fn catalog(manifests: &[(&str, bool)]) -> Catalog {
    let parse = |(text, is_override): &(&str, bool)| {
        Manifest::parse(text.as_bytes(), "u", *is_override).unwrap()
    };
    Catalog { manifests: manifests.iter().map(parse).collect() }
}

fn built_in() -> Catalog {
    catalog(&[(BUILT_IN, false)])
}

/// A manifest with one flavor `F` of the named entries, the first its default.
fn small(default: &str, names: &[&str]) -> String {
    let entries: Vec<_> = names
        .iter()
        .enumerate()
        .map(|(index, name)| {
            serde_json::json!({
                "Name": name, "FriendlyName": format!("The {name}"), "Default": index == 0,
                "Amd64Url": {"Url": format!("https://h/{name}"), "Sha256": SHA256},
                "Arm64Url": {"Url": format!("https://h/{name}"), "Sha256": SHA256},
            })
        })
        .collect();
    serde_json::json!({"Default": default, "ModernDistributions": {"F": entries}}).to_string()
}

#[test]
fn the_built_in_list_is_sound() {
    let document: Document = serde_json::from_str(BUILT_IN).unwrap();
    let flavors = document.modern_distributions.0;
    let mut names = HashSet::new();
    let (mut amd64, mut arm64, mut archives) = (0, 0, Vec::new());
    for (flavor, entries) in &flavors {
        let defaults = entries.iter().filter(|entry| entry.default).count();
        assert_eq!(defaults, 1, "{flavor}");
        for entry in entries {
            let name = &entry.name;
            assert!(name.to_lowercase().starts_with(&flavor.to_lowercase()), "{name} {flavor}");
            assert!(names.insert(name.to_lowercase()), "{name} is there twice");
            assert!(!entry.friendly_name.is_empty(), "{name}");
            let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
            assert!(name.bytes().all(fits) && name.len() <= 64, "{name}");
            let check = |Url { url, sha256 }: &Url| {
                assert!(url.starts_with("https://"), "{url}");
                assert!(matches!(Location::parse(url), Ok(Location::Network(_))), "{url}");
                assert!(sha256.starts_with("0x"), "{sha256}");
                Sha256::parse(sha256).unwrap();
            };
            entry.amd64_url.iter().for_each(check);
            entry.arm64_url.iter().for_each(check);
            amd64 += usize::from(entry.amd64_url.is_some());
            arm64 += usize::from(entry.arm64_url.is_some());
            if let Some(source) = &entry.archive {
                archives.push((name.as_str(), source.codename()));
                assert!(!source.components.is_empty(), "{name}");
                for (mirror, suite) in source.locations() {
                    assert!(matches!(Location::parse(mirror), Ok(Location::Network(_))));
                    assert!(suite.starts_with(source.codename()), "{name}: {suite}");
                }
                let is_debian = name.starts_with("Debian");
                assert_eq!(source.keyring == Family::Debian, is_debian, "{name}");
            }
            assert!(entry.amd64_url.is_some() || entry.archive.is_some(), "{name}");
        }
    }
    // The published images and their order (behaviour reference, section 3).
    assert_eq!((amd64, arm64), (19, 15));
    let order: Vec<_> = flavors.iter().map(|(flavor, _)| flavor.as_str()).collect();
    assert_eq!(
        order,
        [
            "Ubuntu",
            "openSUSE",
            "SUSE",
            "kali",
            "Debian",
            "AlmaLinux",
            "archlinux",
            "Fedora",
            "eLxr"
        ]
    );
    assert_eq!(
        archives,
        [
            ("Ubuntu-24.04", "noble"),
            ("Ubuntu-22.04", "jammy"),
            ("Debian", "trixie"),
            ("Debian-trixie", "trixie"),
            ("Debian-bookworm", "bookworm"),
            ("Debian-sid", "sid"),
        ]
    );
}

#[test]
fn the_built_in_hashes_are_the_published_ones() {
    // The published list as a digest of its urls and hashes, so that a slip of the hand in
    // one of 34 hashes is found.
    let document: Document = serde_json::from_str(BUILT_IN).unwrap();
    let mut text = String::new();
    for entry in document.modern_distributions.0.iter().flat_map(|(_, entries)| entries) {
        for url in [&entry.amd64_url, &entry.arm64_url].into_iter().flatten() {
            text.push_str(&format!("{} {}\n", url.url, url.sha256.trim_start_matches("0x")));
        }
    }
    let digest = Sha256::of(&mut text.as_bytes()).unwrap().to_string();
    assert_eq!(digest, PUBLISHED);
}

const PUBLISHED: &str = "c9996bc0585c0fb659fd330436d43c72a39d139eb108c9b631a1b21b4f8f37eb";

#[test]
fn the_built_in_debian_archive_is_the_one_that_the_kernel_uses() {
    let catalog = built_in();
    for (name, codename) in
        [("Debian-trixie", "trixie"), ("Debian-bookworm", "bookworm"), ("Debian-sid", "sid")]
    {
        let expected = [Source::Archive(archive::Source::debian(codename))];
        assert_eq!(catalog.resolve(Some(name)).unwrap().sources, expected);
    }
}

#[test]
fn an_image_is_tried_before_the_archive() {
    let catalog = built_in();
    for name in ["Debian", "Ubuntu-24.04", "Ubuntu-22.04"] {
        let sources = &catalog.resolve(Some(name)).unwrap().sources;
        assert!(matches!(sources.as_slice(), [Source::Image(_), Source::Archive(_)]), "{name}");
    }
}

#[test]
fn b066_a_flavor_means_its_default_and_case_does_not_matter() {
    let catalog = built_in();
    let resolve = |name| catalog.resolve(Some(name)).unwrap().name.as_str();
    for (asked, name) in [
        ("kali", "kali-linux"),
        ("FEDORA", "FedoraLinux-44"),
        ("opensuse", "openSUSE-Tumbleweed"),
        ("suse", "SUSE-Linux-Enterprise-16.0"),
        ("debian", "Debian"),
        ("debian-BOOKWORM", "Debian-bookworm"),
        ("ubuntu-20.04", "Ubuntu-20.04"),
        ("almalinux", "AlmaLinux-10"),
    ] {
        assert_eq!(resolve(asked), name);
    }
}

#[test]
fn b063_an_unknown_name_is_named() {
    let error = built_in().resolve(Some("foo")).unwrap_err();
    assert_eq!(error.to_string(), "Invalid distribution name: 'foo'.");
    assert_eq!(error.code(), "WSL_E_DISTRO_NOT_FOUND");
    assert!(error.hint().is_some());
}

#[test]
fn b067_no_name_means_the_default() {
    assert_eq!(built_in().resolve(None).unwrap().name, "Ubuntu");
    let by_name = small("F-2", &["F-1", "F-2"]);
    assert_eq!(catalog(&[(&by_name, false)]).resolve(None).unwrap().name, "F-2");
    let error = catalog(&[("{}", false)]).resolve(None).unwrap_err();
    assert_eq!(error.to_string(), "No default distribution has been configured.");
    assert_eq!(error.code(), "E_UNEXPECTED");
}

#[test]
fn b065_a_list_that_is_not_json_is_refused() {
    for text in ["", "{", "7", r#"{"ModernDistributions": {"F": [{"Name": "F"}]}}"#] {
        let error = Manifest::parse(text.as_bytes(), "u", false).unwrap_err();
        assert!(error.to_string().starts_with("Invalid JSON document. Parse error: "), "{error}");
        assert_eq!(error.code(), "WSL_E_INVALID_JSON");
    }
}

#[test]
fn b064_a_list_that_cannot_be_fetched_is_named() {
    let fetcher = Fetcher::new().unwrap();
    let url = "file:///nonexistent/list.json".to_owned();
    let settings = Settings { replacement: Some(url), addition: None };
    let error = Catalog::load(&settings, &fetcher).unwrap_err();
    assert_eq!(
        error.to_string(),
        "Failed to fetch the distribution list from 'file:///nonexistent/list.json'"
    );
    assert_eq!(error.code(), "ERROR_FILE_NOT_FOUND");
}

#[test]
fn b072_an_additional_list_goes_first() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("list.json");
    fs::write(&path, small("F", &["F-9", "Debian"])).unwrap();
    let url = format!("file://{}", path.display());
    let settings = Settings { replacement: None, addition: Some(url) };
    let catalog = Catalog::load(&settings, &Fetcher::new().unwrap()).unwrap();
    let debian = catalog.resolve(Some("debian")).unwrap();
    assert!(debian.is_override);
    assert_eq!(debian.friendly_name, "The Debian");
    assert_eq!(catalog.resolve(None).unwrap().name, "F-9");
    let kali = catalog.resolve(Some("kali")).unwrap();
    assert!(!kali.is_override);
    let online = catalog.online();
    assert_eq!(online[0].name, "F-9");
    assert_eq!(online.iter().filter(|distro| distro.name == "Debian").count(), 1);
}

#[test]
fn b073_four_of_a_flavor_are_shown_in_the_order_of_the_list() {
    let catalog = built_in();
    let names: Vec<_> = catalog.online().iter().map(|distro| distro.name.as_str()).collect();
    assert_eq!(names[..4], ["Ubuntu", "Ubuntu-26.04", "Ubuntu-24.04", "Ubuntu-22.04"]);
    assert!(!names.contains(&"Ubuntu-20.04"));
    assert!(names.contains(&"Debian-sid"));
    let without_url = r#"{"ModernDistributions": {"F": [{"Name": "F", "FriendlyName": "F"}]}}"#;
    assert!(self::catalog(&[(without_url, false)]).online().is_empty());
}
