//! The kernel from Debian's own archive, against the tools of Debian's `kmod`.
//!
//! Needs the network, so `cargo test` leaves it out; `tests/run` runs it with `--ignored`.

use wslr::config::paths::Paths;
use wslr::download::Fetcher;
use wslr::kernel;
use wslr::terminal::progress::Progress;

#[test]
#[ignore = "needs Debian's archive"]
fn the_current_kernel_is_prepared_once() {
    let directory = tempfile::tempdir().unwrap();
    let mut paths = Paths::below(directory.path());
    if let Some(cache) = std::env::var_os("WSLR_TEST_CACHE") {
        paths.cache = cache.into();
    }
    let source = kernel::update::source(None);
    let update = || {
        let fetcher = Fetcher::new().unwrap();
        kernel::update(&paths, &source, &fetcher, &Progress::hidden()).unwrap()
    };
    let first = update();
    assert!(first.changed);
    let second = update();
    assert!(!second.changed);
    let prepared = kernel::current(&paths).unwrap();
    assert_eq!(prepared.release, first.release);
    let names: Vec<_> = prepared
        .modules
        .iter()
        .map(|path| path.file_name().unwrap().to_string_lossy().into_owned())
        .collect();
    println!("{names:?}");
}
