//! The ports of a distro and of the host as one (B213 to B215). This process stands for the
//! distro, as in [`crate::listeners`].

use std::fs;
use std::io::{Error, ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, socket};
use wslr::guest::interface;
use wslr::guest::mirror::Mirror;
use wslr::network::host_ports::Watch;
use wslr::protocol::guest::{HostPorts, Transport};

use crate::link::{Link, Options, as_root};
use crate::listeners::{group, is_root_of_machine, listen};
use crate::{PATIENCE, accept, address, connect};

/// What a socket of either version, and of the one in the clothes of the other, binds to.
const OWN: [&str; 5] = ["0.0.0.0", "127.0.0.1", "::", "::1", "::ffff:127.0.0.1"];

fn enter_namespace() {
    unshare(CloneFlags::CLONE_NEWNET).unwrap();
    interface::bring_up("lo").unwrap();
}

fn mirror(host: Option<&Link>) -> Mirror {
    let host = host.map(|link| (link.addresses.host4, link.addresses.host6));
    let mirror = Mirror::new(host).unwrap();
    mirror.attach(group().as_fd()).unwrap();
    mirror
}

fn taken(ports: &[(Transport, u16)]) -> HostPorts {
    HostPorts { taken: ports.to_vec(), free: Vec::new() }
}

fn free(ports: &[(Transport, u16)]) -> HostPorts {
    HostPorts { taken: Vec::new(), free: ports.to_vec() }
}

/// Whether a port can be bound.
fn binds(transport: Transport, place: SocketAddr) -> bool {
    let result: Result<(), Error> = match transport {
        Transport::Tcp => TcpListener::bind(place).map(drop),
        Transport::Udp => UdpSocket::bind(place).map(drop),
    };
    match result {
        Ok(()) => true,
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::AddrInUse, "{place}");
            false
        }
    }
}

/// A socket of MPTCP.
fn multipath() -> Result<OwnedFd, Error> {
    let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC;
    let number = unsafe { libc::socket(libc::AF_INET, kind, libc::IPPROTO_MPTCP) };
    match number {
        -1 => Err(Error::last_os_error()),
        number => Ok(unsafe { OwnedFd::from_raw_fd(number) }),
    }
}

#[test]
fn b213_a_port_that_the_host_has_cannot_be_bound_until_it_is_free() {
    if !is_root_of_machine() {
        return;
    }
    enter_namespace();
    let mut mirror = mirror(None);
    let (tcp, udp) = (Transport::Tcp, Transport::Udp);
    mirror.change(&taken(&[(tcp, 8301), (udp, 8302), (tcp, 8303), (udp, 8303)])).unwrap();
    let may = |mine: [bool; 6]| {
        for place in OWN {
            let ports = [8301, 8302, 8303].map(|port| address(place, port));
            let found = ports.map(|port| [binds(tcp, port), binds(udp, port)]).concat();
            assert_eq!(found, mine, "{place}");
        }
    };
    // Each of the two for itself.
    may([false, true, true, false, false, false]);
    // Go's listeners.
    match multipath() {
        Ok(socket) => {
            let place = SockaddrStorage::from(address("127.0.0.1", 8301));
            let result = nix::sys::socket::bind(socket.as_raw_fd(), &place);
            assert_eq!(result, Err(nix::errno::Errno::EADDRINUSE));
        }
        Err(error) => eprintln!("no connections by several paths here: {error}"),
    }
    // Others are not the host's: other addresses, other ports, other namespaces.
    for place in ["127.0.0.53:8303", "127.0.0.1:8304"] {
        let place = place.parse().unwrap();
        assert!(binds(tcp, place) && binds(udp, place), "{place}");
    }
    std::thread::spawn(|| {
        enter_namespace();
        assert!(binds(Transport::Tcp, address("127.0.0.1", 8303)));
    })
    .join()
    .unwrap();
    mirror.change(&free(&[(tcp, 8303), (tcp, 8301)])).unwrap();
    may([true, true, true, false, true, false]);
    mirror.change(&free(&[(udp, 8303), (udp, 8302)])).unwrap();
    may([true; 6]);
    // Who has a port keeps it.
    let early = TcpListener::bind("127.0.0.1:8305").unwrap();
    mirror.change(&taken(&[(tcp, 8305)])).unwrap();
    drop(TcpStream::connect("127.0.0.1:8305").unwrap());
    drop(early);
    assert!(!binds(tcp, address("127.0.0.1", 8305)));
}

#[test]
fn b214_the_kernel_does_not_choose_a_port_that_the_host_has() {
    if !is_root_of_machine() {
        return;
    }
    enter_namespace();
    fs::write("/proc/sys/net/ipv4/ip_local_port_range", "40000 40003").unwrap();
    let mut mirror = mirror(None);
    let ports = [40000, 40001, 40003].map(|port| (Transport::Tcp, port));
    mirror.change(&taken(&ports)).unwrap();
    let chosen = |listener: &TcpListener| listener.local_addr().unwrap().port();
    for place in OWN {
        assert_eq!(chosen(&TcpListener::bind(address(place, 0)).unwrap()), 40002, "{place}");
    }
    // Without binding at all.
    let unbound = |kind| socket(AddressFamily::Inet, kind, SockFlag::SOCK_CLOEXEC, None).unwrap();
    let listener = unbound(SockType::Stream);
    listen(&listener);
    assert_eq!(chosen(&TcpListener::from(listener)), 40002);
    // One that is asked for is another matter.
    assert!(!binds(Transport::Tcp, address("127.0.0.1", 40001)));
    mirror.change(&free(&ports)).unwrap();
    let listeners: Vec<_> = (0..4).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    let mut all: Vec<u16> = listeners.iter().map(chosen).collect();
    all.sort_unstable();
    assert_eq!(all, [40000, 40001, 40002, 40003]);
}

/// A server of the host that says what it is told to whoever comes, so many times.
fn speaker(link: &Link, place: SocketAddr, text: &'static str, times: usize) {
    let listener = TcpListener::bind(place).unwrap();
    link.on_host(move || {
        for _ in 0..times {
            accept(&listener).write_all(text.as_bytes()).unwrap();
        }
    });
}

/// What is said there, after looking whom this is connected to.
fn ask(place: SocketAddr) -> String {
    let mut stream = connect(place);
    assert_eq!(stream.peer_addr().unwrap(), place);
    let mut said = String::new();
    stream.read_to_string(&mut said).unwrap();
    said
}

fn refused(place: SocketAddr) {
    assert_eq!(TcpStream::connect(place).unwrap_err().kind(), ErrorKind::ConnectionRefused);
}

#[test]
fn b213_the_loopback_address_reaches_the_host_where_it_has_the_port() {
    if !as_root() || !is_root_of_machine() {
        return;
    }
    let link = Link::with(Options { mirrored: true, ..Options::default() });
    speaker(&link, address("127.0.0.1", 8310), "by four", 5);
    speaker(&link, address("::1", 8310), "by six", 2);
    let mut mirror = link.in_guest({
        let host = (link.addresses.host4, link.addresses.host6);
        move || {
            let mirror = Mirror::new(Some(host)).unwrap();
            mirror.attach(group().as_fd()).unwrap();
            mirror
        }
    });
    // Not before it is known to have it.
    link.in_guest(|| refused(address("127.0.0.1", 8310)));
    mirror.change(&taken(&[(Transport::Tcp, 8310), (Transport::Tcp, 8312)])).unwrap();
    let alias = SocketAddr::new(IpAddr::V4(link.addresses.host4), 8310);
    link.in_guest(move || {
        assert_eq!(ask(address("127.0.0.1", 8310)), "by four");
        assert_eq!(ask(address("::ffff:127.0.0.1", 8310)), "by four");
        assert_eq!(ask(address("::1", 8310)), "by six");
        // The unspecified address means the same.
        for (place, said) in [("0.0.0.0", "by four"), ("::", "by six")] {
            let mut stream = connect(address(place, 8310));
            assert!(stream.peer_addr().unwrap().ip().is_loopback(), "{place}");
            let mut text = String::new();
            stream.read_to_string(&mut text).unwrap();
            assert_eq!(text, said, "{place}");
        }
        if let Ok(socket) = multipath() {
            let place = SockaddrStorage::from(address("127.0.0.1", 8310));
            nix::sys::socket::connect(socket.as_raw_fd(), &place).unwrap();
            let mut text = String::new();
            fs::File::from(socket).read_to_string(&mut text).unwrap();
            assert_eq!(text, "by four");
        }
        // By its own name it is what it is.
        assert_eq!(ask(alias), "by four");
        // Nobody has one, and the host no more has the other.
        refused(address("127.0.0.1", 8311));
        refused(address("127.0.0.1", 8312));
        refused(address("::1", 8312));
        // Nor does it reach who is bound to the loopback address, and gets no answer there.
        for loopback in ["127.0.0.1", "::1"] {
            let place = address(loopback, 8310);
            let family = if place.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
            let socket = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
            let number = socket.as_raw_fd();
            let here = SockaddrStorage::from(address(loopback, 0));
            nix::sys::socket::bind(number, &here).unwrap();
            let result = nix::sys::socket::connect(number, &SockaddrStorage::from(place));
            assert_eq!(result, Err(nix::errno::Errno::ECONNREFUSED), "{loopback}");
        }
    });
    // Who listens here comes first, on the address that is meant.
    speaker(&link, address("127.0.0.1", 8313), "of the host", 1);
    speaker(&link, address("::1", 8313), "of the host", 1);
    link.in_guest(|| {
        let listener = TcpListener::bind("127.0.0.1:8313").unwrap();
        std::thread::spawn(move || accept(&listener).write_all(b"of the distro").unwrap());
    });
    mirror.change(&taken(&[(Transport::Tcp, 8313)])).unwrap();
    link.in_guest(|| {
        assert_eq!(ask(address("127.0.0.1", 8313)), "of the distro");
        assert_eq!(ask(address("::1", 8313)), "of the host");
        assert_eq!(ask(address("127.0.0.1", 8313)), "of the host");
    });
}

#[test]
fn b213_datagrams_to_the_loopback_address_reach_the_host_and_seem_to_come_from_there() {
    if !as_root() || !is_root_of_machine() {
        return;
    }
    let link = Link::with(Options { mirrored: true, ..Options::default() });
    let host = (link.addresses.host4, link.addresses.host6);
    let mut mirror = link.in_guest(move || {
        let mirror = Mirror::new(Some(host)).unwrap();
        mirror.attach(group().as_fd()).unwrap();
        mirror
    });
    for (place, own) in [("127.0.0.1", "127.0.0.1"), ("::1", "::1")] {
        let server = UdpSocket::bind(address(own, 8320)).unwrap();
        server.set_read_timeout(Some(PATIENCE)).unwrap();
        let echo = link.on_host(move || {
            for _ in 0..4 {
                let mut bytes = [0; 16];
                let (length, from) = server.recv_from(&mut bytes).unwrap();
                server.send_to(&bytes[..length], from).unwrap();
            }
        });
        mirror.change(&taken(&[(Transport::Udp, 8320)])).unwrap();
        link.in_guest(move || {
            let any = if place == "::1" { "::" } else { "0.0.0.0" };
            let socket = UdpSocket::bind(address(any, 0)).unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            let place = address(place, 8320);
            let mut bytes = [0; 16];
            for round in 0..2 {
                assert_eq!(socket.send_to(&[round], place).unwrap(), 1);
                assert_eq!(socket.recv_from(&mut bytes).unwrap(), (1, place));
                assert_eq!(bytes[0], round);
            }
            socket.connect(place).unwrap();
            assert_eq!(socket.peer_addr().unwrap(), place);
            for round in 2..4 {
                assert_eq!(socket.send(&[round]).unwrap(), 1);
                assert_eq!(socket.recv_from(&mut bytes).unwrap(), (1, place));
                assert_eq!(bytes[0], round);
            }
        });
        echo.join().unwrap();
        mirror.change(&free(&[(Transport::Udp, 8320)])).unwrap();
    }
    // A socket of IPv6 that speaks IPv4.
    let server = UdpSocket::bind("127.0.0.1:8321").unwrap();
    server.set_read_timeout(Some(PATIENCE)).unwrap();
    mirror.change(&taken(&[(Transport::Udp, 8321)])).unwrap();
    let guest = link.guest(|| {
        let socket = UdpSocket::bind("[::]:0").unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let place = address("::ffff:127.0.0.1", 8321);
        socket.send_to(b"x", place).unwrap();
        assert_eq!(socket.recv_from(&mut [0]).unwrap(), (1, place));
    });
    let from = server.recv_from(&mut [0]).unwrap().1;
    server.send_to(b"y", from).unwrap();
    guest.join().unwrap();
    // Who listens here comes first.
    mirror.change(&free(&[(Transport::Udp, 8321)])).unwrap();
    link.in_guest(move || {
        let here = UdpSocket::bind("0.0.0.0:8321").unwrap();
        here.set_read_timeout(Some(PATIENCE)).unwrap();
        mirror.change(&taken(&[(Transport::Udp, 8321)])).unwrap();
        let client = UdpSocket::bind("0.0.0.0:0").unwrap();
        client.send_to(b"x", "127.0.0.1:8321").unwrap();
        assert_eq!(here.recv_from(&mut [0]).unwrap().1.ip(), IpAddr::from([127, 0, 0, 1]));
    });
    server.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    assert!(server.recv(&mut [0]).is_err());
}

/// Another process of the host that has these sockets, until it is killed.
fn holder(sockets: [OwnedFd; 3]) -> Child {
    let [input, output, errors] = sockets.map(Stdio::from);
    let mut command = Command::new("sleep");
    command.arg("600").stdin(input).stdout(output).stderr(errors).spawn().unwrap()
}

#[test]
fn b213_the_hosts_ports_are_those_that_others_than_this_process_have() {
    if !as_root() {
        return;
    }
    enter_namespace();
    let tcp = |place: &str| OwnedFd::from(TcpListener::bind(place).unwrap());
    let udp = |place: &str| OwnedFd::from(UdpSocket::bind(place).unwrap());
    let mut watch = Watch::new([8335].into());
    assert_eq!(watch.changes().unwrap(), None);
    // This process's own, as those of a distro are.
    let own = (tcp("127.0.0.1:8330"), udp("127.0.0.1:8330"));
    assert_eq!(watch.changes().unwrap(), None);
    // Not the host's loopback; a client's; a setting.
    let mut others = holder([tcp("127.0.0.53:8331"), udp("127.0.0.1:0"), tcp("127.0.0.1:8335")]);
    assert_eq!(watch.changes().unwrap(), None);
    let mut first = holder([tcp("127.0.0.1:8332"), tcp("[::]:8333"), udp("0.0.0.0:8334")]);
    let ports = [(Transport::Tcp, 8332), (Transport::Tcp, 8333), (Transport::Udp, 8334)];
    assert_eq!(watch.changes().unwrap(), Some(taken(&ports)));
    assert_eq!(watch.changes().unwrap(), None);
    // One port of two is there until the last is gone.
    let mut second = holder([tcp("[::1]:8332"), udp("[::1]:8332"), udp("127.0.0.1:0")]);
    assert_eq!(watch.changes().unwrap(), Some(taken(&[(Transport::Udp, 8332)])));
    let end = |holder: &mut Child| {
        holder.kill().unwrap();
        holder.wait().unwrap();
    };
    end(&mut first);
    let gone = [(Transport::Tcp, 8333), (Transport::Udp, 8334)];
    assert_eq!(watch.changes().unwrap(), Some(free(&gone)));
    end(&mut second);
    let gone = [(Transport::Tcp, 8332), (Transport::Udp, 8332)];
    assert_eq!(watch.changes().unwrap(), Some(free(&gone)));
    end(&mut others);
    drop(own);
    assert_eq!(watch.changes().unwrap(), None);
}

#[test]
fn b215_the_kernel_does_nothing_about_addresses_by_itself() {
    if !as_root() {
        return;
    }
    let link = Link::with(Options { mirrored: true, ..Options::default() });
    link.in_guest(|| {
        for whose in ["all", "default", "eth0"] {
            for (setting, value) in [
                ("ipv6/conf/IF/accept_ra", "0"),
                ("ipv6/conf/IF/dad_transmits", "0"),
                ("ipv6/conf/IF/autoconf", "0"),
                ("ipv6/conf/IF/use_tempaddr", "0"),
                ("ipv6/conf/IF/addr_gen_mode", "1"),
                ("ipv4/conf/IF/arp_filter", "1"),
                ("ipv4/conf/IF/rp_filter", "0"),
            ] {
                let path = format!("/proc/sys/net/{}", setting.replace("IF", whose));
                assert_eq!(fs::read_to_string(&path).unwrap().trim(), value, "{path}");
            }
        }
    });
}
