//! Whom the host asks for names, now.
//!
//! The file is looked at before every question, so a change (of a VPN, of the network) is
//! followed by the next one. Where it names a stub of the host's own, such as that of
//! `systemd-resolved`, the stub does what it does for the host: domains per link, and
//! `/etc/hosts`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use super::settings_file::SettingsFile;

/// The most servers that are asked, as in the C library.
const MAXIMUM_SERVERS: usize = 3;
/// The port of name servers.
const PORT: u16 = 53;

/// The host's settings.
#[derive(Debug)]
pub struct Resolver {
    file: SettingsFile,
    servers: Vec<SocketAddr>,
}

impl Resolver {
    /// Those in that file, usually `/etc/resolv.conf`.
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        Self { file: SettingsFile::new(path), servers: Vec::new() }
    }

    /// The servers to ask, in order. None where there are no settings.
    pub fn servers(&mut self) -> &[SocketAddr] {
        if let Some(text) = self.file.changed() {
            self.servers = if self.file.is_there() { servers(&text) } else { Vec::new() };
        }
        &self.servers
    }
}

/// The servers of a file; where it names none, the host's own, as in the C library.
fn servers(text: &str) -> Vec<SocketAddr> {
    let named: Vec<_> = text
        .lines()
        .filter_map(|line| {
            let mut words = line.split_ascii_whitespace();
            let name = words.next().filter(|word| *word == "nameserver").and(words.next())?;
            // One with a scope needs an interface, which is not known here.
            Some(SocketAddr::new(name.parse::<IpAddr>().ok()?, PORT))
        })
        .take(MAXIMUM_SERVERS)
        .collect();
    if named.is_empty() { vec![SocketAddr::from((Ipv4Addr::LOCALHOST, PORT))] } else { named }
}

/// The line of the host's settings that tells where else to look for short names, for a
/// guest's (B199).
#[must_use]
pub fn search(text: &str) -> Option<String> {
    let line = text
        .lines()
        .rfind(|line| matches!(line.split_ascii_whitespace().next(), Some("search" | "domain")))?;
    let names: Vec<&str> = line
        .split_ascii_whitespace()
        .skip(1)
        .filter(|name| name.len() <= 253 && name.bytes().all(|byte| byte.is_ascii_graphic()))
        .filter(|name| *name != ".")
        .take(32)
        .collect();
    (!names.is_empty()).then(|| names.join(" "))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_change_is_followed_by_the_next_question() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("resolv.conf");
        let mut resolver = Resolver::new(path.clone());
        assert!(resolver.servers().is_empty());
        fs::write(&path, "# x\nnameserver 192.0.2.1\nnameserver fe80::1%eth0\nsearch a\n").unwrap();
        assert_eq!(resolver.servers(), ["192.0.2.1:53".parse().unwrap()]);
        fs::write(&path, "nameserver\t2001:db8::1\nnameserver 192.0.2.2 # y\n").unwrap();
        let expected: [SocketAddr; 2] =
            ["[2001:db8::1]:53".parse().unwrap(), "192.0.2.2:53".parse().unwrap()];
        assert_eq!(resolver.servers(), expected);
        fs::write(&path, "").unwrap();
        assert_eq!(resolver.servers(), ["127.0.0.1:53".parse().unwrap()]);
        fs::remove_file(&path).unwrap();
        assert!(resolver.servers().is_empty());
    }

    #[test]
    fn b199_the_hosts_suffixes_are_kept_in_order() {
        let text = "domain z\nsearch a.example b.example\nnameserver 192.0.2.1\n";
        assert_eq!(search(text).as_deref(), Some("a.example b.example"));
        assert_eq!(search("search .\n"), None);
        assert_eq!(search("nameserver 192.0.2.1\n"), None);
    }
}
