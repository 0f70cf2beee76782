//! Many connections at once, and connections that end in every way there is.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::link::{HOST4, HOST6, Link, as_root};
use crate::{accept, address, connect, inbound, listener, wait_for};

/// Runs the calling test in a process of its own; false where that has been done.
fn alone() -> bool {
    const MARK: &str = "WSLR_TEST_ALONE";
    if std::env::var_os(MARK).is_some() {
        return true;
    }
    let name = thread::current().name().unwrap().to_owned();
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &name, "--nocapture"])
        .env(MARK, "1")
        .output()
        .unwrap();
    println!("{}", String::from_utf8_lossy(&output.stdout));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    false
}

/// A process that makes connections and keeps them until this is dropped.
struct Held {
    stop: UnixStream,
    process: nix::unistd::Pid,
}

impl Held {
    fn start(work: impl FnOnce() -> Vec<TcpStream>) -> Self {
        let (mut theirs, stop) = UnixStream::pair().unwrap();
        // SAFETY: the child works on its own sockets and ends by itself.
        match unsafe { nix::unistd::fork() }.unwrap() {
            nix::unistd::ForkResult::Child => {
                drop(stop);
                let streams = work();
                theirs.write_all(b"x").unwrap();
                let _ = theirs.read(&mut [0]);
                drop(streams);
                unsafe { libc::_exit(0) }
            }
            nix::unistd::ForkResult::Parent { child } => Self { stop, process: child },
        }
    }

    /// Waits until it has them.
    fn wait(self) -> Self {
        (&self.stop).read_exact(&mut [0]).unwrap();
        self
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let _ = self.stop.shutdown(Shutdown::Both);
        let _ = nix::sys::wait::waitpid(self.process, None);
    }
}

/// Accepts connections and says something on each.
fn serve_many(listener: &TcpListener, count: usize) -> Vec<TcpStream> {
    let mut streams: Vec<_> = (0..count).map(|_| accept(listener)).collect();
    for stream in &mut streams {
        stream.read_exact(&mut [0; 100]).unwrap();
        stream.write_all(&[1; 5000]).unwrap();
    }
    streams
}

/// Connects and says something on each.
fn connect_many(place: SocketAddr, count: usize) -> Vec<TcpStream> {
    let mut streams: Vec<_> = (0..count).map(|_| connect(place)).collect();
    streams.iter_mut().for_each(|stream| stream.write_all(&[0; 100]).unwrap());
    streams.iter_mut().for_each(|stream| stream.read_exact(&mut [0; 5000]).unwrap());
    streams
}

/// This process's memory in kibibytes.
fn memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse().unwrap()
}

#[test]
fn ten_thousand_idle_connections_cost_little_and_a_thousand_busy_ones_go_on() {
    if !as_root() || !alone() {
        return;
    }
    const IDLE: usize = 10_000;
    const BUSY: usize = 1000;
    let limit = nix::sys::resource::Resource::RLIMIT_NOFILE;
    let (_, most) = nix::sys::resource::getrlimit(limit).unwrap();
    nix::sys::resource::setrlimit(limit, most, most).unwrap();
    let link = Link::new();
    let (listener, place) = listener(HOST4);
    // Both ends of the idle ones are other processes', for descriptors are counted.
    let held = {
        let listener = listener.try_clone().unwrap();
        let server = Held::start(move || serve_many(&listener, IDLE));
        let before = memory();
        let guest = link.in_guest(move || Held::start(move || connect_many(place, IDLE)));
        (before, server.wait(), guest.wait())
    };
    let cost = memory().saturating_sub(held.0);
    println!("{IDLE} idle connections cost {cost} KiB");
    assert!(link.connections() >= IDLE, "{}", link.connections());
    assert!(cost < 80 << 10, "{cost} KiB");
    let server = thread::spawn(move || serve_many(&listener, BUSY));
    let guests = link.in_guest(move || connect_many(place, BUSY));
    let servers = server.join().unwrap();
    let started = std::time::Instant::now();
    let echo = |streams: Vec<TcpStream>| {
        for mut stream in streams {
            thread::spawn(move || {
                let mut bytes = [0; 4096];
                while let Ok(count @ 1..) = stream.read(&mut bytes) {
                    stream.write_all(&bytes[..count]).unwrap();
                }
            });
        }
    };
    echo(servers);
    let guests = Arc::new(Mutex::new(guests));
    let workers: Vec<_> = (0..50)
        .map(|_| {
            let guests = Arc::clone(&guests);
            thread::spawn(move || {
                let mine: Vec<TcpStream> = {
                    let mut guests = guests.lock().unwrap();
                    let rest = guests.len() - BUSY / 50;
                    guests.drain(rest..).collect()
                };
                for round in 0..5_u8 {
                    let bytes = [round; 16_000];
                    mine.iter().for_each(|mut stream| stream.write_all(&bytes).unwrap());
                    for mut stream in &mine {
                        let mut back = vec![0; bytes.len()];
                        stream.read_exact(&mut back).unwrap();
                        assert!(back == bytes);
                    }
                }
            })
        })
        .collect();
    workers.into_iter().for_each(|worker| worker.join().unwrap());
    println!("{BUSY} busy ones moved 2 times 80 MB in {:?}", started.elapsed());
    drop(held);
    wait_for("the flows to end", || link.flows() == 0);
}

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
    let mut workers = Vec::new();
    for (seed, host) in (0..4).zip([HOST4, HOST6].into_iter().cycle()) {
        let (listener, place) = listener(host);
        thread::spawn(move || receive(listener, seed));
        workers.push(link.guest(move || meet(place, seed, 50)));
    }
    for (seed, number) in (4..8).zip(8301..) {
        let listener = link.in_guest(move || TcpListener::bind(address("::", number)).unwrap());
        inbound::opened(&link, seed, wslr::protocol::guest::Transport::Tcp, "::", number);
        link.guest(move || receive(listener, seed));
        wait_for("the port", || TcpStream::connect(address("127.0.0.1", number)).is_ok());
        let place = address(["127.0.0.1", "::1"][seed as usize % 2], number);
        let namespace = link.on_host(move || meet(place, seed, 50));
        workers.push(namespace);
    }
    workers.into_iter().for_each(|worker| worker.join().unwrap());
    stop.store(true, Ordering::Relaxed);
    println!("{} frames of nonsense", nonsense.join().unwrap());
    for seed in 4..8 {
        link.ports.closed(seed);
    }
    // Nothing is stuck, and everything still works.
    wait_for("the flows to end", || link.connections() == 0);
    let (listener, place) = listener(HOST4);
    let guest = link.guest(move || connect(place).read_exact(&mut [0; 3]).is_ok());
    accept(&listener).write_all(b"end").unwrap();
    assert!(guest.join().unwrap());
}
