//! Many connections at once.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread;

use crate::link::{HOST4, Link, as_root};
use crate::{accept, connect, listener, wait_for};

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
pub fn memory() -> u64 {
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
