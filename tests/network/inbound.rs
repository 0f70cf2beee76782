//! From the host to the guest: ports that the guest listens on, on the host's loopback.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use uuid::Uuid;
use wslr::protocol::guest::{Listener, Transport};

use crate::link::{Link, Options, as_root};
use crate::{PATIENCE, accept, address, connect, wait_for};

const LOOPBACKS: [&str; 2] = ["127.0.0.1", "::1"];

pub fn opened(link: &Link, socket: u64, transport: Transport, place: &str, port: u16) {
    link.ports.opened(Listener {
        socket,
        distro: Uuid::nil(),
        transport,
        address: place.parse().unwrap(),
        port,
        process: None,
    });
}

/// Connects as soon as the port is the host's.
fn connect_soon(place: SocketAddr) -> TcpStream {
    wait_for("the port", || TcpStream::connect(place).is_ok());
    connect(place)
}

#[test]
fn b204_b205_a_port_of_the_guest_carries_data_on_both_of_the_hosts_addresses() {
    if !as_root() {
        return;
    }
    let link = Link::new();
    for (number, place) in [(1, "0.0.0.0"), (2, "::")] {
        let port = 8000 + number as u16;
        let listener = link.in_guest(move || TcpListener::bind(address(place, port)).unwrap());
        opened(&link, number, Transport::Tcp, place, port);
        for host in LOOPBACKS {
            let mut stream = connect_soon(address(host, port));
            let server = std::thread::spawn({
                let listener = listener.try_clone().unwrap();
                // The first may be that which only tried.
                move || loop {
                    let mut served = accept(&listener);
                    let mut read = Vec::new();
                    served.read_to_end(&mut read).unwrap();
                    if !read.is_empty() {
                        let peer = served.peer_addr().unwrap().ip().to_canonical();
                        served.write_all(&read.repeat(100_000)).unwrap();
                        return peer;
                    }
                }
            });
            stream.write_all(b"question").unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).unwrap();
            assert!(answer == b"question".repeat(100_000), "{} bytes", answer.len());
            let peer = server.join().unwrap();
            let hosts = [IpAddr::V4(link.addresses.host4), IpAddr::V6(link.addresses.host6)];
            assert!(hosts.contains(&peer), "{peer}");
        }
        drop(listener);
        link.ports.closed(number);
        for host in LOOPBACKS {
            let place = address(host, port);
            wait_for("the port to be free", || {
                TcpStream::connect(place).is_err_and(|e| e.kind() == ErrorKind::ConnectionRefused)
            });
            // Whoever wants it on the host can have it at once.
            TcpListener::bind(place).unwrap();
        }
    }
    wait_for("the flows to end", || link.flows() == 0);
}

#[test]
fn b207_a_port_is_the_hosts_on_no_other_address() {
    if !as_root() {
        return;
    }
    let link = Link::new();
    let _listener = link.in_guest(|| TcpListener::bind("0.0.0.0:8010").unwrap());
    opened(&link, 1, Transport::Tcp, "0.0.0.0", 8010);
    drop(connect_soon(address("127.0.0.1", 8010)));
    for host in [crate::HOST4, crate::HOST6, "127.0.0.2"] {
        let error = TcpStream::connect(address(host, 8010)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{host}");
    }
}

#[test]
fn a_guest_that_refuses_or_resets_is_heard_on_the_host() {
    if !as_root() {
        return;
    }
    let link = Link::new();
    // It has closed, and the word of it is still on its way.
    opened(&link, 1, Transport::Tcp, "0.0.0.0", 8020);
    let mut stream = connect_soon(address("127.0.0.1", 8020));
    assert_eq!(stream.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    // One that the guest does not take part in: its interface drops everything.
    link.losses.store(1, std::sync::atomic::Ordering::Relaxed);
    let mut stream = connect(address("127.0.0.1", 8020));
    assert_eq!(stream.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    link.losses.store(0, std::sync::atomic::Ordering::Relaxed);
    wait_for("the flows to end", || link.flows() <= 2);
}

#[test]
fn a_port_that_is_taken_is_told_once_and_had_when_it_is_free() {
    if !as_root() {
        return;
    }
    let link = Link::new();
    let taken = TcpListener::bind("[::1]:8030").unwrap();
    let _listener = link.in_guest(|| TcpListener::bind("0.0.0.0:8030").unwrap());
    opened(&link, 1, Transport::Tcp, "0.0.0.0", 8030);
    let problem = || link.ports.list().first().unwrap().problem.clone();
    wait_for("the problem", || problem().is_some());
    assert_eq!(problem().as_deref(), Some("another program of the host uses it"));
    // Both addresses or none: localhost means one program.
    assert!(TcpStream::connect("127.0.0.1:8030").is_err());
    drop(taken);
    wait_for("the port", || problem().is_none());
    drop(connect(address("127.0.0.1", 8030)));
    drop(connect(address("::1", 8030)));
}

#[test]
fn datagrams_reach_the_guests_port_and_their_answers_whoever_asked() {
    if !as_root() {
        return;
    }
    let link = Link::new();
    let server = link.in_guest(|| UdpSocket::bind("0.0.0.0:8040").unwrap());
    opened(&link, 1, Transport::Udp, "0.0.0.0", 8040);
    wait_for("the port", || link.flows() == 2);
    let echo = link.guest(move || {
        let mut bytes = [0; 2000];
        for _ in 0..4 {
            let (length, from) = server.recv_from(&mut bytes).unwrap();
            server.send_to(&bytes[..length], from).unwrap();
        }
    });
    // The same port on both addresses: two clients, who must not get each other's.
    let first = UdpSocket::bind("127.0.0.1:8041").unwrap();
    let second = UdpSocket::bind("[::1]:8041").unwrap();
    for (socket, host) in [(&first, "127.0.0.1"), (&second, "::1")] {
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.connect(address(host, 8040)).unwrap();
    }
    for round in 0..2_u8 {
        for (number, socket) in [(1, &first), (2, &second)] {
            socket.send(&[number, round]).unwrap();
        }
        for (number, socket) in [(1, &first), (2, &second)] {
            let mut bytes = [0; 2000];
            let length = socket.recv(&mut bytes).unwrap();
            assert_eq!(bytes[..length], [number, round]);
        }
    }
    echo.join().unwrap();
    link.ports.closed(1);
    wait_for("the port to be free", || UdpSocket::bind("127.0.0.1:8040").is_ok());
}

#[test]
fn b205_datagrams_reach_a_server_on_the_guests_own_loopback() {
    if !as_root() {
        return;
    }
    let link = Link::new();
    let server = link.in_guest(|| UdpSocket::bind("127.0.0.1:8042").unwrap());
    opened(&link, 1, Transport::Udp, "127.0.0.1", 8042);
    wait_for("the port", || link.flows() == 2);
    let host = IpAddr::V4(link.addresses.host4);
    let echo = link.guest(move || {
        let mut bytes = [0; 2000];
        for _ in 0..4 {
            let (length, from) = server.recv_from(&mut bytes).unwrap();
            assert_eq!(from.ip(), host);
            server.send_to(&bytes[..length], from).unwrap();
        }
    });
    for (any, loopback) in [("127.0.0.1", "127.0.0.1"), ("::1", "::1")] {
        let client = UdpSocket::bind(address(any, 0)).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        client.connect(address(loopback, 8042)).unwrap();
        for round in 0..2_u8 {
            client.send(&[round; 1200]).unwrap();
            let mut bytes = [0; 2000];
            let length = client.recv(&mut bytes).unwrap();
            assert_eq!(bytes[..length], [round; 1200]);
        }
    }
    echo.join().unwrap();
    // From that address the guest says nothing to anybody else.
    let other = UdpSocket::bind(address(crate::HOST4, 8043)).unwrap();
    other.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    link.in_guest(|| {
        let socket = UdpSocket::bind("127.0.0.1:8044").unwrap();
        let _ = socket.send_to(b"x", address(crate::HOST4, 8043));
    });
    assert!(other.recv(&mut [0]).is_err());
}

#[test]
fn b207_others_reach_who_listens_for_everybody_where_a_setting_says_so() {
    if !as_root() {
        return;
    }
    let link = Link::with(Options { lan_forwarding: true, ..Options::default() });
    let places = [("0.0.0.0", 8011), ("::", 8012), ("127.0.0.1", 8013)];
    let listeners = places.map(|(place, port)| {
        let listener = link.in_guest(move || TcpListener::bind(address(place, port)).unwrap());
        opened(&link, port.into(), Transport::Tcp, place, port);
        listener
    });
    let speak = |listener: &TcpListener, place: SocketAddr| {
        let mut stream = connect_soon(place);
        stream.write_all(b"x").unwrap();
        // Those that only tried have nothing to say.
        loop {
            let (mut served, from) = listener.accept().unwrap();
            if served.read(&mut [0]).unwrap_or(0) > 0 {
                return from.ip().to_canonical();
            }
        }
    };
    let [four, six, own] = &listeners;
    // Who comes from elsewhere is known as who he is, the host as the host.
    let hosts = [crate::HOST4, crate::HOST6].map(|host| host.parse::<IpAddr>().unwrap());
    assert_eq!(speak(four, SocketAddr::new(hosts[0], 8011)), hosts[0]);
    assert_eq!(speak(six, SocketAddr::new(hosts[1], 8012)), hosts[1]);
    assert_eq!(speak(four, address("127.0.0.1", 8011)), IpAddr::V4(link.addresses.host4));
    // By the version on which nobody listens.
    assert_eq!(speak(four, SocketAddr::new(hosts[1], 8011)), IpAddr::V4(link.addresses.host4));
    wait_for("the port", || TcpStream::connect("127.0.0.1:8013").is_ok());
    for host in hosts {
        let error = TcpStream::connect(SocketAddr::new(host, 8013)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{host}");
    }
    let _ = own;
    // Datagrams, and their answers.
    let server = link.in_guest(|| UdpSocket::bind("0.0.0.0:8014").unwrap());
    opened(&link, 1, Transport::Udp, "0.0.0.0", 8014);
    wait_for("the port", || UdpSocket::bind(SocketAddr::new(hosts[0], 8014)).is_err());
    let client = UdpSocket::bind(SocketAddr::new(hosts[0], 0)).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client.connect(SocketAddr::new(hosts[0], 8014)).unwrap();
    client.send(b"x").unwrap();
    server.set_read_timeout(Some(PATIENCE)).unwrap();
    let (_, from) = server.recv_from(&mut [0]).unwrap();
    assert_eq!(from, client.local_addr().unwrap());
    server.send_to(b"y", from).unwrap();
    assert_eq!(client.recv(&mut [0]).unwrap(), 1);
    // Once only the distro's own machine is served, so is only the host's.
    opened(&link, 2, Transport::Tcp, "127.0.0.1", 8011);
    link.ports.closed(8011);
    let place = SocketAddr::new(hosts[0], 8011);
    wait_for("the port to be the host's only", || TcpStream::connect(place).is_err());
    drop(connect_soon(address("127.0.0.1", 8011)));
}

#[test]
fn a_port_that_is_free_a_moment_later_is_had_then_and_nothing_is_said() {
    if !as_root() {
        return;
    }
    let link = Link::new();
    let taken = UdpSocket::bind("127.0.0.1:8031").unwrap();
    let _server = link.in_guest(|| UdpSocket::bind("0.0.0.0:8031").unwrap());
    opened(&link, 1, Transport::Udp, "0.0.0.0", 8031);
    std::thread::sleep(Duration::from_millis(10));
    drop(taken);
    let started = std::time::Instant::now();
    wait_for("the port", || link.flows() == 2);
    println!("had after {:?}", started.elapsed());
    assert!(started.elapsed() < Duration::from_millis(900), "{:?}", started.elapsed());
    assert_eq!(link.ports.list()[0].problem, None);
}

#[test]
fn the_hosts_own_services_are_reached_by_one_address_where_they_may_be() {
    if !as_root() {
        return;
    }
    let link = Link::new();
    let hosts = [IpAddr::V4(link.addresses.host4), IpAddr::V6(link.addresses.host6)];
    for (host, loopback) in hosts.into_iter().zip(LOOPBACKS) {
        let listener = TcpListener::bind(address(loopback, 0)).unwrap();
        let place = SocketAddr::new(host, listener.local_addr().unwrap().port());
        let guest = link.guest(move || {
            let mut bytes = Vec::new();
            connect(place).read_to_end(&mut bytes).unwrap();
            bytes
        });
        accept(&listener).write_all(b"of the host").unwrap();
        assert_eq!(guest.join().unwrap(), b"of the host");
        // Where nobody listens.
        drop(listener);
        let refused = link.in_guest(move || TcpStream::connect(place).unwrap_err().kind());
        assert_eq!(refused, ErrorKind::ConnectionRefused);
        // Datagrams come back from where they went.
        let server = UdpSocket::bind(address(loopback, 0)).unwrap();
        let place = SocketAddr::new(host, server.local_addr().unwrap().port());
        let guest = link.guest(move || {
            let any = if place.is_ipv4() { "0.0.0.0" } else { "::" };
            let socket = UdpSocket::bind(address(any, 0)).unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            socket.send_to(b"x", place).unwrap();
            socket.recv_from(&mut [0]).unwrap().1 == place
        });
        let from = server.recv_from(&mut [0]).unwrap().1;
        server.send_to(b"y", from).unwrap();
        assert!(guest.join().unwrap());
    }
    // What is the guest's own on the host is not the host's.
    let _listener = link.in_guest(|| TcpListener::bind("0.0.0.0:8050").unwrap());
    opened(&link, 1, Transport::Tcp, "0.0.0.0", 8050);
    drop(connect_soon(address("127.0.0.1", 8050)));
    let place = SocketAddr::new(hosts[0], 8050);
    let refused = link.in_guest(move || TcpStream::connect(place).unwrap_err().kind());
    assert_eq!(refused, ErrorKind::ConnectionRefused);
}

#[test]
fn the_hosts_own_services_are_not_reached_where_they_may_not_be() {
    if !as_root() {
        return;
    }
    let link = Link::with(Options { host_loopback: false, ..Options::default() });
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = UdpSocket::bind(listener.local_addr().unwrap()).unwrap();
    let port = listener.local_addr().unwrap().port();
    let place = SocketAddr::new(link.addresses.host4.into(), port);
    let error = link.in_guest(move || TcpStream::connect(place).unwrap_err().kind());
    assert_eq!(error, ErrorKind::HostUnreachable);
    let error = link.in_guest(move || {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.connect(place).unwrap();
        socket.send(b"x").unwrap();
        socket.recv(&mut [0]).unwrap_err().kind()
    });
    assert_eq!(error, ErrorKind::HostUnreachable);
    listener.set_nonblocking(true).unwrap();
    assert_eq!(listener.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
    server.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    assert!(server.recv(&mut [0]).is_err());
}
