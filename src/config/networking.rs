//! What `.wslconfig` says of the network (behaviour reference 2.2).

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use super::keys::Values;
use crate::network::addresses;

/// How the machine of version 2 is connected.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Mode {
    /// Not at all.
    None,
    /// Behind the host's own sockets.
    Nat,
    /// The same, under the name that `wsl` gives a network made in this way.
    Consomme,
    /// The same, and the ports of the distros and of the host are one. Addresses are those of
    /// `nat`: what has the host's own can only be given by its administrator.
    Mirrored,
}

impl Mode {
    /// Its name in `wsl`'s words.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Nat => "nat",
            Self::Consomme => "consomme",
            Self::Mirrored => "mirrored",
        }
    }
}

/// The settings of the network.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Networking {
    /// How the machine is connected.
    pub mode: Mode,
    /// Ports that distros listen on are the host's too.
    pub localhost_forwarding: bool,
    /// Ports that are not.
    pub ignored_ports: BTreeSet<u16>,
    /// Distros reach what listens on the host's loopback addresses.
    pub host_loopback: bool,
    /// Others than the host's own programs reach the ports of distros.
    pub lan_forwarding: bool,
    /// The names, in lower case, of distros that have a network of their own.
    pub isolated: BTreeSet<String>,
    /// The host's proxy is distros' too.
    pub auto_proxy: bool,
    /// Where distros ask for names: an address of its own, or the gateway (B198).
    pub resolver: Option<Ipv4Addr>,
}

impl Networking {
    /// Whether the distro of that name has a network of its own.
    #[must_use]
    pub fn isolates(&self, name: &str) -> bool {
        self.isolated.contains(&name.to_lowercase())
    }

    /// Takes the settings out of the file's values; `file` is its name in warnings.
    pub(super) fn read(values: &mut Values, file: &str, warnings: &mut Vec<String>) -> Self {
        let word = values.text("wsl2.networkingmode").unwrap_or_default().to_ascii_lowercase();
        let mode = match word.as_str() {
            "none" => Mode::None,
            "consomme" | "virtioproxy" => Mode::Consomme,
            "mirrored" => Mode::Mirrored,
            // It wants an interface of the host, which only its administrator can give.
            "bridged" => {
                warnings.push(
                    "networkingMode bridged is not available, falling back to networkingMode nat"
                        .to_owned(),
                );
                Mode::Nat
            }
            _ => Mode::Nat,
        };
        let ports = values.text("experimental.ignoredports").unwrap_or_default();
        let mut ignored_ports = BTreeSet::new();
        for word in ports.split(',').map(str::trim).filter(|word| !word.is_empty()) {
            match word.parse::<u16>() {
                Ok(port @ 1..) => _ = ignored_ports.insert(port),
                _ => warnings.push(format!(
                    "Invalid port '{word}' for key 'experimental.ignoredPorts' in {file}"
                )),
            }
        }
        let tunneling = values.flag("wsl2.dnstunneling", true);
        let address = values.text("experimental.dnstunnelingipaddress");
        let address = address.map(|text| (text.parse::<Ipv4Addr>(), text));
        let resolver = match address {
            None => addresses::RESOLVER,
            // One that has a meaning of its own would be asked in vain.
            Some((Ok(address), _)) if addresses::can_be_resolver(address) => address,
            Some((_, text)) => {
                warnings.push(format!(
                    "Invalid IP value '{text}' for key 'experimental.dnsTunnelingIpAddress' in \
                     {file}"
                ));
                addresses::RESOLVER
            }
        };
        let forwarding = values.flag("wsl2.localhostforwarding", true);
        if mode == Mode::Mirrored && !forwarding {
            warnings.push(
                "wsl2.localhostForwarding setting has no effect when using mirrored networking mode"
                    .to_owned(),
            );
        }
        let isolated = values.text("wslr.isolateddistributions").unwrap_or_default();
        let isolated = isolated.split(',').map(|name| name.trim().to_lowercase());
        Self {
            mode,
            isolated: isolated.filter(|name| !name.is_empty()).collect(),
            localhost_forwarding: forwarding || mode == Mode::Mirrored,
            ignored_ports,
            auto_proxy: values.flag("wsl2.autoproxy", true),
            host_loopback: values.flag("wslr.hostloopback", true),
            lan_forwarding: values.flag("wslr.lanforwarding", false),
            resolver: tunneling.then_some(resolver),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::wslconfig::{Host, WslConfig};
    use super::*;

    fn read(text: &str) -> (Networking, Vec<String>) {
        let host = Host { memory: 8 << 30, processors: 4 };
        let config = WslConfig::parse(text, Path::new("/h/.wslconfig"), host);
        (config.networking, config.warnings)
    }

    #[test]
    fn the_defaults_are_those_of_wsl() {
        let (networking, warnings) = read("");
        assert_eq!((networking.mode, networking.mode.name()), (Mode::Nat, "nat"));
        assert!(networking.localhost_forwarding && networking.host_loopback);
        assert!(!networking.lan_forwarding && !networking.isolates("Debian"));
        let (networking, _) = read("[wslr]\nisolatedDistributions = Debian, other\n");
        assert!(networking.isolates("debian") && networking.isolates("Other"));
        assert!(!networking.isolates("") && !networking.isolates("Debian, other"));
        assert!(read("[wslr]\nlanForwarding=true").0.lan_forwarding);
        assert_eq!(networking.resolver, Some(Ipv4Addr::new(10, 255, 255, 254)));
        assert_eq!((networking.ignored_ports.len(), warnings.len()), (0, 0));
    }

    #[test]
    fn b127_b198_ports_and_the_address_of_the_resolver_are_checked() {
        let (networking, warnings) = read(
            "[experimental]\nignoredPorts= 80, 65536,NotANumber,0,443\n\
             dnsTunnelingIpAddress=1.2.3\n",
        );
        assert_eq!(networking.ignored_ports, BTreeSet::from([80, 443]));
        assert_eq!(networking.resolver, Some(addresses::RESOLVER));
        assert_eq!(warnings.len(), 4, "{warnings:?}");
        assert!(warnings[3].starts_with("Invalid IP value '1.2.3' for key "), "{warnings:?}");
        let (networking, warnings) =
            read("[experimental]\ndnsTunnelingIpAddress=10.255.255.1\n[wsl2]\ndnsTunneling=true");
        assert_eq!(networking.resolver, Some(Ipv4Addr::new(10, 255, 255, 1)));
        assert_eq!(warnings, [""; 0]);
        assert_eq!(read("[wsl2]\ndnsTunneling=false").0.resolver, None);
        assert_eq!(read("[experimental]\ndnsTunnelingIpAddress=127.0.0.1").1.len(), 1);
    }

    #[test]
    fn b209_a_mode_that_is_not_available_is_a_warning_and_the_machine_has_a_network() {
        let (networking, warnings) = read("[wsl2]\nnetworkingMode=bridged");
        assert_eq!((networking.mode, warnings.len()), (Mode::Nat, 1));
        assert!(warnings[0].ends_with("falling back to networkingMode nat"), "{warnings:?}");
        assert_eq!(read("[wsl2]\nnetworkingMode=VirtioProxy").0.mode, Mode::Consomme);
        assert_eq!(read("[experimental]\nnetworkingMode=NONE").0.mode, Mode::None);
    }

    #[test]
    fn b213_a_port_that_is_one_with_the_hosts_is_always_the_hosts_too() {
        let (networking, warnings) = read("[experimental]\nnetworkingMode=mirrored");
        assert_eq!((networking.mode.name(), warnings.len()), ("mirrored", 0));
        assert!(networking.localhost_forwarding && networking.host_loopback);
        let (networking, warnings) =
            read("[wsl2]\nnetworkingMode=Mirrored\nlocalhostForwarding=false");
        assert!(networking.localhost_forwarding);
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert!(!read("[wsl2]\nlocalhostForwarding=false").0.localhost_forwarding);
    }
}
