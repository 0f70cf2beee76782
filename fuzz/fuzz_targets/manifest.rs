//! Any bytes as a list of distributions.

#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use wslr::download::Fetcher;
use wslr::manifest::{Catalog, Settings};

fuzz_target!(|data: &[u8]| {
    static FETCHER: OnceLock<Fetcher> = OnceLock::new();
    let fetcher = FETCHER.get_or_init(|| Fetcher::new().expect("a fetcher"));
    let Ok(file) = tempfile::NamedTempFile::new() else { return };
    if std::fs::write(file.path(), data).is_err() {
        return;
    }
    let url = Some(format!("file://{}", file.path().display()));
    for settings in [
        Settings { replacement: url.clone(), addition: None },
        Settings { replacement: url.clone(), addition: url },
    ] {
        let Ok(catalog) = Catalog::load(&settings, fetcher) else { return };
        let _ = catalog.resolve(None);
        for distro in catalog.online() {
            assert!(catalog.resolve(Some(&distro.name)).is_ok());
        }
    }
});
