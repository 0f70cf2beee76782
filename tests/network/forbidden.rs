//! What a distro must not reach of the host, tried in every way there is (issue of the
//! network, "the host cannot be reached beyond what is promised").

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use nix::sys::stat::fstat;
use nix::unistd::{Gid, Uid, fchown};
use wslr::guest::interface;
use wslr::network::addresses;

use crate::link::{HOST4, Link, Options, as_root};
use crate::{address, connect, wait_for};

/// Services of the host: a listener and a socket for datagrams at each place.
struct Services {
    listeners: Vec<TcpListener>,
    sockets: Vec<UdpSocket>,
}

impl Services {
    /// All at one port.
    fn start(hosts: &[&str], port: u16) -> Self {
        let listeners = hosts.iter().map(|host| {
            let listener = TcpListener::bind(address(host, port)).unwrap();
            listener.set_nonblocking(true).unwrap();
            listener
        });
        let sockets = hosts.iter().map(|host| {
            let socket = UdpSocket::bind(address(host, port)).unwrap();
            socket.set_nonblocking(true).unwrap();
            socket
        });
        Self { listeners: listeners.collect(), sockets: sockets.collect() }
    }

    /// Makes them another user's, as those of a shared host are.
    fn give_away(&self) {
        let nobody = (Some(Uid::from_raw(65_534)), Some(Gid::from_raw(65_534)));
        let listeners = self.listeners.iter().map(AsFd::as_fd);
        for socket in listeners.chain(self.sockets.iter().map(AsFd::as_fd)) {
            fchown(socket, nobody.0, nobody.1).unwrap();
            assert_eq!(fstat(socket).unwrap().st_uid, 65_534);
        }
    }

    fn assert_untouched(&self) {
        for listener in &self.listeners {
            let accepted = listener.accept().map(|(_, from)| from);
            let place = listener.local_addr().unwrap();
            assert_eq!(accepted.unwrap_err().kind(), ErrorKind::WouldBlock, "{place}");
        }
        for socket in &self.sockets {
            let received = socket.recv_from(&mut [0; 100]);
            let place = socket.local_addr().unwrap();
            assert_eq!(received.unwrap_err().kind(), ErrorKind::WouldBlock, "{place}");
        }
    }
}

fn sum(bytes: &[u8]) -> u32 {
    bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)))
        .sum()
}

fn checksum(mut sum: u32) -> [u8; 2] {
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    (!(sum as u16)).to_be_bytes()
}

/// A packet of IPv4 or IPv6 that the guest's own kernel would not send.
fn packet(from: IpAddr, to: IpAddr, protocol: u8, port: u16) -> Vec<u8> {
    let mut content = 40_000_u16.to_be_bytes().to_vec();
    content.extend(port.to_be_bytes());
    let at = match protocol {
        6 => {
            content.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0xff, 0xff, 0, 0, 0, 0]);
            16
        }
        _ => {
            content.extend([0, 9, 0, 0, b'x']);
            6
        }
    };
    let octets = |address: IpAddr| match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    let (from, to) = (octets(from), octets(to));
    let pseudo = sum(&from) + sum(&to) + u32::from(protocol) + content.len() as u32;
    let its = checksum(pseudo + sum(&content));
    content[at..at + 2].copy_from_slice(&its);
    let mut packet = match from.len() {
        4 => {
            let length = (20 + content.len() as u16).to_be_bytes();
            let mut head = vec![0x45, 0, length[0], length[1], 0, 0, 0, 0, 64, protocol, 0, 0];
            head.extend([&from[..], &to[..]].concat());
            let its = checksum(sum(&head));
            head[10..12].copy_from_slice(&its);
            head
        }
        _ => {
            let length = (content.len() as u16).to_be_bytes();
            let mut head = vec![0x60, 0, 0, 0, length[0], length[1], protocol, 64];
            head.extend([&from[..], &to[..]].concat());
            head
        }
    };
    packet.extend(content);
    packet
}

/// Sends frames past the guest's own rules.
fn send_raw(packets: &[Vec<u8>]) {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
    let raw = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None).unwrap();
    let mut place: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    place.sll_family = libc::AF_PACKET as u16;
    place.sll_ifindex = interface::number("eth0").unwrap() as i32;
    for packet in packets {
        let kind = if packet[0] >> 4 == 4 { [8, 0] } else { [0x86, 0xdd] };
        let frame =
            [&addresses::GATEWAY_MAC[..], &addresses::GUEST_MAC[..], &kind, packet].concat();
        let sent = unsafe {
            libc::sendto(
                raw.as_raw_fd(),
                frame.as_ptr().cast(),
                frame.len(),
                0,
                (&raw const place).cast(),
                size_of_val(&place) as u32,
            )
        };
        assert_eq!(sent, frame.len() as isize, "{}", std::io::Error::last_os_error());
    }
}

/// The places of the host that are its own, as a guest could try to name them.
fn names(link: &Link) -> Vec<IpAddr> {
    let mut names: Vec<IpAddr> = [
        "127.0.0.1",
        "127.0.0.53",
        "127.255.255.254",
        "0.0.0.0",
        "0.0.0.1",
        "169.254.169.254",
        "169.254.7.7",
        "224.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::ffff:127.0.0.1",
        "::127.0.0.1",
        "::ffff:169.254.169.254",
        "64:ff9b::7f00:1",
        "64:ff9b::a9fe:a9fe",
        "fe80::7",
        "fe80::1",
        "ff02::1",
    ]
    .map(|name| name.parse().unwrap())
    .to_vec();
    let own = link.addresses;
    names.extend([own.gateway4, own.host4, own.resolver, own.guest4].map(IpAddr::V4));
    names.extend([own.gateway6, own.host6, own.guest6].map(IpAddr::V6));
    names
}

#[test]
fn nothing_of_the_hosts_own_is_reached_by_any_name_or_frame() {
    let is_root = nix::unistd::geteuid().is_root();
    if !as_root() {
        return;
    }
    let link = Link::with(Options { host_loopback: false, ..Options::default() });
    interface::set_address("lo:2", "169.254.169.254".parse().unwrap(), 16).unwrap();
    let hosts = ["127.0.0.1", "127.0.0.53", "127.255.255.254", "169.254.169.254", "::1"];
    let port = 8300;
    let services = Services::start(&hosts, port);
    let others = Services::start(&hosts, port + 2);
    // A user namespace has one user.
    if is_root {
        others.give_away();
    }
    // They answer to the host.
    for host in hosts {
        drop(connect(address(host, port)));
    }
    services.listeners.iter().for_each(|listener| drop(listener.accept().unwrap()));
    let names = names(&link);
    // As programs try, where the guest's own kernel has a way there.
    let tried = names.clone();
    link.in_guest(move || {
        let tried = tried.iter().filter(|name| !name.is_loopback() && !name.is_unspecified());
        for (name, port) in tried.flat_map(|name| [(name, port), (name, port + 2)]) {
            let place = SocketAddr::new(*name, port);
            let limit = Duration::from_millis(100);
            assert!(TcpStream::connect_timeout(&place, limit).is_err(), "{place}");
            let any = if place.is_ipv4() { "0.0.0.0" } else { "::" };
            let _ = UdpSocket::bind(address(any, 0)).unwrap().send_to(b"x", place);
        }
    });
    // As no program can: frames to any of them, from the guest's addresses and from those of
    // others.
    let mut sources: Vec<IpAddr> = vec![link.addresses.guest4.into(), link.addresses.guest6.into()];
    sources.extend([Ipv4Addr::LOCALHOST, link.addresses.host4].map(IpAddr::V4));
    sources.extend([link.addresses.host6, std::net::Ipv6Addr::LOCALHOST].map(IpAddr::V6));
    let mut packets = Vec::new();
    for (from, to) in sources.iter().flat_map(|from| names.iter().map(move |to| (*from, *to))) {
        if from.is_ipv4() == to.is_ipv4() {
            let ways = [(6, port), (17, port), (6, port + 2), (17, port + 2)];
            packets.extend(ways.map(|(protocol, port)| packet(from, to, protocol, port)));
        }
    }
    // That such frames arrive is seen by one that is allowed.
    let allowed = UdpSocket::bind(address(HOST4, 8301)).unwrap();
    packets.push(packet(link.addresses.guest4.into(), HOST4.parse().unwrap(), 17, 8301));
    link.in_guest(move || send_raw(&packets));
    allowed.set_read_timeout(Some(crate::PATIENCE)).unwrap();
    assert_eq!(allowed.recv(&mut [0; 10]).unwrap(), 1);
    services.assert_untouched();
    others.assert_untouched();
    // Only the allowed one has a flow.
    wait_for("refused connections to end", || link.flows() <= 1 + names.len());
    assert_eq!(link.connections(), 0);
}

#[test]
fn only_the_one_name_reaches_the_hosts_loopback_where_it_may() {
    if !as_root() {
        return;
    }
    let link = Link::new();
    interface::set_address("lo:2", "169.254.169.254".parse().unwrap(), 16).unwrap();
    let port = 8300;
    let services = Services::start(&["127.0.0.53", "169.254.169.254"], port);
    let own = Services::start(&["127.0.0.1"], 8302);
    let host = SocketAddr::new(link.addresses.host4.into(), 8302);
    link.in_guest(move || drop(connect(host)));
    drop(own.listeners[0].accept().unwrap());
    // Its other addresses stay its own.
    let packets: Vec<_> = names(&link)
        .into_iter()
        .filter(|name| name.is_ipv4())
        .flat_map(|name| [6, 17].map(|by| packet(link.addresses.guest4.into(), name, by, port)))
        .collect();
    link.in_guest(move || {
        send_raw(&packets);
        let place = address("169.254.169.254", port);
        let error = TcpStream::connect(place).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::HostUnreachable);
    });
    services.assert_untouched();
}
