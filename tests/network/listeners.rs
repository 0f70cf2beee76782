//! Who listens in a distro, told by the kernel's own programs. This process stands for the
//! distro: it moves into a cgroup of its own, and each test watches a network namespace.
//!
//! The programs want root of this machine, not of a user namespace.

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Instant;

use nix::mount::{MsFlags, mount};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use uuid::Uuid;
use wslr::guest::interface;
use wslr::guest::listeners::{Entrance, Listeners};
use wslr::protocol::guest::{Event, Listener, Transport};

use crate::link::{Link, as_root};
use crate::{PATIENCE, address, connect, wait_for};

const DISTRO: Uuid = Uuid::from_u128(7);

/// Whether this is root of the machine; says so where it is not.
pub fn is_root_of_machine() -> bool {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap();
    let whole = map.split_ascii_whitespace().nth(2) == Some("4294967295");
    let is = whole && nix::unistd::geteuid().is_root();
    if !is {
        eprintln!("not root of this machine: the kernel takes no programs");
    }
    is
}

/// The group that this process is in from now on.
pub fn group() -> &'static fs::File {
    static GROUP: OnceLock<fs::File> = OnceLock::new();
    GROUP.get_or_init(|| {
        let mounted: PathBuf = tempfile::tempdir().unwrap().keep();
        mount(Some("none"), &mounted, Some("cgroup2"), MsFlags::empty(), None::<&str>).unwrap();
        let path = mounted.join(format!("wslr-test-{}", std::process::id()));
        fs::create_dir(&path).unwrap();
        fs::write(path.join("cgroup.procs"), "0").unwrap();
        let file = fs::File::open(&path).unwrap();
        // The group lives as long as this process is in it.
        nix::mount::umount2(&mounted, nix::mount::MntFlags::MNT_DETACH).unwrap();
        fs::remove_dir(&mounted).unwrap();
        file
    })
}

fn watch(interface: u32, link: Option<&Link>) -> Listeners {
    let host4 = link.map_or([192, 0, 2, 1].into(), |link| link.addresses.host4);
    let host6 = link.map_or(1_u128.into(), |link| link.addresses.host6);
    let mut listeners = Listeners::new(Entrance { interface, host4, host6 }).unwrap();
    listeners.watch(DISTRO, group().as_fd()).unwrap();
    listeners
}

/// In a namespace of its own.
fn watch_alone() -> Listeners {
    unshare(CloneFlags::CLONE_NEWNET).unwrap();
    interface::bring_up("lo").unwrap();
    watch(1, None)
}

/// What has been told, which is there at once: the kernel tells before the call returns.
fn opened(listeners: &mut Listeners) -> Listener {
    match &listeners.changes()[..] {
        [Event::PortOpened(listener)] => listener.clone(),
        other => panic!("{other:?}"),
    }
}

fn assert_closed(listeners: &mut Listeners, socket: u64) {
    assert_eq!(listeners.changes(), [Event::PortClosed { socket }]);
}

fn assert_nothing(listeners: &mut Listeners) {
    assert_eq!(listeners.changes(), []);
}

/// A socket of TCP that is bound, but does not listen.
fn bound(place: &str) -> std::os::fd::OwnedFd {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, bind, socket};
    let place: SocketAddr = place.parse().unwrap();
    let family = if place.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let socket = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
    bind(std::os::fd::AsRawFd::as_raw_fd(&socket), &SockaddrStorage::from(place)).unwrap();
    socket
}

/// The same, of one that shares its port.
fn shared(place: SocketAddr) -> std::os::fd::OwnedFd {
    use nix::sys::socket::sockopt::ReusePort;
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage};
    use nix::sys::socket::{bind, setsockopt, socket};
    let family = if place.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let socket = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
    setsockopt(&socket, ReusePort, &true).unwrap();
    bind(std::os::fd::AsRawFd::as_raw_fd(&socket), &SockaddrStorage::from(place)).unwrap();
    socket
}

pub fn listen(socket: &impl AsFd) {
    nix::sys::socket::listen(socket, nix::sys::socket::Backlog::new(8).unwrap()).unwrap();
}

#[test]
fn b214_listening_and_its_end_are_told_whatever_way_they_come() {
    if !is_root_of_machine() {
        return;
    }
    let mut listeners = watch_alone();
    for place in ["0.0.0.0:8101", "127.0.0.1:8102", "[::]:8103", "[::1]:8104"] {
        let socket = bound(place);
        // A client binds as well.
        assert_nothing(&mut listeners);
        listen(&socket);
        let told = opened(&mut listeners);
        let place: SocketAddr = place.parse().unwrap();
        assert_eq!((told.address, told.port), (place.ip(), place.port()));
        assert_eq!((told.transport, told.distro), (Transport::Tcp, DISTRO));
        // The name of the thread that bound it.
        assert!(told.process.is_some_and(|name| name.starts_with("listeners::b2")));
        // Again: only the length of the queue changes.
        listen(&socket);
        assert_nothing(&mut listeners);
        // Connections come and go, and one outlives the listener.
        let client = connect(place);
        let server = nix::sys::socket::accept(std::os::fd::AsRawFd::as_raw_fd(&socket)).unwrap();
        assert_nothing(&mut listeners);
        let another = nix::unistd::dup(&socket).unwrap();
        drop(socket);
        assert_nothing(&mut listeners);
        drop(another);
        assert_closed(&mut listeners, told.socket);
        drop(client);
        nix::unistd::close(server).unwrap();
        assert_nothing(&mut listeners);
    }
    // Without a port of one's choice, and without binding at all.
    let any = bound("127.0.0.1:0");
    listen(&any);
    let told = opened(&mut listeners);
    assert!(told.port >= 1024);
    drop(any);
    assert_closed(&mut listeners, told.socket);
    use nix::sys::socket::{AddressFamily, Shutdown, SockFlag, SockType, shutdown, socket};
    let unbound =
        socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
    listen(&unbound);
    let told = opened(&mut listeners);
    assert!(told.port != 0 && told.address == IpAddr::from([0, 0, 0, 0]));
    // Given up, although it is still open.
    shutdown(std::os::fd::AsRawFd::as_raw_fd(&unbound), Shutdown::Both).unwrap();
    assert_closed(&mut listeners, told.socket);
    drop(unbound);
    assert_nothing(&mut listeners);
    // Java's way to say 127.0.0.1.
    let java = bound("[::ffff:127.0.0.1]:8105");
    listen(&java);
    assert_eq!(opened(&mut listeners).address, IpAddr::from([127, 0, 0, 1]));
    // Other addresses are not the host's business, nor are other namespaces' sockets.
    let other = TcpListener::bind("127.0.0.53:8106").unwrap();
    unshare(CloneFlags::CLONE_NEWNET).unwrap();
    interface::bring_up("lo").unwrap();
    let elsewhere = TcpListener::bind("127.0.0.1:8107").unwrap();
    drop((other, elsewhere));
    assert_nothing(&mut listeners);
}

#[test]
fn nobody_is_woken_for_a_clients_datagrams_and_the_ports_of_clients_may_change() {
    if !is_root_of_machine() {
        return;
    }
    let mut listeners = watch_alone();
    let is_woken = |listeners: &Listeners| {
        let mut event = [PollFd::new(listeners.as_fd(), PollFlags::POLLIN)];
        poll(&mut event, PollTimeout::ZERO).unwrap() == 1
    };
    for place in ["0.0.0.0:0", "[::]:0", "127.0.0.1:0", "0.0.0.0:32768", "0.0.0.0:60999"] {
        drop(UdpSocket::bind(place).unwrap());
        assert!(!is_woken(&listeners), "{place}");
    }
    for place in ["0.0.0.0:32767", "0.0.0.0:61000", "[::]:61000"] {
        drop(UdpSocket::bind(place).unwrap());
        assert!(is_woken(&listeners), "{place}");
        assert!(matches!(
            listeners.changes()[..],
            [Event::PortOpened(_), Event::PortClosed { .. }]
        ));
    }
    fs::write("/proc/sys/net/ipv4/ip_local_port_range", "50000 51000").unwrap();
    assert_nothing(&mut listeners);
    let server = UdpSocket::bind("0.0.0.0:40000").unwrap();
    let told = opened(&mut listeners);
    assert_eq!(told.port, 40000);
    // What was told is taken back, even if the port is a client's now.
    fs::write("/proc/sys/net/ipv4/ip_local_port_range", "32768 60999").unwrap();
    assert_nothing(&mut listeners);
    drop(server);
    assert_closed(&mut listeners, told.socket);
}

#[test]
fn datagrams_are_told_when_a_port_is_bound_and_when_it_is_closed() {
    if !is_root_of_machine() {
        return;
    }
    let mut listeners = watch_alone();
    for place in ["0.0.0.0:8111", "[::]:8112", "127.0.0.1:8114"] {
        let socket = UdpSocket::bind(place).unwrap();
        let told = opened(&mut listeners);
        assert_eq!(
            (told.transport, told.port),
            (Transport::Udp, socket.local_addr().unwrap().port())
        );
        drop(socket);
        assert_closed(&mut listeners, told.socket);
    }
    // Clients: they let the kernel choose, or never bind.
    let client = UdpSocket::bind("0.0.0.0:0").unwrap();
    client.send_to(b"x", "127.0.0.1:9").unwrap();
    drop(client);
    // DHCP's, and those that nobody else could reach.
    drop(UdpSocket::bind("0.0.0.0:68").unwrap());
    drop(UdpSocket::bind("127.0.0.53:8113").unwrap());
    drop(UdpSocket::bind("[::1]:8113").unwrap());
    assert_nothing(&mut listeners);
}

#[test]
fn a_process_that_is_killed_does_not_listen_any_more() {
    if !is_root_of_machine() {
        return;
    }
    let mut listeners = watch_alone();
    let sockets = [bound("0.0.0.0:8121"), bound("0.0.0.0:8122")];
    // SAFETY: the child only makes system calls.
    let child = match unsafe { nix::unistd::fork() }.unwrap() {
        nix::unistd::ForkResult::Child => {
            for socket in &sockets {
                let _ = unsafe { libc::listen(std::os::fd::AsRawFd::as_raw_fd(socket), 8) };
            }
            loop {
                unsafe { libc::pause() };
            }
        }
        nix::unistd::ForkResult::Parent { child } => child,
    };
    drop(sockets);
    let mut told = Vec::new();
    wait_for("both", || {
        told.extend(listeners.changes());
        told.len() == 2
    });
    nix::sys::signal::kill(child, nix::sys::signal::Signal::SIGKILL).unwrap();
    nix::sys::wait::waitpid(child, None).unwrap();
    let mut closed = Vec::new();
    wait_for("both ends", || {
        closed.extend(listeners.changes());
        closed.len() == 2
    });
    assert!(closed.iter().all(|event| matches!(event, Event::PortClosed { .. })));
}

#[test]
fn what_the_ring_had_no_room_for_is_found() {
    if !is_root_of_machine() {
        return;
    }
    let mut listeners = watch_alone();
    let stays = UdpSocket::bind("0.0.0.0:8131").unwrap();
    // More than fit into it.
    for _ in 0..6000 {
        drop(UdpSocket::bind("0.0.0.0:8132").unwrap());
    }
    let last = UdpSocket::bind("0.0.0.0:8133").unwrap();
    let mut open = std::collections::BTreeMap::new();
    loop {
        let events = listeners.changes();
        if events.is_empty() {
            break;
        }
        for event in events {
            match event {
                Event::PortOpened(listener) => _ = open.insert(listener.socket, listener.port),
                Event::PortClosed { socket } => _ = open.remove(&socket).unwrap(),
                other => panic!("{other:?}"),
            }
        }
    }
    let mut ports: Vec<u16> = open.into_values().collect();
    ports.sort_unstable();
    assert_eq!(ports, [8131, 8133]);
    drop((stays, last));
}

#[test]
fn b204_b205_from_listen_to_the_hosts_loopback() {
    if !as_root() || !is_root_of_machine() {
        return;
    }
    let link = Link::new();
    let ports = link.ports.clone();
    let mut listeners = link.in_guest({
        let addresses = link.addresses;
        move || {
            let interface = interface::number("eth0").unwrap();
            let (host4, host6) = (addresses.host4, addresses.host6);
            let mut listeners = Listeners::new(Entrance { interface, host4, host6 }).unwrap();
            listeners.watch(DISTRO, group().as_fd()).unwrap();
            listeners
        }
    });
    // What the guest's init does.
    let (stop, stopped) = std::os::unix::net::UnixStream::pair().unwrap();
    let pump = std::thread::spawn(move || {
        loop {
            let interests = [listeners.as_fd(), stopped.as_fd()];
            let mut polled = interests.map(|fd| PollFd::new(fd, PollFlags::POLLIN));
            poll(&mut polled, PollTimeout::NONE).unwrap();
            if polled[1].any() == Some(true) {
                return;
            }
            for event in listeners.changes() {
                match event {
                    Event::PortOpened(listener) => ports.opened(listener),
                    Event::PortClosed { socket } => ports.closed(socket),
                    other => panic!("{other:?}"),
                }
            }
        }
    });
    // Two that share a port: the one that is left is reached, whichever that is.
    for (place, first) in [("127.0.0.1", true), ("127.0.0.1", false), ("::1", true), ("::1", false)]
    {
        let port = 8160;
        let shared = [(), ()].map(|()| {
            link.in_guest(move || {
                let socket = shared(address(place, port));
                listen(&socket);
                TcpListener::from(socket)
            })
        });
        wait_for("the port", || TcpStream::connect(address("127.0.0.1", port)).is_ok());
        let [one, two] = shared;
        let (left, gone) = if first { (two, one) } else { (one, two) };
        drop(gone);
        wait_for("its end", || link.ports.list().len() == 1);
        for _ in 0..5 {
            let mut client = connect(address("127.0.0.1", port));
            client.write_all(b"x").unwrap();
            let mut byte = [0];
            while left.accept().unwrap().0.read(&mut byte).unwrap_or(0) == 0 {}
            assert_eq!(byte, *b"x", "{place} {first}");
        }
        drop(left);
        wait_for("its end", || TcpStream::connect(address("127.0.0.1", port)).is_err());
    }
    let mut slowest = [std::time::Duration::ZERO; 2];
    for place in ["0.0.0.0", "127.0.0.1", "::", "::1", "::ffff:127.0.0.1"] {
        // The one that means two things is tried in both.
        let port = 8140;
        let listener = link.in_guest(move || TcpListener::bind(address(place, port)).unwrap());
        let started = Instant::now();
        for host in ["127.0.0.1", "::1"] {
            wait_for("the port", || TcpStream::connect(address(host, port)).is_ok());
            slowest[0] = slowest[0].max(started.elapsed());
            let mut client = connect(address(host, port));
            client.write_all(b"x").unwrap();
            // Those that only tried have nothing to say.
            let mut byte = [0];
            while listener.accept().unwrap().0.read(&mut byte).unwrap_or(0) == 0 {}
            assert_eq!(byte, *b"x", "{place} {host}");
        }
        drop(listener);
        let started = Instant::now();
        wait_for("its end", || TcpStream::connect(address("127.0.0.1", port)).is_err());
        slowest[1] = slowest[1].max(started.elapsed());
    }
    println!("a port was the host's after {:?} and free after {:?}", slowest[0], slowest[1]);
    // 127.0.0.2 is the distro's own (B205).
    let _other = link.in_guest(|| TcpListener::bind("127.0.0.2:8150").unwrap());
    let server = link.in_guest(|| UdpSocket::bind("0.0.0.0:8151").unwrap());
    wait_for("the port", || link.ports.list().len() == 1);
    assert_eq!(link.ports.list()[0].port, 8151);
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client.connect("127.0.0.1:8151").unwrap();
    wait_for("the port on the host", || UdpSocket::bind("127.0.0.1:8151").is_err());
    client.send(b"y").unwrap();
    server.set_read_timeout(Some(PATIENCE)).unwrap();
    let (_, from) = server.recv_from(&mut [0]).unwrap();
    server.send_to(b"z", from).unwrap();
    client.recv(&mut [0]).unwrap();
    (&stop).write_all(b"x").unwrap();
    pump.join().unwrap();
}
