//! The addresses on the guest's link, and which of the world's the guest may reach.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::packet::Mac;
use crate::protocol::guest::Network;

/// The length of the link's prefix of IPv4.
pub const PREFIX4: u8 = 24;
/// The length of the link's prefix of IPv6.
pub const PREFIX6: u8 = 64;

/// The largest packet on the link in bytes: what nearly every path beyond carries, so that
/// programs that measure it, or wrap packets of their own, learn the truth.
pub const MTU: u16 = 1500;

/// Where the resolver is reached beside the gateway's address, as with `wsl` (B198), unless
/// a setting says otherwise.
pub const RESOLVER: Ipv4Addr = Ipv4Addr::new(10, 255, 255, 254);

/// Whether the resolver can be reached under that address: one that is nobody's else.
#[must_use]
pub fn can_be_resolver(address: Ipv4Addr) -> bool {
    let [first, ..] = address.octets();
    !matches!(first, 0 | 127 | 224..) && !address.is_link_local()
}

/// The guest's Ethernet address, that of `wsl`'s user-mode network (B211).
pub const GUEST_MAC: Mac = [0, 0, 0, 0, 1, 0];
/// The gateway's.
pub const GATEWAY_MAC: Mac = [0x52, 0x55, 0x0a, 0xff, 0xff, 0xfe];

/// The numbers of distros that have a network of their own, and what is added to one for the
/// end of an address.
const OWN: std::ops::RangeInclusive<u8> = 1..=128;
const OWN_OFFSET: u8 = 15;

/// The addresses of the distro of that number, beside those of the machine; none where there
/// are too many.
#[must_use]
pub fn own(guest4: Ipv4Addr, guest6: Ipv6Addr, number: u8) -> Option<(Ipv4Addr, Ipv6Addr)> {
    if !OWN.contains(&number) {
        return None;
    }
    let end = OWN_OFFSET + number;
    let [a, b, c, _] = guest4.octets();
    let [s, t, u, v, w, x, y, _] = guest6.segments();
    Some((Ipv4Addr::new(a, b, c, end), Ipv6Addr::new(s, t, u, v, w, x, y, end.into())))
}

/// The number of the distro that has an address of its own.
fn own_number(address: IpAddr) -> Option<u8> {
    let end = match address {
        IpAddr::V4(address) => address.octets()[3],
        IpAddr::V6(address) => u8::try_from(address.segments()[7]).ok()?,
    };
    end.checked_sub(OWN_OFFSET).filter(|number| OWN.contains(number))
}

/// The Ethernet address that belongs to one of the guest's addresses.
#[must_use]
pub fn mac_of(address: IpAddr) -> Mac {
    let [a, b, c, d, e, f] = GUEST_MAC;
    [a, b, c, d, e, f + own_number(address).unwrap_or(0)]
}

/// The link's address of IPv6 for neighbours, before any other is known.
const GATEWAY_LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
/// A prefix of private addresses (RFC 4193), the same on all hosts: nobody routes it.
const PRIVATE6: [u16; 4] = [0xfd77, 0x736c, 0x7200, 1];

/// Who is who on the link.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Addresses {
    /// The guest.
    pub guest4: Ipv4Addr,
    /// This side.
    pub gateway4: Ipv4Addr,
    /// Where the resolver is reached beside the gateway's address.
    pub resolver: Ipv4Addr,
    /// The guest.
    pub guest6: Ipv6Addr,
    /// This side.
    pub gateway6: Ipv6Addr,
    /// What stands for the host itself, its loopback addresses.
    pub host4: Ipv4Addr,
    /// The same.
    pub host6: Ipv6Addr,
}

/// What an address of the guest's packets stands for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Place {
    /// The world, through the host.
    World,
    /// This side of the link.
    Gateway,
    /// The host's own loopback, where that is allowed.
    Host,
    /// The host's resolver, where the port is its.
    Resolver,
    /// What is not reached from here: the host's own loopback, the link, groups.
    Nowhere,
}

impl Addresses {
    /// How a guest's interface is set up for a link with these: nothing but the way out.
    #[must_use]
    pub fn network(&self, mode: &str) -> Network {
        Network {
            mode: mode.to_owned(),
            guest4: self.guest4,
            gateway4: self.gateway4,
            prefix4: PREFIX4,
            guest6: self.guest6,
            gateway6: self.gateway6,
            prefix6: PREFIX6,
            routes6: true,
            caller: None,
            mirrored: None,
            resolver: self.resolver.into(),
            search: None,
        }
    }

    /// Those on the network `172.x.y.0/24`.
    #[must_use]
    pub fn on(network: [u8; 2]) -> Self {
        let [second, third] = network;
        let [a, b, c, d] = PRIVATE6;
        Self {
            guest4: Ipv4Addr::new(172, second, third, 2),
            gateway4: Ipv4Addr::new(172, second, third, 1),
            resolver: RESOLVER,
            guest6: Ipv6Addr::new(a, b, c, d, 0, 0, 0, 2),
            gateway6: Ipv6Addr::new(a, b, c, d, 0, 0, 0, 1),
            host4: Ipv4Addr::new(172, second, third, 3),
            host6: Ipv6Addr::new(a, b, c, d, 0, 0, 0, 3),
        }
    }

    /// Those on the first network of a fixed list that the host has no route to: the same at
    /// every start, as long as the host's networks are.
    #[must_use]
    pub fn choose() -> Self {
        Self::choose_beside(&fs::read_to_string("/proc/net/route").unwrap_or_default())
    }

    fn choose_beside(routes: &str) -> Self {
        let taken = routes4(routes);
        let free = (0..64).map(|number| Self::on([20 + number % 12, 224 + number / 12])).find(
            |addresses| {
                let network = u32::from(addresses.gateway4) & (u32::MAX << 8);
                !taken.iter().any(|(route, mask)| {
                    let common = mask & (u32::MAX << 8);
                    *mask != 0 && route & common == network & common
                })
            },
        );
        free.unwrap_or_else(|| Self::on([31, 255]))
    }

    /// Whether the guest may send from there.
    #[must_use]
    pub fn is_guest(&self, address: IpAddr) -> bool {
        self.is_machine(address) || self.is_isolated(address)
    }

    /// Whether it is the machine's own address, which most distros share.
    #[must_use]
    pub fn is_machine(&self, address: IpAddr) -> bool {
        address == self.guest4 || address == self.guest6
    }

    /// Whether it is that of a distro with a network of its own.
    fn is_isolated(&self, address: IpAddr) -> bool {
        let own = own_number(address).and_then(|number| own(self.guest4, self.guest6, number));
        own.is_some_and(|(four, six)| address == four || address == six)
    }

    /// Whether this side answers for it on the link.
    #[must_use]
    pub fn is_neighbour(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => [self.gateway4, self.host4].contains(&address),
            IpAddr::V6(address) => {
                [self.gateway6, self.host6, GATEWAY_LINK_LOCAL].contains(&address)
            }
        }
    }

    fn is_host(&self, address: IpAddr) -> bool {
        address == self.host4 || address == self.host6
    }

    /// The host's own address of one that stands for it.
    #[must_use]
    pub fn on_host(&self, place: SocketAddr) -> SocketAddr {
        let address: IpAddr = match place.ip() {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        };
        SocketAddr::new(address, place.port())
    }

    /// A sender as the guest knows it: what stands for the host, where it is its loopback.
    #[must_use]
    pub fn seen_by_guest(&self, place: SocketAddr) -> SocketAddr {
        let address = match place.ip() {
            IpAddr::V4(Ipv4Addr::LOCALHOST) => self.host4.into(),
            IpAddr::V6(Ipv6Addr::LOCALHOST) => self.host6.into(),
            other => other,
        };
        SocketAddr::new(address, place.port())
    }

    /// What an address stands for.
    #[must_use]
    pub fn place(&self, address: IpAddr) -> Place {
        match address {
            IpAddr::V4(address) if address == self.resolver => Place::Resolver,
            address if self.is_host(address) => Place::Host,
            address if self.is_neighbour(address) => Place::Gateway,
            IpAddr::V4(address) => self.place4(address),
            IpAddr::V6(address) => self.place6(address),
        }
    }

    fn place4(&self, address: Ipv4Addr) -> Place {
        let [first, ..] = address.octets();
        let network = u32::MAX << (32 - PREFIX4);
        let on_link = u32::from(address) & network == u32::from(self.gateway4) & network;
        // This network, loopback, link-local with its metadata services, groups, the rest.
        if matches!(first, 0 | 127 | 224..) || address.is_link_local() || on_link {
            Place::Nowhere
        } else {
            Place::World
        }
    }

    fn place6(&self, address: Ipv6Addr) -> Place {
        let on_link = address.segments()[..4] == self.gateway6.segments()[..4];
        // Those that stand for addresses of IPv4 would lead around the rules for them; the
        // first 96 bits zero are those, loopback and the unspecified one.
        let embedded = address.to_ipv4().is_some();
        if on_link
            || embedded
            || address.is_multicast()
            || address.is_unicast_link_local()
            || address.segments()[..6] == [0x64, 0xff9b, 0, 0, 0, 0]
                && self.place4(last_octets(address)) == Place::Nowhere
        {
            Place::Nowhere
        } else {
            Place::World
        }
    }
}

/// Whether the host has a way out of its own network by IPv6: one without makes programs of
/// the guest try in vain.
#[must_use]
pub fn host_has_ipv6() -> bool {
    has_default6(&fs::read_to_string("/proc/net/ipv6_route").unwrap_or_default())
}

fn has_default6(routes: &str) -> bool {
    const REJECTED: u32 = 0x0200;
    routes.lines().any(|line| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let flags = fields.get(8).and_then(|flags| u32::from_str_radix(flags, 16).ok());
        fields.get(1) == Some(&"00") && flags.is_some_and(|flags| flags & REJECTED == 0)
    })
}

/// The address of IPv4 in the last 32 bits (RFC 6052).
fn last_octets(address: Ipv6Addr) -> Ipv4Addr {
    let [.., a, b, c, d] = address.octets();
    Ipv4Addr::new(a, b, c, d)
}

/// Networks and masks of `/proc/net/route`, in the host's order of bits.
fn routes4(routes: &str) -> Vec<(u32, u32)> {
    let number = |field: &str| u32::from_str_radix(field, 16).ok().map(u32::from_be);
    routes
        .lines()
        .filter_map(|line| {
            let mut fields = line.split_ascii_whitespace().skip(1);
            let network = number(fields.next()?)?;
            Some((network, number(fields.nth(5)?)?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_link_avoids_the_hosts_networks() {
        let header = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\n";
        let default = "eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\n";
        let usual = Addresses::choose_beside(&format!("{header}{default}"));
        assert_eq!(usual, Addresses::on([20, 224]));
        // 172.20.0.0/16 and 172.21.224.128/25.
        let taken = "eth1\t000014AC\t0\t1\t0\t0\t0\t0000FFFF\n\
                     eth2\t80E015AC\t0\t1\t0\t0\t0\t80FFFFFF\n";
        let other = Addresses::choose_beside(&format!("{header}{default}{taken}"));
        assert_eq!(other, Addresses::on([22, 224]));
        // All of 172.16.0.0/12.
        let all = "eth1\t000010AC\t0\t1\t0\t0\t0\t0000F0FF\n";
        assert_eq!(Addresses::choose_beside(all), Addresses::on([31, 255]));
    }

    #[test]
    fn a_distro_of_its_own_network_has_addresses_of_its_own() {
        let addresses = Addresses::on([20, 224]);
        let own = |number| own(addresses.guest4, addresses.guest6, number);
        let (four, six) = own(1).unwrap();
        assert_eq!(
            (four, six),
            ([172, 20, 224, 16].into(), "fd77:736c:7200:1::10".parse().unwrap())
        );
        for address in [IpAddr::from(four), IpAddr::from(six)] {
            assert!(addresses.is_guest(address) && !addresses.is_machine(address));
            assert_eq!(mac_of(address), [0, 0, 0, 0, 1, 1]);
            // Distros do not find one another by the host.
            assert_eq!(addresses.place(address), Place::Nowhere);
        }
        assert!(addresses.is_guest(own(128).unwrap().0.into()));
        assert_eq!((own(0), own(129)), (None, None));
        for other in ["172.20.224.15", "172.20.224.144", "172.20.225.16", "fd77:736c:7200:2::10"] {
            assert!(!addresses.is_guest(other.parse().unwrap()), "{other}");
        }
        assert_eq!(mac_of(addresses.guest4.into()), GUEST_MAC);
        assert_eq!(mac_of(addresses.guest6.into()), GUEST_MAC);
    }

    #[test]
    fn a_rejecting_route_is_no_way_out() {
        let zero = "00000000000000000000000000000000";
        let line = |length, flags: &str, device| {
            format!("{zero} {length} {zero} 00 {zero} ffffffff 00000001 00000000 {flags} {device}")
        };
        assert!(!has_default6(&line("00", "00200200", "lo")));
        assert!(!has_default6(&line("40", "00000001", "eth0")));
        assert!(has_default6(&line("00", "00000003", "eth0")));
    }

    #[test]
    fn what_is_the_hosts_own_is_nowhere() {
        let addresses = Addresses::on([20, 224]);
        for nowhere in [
            "127.0.0.1",
            "127.1.2.3",
            "0.0.0.0",
            "0.1.2.3",
            "169.254.169.254",
            "224.0.0.1",
            "255.255.255.255",
            "240.0.0.1",
            "172.20.224.7",
            "172.20.224.255",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::ffff:8.8.8.8",
            "::127.0.0.1",
            "fe80::2",
            "ff02::1",
            "fd77:736c:7200:1::9",
            "64:ff9b::127.0.0.1",
            "64:ff9b::a9fe:a9fe",
        ] {
            assert_eq!(addresses.place(nowhere.parse().unwrap()), Place::Nowhere, "{nowhere}");
        }
        for world in
            ["8.8.8.8", "192.168.1.1", "10.0.0.1", "2001:db8::1", "fd00::1", "64:ff9b::808:808"]
        {
            assert_eq!(addresses.place(world.parse().unwrap()), Place::World, "{world}");
        }
        for gateway in ["172.20.224.1", "fd77:736c:7200:1::1", "fe80::1"] {
            assert_eq!(addresses.place(gateway.parse().unwrap()), Place::Gateway, "{gateway}");
        }
        assert_eq!(addresses.place(RESOLVER.into()), Place::Resolver);
    }
}
