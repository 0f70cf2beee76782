//! Opening an archive and fetching from it, and every way that must fail.

use std::fs;

use pgp::crypto::hash::HashAlgorithm;
use wslr::archive::signature::SignatureError;
use wslr::archive::{ArchiveError, deb};
use wslr::error::{Diagnose, chain};

use crate::fixture::{Fixture, Package, sha256};
use crate::keys::{Key, NOW, Signing};
use crate::server::Answer;

const RELEASE: &str = "/debian/dists/test/InRelease";

fn simple() -> Fixture {
    Fixture::new(vec![
        Package::new("a", "Depends: b (>= 1.0)\n").data(&[("./a", "A")]),
        Package::new("b", "").data(&[("./b", "B")]).compressed("zst"),
        Package::new("c", "").compressed("gz"),
    ])
}

/// The failure is of this code, says these words, and leaves nothing with a final name.
#[track_caller]
fn check(fixture: &Fixture, error: &ArchiveError, code: &str, words: &str) {
    assert_eq!(error.code(), code, "{}", chain(error));
    let text = chain(error);
    assert!(text.contains(words), "{text}");
    assert!(!text.contains('\n'), "{text}");
    assert_eq!(fixture.cached(), Vec::<String>::new());
}

#[track_caller]
fn signature_error(error: ArchiveError) -> SignatureError {
    match error {
        ArchiveError::Signature { source, .. } => source,
        other => panic!("{other:?}"),
    }
}

#[test]
fn packages_are_resolved_and_fetched_by_hash() {
    let fixture = simple().publish();
    fixture
        .open(|repository| {
            let packages = repository.resolve(["a"])?;
            let names: Vec<_> = packages.iter().map(|package| package.name()).collect();
            assert_eq!(names, ["a", "b"]);
            for (file, package) in repository.download(&packages)?.iter().zip(&packages) {
                assert_eq!(sha256(&fs::read(file).unwrap()), package.sha256);
                let control = deb::open(file).unwrap().control().unwrap();
                assert_eq!(control.fields.get("Package"), Some(package.name()));
                assert_eq!(control.fields.get("Description"), Some("a package\nof the test"));
            }
            Ok(())
        })
        .unwrap();
    let paths = fixture.server.paths();
    assert!(paths[1].contains("/by-hash/SHA256/"), "{paths:?}");
    assert_eq!(paths.len(), 4, "{paths:?}");
}

#[test]
fn what_is_cached_is_not_fetched_again_and_still_verified() {
    let fixture = simple().publish();
    let fetch =
        || fixture.open(|repository| repository.download(&repository.resolve(["a"])?)).unwrap();
    let files = fetch();
    let requests = fixture.server.paths().len();
    fetch();
    assert_eq!(fixture.server.paths().len(), requests + 1, "only InRelease is fetched again");
    fs::write(&files[0], vec![0; fs::metadata(&files[0]).unwrap().len() as usize]).unwrap();
    let again = fetch();
    assert_eq!(fixture.server.paths().len(), requests + 3);
    assert!(deb::open(&again[0]).is_ok());
}

#[test]
fn every_compression_of_an_index_is_read() {
    for name in ["Packages", "Packages.gz", "Packages.xz"] {
        let fixture = Fixture { index_name: name, ..simple() }.publish();
        fixture.open(|repository| repository.package("b").map(|_| ())).unwrap();
    }
}

#[test]
fn a_mirror_without_by_hash_serves_the_index_by_name() {
    let fixture = simple().publish();
    let index = fixture.server.get("/debian/dists/test/main/binary-amd64/Packages.xz");
    let path = format!("/debian/dists/test/main/binary-amd64/by-hash/SHA256/{}", sha256(&index));
    fixture.server.remove(&path);
    fixture.open(|_| Ok(())).unwrap();
    let fixture = Fixture { by_hash: false, ..simple() }.publish();
    fixture.open(|_| Ok(())).unwrap();
    assert!(!fixture.server.paths()[1].contains("by-hash"));
}

#[test]
fn an_unsigned_release_is_refused() {
    let fixture = simple().publish();
    fixture.server.set(RELEASE, Answer::file(fixture.release.clone()));
    check(&fixture, &fixture.refusal(), "TRUST_E_NOSIGNATURE", "it is not signed");
}

#[test]
fn a_changed_release_is_refused() {
    let fixture = simple().publish();
    let text = String::from_utf8(fixture.server.get(RELEASE)).unwrap();
    fixture.server.set(RELEASE, Answer::file(text.replacen("Origin: Test", "Origin: Fest", 1)));
    let error = fixture.refusal();
    check(&fixture, &error, "TRUST_E_BAD_SIGNATURE", "it was changed or damaged");
    assert!(matches!(signature_error(error), SignatureError::Bad { .. }));
}

#[test]
fn text_around_the_signed_text_is_refused() {
    let fixture = simple().publish();
    let text = String::from_utf8(fixture.server.get(RELEASE)).unwrap();
    for changed in [format!("Suite: x\n{text}"), format!("{text}\nSuite: x\n")] {
        fixture.server.set(RELEASE, Answer::file(changed));
        assert!(matches!(
            signature_error(fixture.refusal()),
            SignatureError::Missing | SignatureError::Malformed { .. }
        ));
    }
}

#[test]
fn a_cut_off_or_senseless_release_is_refused() {
    let fixture = simple().publish();
    let text = fixture.server.get(RELEASE);
    for length in [40, text.len() / 2, text.len() - 40] {
        fixture.server.set(RELEASE, Answer::file(&text[..length]));
        let error = signature_error(fixture.refusal());
        assert!(matches!(error, SignatureError::Malformed { .. }), "{length}: {error}");
    }
    fixture.server.set(RELEASE, Answer::file([0xff; 100]));
    signature_error(fixture.refusal());
}

#[test]
fn a_release_signed_by_another_key_is_refused() {
    let fixture = simple().publish();
    let error = fixture.open_trusting(&Key::new().keyring(), |_| Ok(())).unwrap_err();
    check(&fixture, &error, "CERT_E_UNTRUSTEDROOT", "it is signed only by unknown keys: ");
    let error = signature_error(error);
    assert!(matches!(error, SignatureError::UnknownKey { keys } if keys.len() == 1));
}

#[test]
fn a_key_past_its_time_is_refused() {
    let fixture = Fixture { key: Key::expiring(300 * 86_400), ..simple() }.publish();
    let error = fixture.refusal();
    check(&fixture, &error, "CERT_E_EXPIRED", "expired 2025-10-28 00:00 UTC");
    assert!(matches!(signature_error(error), SignatureError::ExpiredKey { .. }));
    let fixture = Fixture { key: Key::expiring(366 * 86_400), ..simple() }.publish();
    fixture.open(|_| Ok(())).unwrap();
}

#[test]
fn a_signature_past_its_time_is_refused() {
    let signing = Signing { made: NOW - 600, lifetime: Some(300), ..Signing::default() };
    let fixture = Fixture { signing, ..simple() }.publish();
    let error = fixture.refusal();
    check(&fixture, &error, "CERT_E_EXPIRED", "expired 2025-12-31 23:55 UTC");
    assert!(matches!(signature_error(error), SignatureError::ExpiredSignature { .. }));
}

#[test]
fn a_signature_from_the_future_is_refused() {
    let signing = Signing { made: NOW + 86_400, ..Signing::default() };
    let fixture = Fixture { signing, ..simple() }.publish();
    let error = fixture.refusal();
    check(&fixture, &error, "CERT_E_EXPIRED", "which is in the future");
    assert_eq!(error.hint().as_deref(), Some("check this machine's clock"));
}

#[test]
fn a_key_that_may_not_sign_is_refused() {
    let fixture = Fixture { key: Key::not_for_signing(), ..simple() }.publish();
    check(&fixture, &fixture.refusal(), "CERT_E_WRONG_USAGE", "not one for signing");
}

#[test]
fn a_weak_hash_is_refused() {
    let signing = Signing { hash: HashAlgorithm::Sha1, ..Signing::default() };
    let fixture = Fixture { signing, key: Key::rsa(), ..simple() }.publish();
    check(&fixture, &fixture.refusal(), "CERT_E_WRONG_USAGE", "too weak");
}

#[test]
fn a_release_out_of_date_is_refused() {
    let mut fixture = simple();
    fixture.release = fixture.release.replace("02 Jan 2026", "31 Dec 2025");
    let fixture = fixture.publish();
    check(&fixture, &fixture.refusal(), "CERT_E_EXPIRED", "valid until 2025-12-31 00:00 UTC");
}

#[test]
fn a_release_of_another_suite_is_refused() {
    let mut fixture = simple();
    fixture.release = fixture.release.replace("Codename: test", "Codename: other");
    let fixture = fixture.publish();
    check(&fixture, &fixture.refusal(), "ERROR_NOT_FOUND", "the suite 'stable/other'");
}

#[test]
fn a_missing_suite_or_index_is_named() {
    let fixture = simple().publish();
    fixture.server.remove(RELEASE);
    check(&fixture, &fixture.refusal(), "HTTP_E_STATUS_NOT_FOUND", "InRelease' answered with");
    let fixture = Fixture { index_name: "Sources.xz", ..simple() }.publish();
    check(&fixture, &fixture.refusal(), "ERROR_NOT_FOUND", "lists no packages of 'main'");
}

#[test]
fn another_index_than_the_signed_one_is_refused() {
    let fixture = Fixture { by_hash: false, ..simple() }.publish();
    let path = "/debian/dists/test/main/binary-amd64/Packages.xz";
    let mut index = fixture.server.get(path);
    index[20] ^= 1;
    fixture.server.set(path, Answer::file(index.clone()));
    let error = fixture.refusal();
    check(&fixture, &error, "VerifyChecksum/TRUST_E_BAD_DIGEST", "has the wrong SHA-256");
    assert!(matches!(error, ArchiveError::IndexHash { .. }));
    index.truncate(20);
    fixture.server.set(path, Answer::file(index));
    check(&fixture, &fixture.refusal(), "VerifyChecksum/TRUST_E_BAD_DIGEST", "20 bytes");
}

#[test]
fn another_package_than_the_signed_one_is_refused() {
    let fixture = simple().publish();
    let path = "/debian/pool/b.deb";
    let fetch = || {
        fixture
            .open(|repository| repository.download(&repository.resolve(["a"])?))
            .map(|_| ())
            .unwrap_err()
    };
    let good = fixture.server.get(path);
    let mut changed = good.clone();
    changed[100] ^= 1;
    fixture.server.set(path, Answer::file(changed));
    let error = fetch();
    assert!(matches!(error, ArchiveError::PackageHash { .. }), "{error:?}");
    assert_eq!(error.code(), "VerifyChecksum/TRUST_E_BAD_DIGEST");
    fixture.server.set(path, Answer::file([good.as_slice(), b"x"].concat()));
    assert!(matches!(fetch(), ArchiveError::Size { .. }));
    fixture.server.remove(path);
    assert_eq!(fetch().code(), "HTTP_E_STATUS_NOT_FOUND");
    assert!(fixture.cached().iter().all(|name| !name.contains('.')), "{:?}", fixture.cached());
    fixture.server.set(path, Answer::file(good));
    fixture.open(|repository| repository.download(&repository.resolve(["a"])?)).unwrap();
}

#[test]
fn a_connection_that_breaks_off_is_continued() {
    let fixture = simple().publish();
    let path = "/debian/pool/a.deb";
    let body = fixture.server.get(path);
    let cut = Some(body.len() / 3 + 1);
    fixture.server.set(path, Answer { cut, ..Answer::file(body) });
    fixture.open(|repository| repository.download(&repository.resolve(["a"])?)).unwrap();
    let starts: Vec<_> = fixture
        .server
        .requests()
        .into_iter()
        .filter(|request| request.path == path)
        .map(|request| request.headers.get("range").cloned())
        .collect();
    assert_eq!(starts.len(), 3, "{starts:?}");
    assert!(starts[0].is_none() && starts[1].is_some() && starts[2].is_some(), "{starts:?}");
}

#[test]
fn a_package_that_does_not_exist_is_named() {
    let fixture = simple().publish();
    let missing =
        |name| fixture.open(|repository| repository.resolve([name]).map(|_| ())).unwrap_err();
    assert_eq!(missing("z").code(), "ERROR_INSTALL_PACKAGE_REJECTED");
    assert!(missing("z").to_string().ends_with("has no package 'z'"));
}

#[test]
fn a_dead_mirror_is_unavailable_and_a_wrong_signature_is_not() {
    let fixture = simple().publish();
    let error = fixture.open_trusting(&Key::new().keyring(), |_| Ok(())).unwrap_err();
    assert!(!error.is_unavailable());
    fixture.server.set(RELEASE, Answer::status(503));
    assert!(fixture.refusal().is_unavailable());
}
