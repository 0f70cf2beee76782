//! A guest that does its worst: connections that end in every way there is, floods, and
//! frames that are none. Nothing of it is left afterwards, and nobody else is harmed.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use wslr::protocol::guest::Transport;

use crate::crowds::memory;
use crate::link::{HOST4, HOST6, Link, as_root};
use crate::{PATIENCE, accept, address, becomes, connect, inbound, listener, wait_for};

/// Sends frames that are none, or nearly none, for as long as it is to.
fn send_nonsense(stop: &AtomicBool) -> usize {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
    use std::os::fd::AsRawFd;
    let raw = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None).unwrap();
    let index = wslr::guest::interface::number("eth0").unwrap();
    let mut random = StdRng::seed_from_u64(1);
    let mut sent = 0;
    while !stop.load(Ordering::Relaxed) {
        let mut frame: Vec<u8> = (0..random.gen_range(14..1500)).map(|_| random.r#gen()).collect();
        let kind = [[8, 0], [8, 6], [0x86, 0xdd]][random.gen_range(0..3)];
        frame[12..14].copy_from_slice(&kind);
        if frame.len() > 34 && kind == [8, 0] {
            frame[14] = 0x45;
            frame[23] = [1, 6, 17][random.gen_range(0..3)];
        }
        // SAFETY: all-zero is a valid address, and its length is passed.
        let result = unsafe {
            let mut place: libc::sockaddr_ll = std::mem::zeroed();
            place.sll_family = libc::AF_PACKET as u16;
            place.sll_ifindex = index as i32;
            let length = size_of::<libc::sockaddr_ll>() as u32;
            let place = (&raw const place).cast();
            libc::sendto(raw.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0, place, length)
        };
        sent += usize::from(result > 0);
        if sent % 100 == 0 {
            thread::sleep(Duration::from_millis(1));
        }
    }
    sent
}

fn reset(stream: &TcpStream) {
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    let _ = nix::sys::socket::setsockopt(stream, nix::sys::socket::sockopt::Linger, &linger);
}

/// What one side of a connection may do with it.
fn behave(mut stream: TcpStream, random: &mut StdRng) {
    // Both may wait for the other's word.
    let patience = Some(Duration::from_millis(100));
    stream.set_read_timeout(patience).unwrap();
    stream.set_write_timeout(patience).unwrap();
    let bytes = vec![7; random.gen_range(0..100_000)];
    match random.gen_range(0..6) {
        0 => {}
        1 => reset(&stream),
        2 => {
            let _ = stream.write_all(&bytes);
            reset(&stream);
        }
        3 => {
            let _ = stream.shutdown(Shutdown::Write);
            let _ = stream.read_to_end(&mut Vec::new());
        }
        4 => _ = stream.read(&mut [0; 100]),
        _ => {
            let _ = stream.write_all(&bytes);
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

/// Connects from one side to the other and has both behave as they like.
fn meet(place: SocketAddr, seed: u64, rounds: usize) {
    let mut random = StdRng::seed_from_u64(seed);
    for _ in 0..rounds {
        if let Ok(stream) = TcpStream::connect(place) {
            behave(stream, &mut random);
        }
    }
}

fn receive(listener: TcpListener, seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    while let Ok((stream, _)) = listener.accept() {
        let mut theirs = StdRng::seed_from_u64(random.r#gen());
        thread::spawn(move || behave(stream, &mut theirs));
    }
}

/// Servers on both sides of a link, which behave as badly as their clients.
struct Servers {
    /// Of the host, for the guest.
    outside: Vec<SocketAddr>,
    /// Of the guest, on the host's addresses.
    inside: Vec<SocketAddr>,
}

/// The numbers by which the guest's listeners are told apart.
const LISTENERS: std::ops::Range<u64> = 4..8;

impl Servers {
    fn start(link: &Link) -> Self {
        let outside = (0..4).zip([HOST4, HOST6].into_iter().cycle()).map(|(seed, host)| {
            let (listener, place) = listener(host);
            thread::spawn(move || receive(listener, seed));
            place
        });
        let inside = LISTENERS.zip(8301..).map(|(seed, number)| {
            let listener = link.in_guest(move || TcpListener::bind(address("::", number)).unwrap());
            inbound::opened(link, seed, Transport::Tcp, "::", number);
            link.guest(move || receive(listener, seed));
            wait_for("the port", || TcpStream::connect(address("127.0.0.1", number)).is_ok());
            address(["127.0.0.1", "::1"][seed as usize % 2], number)
        });
        Self { outside: outside.collect(), inside: inside.collect() }
    }

    /// Clients of all of them at once, each that many times.
    fn meet(&self, link: &Link, seed: u64, rounds: usize) {
        let outside = self.outside.iter().zip(seed..);
        let mut workers: Vec<JoinHandle<()>> =
            outside.map(|(&place, seed)| link.guest(move || meet(place, seed, rounds))).collect();
        for (&place, seed) in self.inside.iter().zip(seed + 4..) {
            workers.push(link.on_host(move || meet(place, seed, rounds)));
        }
        workers.into_iter().for_each(|worker| worker.join().unwrap());
    }
}

#[test]
fn connections_that_end_in_any_way_beside_nonsense_leave_nothing() {
    if !as_root() {
        return;
    }
    let link = Link::new();
    let stop = Arc::new(AtomicBool::new(false));
    let nonsense = link.guest({
        let stop = Arc::clone(&stop);
        move || send_nonsense(&stop)
    });
    Servers::start(&link).meet(&link, 0, 50);
    stop.store(true, Ordering::Relaxed);
    println!("{} frames of nonsense", nonsense.join().unwrap());
    LISTENERS.for_each(|number| link.ports.closed(number));
    // Nothing is stuck, and everything still works.
    wait_for("the flows to end", || link.connections() == 0);
    let (listener, place) = listener(HOST4);
    let guest = link.guest(move || connect(place).read_exact(&mut [0; 3]).is_ok());
    accept(&listener).write_all(b"end").unwrap();
    assert!(guest.join().unwrap());
}

/// Sends datagrams to anybody, without looking whether they arrive.
fn flood(gateway: std::net::IpAddr, stop: &AtomicBool) -> usize {
    let mut random = StdRng::seed_from_u64(2);
    let mut sent = 0;
    let resolver = wslr::network::addresses::RESOLVER.into();
    let places = [HOST4.parse().unwrap(), gateway, resolver];
    while !stop.load(Ordering::Relaxed) {
        // Each socket is a flow of its own.
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        let bytes = vec![sent as u8; random.gen_range(0..1400)];
        for _ in 0..20 {
            let port =
                if random.gen_range(0..3) == 0 { 53 } else { random.gen_range(1..=u16::MAX) };
            let place = SocketAddr::new(places[random.gen_range(0..3)], port);
            sent += usize::from(socket.send_to(&bytes, place).is_ok());
        }
        thread::sleep(Duration::from_millis(2));
    }
    sent
}

/// A connection that is used as it should be, until `stop`: every answer comes, and is right.
/// Gives how many did and the longest wait.
fn use_well(mut stream: TcpStream, stop: &AtomicBool) -> (u32, Duration) {
    let (mut count, mut longest) = (0_u32, Duration::ZERO);
    while !stop.load(Ordering::Relaxed) {
        let started = Instant::now();
        let question = [count.to_le_bytes(); 256].concat();
        stream.write_all(&question).unwrap();
        let mut answer = vec![0; question.len()];
        stream.read_exact(&mut answer).unwrap();
        assert!(answer == question);
        longest = longest.max(started.elapsed());
        count += 1;
        thread::sleep(Duration::from_millis(50));
    }
    (count, longest)
}

/// In which a reset that is lost on the way is noticed.
const MINUTE_AND_MORE: Duration = Duration::from_secs(90);

/// Waits for the end of all connections but one.
fn only_one_is_left(link: &Link) {
    if !becomes(MINUTE_AND_MORE, || link.connections() == 1) {
        let list = || Command::new("ss").arg("-tanp").output().unwrap().stdout;
        for (whose, list) in [("host", list()), ("guest", link.in_guest(list))] {
            println!("{whose}:\n{}", String::from_utf8_lossy(&list));
        }
        panic!("{} connections are left", link.connections());
    }
}

#[test]
#[ignore = "takes half an hour, or WSLR_SOAK_SECONDS"]
fn hostility_for_long_leaves_memory_flat_and_others_unharmed() {
    if !as_root() {
        return;
    }
    let seconds = std::env::var("WSLR_SOAK_SECONDS").map_or(1800, |text| text.parse().unwrap());
    let end = Instant::now() + Duration::from_secs(seconds);
    let link = Link::new();
    let servers = Servers::start(&link);
    // One who behaves, as a program of another distro would.
    let (listener, place) = listener(HOST4);
    let behaves = Arc::new(AtomicBool::new(false));
    let good = link.guest({
        let stop = Arc::clone(&behaves);
        move || use_well(connect(place), &stop)
    });
    let mut echo = accept(&listener);
    thread::spawn(move || {
        let mut bytes = vec![0; 4096];
        while let Ok(count @ 1..) = echo.read(&mut bytes) {
            echo.write_all(&bytes[..count]).unwrap();
        }
    });
    let mut sizes = Vec::new();
    let gateway = link.addresses.gateway4.into();
    for round in 0.. {
        let stop = Arc::new(AtomicBool::new(false));
        let evil = [Arc::clone(&stop), Arc::clone(&stop)];
        let [first, second] = evil;
        let nonsense = link.guest(move || send_nonsense(&first));
        let floods = link.guest(move || flood(gateway, &second));
        for part in 0..20 {
            servers.meet(&link, round * 1000 + part * 10, 25);
        }
        stop.store(true, Ordering::Relaxed);
        let sent = (nonsense.join().unwrap(), floods.join().unwrap());
        only_one_is_left(&link);
        sizes.push(memory());
        println!(
            "round {round}: 4,000 connections, {} frames of nonsense, {} datagrams; {} flows, {} KiB",
            sent.0,
            sent.1,
            link.flows(),
            memory()
        );
        if Instant::now() > end {
            break;
        }
        assert!(!good.is_finished(), "who behaves was harmed");
    }
    behaves.store(true, Ordering::Relaxed);
    let (count, longest) = good.join().unwrap();
    println!("{count} good answers, the slowest after {longest:?}");
    assert!(count > 0 && longest < PATIENCE);
    // What the first rounds needed is enough for all.
    let early = sizes.iter().take(3).max().unwrap();
    let late = sizes.iter().rev().take(3).max().unwrap();
    assert!(*late < early + (8 << 10), "{sizes:?}");
    wait_for("the flows to end", || link.connections() == 0);
}

#[test]
#[ignore = "takes a minute"]
fn a_reset_that_is_lost_after_the_hosts_end_is_noticed() {
    if !as_root() {
        return;
    }
    let link = Link::new();
    let (listener, place) = listener(HOST4);
    let guest = link.guest(move || {
        let mut stream = connect(place);
        assert_eq!(stream.read(&mut [0]).unwrap(), 0);
        stream
    });
    drop(accept(&listener));
    let stream = guest.join().unwrap();
    // Its acknowledgment of the end is not what is to be lost.
    thread::sleep(Duration::from_secs(1));
    link.losses.store(1, Ordering::Relaxed);
    reset(&stream);
    drop(stream);
    thread::sleep(Duration::from_secs(1));
    link.losses.store(0, Ordering::Relaxed);
    assert_eq!(link.connections(), 1);
    assert!(becomes(MINUTE_AND_MORE, || link.connections() == 0), "the connection is kept");
}
