//! Distros with a network of their own, beside those that share the machine's.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::thread::{self, JoinHandle};

use nix::sched::{CloneFlags, setns, unshare};
use wslr::guest::{interface, network};
use wslr::network::addresses::{self, Addresses};
use wslr::protocol::guest::{Network, Transport};

use crate::inbound::opened;
use crate::link::{HOST4, HOST6, Link, as_root, guest_network};
use crate::{PATIENCE, accept, address, connect, listener, wait_for};

/// A distro's own network on a link.
struct Own {
    namespace: File,
    four: IpAddr,
    six: IpAddr,
}

impl Own {
    /// As the distro's init makes it.
    fn on(link: &Link, number: u8) -> Self {
        let addresses: Addresses = link.addresses;
        let own = addresses::own(addresses.guest4, addresses.guest6, number);
        let (guest4, guest6) = own.unwrap();
        let namespace = link.in_guest(move || {
            let machine = interface::Links::open().unwrap();
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            interface::bring_up("lo").unwrap();
            let namespace = File::open("/proc/thread-self/ns/net").unwrap();
            let mac = addresses::mac_of(guest4.into());
            machine.add_below("eth0", mac, namespace.as_fd()).unwrap();
            let network = Network { guest4, guest6, caller: None, ..guest_network(addresses) };
            network::configure("eth0", &network).unwrap();
            namespace
        });
        Self { namespace, four: guest4.into(), six: guest6.into() }
    }

    fn start<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
        let namespace = self.namespace.try_clone().unwrap();
        thread::spawn(move || {
            setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
            work()
        })
    }

    fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        self.start(work).join().unwrap()
    }
}

/// Sends a question and expects it back.
fn speak(place: SocketAddr) {
    let mut stream = connect(place);
    stream.write_all(b"question").unwrap();
    let mut answer = [0; 8];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"question");
}

#[test]
fn distros_of_their_own_networks_reach_the_world_and_not_one_another() {
    if !as_root() {
        return;
    }
    let link = Link::new();
    let own = [Own::on(&link, 1), Own::on(&link, 128)];
    for host in [HOST4, HOST6] {
        let (listener, place) = listener(host);
        let server = thread::spawn(move || {
            for _ in 0..3 {
                let mut stream = accept(&listener);
                let mut question = [0; 8];
                stream.read_exact(&mut question).unwrap();
                stream.write_all(&question).unwrap();
            }
        });
        own[0].run(move || speak(place));
        own[1].run(move || speak(place));
        // The machine's own network goes on beside them.
        link.in_guest(move || speak(place));
        server.join().unwrap();
    }
    // Datagrams find back to who has sent them.
    let server = UdpSocket::bind(address(HOST4, 0)).unwrap();
    let place = server.local_addr().unwrap();
    let echo = thread::spawn(move || {
        for _ in 0..2 {
            let mut bytes = [0; 10];
            let (length, from) = server.recv_from(&mut bytes).unwrap();
            server.send_to(&bytes[..length], from).unwrap();
        }
    });
    let ask = move |letter: u8| {
        let socket = UdpSocket::bind("0.0.0.0:4000").unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.send_to(&[letter], place).unwrap();
        let mut byte = [0];
        socket.recv(&mut byte).unwrap();
        assert_eq!(byte, [letter]);
    };
    let (first, second) = (own[0].start(move || ask(1)), own[1].start(move || ask(2)));
    first.join().unwrap();
    second.join().unwrap();
    echo.join().unwrap();
    // All of them can have one port, and none is another's.
    let port = 8400;
    let listen = move || TcpListener::bind(address("0.0.0.0", port)).unwrap();
    let listeners = [own[0].run(listen), own[1].run(listen), link.in_guest(listen)];
    for target in [own[1].four, own[1].six, IpAddr::V4(link.addresses.guest4)] {
        let place = SocketAddr::new(target, port);
        let limit = std::time::Duration::from_millis(300);
        let result = own[0].run(move || TcpStream::connect_timeout(&place, limit).map(drop));
        assert!(result.is_err(), "{place}");
    }
    for target in [own[0].four, own[0].six] {
        let place = SocketAddr::new(target, port);
        let limit = std::time::Duration::from_millis(300);
        let result = link.in_guest(move || TcpStream::connect_timeout(&place, limit).map(drop));
        assert!(result.is_err(), "{place}");
    }
    // The host's is the machine's.
    opened(&link, 1, Transport::Tcp, "0.0.0.0", port);
    wait_for("the port", || TcpStream::connect(address("127.0.0.1", port)).is_ok());
    listeners[2].accept().unwrap();
    for listener in &listeners[..2] {
        listener.set_nonblocking(true).unwrap();
        assert_eq!(listener.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
    }
}

#[test]
fn a_distro_of_its_own_network_does_not_reach_the_hosts_loopback() {
    if !as_root() {
        return;
    }
    let link = Link::new();
    let own = Own::on(&link, 7);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = UdpSocket::bind(listener.local_addr().unwrap()).unwrap();
    let port = listener.local_addr().unwrap().port();
    let place = SocketAddr::new(link.addresses.host4.into(), port);
    // Which the others do.
    link.in_guest(move || drop(connect(place)));
    drop(listener.accept().unwrap());
    listener.set_nonblocking(true).unwrap();
    let error = own.run(move || TcpStream::connect(place).unwrap_err());
    assert_eq!(error.kind(), ErrorKind::HostUnreachable);
    own.run(move || {
        let _ = UdpSocket::bind("0.0.0.0:0").unwrap().send_to(b"x", place);
    });
    assert_eq!(listener.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
    server.set_read_timeout(Some(std::time::Duration::from_millis(200))).unwrap();
    assert!(server.recv(&mut [0]).is_err());
}
