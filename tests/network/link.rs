//! A guest's network stack without a guest: that of this kernel, in a network namespace of
//! its own, on a TAP device that is the cable to the NAT. The host is a second namespace.

use std::fs::{self, File};
use std::io::{self, IoSlice, Read, Write};
use std::net::{IpAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns, unshare};
use vm_memory::{GuestAddress, GuestMemoryBackend as _, GuestMemoryMmap};
use vmm_sys_util::epoll::{ControlOperation, EpollEvent, EventSet};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};
use wslr::devices::buffers::{Buffers, Segment};
use wslr::devices::net::{Deliver, Link as _, Offloads};
use wslr::guest::{interface, network};
use wslr::network::addresses::{self, Addresses};
use wslr::network::nat::{Nat, Settings};
use wslr::network::ports::Ports;
use wslr::protocol::guest::{Mirrored, Network};

/// The host's address, which is not its loopback.
pub const HOST4: &str = "198.51.100.1";
/// The same of IPv6.
pub const HOST6: &str = "2001:db8::1";

/// A NAT between two namespaces.
pub struct Link {
    pub addresses: Addresses,
    /// The host's `/etc/resolv.conf`.
    pub resolver: PathBuf,
    /// Drops one of so many frames each way, where it is not 0.
    pub losses: Arc<AtomicU32>,
    /// The guest's ports on the host.
    pub ports: Ports,
    /// Flows of the NAT.
    flows: Arc<AtomicUsize>,
    connections: Arc<AtomicUsize>,
    guest: File,
    stop: EventFd,
    nat: Option<JoinHandle<()>>,
    _directory: tempfile::TempDir,
}

/// What links may differ in.
#[derive(Clone, Copy)]
pub struct Options {
    /// What work the guest takes.
    pub offloads: Offloads,
    /// Whether the guest reaches the host's loopback.
    pub host_loopback: bool,
    /// Whether others than the host's own programs reach the guest's ports.
    pub lan_forwarding: bool,
    /// Whether the ports of the guest and of the host are one.
    pub mirrored: bool,
}

impl Default for Options {
    fn default() -> Self {
        let offloads = Offloads { checksum: true, segments4: true, segments6: true };
        Self { offloads, host_loopback: true, lan_forwarding: false, mirrored: false }
    }
}

/// Runs the calling test as root of a user namespace where it is not root; false where it
/// has been run so.
pub fn as_root() -> bool {
    if nix::unistd::geteuid().is_root() {
        return true;
    }
    let name = thread::current().name().unwrap().to_owned();
    let status = Command::new("unshare")
        .args(["--user", "--map-root-user"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", &name, "--nocapture"])
        .status()
        .unwrap();
    assert!(status.success());
    false
}

impl Link {
    /// Makes this thread's namespace the host, and a guest.
    pub fn new() -> Self {
        Self::with(Options::default())
    }

    /// The same with other settings.
    pub fn with(options: Options) -> Self {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        fs::write("/proc/sys/net/ipv4/ping_group_range", "0 0").unwrap();
        let _ = fs::write("/proc/sys/net/ipv6/conf/lo/accept_dad", "0");
        interface::bring_up("lo").unwrap();
        interface::set_address("lo:1", HOST4.parse().unwrap(), 24).unwrap();
        interface::set_address("lo", HOST6.parse().unwrap(), 64).unwrap();
        // The kernel needs a moment until the address can be used.
        let end = Instant::now() + Duration::from_secs(10);
        while UdpSocket::bind((HOST6.parse::<IpAddr>().unwrap(), 0)).is_err() {
            assert!(Instant::now() < end);
            thread::sleep(Duration::from_millis(10));
        }
        let directory = tempfile::tempdir().unwrap();
        let resolver = directory.path().join("resolv.conf");
        fs::write(&resolver, format!("nameserver {HOST4}\n")).unwrap();
        let addresses = Addresses::on([20, 224]);
        let mirrored = options.mirrored.then_some(Mirrored { host: None });
        let network = Network { mirrored, ..guest_network(addresses) };
        let (tap, guest) = thread::spawn(move || make_guest(&network)).join().unwrap();
        let stop = EventFd::new(EFD_NONBLOCK).unwrap();
        let ports = Ports::new(|text| println!("{text}"), Default::default()).unwrap();
        let (losses, flows) = (Arc::<AtomicU32>::default(), Arc::<AtomicUsize>::default());
        let connections = Arc::<AtomicUsize>::default();
        let nat = thread::spawn({
            let stop = stop.try_clone().unwrap();
            let losses = Arc::clone(&losses);
            let counts = [Arc::clone(&flows), Arc::clone(&connections)];
            let settings = Settings {
                addresses,
                resolver: resolver.clone(),
                hosts: resolver.with_file_name("hosts"),
                ports: ports.clone(),
                host_loopback: options.host_loopback,
                lan_forwarding: options.lan_forwarding,
            };
            let nat = Nat::new(settings, options.offloads).unwrap();
            move || serve(nat, tap, &stop, &losses, &counts)
        });
        let nat = Some(nat);
        Self {
            addresses,
            resolver,
            losses,
            ports,
            flows,
            connections,
            guest,
            stop,
            nat,
            _directory: directory,
        }
    }

    /// How many flows there are now.
    pub fn flows(&self) -> usize {
        self.flows.load(Ordering::Relaxed)
    }

    /// How many of them are connections.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// Runs something on the host, whose namespace is that of whoever made the link.
    pub fn on_host<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> JoinHandle<T> {
        // A thread has the namespace of the one that starts it.
        thread::spawn(work)
    }

    /// Runs something in the guest.
    pub fn guest<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> JoinHandle<T> {
        let guest = self.guest.try_clone().unwrap();
        thread::spawn(move || {
            setns(guest, CloneFlags::CLONE_NEWNET).unwrap();
            work()
        })
    }

    /// Runs something in the guest to its end.
    pub fn in_guest<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        self.guest(work).join().unwrap()
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.stop.write(1).unwrap();
        let result = self.nat.take().unwrap().join();
        assert!(result.is_ok() || thread::panicking());
    }
}

/// What a guest is told of its network.
pub fn guest_network(addresses: Addresses) -> Network {
    let caller = Some((addresses.host4, addresses.host6));
    Network { caller, ..addresses.network("nat") }
}

/// A guest in the namespace that this thread makes and enters: the cable, and the namespace.
pub fn make_guest(given: &Network) -> (File, File) {
    unshare(CloneFlags::CLONE_NEWNET).unwrap();
    let tap = File::options().read(true).write(true).open("/dev/net/tun").unwrap();
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"eth0") {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as i16;
    let call = |number: u64, argument: *mut libc::c_void| {
        let result = unsafe { libc::ioctl(tap.as_raw_fd(), number as libc::Ioctl, argument) };
        assert_eq!(result, 0, "{number:#x}: {}", std::io::Error::last_os_error());
    };
    let mut header: libc::c_int = 12;
    // What the guest's side of the cable takes: completing checksums, and both TSOs.
    let offloads = 1 | 2 | 4;
    const TUNSETIFF: u64 = 0x4004_54ca;
    const TUNSETVNETHDRSZ: u64 = 0x4004_54d8;
    const TUNSETOFFLOAD: u64 = 0x4004_54d0;
    call(TUNSETIFF, (&raw mut request).cast());
    call(TUNSETVNETHDRSZ, (&raw mut header).cast());
    call(TUNSETOFFLOAD, offloads as *mut libc::c_void);
    let mut address = request;
    address.ifr_ifru.ifru_hwaddr.sa_family = libc::ARPHRD_ETHER;
    for (to, from) in
        unsafe { &mut address.ifr_ifru.ifru_hwaddr.sa_data }.iter_mut().zip(addresses::GUEST_MAC)
    {
        *to = from.cast_signed();
    }
    call(libc::SIOCSIFHWADDR, (&raw mut address).cast());
    interface::bring_up("lo").unwrap();
    fs::write("/proc/sys/net/ipv4/ping_group_range", "0 0").unwrap();
    let _ = fs::write("/proc/sys/net/ipv6/conf/lo/accept_dad", "0");
    network::configure("eth0", given).unwrap();
    let flags = libc::O_NONBLOCK;
    assert_eq!(unsafe { libc::fcntl(tap.as_raw_fd(), libc::F_SETFL, flags) }, 0);
    (tap, File::open(Path::new("/proc/thread-self/ns/net")).unwrap())
}

/// The guest's end of the cable.
struct End {
    tap: File,
    /// In place of the guest's.
    memory: GuestMemoryMmap,
    head: Vec<u8>,
    /// Whether the next frame is.
    lost: bool,
}

impl Deliver for End {
    fn pieces(&mut self, pieces: &[IoSlice<'_>]) -> bool {
        if !self.lost {
            let _ = self.tap.write_vectored(pieces);
        }
        true
    }

    fn filled(
        &mut self,
        before: usize,
        most: usize,
        fill: &mut dyn FnMut(&mut Buffers<'_>) -> io::Result<usize>,
        head: &mut dyn FnMut(usize, &mut Vec<u8>),
    ) -> Option<io::Result<usize>> {
        let room = Segment { address: GuestAddress(0), length: most as u32 };
        let result = fill(&mut Buffers::new(&self.memory, &[room]).unwrap());
        if let Ok(length @ 1..) = result {
            let mut bytes = std::mem::take(&mut self.head);
            bytes.clear();
            head(length, &mut bytes);
            assert_eq!(bytes.len(), before);
            let place = self.memory.get_host_address(GuestAddress(0)).unwrap();
            // SAFETY: nobody else has this memory, and it is as long as that.
            let data = unsafe { std::slice::from_raw_parts(place, length) };
            self.pieces(&[IoSlice::new(&bytes), IoSlice::new(data)]);
            self.head = bytes;
        }
        Some(result)
    }
}

/// What the device's worker does, with a TAP for queues.
pub fn serve(
    mut nat: Nat,
    mut tap: File,
    stop: &EventFd,
    losses: &AtomicU32,
    counts: &[Arc<AtomicUsize>; 2],
) {
    let add = |fd: i32, number| {
        let interest = EpollEvent::new(EventSet::IN, number);
        nat.epoll().ctl(ControlOperation::Add, fd, interest).unwrap();
    };
    add(stop.as_raw_fd(), 0);
    add(tap.as_raw_fd(), 1);
    let mut frame = vec![0; 1 << 17];
    let mut random = 1_u32;
    let mut lost = || {
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let losses = losses.load(Ordering::Relaxed);
        losses != 0 && (random >> 8).is_multiple_of(losses)
    };
    let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 17)]).unwrap();
    let mut end = End { tap: tap.try_clone().unwrap(), memory, head: Vec::new(), lost: false };
    loop {
        let timeout = match nat.deadline() {
            _ if nat.has_frames() => 0,
            None => -1,
            Some(deadline) => {
                deadline.saturating_duration_since(Instant::now()).as_millis() as i32 + 1
            }
        };
        let mut ready = [EpollEvent::default(); 64];
        let number = nat.epoll().wait(timeout, &mut ready).unwrap();
        for report in &ready[..number] {
            match report.data() {
                0 => return,
                1 => {
                    for _ in 0..64 {
                        if !nat.takes() {
                            break;
                        }
                        let Ok(length) = tap.read(&mut frame) else { break };
                        if !lost() {
                            nat.take(&frame[..length]);
                        }
                    }
                }
                id => nat.event(id, report.event_set()),
            }
        }
        nat.expire(Instant::now());
        for _ in 0..64 {
            if !nat.has_frames() {
                break;
            }
            end.lost = lost();
            nat.give(&mut end);
        }
        counts[0].store(nat.flows(), Ordering::Relaxed);
        counts[1].store(nat.connections(), Ordering::Relaxed);
    }
}
