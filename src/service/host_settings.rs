//! Follows settings of the host into a running machine: its suffixes for short names (B202)
//! and its time zone (B232).
//!
//! Whom the host asks for names is looked up with each question; only the suffixes are the
//! guest's own to know.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::vm::Vm;
use super::{file_watch, log};
use crate::config::time_zone;
use crate::network::resolver;
use crate::protocol::guest::Request;

/// How long the guest may take to write a file.
const LIMIT: Duration = Duration::from_secs(10);

/// Follows them, as far as the machine has its own, until what this gives is dropped.
pub fn follow(vm: &Arc<Vm>, resolver_settings: &'static str) -> Vec<UnixStream> {
    let mut zone = time_zone::of_host();
    let zones = watch(vm, "time-zone", time_zone::FILE, move || {
        let now = time_zone::of_host().filter(|now| zone.as_ref() != Some(now))?;
        zone = Some(now.clone());
        Some(Request::SetTimeZone { zone: now })
    });
    let names = vm.machine.network().and_then(|network| {
        let mut search = network.search;
        watch(vm, "resolver", resolver_settings, move || {
            let text = fs::read_to_string(resolver_settings).unwrap_or_default();
            let now = resolver::search(&text);
            (std::mem::replace(&mut search, now.clone()) != now)
                .then_some(Request::SetSearch { search: now })
        })
    });
    zones.into_iter().chain(names).collect()
}

/// Tells the guest what `changed` gives after each change of the file.
fn watch(
    vm: &Arc<Vm>,
    name: &str,
    file: &'static str,
    mut changed: impl FnMut() -> Option<Request> + Send + 'static,
) -> Option<UnixStream> {
    let (ours, theirs) = UnixStream::pair().ok()?;
    let vm = Arc::clone(vm);
    let work = move || {
        let result = file_watch::follow(Path::new(file), &theirs, || {
            if let Some(request) = changed()
                && let Err(error) = vm.control.request(request, LIMIT)
            {
                log(format_args!("the guest did not take a change of '{file}': {error}"));
            }
        });
        if let Err(error) = result {
            log(format_args!("cannot watch '{file}': {error}"));
        }
    };
    super::spawn(name, work).inspect_err(|failure| log(format_args!("{failure}"))).ok()?;
    Some(ours)
}
