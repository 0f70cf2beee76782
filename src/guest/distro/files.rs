//! The files a distro is given at each start: host name, hosts, resolver.
//!
//! Each is written beside and renamed, so that whatever the distro has put at its place
//! (a link, a FIFO) is replaced and never opened.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, symlink};
use std::path::Path;

/// Where the resolver's configuration shared by all distros is.
const SHARED_RESOLVER: &str = "/mnt/wsl/resolv.conf";

/// Writes all; a failure is a warning.
pub fn write_all(hostname: &str) -> Vec<String> {
    [
        ("/etc/hostname", write("/etc/hostname", &format!("{hostname}\n"))),
        ("/etc/hosts", write("/etc/hosts", &hosts(hostname))),
        ("/etc/resolv.conf", link_resolver()),
    ]
    .into_iter()
    .filter_map(|(path, result)| {
        result.err().map(|error| format!("cannot write '{path}': {error}"))
    })
    .collect()
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
    fn b142_hosts_names_the_machine_by_both_its_names() {
        let text = hosts("host.domain");
        assert!(text.contains("\n# [network]\n# generateHosts = false\n127.0.0.1\tlocalhost\n"));
        assert!(text.contains("\n127.0.1.1\thost.domain\thost\n"));
        assert!(hosts("host").contains("\n127.0.1.1\thost\n"));
    }
}
