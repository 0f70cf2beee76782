//! The names of the host's own file, `/etc/hosts`, which its resolver may not know (B201).
//!
//! What is said there of the host's loopback means the host, also to a guest: it is answered
//! with the address that stands for the host.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::PathBuf;

use super::addresses::Addresses;
use super::settings_file::SettingsFile;

/// The most names that are kept.
const MAXIMUM: usize = 65_536;

/// The file.
#[derive(Debug)]
pub struct Hosts {
    file: SettingsFile,
    names: HashMap<String, Vec<IpAddr>>,
}

impl Hosts {
    /// That file, usually `/etc/hosts`.
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        Self { file: SettingsFile::new(path), names: HashMap::new() }
    }

    /// The addresses of a name in lower case, without a dot at its end, as a guest of that
    /// link knows them; `None` where the file does not name it.
    pub fn find(&mut self, name: &str, addresses: &Addresses, own: bool) -> Option<Vec<IpAddr>> {
        if let Some(text) = self.file.changed() {
            self.names = parse(&text);
        }
        let found = self.names.get(name)?.iter().filter_map(|address| match address {
            IpAddr::V4(address) if address.is_loopback() => own.then_some(addresses.host4.into()),
            IpAddr::V6(address) if address.is_loopback() => own.then_some(addresses.host6.into()),
            other => Some(*other),
        });
        let found: Vec<IpAddr> = found.collect();
        (!found.is_empty()).then_some(found)
    }
}

fn parse(text: &str) -> HashMap<String, Vec<IpAddr>> {
    let mut names: HashMap<String, Vec<IpAddr>> = HashMap::new();
    for line in text.trim_start_matches('\u{feff}').lines() {
        let mut words = line.split('#').next().unwrap_or_default().split_ascii_whitespace();
        let Some(Ok(address)) = words.next().map(str::parse::<IpAddr>) else { continue };
        for name in words {
            let name = name.trim_end_matches('.').to_ascii_lowercase();
            // That is always whose asks, never another's.
            let is_own = name == "localhost" || name.ends_with("localhost");
            if !is_own && (names.len() < MAXIMUM || names.contains_key(&name)) {
                names.entry(name).or_default().push(address);
            }
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn b201_names_of_the_hosts_file_are_found_and_its_loopback_is_the_host() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("hosts");
        fs::write(
            &path,
            "127.0.0.1 localhost app.test\n::1 ip6-localhost localhost\n\
             192.0.2.7\tBuild.Example build # the farm\n2001:db8::7 build.example.\nbad line\n",
        )
        .unwrap();
        let addresses = Addresses::on([20, 224]);
        let mut hosts = Hosts::new(path.clone());
        let mut find = |name: &str, own| hosts.find(name, &addresses, own);
        let farm: [IpAddr; 2] = ["192.0.2.7".parse().unwrap(), "2001:db8::7".parse().unwrap()];
        assert_eq!(find("build.example", false).unwrap(), farm);
        assert_eq!(find("build", true).unwrap(), farm[..1]);
        assert_eq!(find("app.test", true).unwrap(), [IpAddr::from(addresses.host4)]);
        assert_eq!(find("app.test", false), None);
        assert_eq!((find("localhost", true), find("line", true)), (None, None));
        fs::write(&path, "192.0.2.8 other\n").unwrap();
        assert_eq!((find("build", true), find("other", true).unwrap().len()), (None, 1));
    }
}
