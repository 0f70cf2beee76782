//! The archive client against Debian's own archive, by way of the configured mirror.
//!
//! These tests need the network, so `cargo test` leaves them out; `tests/run` runs them
//! with `--ignored`.

use std::path::PathBuf;

use wslr::archive::{Repository, Source, deb};
use wslr::download::Fetcher;
use wslr::terminal::progress::Progress;

fn cache() -> PathBuf {
    std::env::var_os("WSLR_TEST_CACHE")
        .map_or_else(|| std::env::temp_dir().join("wslr-test-cache"), PathBuf::from)
}

#[test]
#[ignore = "needs Debian's archive"]
fn the_current_kernel_is_found_verified_and_fetched() {
    let (fetcher, cache, progress) = (Fetcher::new().unwrap(), cache(), Progress::hidden());
    let source = Source::debian("trixie").with_configured_mirror(None);
    let repository = Repository::open(&source, &fetcher, &cache, &progress).unwrap();
    let meta = repository.package("linux-image-cloud-amd64").unwrap();
    let clause = &meta.dependencies().unwrap()[0];
    let image = repository.package(&clause.alternatives[0].name).unwrap();
    assert!(image.name().starts_with("linux-image-6.12"), "{}", image.name());
    let files = repository.download(&[image]).unwrap();
    let package = deb::open(&files[0]).unwrap();
    let control = package.control().unwrap();
    assert_eq!(control.fields.get("Package"), Some(image.name()));
    assert_eq!(control.fields.get("Version"), Some(image.version()));
    let mut data = tar::Archive::new(package.data().unwrap());
    let kernel = data
        .entries()
        .unwrap()
        .map(Result::unwrap)
        .find(|entry| entry.path_bytes().starts_with(b"./boot/vmlinuz-"));
    assert!(kernel.unwrap().size() > 1 << 20);
}
