//! The files a distro is given at each start: host name, hosts, resolver.
//!
//! Each is written beside and renamed, so that whatever the distro has put at its place
//! (a link, a FIFO) is replaced and never opened.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, symlink};
use std::path::Path;

use crate::config::syntax::{self, AfterBadLine};
use crate::config::value;
use crate::guest::read_file;

/// Where the resolver's configuration shared by all distros is.
const SHARED_RESOLVER: &str = "/mnt/wsl/resolv.conf";

/// Writes all that `/etc/wsl.conf` does not keep (B142, B143); a failure is a warning.
pub fn write_all(hostname: &str) -> Vec<String> {
    let settings = read_file(Path::new("/etc/wsl.conf")).unwrap_or_default();
    let settings = String::from_utf8_lossy(&settings);
    let mut results = vec![("/etc/hostname", write("/etc/hostname", &format!("{hostname}\n")))];
    if is_wanted(&settings, "generateHosts") {
        results.push(("/etc/hosts", write("/etc/hosts", &hosts(hostname))));
    }
    if is_wanted(&settings, "generateResolvConf") {
        results.push(("/etc/resolv.conf", link_resolver()));
    }
    let warning = |(path, result): (&str, io::Result<()>)| {
        result.err().map(|error| format!("cannot write '{path}': {error}"))
    };
    results.into_iter().filter_map(warning).collect()
}

/// Whether a file is to be generated: unless `wsl.conf` says no in `[network]`. The first
/// occurrence of a key wins.
fn is_wanted(settings: &str, key: &str) -> bool {
    let (entries, _) = syntax::parse(settings, AfterBadLine::Stop);
    entries
        .iter()
        .find(|entry| {
            entry.section.eq_ignore_ascii_case("network") && entry.key.eq_ignore_ascii_case(key)
        })
        .and_then(|entry| value::boolean(&entry.value))
        .unwrap_or(true)
}

/// `/etc/hosts` (B142).
fn hosts(hostname: &str) -> String {
    let short = hostname.split('.').next().unwrap_or(hostname);
    let own = if short == hostname { hostname.to_owned() } else { format!("{hostname}\t{short}") };
    format!(
        "# This file is written by wslr at each start of the distribution. To keep your own,\n\
         # put this into /etc/wsl.conf:\n\
         # [network]\n\
         # generateHosts = false\n\
         127.0.0.1\tlocalhost\n\
         127.0.1.1\t{own}\n\
         \n\
         ::1\tip6-localhost ip6-loopback\n\
         fe00::0\tip6-localnet\n\
         ff00::0\tip6-mcastprefix\n\
         ff02::1\tip6-allnodes\n\
         ff02::2\tip6-allrouters\n"
    )
}

/// Replaces a file by one with this content, `0644`.
fn write(path: &str, content: &str) -> io::Result<()> {
    let beside = format!("{path}.wslr");
    let _ = fs::remove_file(&beside);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o644).open(&beside)?;
    file.write_all(content.as_bytes())?;
    drop(file);
    fs::rename(&beside, path).inspect_err(|_| {
        let _ = fs::remove_file(&beside);
    })
}

/// Points a missing or dangling `/etc/resolv.conf` to the shared one.
fn link_resolver() -> io::Result<()> {
    let path = Path::new("/etc/resolv.conf");
    if fs::metadata(path).is_ok() {
        return Ok(());
    }
    if let Err(error) = fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(error);
    }
    symlink(SHARED_RESOLVER, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn b142_b143_a_file_is_left_alone_where_wsl_conf_says_so() {
        let settings = "[Network]\ngeneratehosts = False\ngenerateHosts = true\n";
        assert!(!is_wanted(settings, "generateHosts"));
        assert!(is_wanted(settings, "generateResolvConf"));
        assert!(is_wanted("[other]\ngenerateHosts=false\n", "generateHosts"));
    }

    #[test]
    fn b142_hosts_names_the_machine_by_both_its_names() {
        let text = hosts("host.domain");
        assert!(text.contains("\n# [network]\n# generateHosts = false\n127.0.0.1\tlocalhost\n"));
        assert!(text.contains("\n127.0.1.1\thost.domain\thost\n"));
        assert!(hosts("host").contains("\n127.0.1.1\thost\n"));
    }
}
