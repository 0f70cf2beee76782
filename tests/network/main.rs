//! Version 2's network, without a virtual machine: a guest's real network stack on one side,
//! the host's real sockets on the other. What WSL's own tests do over the Internet (B197) is
//! done here between two network namespaces.
//!
//! It needs root, or a user namespace, which each test then makes for itself.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "these are tests")]
#![allow(clippy::undocumented_unsafe_blocks, reason = "plain calls on local structures")]

mod crowds;
mod forbidden;
mod hostile;
mod inbound;
mod isolation;
mod link;
mod listeners;
mod mirrored;
mod names;

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use link::{HOST4, HOST6, Link, Options, as_root};
use sha2::{Digest, Sha256};
use wslr::devices::net::Offloads;
use wslr::network::addresses;

const PATIENCE: Duration = Duration::from_secs(30);

fn address(host: &str, port: u16) -> SocketAddr {
    SocketAddr::new(host.parse().unwrap(), port)
}

/// Any listener of the host, and where it is.
fn listener(host: &str) -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind(address(host, 0)).unwrap();
    let place = listener.local_addr().unwrap();
    (listener, place)
}

fn connect(place: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(place).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

fn accept(listener: &TcpListener) -> TcpStream {
    let stream = listener.accept().unwrap().0;
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

#[track_caller]
fn wait_for(what: &str, is_so: impl FnMut() -> bool) {
    assert!(becomes(PATIENCE, is_so), "waited for {what} in vain");
}

/// Asks until it is so, or that time is over; says which.
fn becomes(patience: Duration, mut is_so: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + patience;
    while !is_so() {
        if Instant::now() > end {
            return false;
        }
        thread::sleep(Duration::from_millis(10));
    }
    true
}

/// Bytes that do not repeat with any power of two.
fn sample(length: usize) -> Vec<u8> {
    (0..length).map(|number| (number % 251) as u8 ^ (number >> 16) as u8).collect()
}

#[test]
fn b197_connections_carry_data_both_ways_over_both_versions_of_ip() {
    if !as_root() {
        return;
    }
    let link = Link::new();
    for host in [HOST4, HOST6] {
        let (listener, place) = listener(host);
        let guest = link.guest(move || {
            let mut stream = connect(place);
            stream.write_all(b"question").unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).unwrap();
            answer
        });
        let mut stream = accept(&listener);
        let mut question = Vec::new();
        // The guest's end is seen while the other way stays open.
        stream.read_to_end(&mut question).unwrap();
        assert_eq!(question, b"question");
        stream.write_all(b"answer").unwrap();
        drop(stream);
        assert_eq!(guest.join().unwrap(), b"answer");
        // The host's end first.
        let guest = link.guest(move || {
            let mut stream = connect(place);
            let mut read = Vec::new();
            stream.read_to_end(&mut read).unwrap();
            stream.write_all(&read).unwrap();
        });
        let mut stream = accept(&listener);
        stream.write_all(b"first").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut back = Vec::new();
        stream.read_to_end(&mut back).unwrap();
        assert_eq!(back, b"first");
        guest.join().unwrap();
    }
    wait_for("the flows to end", || link.flows() == 0);
}

/// How many frames the guest has been given.
fn frames_to_guest(link: &Link) -> u64 {
    link.in_guest(|| {
        let table = fs::read_to_string("/proc/thread-self/net/dev").unwrap();
        let line = table.lines().find_map(|line| line.trim().strip_prefix("eth0:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    })
}

#[test]
fn an_answer_brings_the_acknowledgment_of_its_question() {
    const ROUNDS: u64 = 500;
    if !as_root() {
        return;
    }
    let link = Link::new();
    let (listener, place) = listener(HOST4);
    let before = frames_to_guest(&link);
    let guest = link.guest(move || {
        let mut stream = connect(place);
        stream.set_nodelay(true).unwrap();
        for _ in 0..ROUNDS {
            stream.write_all(b"?").unwrap();
            stream.read_exact(&mut [0]).unwrap();
        }
        // A question in two parts, the second of which waits for the first's acknowledgment.
        stream.set_nodelay(false).unwrap();
        for _ in 0..10 {
            stream.write_all(b"?").unwrap();
            stream.write_all(b"?").unwrap();
            stream.read_exact(&mut [0; 2]).unwrap();
        }
    });
    let mut stream = accept(&listener);
    stream.set_nodelay(true).unwrap();
    for _ in 0..ROUNDS {
        stream.read_exact(&mut [0]).unwrap();
        stream.write_all(b"!").unwrap();
    }
    let frames = frames_to_guest(&link) - before;
    // A machine that is busy has answers that come too late to be waited for.
    assert!(frames < ROUNDS * 2 - ROUNDS / 5, "{frames} frames");
    for _ in 0..10 {
        stream.read_exact(&mut [0; 2]).unwrap();
        stream.write_all(b"!!").unwrap();
    }
    guest.join().unwrap();
}

#[test]
fn what_cannot_be_reached_fails_at_once_as_on_the_host() {
    if !as_root() {
        return;
    }
    let link = Link::new();
    let gateway = link.addresses.gateway4;
    for (host, expected) in [
        (HOST4.parse().unwrap(), ErrorKind::ConnectionRefused),
        (HOST6.parse().unwrap(), ErrorKind::ConnectionRefused),
        (IpAddr::V4(gateway), ErrorKind::ConnectionRefused),
        // The host has no route there.
        ("192.0.2.1".parse().unwrap(), ErrorKind::NetworkUnreachable),
        ("2001:db8:1::1".parse().unwrap(), ErrorKind::NetworkUnreachable),
        // Of the host's own: its metadata services, what stands for its loopback.
        ("169.254.169.254".parse().unwrap(), ErrorKind::HostUnreachable),
        ("0.1.2.3".parse().unwrap(), ErrorKind::HostUnreachable),
        ("64:ff9b::7f00:1".parse().unwrap(), ErrorKind::PermissionDenied),
        (IpAddr::V4(addresses::RESOLVER), ErrorKind::HostUnreachable),
    ] {
        let place = SocketAddr::new(host, 9);
        let (error, took) = link.in_guest(move || {
            let started = Instant::now();
            (TcpStream::connect(place).unwrap_err(), started.elapsed())
        });
        assert_eq!(error.kind(), expected, "{host}");
        assert!(took < Duration::from_millis(500), "{host}: {took:?}");
    }
}

#[test]
fn resets_arrive_as_resets() {
    if !as_root() {
        return;
    }
    let link = Link::new();
    let (listener, place) = listener(HOST4);
    let reset = |stream: &TcpStream| {
        let linger = libc::linger { l_onoff: 1, l_linger: 0 };
        nix::sys::socket::setsockopt(stream, nix::sys::socket::sockopt::Linger, &linger).unwrap();
    };
    let guest = link.guest(move || {
        let mut stream = connect(place);
        stream.write_all(b"x").unwrap();
        stream.read(&mut [0]).unwrap_err().kind()
    });
    let mut stream = accept(&listener);
    // The guest is connected when its first byte is here.
    stream.read_exact(&mut [0]).unwrap();
    reset(&stream);
    drop(stream);
    assert_eq!(guest.join().unwrap(), ErrorKind::ConnectionReset);

    let guest = link.guest(move || {
        let mut stream = connect(place);
        stream.read_exact(&mut [0]).unwrap();
        reset(&stream);
    });
    let mut stream = accept(&listener);
    stream.write_all(b"x").unwrap();
    guest.join().unwrap();
    assert_eq!(stream.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    wait_for("the flows to end", || link.flows() == 0);
}

/// Moves that many bytes each way at once and compares hashes.
fn transfer(link: &Link, host: &str, length: usize) {
    let (listener, place) = listener(host);
    let bytes = sample(length);
    let expected = Sha256::digest(&bytes);
    let both = |stream: TcpStream, bytes: Vec<u8>| {
        let mut writer = stream.try_clone().unwrap();
        let sender = thread::spawn(move || {
            writer.write_all(&bytes).unwrap();
            writer.shutdown(Shutdown::Write).unwrap();
        });
        let mut read = Vec::new();
        let mut stream = stream;
        stream.read_to_end(&mut read).unwrap();
        sender.join().unwrap();
        read
    };
    let started = Instant::now();
    let sent = bytes.clone();
    let guest = link.guest(move || both(connect(place), sent));
    let arrived = both(accept(&listener), bytes);
    let back = guest.join().unwrap();
    println!("{host}: 2 times {length} bytes in {:?}", started.elapsed());
    assert_eq!(Sha256::digest(arrived), expected);
    assert_eq!(Sha256::digest(back), expected);
}

#[test]
fn much_data_arrives_whole() {
    if !as_root() {
        return;
    }
    let link = Link::new();
    transfer(&link, HOST4, 64 << 20);
    transfer(&link, HOST6, 64 << 20);
    wait_for("the flows to end", || link.flows() == 0);
}

#[test]
fn a_guest_without_offloads_is_served_too() {
    if !as_root() {
        return;
    }
    let link = Link::with(Options { offloads: Offloads::default(), ..Options::default() });
    transfer(&link, HOST4, 4 << 20);
    transfer(&link, HOST6, 4 << 20);
    let (error, place) = (ErrorKind::ConnectionRefused, address(HOST6, 9));
    assert_eq!(link.in_guest(move || TcpStream::connect(place).unwrap_err().kind()), error);
}

#[test]
fn what_is_lost_in_the_guest_is_sent_again() {
    if !as_root() {
        return;
    }
    let link = Link::new();
    // The guest's own kernel doubles its patience at each loss of a repeated segment: with
    // many more losses it is that which is measured.
    link.losses.store(50, Ordering::Relaxed);
    transfer(&link, HOST4, 2 << 20);
}

#[test]
fn what_is_lost_of_a_stream_that_stays_in_the_hosts_socket_is_sent_again() {
    if !as_root() {
        return;
    }
    let link = Link::new();
    link.losses.store(400, Ordering::Relaxed);
    for host in [HOST4, HOST6] {
        let (listener, place) = listener(host);
        let bytes = sample(48 << 20);
        let guest = link.guest(move || {
            let mut read = Vec::new();
            connect(place).read_to_end(&mut read).unwrap();
            read
        });
        // All of it at once, so that there is always more.
        accept(&listener).write_all(&bytes).unwrap();
        assert!(guest.join().unwrap() == bytes, "{host}");
    }
    wait_for("the flows to end", || link.flows() == 0);
}

#[test]
fn a_reader_that_does_not_read_stops_the_writer_and_loses_nothing() {
    if !as_root() {
        return;
    }
    let link = Link::new();
    let (listener, place) = listener(HOST4);
    // As much as this does not fit into all the buffers on the way.
    let bytes = Arc::new(sample(48 << 20));
    for from_guest in [true, false] {
        let (full, is_full) = channel();
        let write = {
            let bytes = Arc::clone(&bytes);
            move |mut stream: TcpStream| {
                stream.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
                let mut total = 0;
                while let Ok(more) = stream.write(&bytes[total..]) {
                    total += more;
                }
                assert!(total < bytes.len());
                full.send(()).unwrap();
                total
            }
        };
        let read = move |mut stream: TcpStream| {
            is_full.recv_timeout(PATIENCE).unwrap();
            let mut bytes = Vec::new();
            stream.read_to_end(&mut bytes).unwrap();
            bytes
        };
        let (written, arrived) = if from_guest {
            let guest = link.guest(move || write(connect(place)));
            let arrived = read(accept(&listener));
            (guest.join().unwrap(), arrived)
        } else {
            let guest = link.guest(move || read(connect(place)));
            (write(accept(&listener)), guest.join().unwrap())
        };
        println!("{written} bytes were on the way");
        assert!(arrived == bytes[..written], "{} of {written}", arrived.len());
    }
}

#[test]
fn a_thousand_connections_at_once() {
    if !as_root() {
        return;
    }
    let limit = libc::rlimit { rlim_cur: 16_384, rlim_max: 16_384 };
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) }, 0);
    let link = Link::new();
    let (listener, place) = listener(HOST4);
    let server = thread::spawn(move || {
        let mut streams: Vec<_> = (0..1000).map(|_| accept(&listener)).collect();
        for stream in &mut streams {
            let mut bytes = [0; 4];
            stream.read_exact(&mut bytes).unwrap();
            stream.write_all(&bytes).unwrap();
        }
    });
    link.in_guest(move || {
        let mut streams: Vec<_> = (0..1000).map(|_| connect(place)).collect();
        for (number, stream) in (0_u32..).zip(&mut streams) {
            stream.write_all(&number.to_le_bytes()).unwrap();
        }
        for (number, stream) in (0_u32..).zip(&mut streams) {
            let mut bytes = [0; 4];
            stream.read_exact(&mut bytes).unwrap();
            assert_eq!(u32::from_le_bytes(bytes), number);
        }
    });
    server.join().unwrap();
    wait_for("the flows to end", || link.flows() == 0);
}

#[test]
fn datagrams_go_both_ways_and_a_closed_port_is_reported() {
    if !as_root() {
        return;
    }
    let link = Link::new();
    for (host, any) in [(HOST4, "0.0.0.0"), (HOST6, "::")] {
        let server = UdpSocket::bind(address(host, 0)).unwrap();
        let other = UdpSocket::bind(address(host, 0)).unwrap();
        let places = [server.local_addr().unwrap(), other.local_addr().unwrap()];
        let echo = thread::spawn(move || {
            let mut bytes = [0; 9000];
            let (length, first) = server.recv_from(&mut bytes).unwrap();
            // Longer than the link's packets, and from another port than the guest asked.
            server.send_to(&bytes[..length].repeat(8), first).unwrap();
            other.send_to(b"other", first).unwrap();
            let (_, second) = other.recv_from(&mut bytes).unwrap();
            assert_eq!(first, second, "the guest's port has one address outside");
        });
        let (first, second) = link.in_guest(move || {
            let socket = UdpSocket::bind(address(any, 0)).unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            let mut bytes = [0; 9000];
            socket.send_to(&sample(1000), places[0]).unwrap();
            let (length, from) = socket.recv_from(&mut bytes).unwrap();
            assert_eq!(from, places[0]);
            let first = bytes[..length].to_vec();
            let (length, from) = socket.recv_from(&mut bytes).unwrap();
            assert_eq!(from, places[1]);
            socket.send_to(b"x", places[1]).unwrap();
            (first, bytes[..length].to_vec())
        });
        assert!(first == sample(1000).repeat(8));
        assert_eq!(second, b"other");
        echo.join().unwrap();
        let error = link.in_guest(move || {
            let socket = UdpSocket::bind(address(any, 0)).unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            socket.connect(address(host, 9)).unwrap();
            socket.send(b"x").unwrap();
            socket.recv(&mut [0]).unwrap_err().kind()
        });
        assert_eq!(error, ErrorKind::ConnectionRefused);
    }
}

/// A question for an address, and its answer by a server that is known by its letter.
fn question(number: u8) -> Vec<u8> {
    let mut question = vec![0, number, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    question.extend(b"\x04name\x07example\0\0\x10\0\x01");
    question
}

fn answer(question: &[u8], letter: u8) -> Vec<u8> {
    let mut answer = question.to_vec();
    answer[2] |= 0x80;
    answer.push(letter);
    answer
}

fn serve_names(host: &str, letter: u8) {
    let socket = UdpSocket::bind(address(host, 53)).unwrap();
    let listener = TcpListener::bind(address(host, 53)).unwrap();
    thread::spawn(move || {
        let mut bytes = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut bytes) {
            socket.send_to(&answer(&bytes[..length], letter), from).unwrap();
        }
    });
    thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let mut length = [0; 2];
            stream.read_exact(&mut length).unwrap();
            let mut bytes = vec![0; usize::from(u16::from_be_bytes(length))];
            stream.read_exact(&mut bytes).unwrap();
            let answer = answer(&bytes, letter);
            stream.write_all(&(answer.len() as u16).to_be_bytes()).unwrap();
            stream.write_all(&answer).unwrap();
        }
    });
}

#[test]
fn b198_b200_names_are_asked_of_the_hosts_resolver_as_it_is_now() {
    if !as_root() {
        return;
    }
    let link = Link::new();
    serve_names(HOST4, b'a');
    serve_names("127.0.0.53", b'b');
    let ask = |server: IpAddr, number: u8| {
        link.in_guest(move || {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            let started = Instant::now();
            socket.send_to(&question(number), (server, 53)).unwrap();
            let mut bytes = [0; 512];
            let (length, from) = socket.recv_from(&mut bytes).unwrap();
            assert_eq!(from, SocketAddr::new(server, 53));
            (bytes[..length].to_vec(), started.elapsed())
        })
    };
    let resolver = IpAddr::V4(addresses::RESOLVER);
    for server in [resolver, IpAddr::V4(link.addresses.gateway4)] {
        assert_eq!(ask(server, 1).0, answer(&question(1), b'a'));
    }
    // A change is followed by the next question, to a stub on the host's loopback.
    fs::write(&link.resolver, "nameserver 127.0.0.53\noptions edns0\n").unwrap();
    assert_eq!(ask(resolver, 2).0, answer(&question(2), b'b'));
    // By TCP.
    let by_stream = link.in_guest(move || {
        let mut stream = connect(SocketAddr::new(resolver, 53));
        let question = question(3);
        stream.write_all(&(question.len() as u16).to_be_bytes()).unwrap();
        stream.write_all(&question).unwrap();
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        bytes[2..].to_vec()
    });
    assert_eq!(by_stream, answer(&question(3), b'b'));
    // One that is not there, then one that is.
    fs::write(&link.resolver, format!("nameserver 127.0.0.9\nnameserver {HOST4}\n")).unwrap();
    let (bytes, took) = ask(resolver, 4);
    assert_eq!(bytes, answer(&question(4), b'a'));
    assert!(took < Duration::from_secs(1), "{took:?}");
    // What only the host's file knows, and the host itself (B201).
    fs::write(link.resolver.with_file_name("hosts"), "192.0.2.77 name.example\n").unwrap();
    let mut known = question(6);
    let kind = known.len() - 3;
    known[kind] = 1;
    let asked = known.clone();
    let found = link.in_guest(move || {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.send_to(&asked, (resolver, 53)).unwrap();
        let mut bytes = [0; 512];
        let length = socket.recv(&mut bytes).unwrap();
        bytes[..length].to_vec()
    });
    assert!(found.starts_with(&[0, 6, 0x85, 0x80, 0, 1, 0, 1]), "{found:?}");
    assert!(found.ends_with(&[192, 0, 2, 77]), "{found:?}");
    // None at all: told so at once.
    for settings in ["nameserver 127.0.0.9\n", "nameserver 192.0.2.1\n"] {
        fs::write(&link.resolver, settings).unwrap();
        let (bytes, took) = ask(resolver, 5);
        assert_eq!(bytes[3] & 15, 2, "{bytes:?}");
        assert_eq!(bytes[12..], question(5)[12..]);
        assert!(took < Duration::from_secs(1), "{took:?}");
    }
}

/// A socket that the kernel lets send echoes, in the clothes of one for UDP.
fn echo_socket(six: bool) -> UdpSocket {
    use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};
    let (family, protocol) = if six {
        (AddressFamily::Inet6, SockProtocol::IcmpV6)
    } else {
        (AddressFamily::Inet, SockProtocol::Icmp)
    };
    let socket = socket(family, SockType::Datagram, SockFlag::SOCK_CLOEXEC, protocol).unwrap();
    let socket = UdpSocket::from(socket);
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

#[test]
fn echoes_come_back_from_the_gateway_and_the_world() {
    if !as_root() {
        return;
    }
    let link = Link::new();
    let gateways = [IpAddr::V4(link.addresses.gateway4), IpAddr::V6(link.addresses.gateway6)];
    let world = [HOST4, HOST6].map(|host| host.parse().unwrap());
    for host in gateways.into_iter().chain(world) {
        link.in_guest(move || {
            let socket = echo_socket(host.is_ipv6());
            let request = if host.is_ipv6() { 128 } else { 8 };
            let mut message = vec![request, 0, 0, 0, 0, 0, 0, 7];
            message.extend(sample(56));
            socket.send_to(&message, SocketAddr::new(host, 0)).unwrap();
            let mut bytes = [0; 1500];
            let (length, from) = socket.recv_from(&mut bytes).unwrap();
            assert_eq!(from.ip(), host);
            assert_eq!(bytes[0], if host.is_ipv6() { 129 } else { 0 });
            assert_eq!(bytes[6..length], message[6..]);
        });
    }
}

#[test]
fn the_hosts_loopback_is_not_reached() {
    if !as_root() {
        return;
    }
    let link = Link::new();
    let (listener, place) = listener("127.0.0.1");
    listener.set_nonblocking(true).unwrap();
    // By a route that the guest makes itself, a raw frame would be needed; what stands for
    // it is enough here, the rest is tested with the addresses.
    for host in ["0.0.0.1", "64:ff9b::7f00:1"] {
        let place = address(host, place.port());
        assert!(link.in_guest(move || TcpStream::connect(place)).is_err());
    }
    let gateway = SocketAddr::from((link.addresses.gateway4, place.port()));
    assert!(link.in_guest(move || TcpStream::connect(gateway)).is_err());
    assert_eq!(listener.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
}
