//! The host's proxy, for the programs of a distro (B217, B218).
//!
//! On this host a proxy is what the environment of the command says. One on the host's own
//! loopback address is reached from version 2 by the name that stands for the host.

use std::ffi::OsString;
use std::net::IpAddr;
use std::ops::Range;
use std::os::unix::ffi::OsStringExt;

use crate::config::networking::{Mode, Networking};
use crate::network::HOST_NAME;

/// Proxies, and what is asked without them.
const PROXIES: [(&str, &str); 2] = [("http_proxy", "HTTP_PROXY"), ("https_proxy", "HTTPS_PROXY")];
const BYPASS: (&str, &str) = ("no_proxy", "NO_PROXY");

/// Variables for a session.
pub(super) type Variables = Vec<(Vec<u8>, Vec<u8>)>;

/// The variables for a session in a distro of that version, and a warning.
pub(super) fn variables(
    version: u32,
    networking: &Networking,
    host: impl Fn(&str) -> Option<OsString>,
) -> (Variables, Option<String>) {
    let (mut variables, mut warning) = (Variables::new(), None);
    let own_network = version == 2;
    if !networking.auto_proxy || own_network && networking.mode == Mode::None {
        return (variables, None);
    }
    let value = |(lower, upper): (&str, &str)| {
        [lower, upper].into_iter().filter_map(&host).find(|value| !value.is_empty())
    };
    let mut set = |(lower, upper): (&str, &str), value: Vec<u8>| {
        variables.push((lower.into(), value.clone()));
        variables.push((upper.into(), value));
    };
    let mut has_proxy = false;
    for names in PROXIES {
        let Some(value) = value(names) else { continue };
        let Ok(mut text) = value.into_string() else { continue };
        let place = host_of(&text);
        if own_network && text.get(place.clone()).is_some_and(is_loopback) {
            if !networking.host_loopback {
                warning = Some(format!(
                    "'{}' is not passed on: the proxy is on the host's loopback address, which \
                     hostLoopback in .wslconfig keeps from distributions",
                    names.0
                ));
                continue;
            }
            text.replace_range(place, HOST_NAME);
        }
        has_proxy = true;
        set(names, text.into_bytes());
    }
    if has_proxy && let Some(value) = value(BYPASS) {
        set(BYPASS, value.into_vec());
    }
    (variables, warning)
}

/// Where the host stands in the address of a proxy: `[scheme://][user@]host[:port][/]`.
fn host_of(text: &str) -> Range<usize> {
    let start = text.find("://").map_or(0, |at| at + 3);
    let rest = text.get(start..).unwrap_or_default();
    let end = start + rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let authority = text.get(start..end).unwrap_or_default();
    let start = start + authority.rfind('@').map_or(0, |at| at + 1);
    let rest = text.get(start..end).unwrap_or_default();
    let length = match rest.starts_with('[') {
        true => rest.find(']').map_or(rest.len(), |at| at + 1),
        false => rest.find(':').unwrap_or(rest.len()),
    };
    start..start + length
}

fn is_loopback(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    match address {
        Ok(address) => address.to_canonical().is_loopback(),
        Err(_) => ["localhost", "loopback"].iter().any(|name| host.eq_ignore_ascii_case(name)),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::wslconfig::{Host, WslConfig};

    fn given(version: u32, config: &str, host: &[(&str, &str)]) -> (Vec<String>, Option<String>) {
        let machine = Host { memory: 8 << 30, processors: 4 };
        let config = WslConfig::parse(config, Path::new("/h/.wslconfig"), machine);
        let host = |name: &str| Some(host.iter().find(|(it, _)| *it == name)?.1.into());
        let (variables, warning) = variables(version, &config.networking, host);
        let text = |bytes| String::from_utf8(bytes).unwrap();
        let one = |(name, value)| format!("{}={}", text(name), text(value));
        (variables.into_iter().map(one).collect(), warning)
    }

    #[test]
    fn b217_the_hosts_proxy_is_given_in_both_spellings() {
        let host = [("HTTP_PROXY", "http://proxy.example:3128"), ("no_proxy", "a,b"), ("x", "y")];
        let expected = [
            "http_proxy=http://proxy.example:3128",
            "HTTP_PROXY=http://proxy.example:3128",
            "no_proxy=a,b",
            "NO_PROXY=a,b",
        ];
        for version in [1, 2] {
            assert_eq!(given(version, "", &host).0, expected);
        }
        assert_eq!(given(2, "[wsl2]\nautoProxy=false", &host).0, [""; 0]);
        assert_eq!(given(2, "[wsl2]\nnetworkingMode=none", &host).0, [""; 0]);
        assert_eq!(given(2, "", &[("no_proxy", "a"), ("http_proxy", "")]).0, [""; 0]);
    }

    #[test]
    fn b218_a_proxy_on_the_hosts_loopback_is_reached_or_left_out_with_a_warning() {
        for (host, expected) in [
            ("http://localhost:3128/", "http://host.wslr.internal:3128/"),
            ("socks5h://u:p@127.0.0.1:1080", "socks5h://u:p@host.wslr.internal:1080"),
            ("http://[::1]:3128", "http://host.wslr.internal:3128"),
            ("LOOPBACK", "host.wslr.internal"),
            ("127.0.0.2:80", "host.wslr.internal:80"),
            ("http://192.168.1.1:3128", "http://192.168.1.1:3128"),
            ("http://[2001:db8::1]:3128", "http://[2001:db8::1]:3128"),
            ("http://localhost.example:1/@localhost", "http://localhost.example:1/@localhost"),
        ] {
            let (variables, warning) = given(2, "", &[("https_proxy", host)]);
            assert_eq!(variables[0], format!("https_proxy={expected}"));
            assert_eq!(warning, None);
        }
        // Version 1's loopback is the host's.
        let host = [("http_proxy", "http://u:secret@localhost:1")];
        assert_eq!(given(1, "", &host).0[0], "http_proxy=http://u:secret@localhost:1");
        let (variables, warning) = given(2, "[wslr]\nhostLoopback=false", &host);
        assert_eq!(variables, [""; 0]);
        assert!(warning.is_some_and(|text| !text.contains("secret")));
    }
}
