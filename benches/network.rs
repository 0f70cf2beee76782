//! Version 2's network against `pasta` (passt) and `slirp4netns` (libslirp), the two engines
//! of the kind that others use, in one run and without a virtual machine: each is given a
//! network namespace as its guest, and carries the same bytes to the same server.
//!
//! It needs root and Debian's packages `passt` and `slirp4netns`; one that is missing is left
//! out, and said to be. Figures are of the whole way; `CPU` is the engine's own time. `direct`
//! is no engine at all, a stream of the host to itself: no engine can do more. At the end: how
//! long after `listen` a port is the host's, and after `close` free. Arguments: seconds per
//! stream (2), and how many cycles of ports (1000).

#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used)]
#![allow(clippy::undocumented_unsafe_blocks)]

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns, unshare};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};
use wslr::devices::net::Offloads;
use wslr::guest::interface;
use wslr::guest::listeners::{Entrance, Listeners};
use wslr::network::addresses::Addresses;
use wslr::network::nat::{Nat, Settings};
use wslr::network::ports::Ports;
use wslr::protocol::guest::Event;

#[path = "../tests/network/link.rs"]
#[allow(dead_code)]
mod link;

/// The server's address; not of the host's loopback, which engines treat in ways of their own.
const SERVER: &str = "198.51.100.1";

/// A guest with an engine of its own.
struct Guest {
    name: &'static str,
    namespace: File,
    engine: Child,
    /// Keeps the namespace of an engine that has not made it itself.
    holder: Option<Child>,
}

impl Drop for Guest {
    fn drop(&mut self) {
        for child in [Some(&mut self.engine), self.holder.as_mut()].into_iter().flatten() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Guest {
    fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> thread::JoinHandle<T> {
        let namespace = self.namespace.try_clone().unwrap();
        thread::spawn(move || {
            setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
            work()
        })
    }

    /// The time that the engine's process has worked.
    fn worked(&self) -> Duration {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.engine.id())).unwrap();
        let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
        let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
        Duration::from_millis(ticks * 10)
    }
}

fn main() {
    let arguments: Vec<String> =
        std::env::args().skip(1).filter(|argument| !argument.starts_with("--bench")).collect();
    if arguments.first().map(String::as_str) == Some("engine") {
        return engine();
    }
    if !nix::unistd::geteuid().is_root() {
        println!("network: skipped, it needs root");
        return;
    }
    let number = |at: usize, usual: u64| arguments.get(at).map_or(usual, |it| it.parse().unwrap());
    let seconds = Duration::from_secs(number(0, 2));
    // The host of all of them.
    unshare(CloneFlags::CLONE_NEWNET).unwrap();
    interface::bring_up("lo").unwrap();
    interface::set_address("lo:1", SERVER.parse().unwrap(), 24).unwrap();
    // What `pasta` takes for the way out.
    run("ip", "tuntap add out0 mode tap");
    run("ip", "addr add 203.0.113.1/24 dev out0");
    run("ip", "link set out0 up");
    run("ip", "route add default via 203.0.113.254");
    let guests = [wslr(), pasta(), slirp(), direct()];
    println!(
        "{:12} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9}",
        "engine", "out MB/s", "CPU s/GB", "in MB/s", "CPU s/GB", "8 out", "conn/s"
    );
    for guest in guests.iter().flatten() {
        let (out, out_cost) = stream(guest, seconds, 1, true);
        let (inward, in_cost) = stream(guest, seconds, 1, false);
        let (eight, _) = stream(guest, seconds, 8, true);
        let rate = connections(guest);
        println!(
            "{:12} {out:9.0} {out_cost:9.2} {inward:9.0} {in_cost:9.2} {eight:9.0} {rate:9.0}",
            guest.name
        );
    }
    questions(&guests);
    drop(guests);
    ports(number(1, 1000));
}

fn run(program: &str, line: &str) {
    let status = Command::new(program).args(line.split(' ')).status().unwrap();
    assert!(status.success(), "{program} {line}");
}

// ---- engines ----

/// This program as an engine: a guest's namespace, whose number it says, and the NAT for it.
fn engine() {
    let addresses = Addresses::on([20, 224]);
    let network = link::guest_network(addresses);
    let (tap, namespace) = thread::spawn(move || link::make_guest(&network)).join().unwrap();
    let settings = Settings {
        addresses,
        resolver: "/etc/resolv.conf".into(),
        hosts: "/etc/hosts".into(),
        ports: Ports::new(|_| {}, Default::default()).unwrap(),
        lan_forwarding: false,
        host_loopback: true,
    };
    let offloads = Offloads { checksum: true, segments4: true, segments6: true };
    let nat = Nat::new(settings, offloads).unwrap();
    println!("{}", namespace.as_raw_fd());
    let stop = EventFd::new(EFD_NONBLOCK).unwrap();
    link::serve(nat, tap, &stop, &AtomicU32::new(0), &[Arc::default(), Arc::default()]);
}

fn wslr() -> Option<Guest> {
    let mut engine = Command::new(std::env::current_exe().unwrap())
        .arg("engine")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut number = String::new();
    BufReader::new(engine.stdout.take().unwrap()).read_line(&mut number).unwrap();
    let namespace = File::open(format!("/proc/{}/fd/{}", engine.id(), number.trim())).unwrap();
    Some(Guest { name: "wslr", namespace, engine, holder: None })
}

/// The guest, once it reaches the server.
fn ready(guest: Guest) -> Option<Guest> {
    let listener = TcpListener::bind((SERVER, 0)).unwrap();
    let place = listener.local_addr().unwrap();
    let end = Instant::now() + Duration::from_secs(10);
    let limit = Duration::from_millis(500);
    let reaches = move || TcpStream::connect_timeout(&place, limit).is_ok();
    while !guest.run(reaches).join().unwrap() {
        if Instant::now() > end {
            println!("{}: left out, its guest does not reach the server", guest.name);
            return None;
        }
        thread::sleep(Duration::from_millis(100));
    }
    Some(guest)
}

/// Starts a program; says so where there is none.
fn start(program: &str, arguments: &[&str]) -> Option<Child> {
    let (input, nothing) = (Stdio::piped(), || Stdio::null());
    let command = Command::new(program)
        .args(arguments)
        .stdin(input)
        .stdout(nothing())
        .stderr(nothing())
        .spawn();
    if command.is_err() {
        println!("{program}: left out, it is not installed");
    }
    command.ok()
}

/// It makes the namespace for a program that it runs: one that ends with its input.
fn pasta() -> Option<Guest> {
    let line = "--config-net --foreground --quiet --runas 0 -t none -u none -T none -U none cat";
    let engine = start("pasta", &line.split(' ').collect::<Vec<_>>())?;
    let path = format!("/proc/{0}/task/{0}/children", engine.id());
    let end = Instant::now() + Duration::from_secs(10);
    let child = loop {
        let children = fs::read_to_string(&path).unwrap_or_default();
        if let Some(child) = children.split_whitespace().next() {
            break child.to_owned();
        }
        assert!(Instant::now() < end);
        thread::sleep(Duration::from_millis(10));
    };
    // It sets the interface up before it runs the program.
    thread::sleep(Duration::from_millis(500));
    let namespace = File::open(format!("/proc/{child}/ns/net")).unwrap();
    ready(Guest { name: "pasta", namespace, engine, holder: None })
}

fn slirp() -> Option<Guest> {
    let holder = Command::new("unshare")
        .args(["--net", "sh", "-c", "echo; exec sleep 100000"])
        .stdout(Stdio::piped())
        .spawn();
    let mut holder = holder.unwrap();
    holder.stdout.take().unwrap().read_exact(&mut [0]).unwrap();
    let namespace = File::open(format!("/proc/{}/ns/net", holder.id())).unwrap();
    let process = holder.id().to_string();
    let engine = start("slirp4netns", &["--configure", "--mtu=65520", &process, "tap0"]);
    let Some(engine) = engine else {
        let _ = holder.kill();
        let _ = holder.wait();
        return None;
    };
    ready(Guest { name: "slirp4netns", namespace, engine, holder: Some(holder) })
}

/// No engine: the host itself.
fn direct() -> Option<Guest> {
    let engine = Command::new("sleep").arg("100000").spawn().unwrap();
    let namespace = File::open("/proc/thread-self/ns/net").unwrap();
    Some(Guest { name: "direct", namespace, engine, holder: None })
}

// ---- what is measured ----

/// Megabytes per second of so many streams, and the engine's seconds per gigabyte.
fn stream(guest: &Guest, time: Duration, count: usize, outward: bool) -> (f64, f64) {
    let listener = TcpListener::bind((SERVER, 0)).unwrap();
    let place = listener.local_addr().unwrap();
    let (stop, total) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let write = {
        let stop = Arc::clone(&stop);
        move |mut stream: TcpStream| {
            let bytes = vec![5; 128 << 10];
            while !stop.load(Ordering::Relaxed) && stream.write_all(&bytes).is_ok() {}
        }
    };
    let read = {
        let total = Arc::clone(&total);
        move |mut stream: TcpStream| {
            let mut bytes = vec![0; 256 << 10];
            while let Ok(count @ 1..) = stream.read(&mut bytes) {
                total.fetch_add(count, Ordering::Relaxed);
            }
        }
    };
    let mut threads = Vec::new();
    for _ in 0..count {
        let (write, read) = (write.clone(), read.clone());
        threads.push(guest.run(move || {
            let stream = TcpStream::connect(place).unwrap();
            if outward { write(stream) } else { read(stream) }
        }));
    }
    for _ in 0..count {
        let (write, read) = (write.clone(), read.clone());
        let stream = listener.accept().unwrap().0;
        threads.push(thread::spawn(move || if outward { read(stream) } else { write(stream) }));
    }
    // Not the beginning, in which windows grow.
    thread::sleep(Duration::from_millis(300));
    let (before, worked, started) = (total.load(Ordering::Relaxed), guest.worked(), Instant::now());
    thread::sleep(time);
    let bytes = (total.load(Ordering::Relaxed) - before) as f64;
    let (took, worked) = (started.elapsed().as_secs_f64(), guest.worked() - worked);
    stop.store(true, Ordering::Relaxed);
    for thread in threads {
        thread.join().unwrap();
    }
    (bytes / took / 1e6, worked.as_secs_f64() / (bytes / 1e9))
}

/// Prints how long small questions take: the middle of several turns, in which the engines
/// take part one after the other, so that what else the host does meets all of them.
fn questions(guests: &[Option<Guest>]) {
    const TURNS: usize = 7;
    let mut times = vec![(Vec::new(), Vec::new()); guests.len()];
    for _ in 0..TURNS {
        for (guest, (streams, datagram)) in guests.iter().zip(&mut times) {
            if let Some(guest) = guest {
                streams.push(round_trip(guest));
                datagram.push(datagrams(guest));
            }
        }
    }
    let middle = |times: &mut Vec<f64>| {
        times.sort_unstable_by(f64::total_cmp);
        times[TURNS / 2]
    };
    println!("{:12} {:>9} {:>9}", "engine", "stream µs", "datagram µs");
    for (guest, (streams, datagram)) in guests.iter().zip(&mut times) {
        if let Some(guest) = guest {
            println!("{:12} {:9.1} {:11.1}", guest.name, middle(streams), middle(datagram));
        }
    }
}

/// Microseconds of a question of one byte and its answer.
fn round_trip(guest: &Guest) -> f64 {
    const ROUNDS: u32 = 10_000;
    let listener = TcpListener::bind((SERVER, 0)).unwrap();
    let place = listener.local_addr().unwrap();
    let asking = guest.run(move || {
        let mut stream = TcpStream::connect(place).unwrap();
        stream.set_nodelay(true).unwrap();
        let started = Instant::now();
        for _ in 0..ROUNDS {
            stream.write_all(&[1]).unwrap();
            stream.read_exact(&mut [0]).unwrap();
        }
        started.elapsed()
    });
    let mut stream = listener.accept().unwrap().0;
    stream.set_nodelay(true).unwrap();
    while stream.read_exact(&mut [0]).is_ok() {
        stream.write_all(&[1]).unwrap();
    }
    asking.join().unwrap().as_secs_f64() * 1e6 / f64::from(ROUNDS)
}

/// Connections per second, one after the other, each with a byte.
fn connections(guest: &Guest) -> f64 {
    const ROUNDS: u32 = 1000;
    let listener = TcpListener::bind((SERVER, 0)).unwrap();
    let place = listener.local_addr().unwrap();
    let asking = guest.run(move || {
        let started = Instant::now();
        for _ in 0..ROUNDS {
            TcpStream::connect(place).unwrap().read_exact(&mut [0]).unwrap();
        }
        started.elapsed()
    });
    for _ in 0..ROUNDS {
        listener.accept().unwrap().0.write_all(&[1]).unwrap();
    }
    f64::from(ROUNDS) / asking.join().unwrap().as_secs_f64()
}

/// Microseconds of a datagram and its answer, of the size of a question for a name.
fn datagrams(guest: &Guest) -> f64 {
    const ROUNDS: u32 = 10_000;
    let server = UdpSocket::bind((SERVER, 0)).unwrap();
    let place = server.local_addr().unwrap();
    let asking = guest.run(move || {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.connect(place).unwrap();
        let started = Instant::now();
        for _ in 0..ROUNDS {
            socket.send(&[1; 40]).unwrap();
            socket.recv(&mut [0; 100]).unwrap();
        }
        started.elapsed()
    });
    for _ in 0..ROUNDS {
        let (_, from) = server.recv_from(&mut [0; 100]).unwrap();
        server.send_to(&[1; 100], from).unwrap();
    }
    asking.join().unwrap().as_secs_f64() * 1e6 / f64::from(ROUNDS)
}

// ---- ports ----

/// The group that this process is in from now on.
fn group() -> File {
    use nix::mount::{MntFlags, MsFlags, mount, umount2};
    let mounted = tempfile::tempdir().unwrap();
    mount(Some("none"), mounted.path(), Some("cgroup2"), MsFlags::empty(), None::<&str>).unwrap();
    let path = mounted.path().join(format!("wslr-bench-{}", std::process::id()));
    fs::create_dir(&path).unwrap();
    fs::write(path.join("cgroup.procs"), "0").unwrap();
    let group = File::open(&path).unwrap();
    umount2(mounted.path(), MntFlags::MNT_DETACH).unwrap();
    group
}

/// Whether somebody takes datagrams there.
fn is_taken(place: SocketAddr) -> bool {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_nonblocking(true).unwrap();
    socket.connect(place).unwrap();
    let sent = socket.send(b"x");
    let refused = |error: io::Error| error.kind() == io::ErrorKind::ConnectionRefused;
    // On the loopback the word of it is there when the datagram is sent.
    !sent.is_err_and(refused) && !socket.recv(&mut [0]).is_err_and(refused)
}

/// Listens and closes on random ports, and says when the host noticed.
fn ports(cycles: u64) {
    let group = group();
    let link = link::Link::new();
    let (ports, addresses) = (link.ports.clone(), link.addresses);
    let mut listeners = link.in_guest(move || {
        let interface = interface::number("eth0").unwrap();
        let (host4, host6) = (addresses.host4, addresses.host6);
        let mut listeners = Listeners::new(Entrance { interface, host4, host6 }).unwrap();
        listeners.watch(uuid::Uuid::nil(), group.as_fd()).unwrap();
        listeners
    });
    thread::spawn(move || {
        use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
        loop {
            let mut polled = [PollFd::new(listeners.as_fd(), PollFlags::POLLIN)];
            poll(&mut polled, PollTimeout::NONE).unwrap();
            for event in listeners.changes() {
                match event {
                    Event::PortOpened(listener) => ports.opened(listener),
                    Event::PortClosed { socket } => ports.closed(socket),
                    _ => {}
                }
            }
        }
    });
    let until = |started: Instant, mut is_so: Box<dyn FnMut() -> bool>| {
        while !is_so() {
            assert!(started.elapsed() < Duration::from_secs(10));
            thread::yield_now();
        }
        started.elapsed()
    };
    for udp in [false, true] {
        let (mut opened, mut closed) = (Vec::new(), Vec::new());
        let mut port = 1024_u16;
        for _ in 0..cycles {
            port = 1024 + port.wrapping_mul(25_173).wrapping_add(13_849) % 30_000;
            let place = SocketAddr::from(([127, 0, 0, 1], port));
            let (started, socket, listener) = link.in_guest(move || {
                let started = Instant::now();
                match udp {
                    true => (started, Some(UdpSocket::bind(("0.0.0.0", port)).unwrap()), None),
                    false => (started, None, Some(TcpListener::bind(("0.0.0.0", port)).unwrap())),
                }
            });
            // A port of UDP that is nobody's refuses datagrams; binding it to find out would take
            // it from the host at the wrong moment.
            let taken = move || match udp {
                true => is_taken(place),
                false => TcpStream::connect(place).is_ok(),
            };
            opened.push(until(started, Box::new(taken)));
            let started = Instant::now();
            drop((socket, listener));
            closed.push(until(started, Box::new(move || !taken())));
        }
        let name = if udp { "UDP" } else { "TCP" };
        for (what, times) in [("listen", &mut opened), ("close", &mut closed)] {
            times.sort_unstable();
            let at = |part: usize| times[(times.len() - 1) * part / 100];
            println!(
                "{name} {what}: half after {:?}, 99 of 100 after {:?}, all after {:?}",
                at(50),
                at(99),
                at(100)
            );
        }
    }
    // What only tried is over soon.
    let started = Instant::now();
    while link.flows() > 0 && started.elapsed() < Duration::from_secs(90) {
        thread::sleep(Duration::from_millis(10));
    }
    let (ports, flows) = (link.ports.list().len(), link.flows());
    println!("left: {ports} ports, {flows} flows after {:?}", started.elapsed());
    std::process::exit(0);
}
