//! The archive client against Debian's own archive, by way of the configured mirror.
//!
//! These tests need the network, so `cargo test` leaves them out; `tests/run` runs them
//! with `--ignored`.

#[path = "support/directory.rs"]
mod directory;

use std::path::PathBuf;
use std::time::SystemTime;

use wslr::archive::assemble::assemble;
use wslr::archive::{Options, Repository, Source, deb};
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

#[test]
#[ignore = "needs Debian's archive"]
fn assemble_probe() {
    let (fetcher, cache, progress) = (Fetcher::new().unwrap(), cache(), Progress::hidden());
    let suite = std::env::var("SUITE").unwrap();
    let source = Source::debian(&suite).with_configured_mirror(None);
    let now = if suite == "sid" {
        SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1793350000)
    } else {
        SystemTime::now()
    };
    let repository = Repository::open_with(
        &source,
        Options { cache: &cache, fetcher: &fetcher, keyring: None, now, progress: &progress },
    )
    .unwrap();
    let start = std::time::Instant::now();
    let mut sink = directory::Directory::new(std::path::Path::new(&std::env::var("OUT").unwrap()));
    let assembled = assemble(&repository, "Debian", &mut sink).unwrap();
    sink.finish();
    eprintln!("{:?} {}", start.elapsed(), assembled.packages.len());
}
