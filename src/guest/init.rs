//! PID 1 of the virtual machine.
//!
//! It serves distros whose roots are the machine's disks, and whose sessions come over
//! vsock. Where the service is gone, so is the machine's purpose: it flushes its disks and
//! powers off.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::reboot::{RebootMode, reboot};
use nix::sys::signal::SigSet;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, VsockAddr, accept4, bind, connect, getpeername,
    listen, socket,
};
use nix::unistd::Pid;
use uuid::Uuid;

use super::distro::{self, Kernel, Modules, Net, Options, link};
use super::job::{Job, Outcome};
use super::listeners::{Entrance, Listeners};
use super::mirror::{self, Mirror};
use super::server::{self, Arrived, Platform, Server, Work};
use super::streams::{Streams, Whole};
use super::{boot, cgroup, crash, disk, interface, log, memory, modules, network, sys, volume};
use crate::config::networking::Mode;
use crate::network::addresses;
use crate::protocol::guest::{
    CONTROL_PORT, Configure, Event, GuestError, HostPorts, Network, Request, Root, STREAM_PORT,
    StartDistro,
};
use crate::protocol::session::Program;

/// Runs the machine. Does not return; whatever fails, PID 1 must not end.
pub fn run() -> ! {
    let _ = SigSet::all().thread_block();
    let modules = boot::prepare();
    match start(modules) {
        Ok(mut server) => _ = server.serve(),
        Err(error) => log::warn(format_args!("cannot reach the service: {error}")),
    }
    power_off()
}

/// Ends the machine, its disks flushed.
fn power_off() -> ! {
    let _ = sys::kill(Pid::from_raw(-1), libc::SIGKILL);
    nix::unistd::sync();
    loop {
        let _ = reboot(RebootMode::RB_POWER_OFF);
        nix::unistd::pause();
    }
}

fn new_socket() -> io::Result<OwnedFd> {
    Ok(socket(AddressFamily::Vsock, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?)
}

/// Connects to a port of the host.
///
/// # Errors
/// The system's.
pub(super) fn connect_to_host(port: u32) -> io::Result<OwnedFd> {
    let socket = new_socket()?;
    connect(socket.as_raw_fd(), &VsockAddr::new(libc::VMADDR_CID_HOST, port))?;
    Ok(socket)
}

fn start(modules: Vec<PathBuf>) -> io::Result<Server<VirtualMachine>> {
    let listener = new_socket()?;
    bind(listener.as_raw_fd(), &VsockAddr::new(libc::VMADDR_CID_ANY, STREAM_PORT))?;
    listen(&listener, Backlog::MAXCONN)?;
    sys::set_nonblocking(&listener)?;
    let control = connect_to_host(CONTROL_PORT)?;
    sys::set_nonblocking(&control)?;
    let streams = Streams::default();
    let platform = VirtualMachine {
        listener,
        streams,
        early_modules: modules,
        modules: None,
        load_modules: Vec::new(),
        isolated: HashMap::new(),
        network: None,
        listeners: None,
        mirror: None,
    };
    Server::start(platform, control)
}

/// How far the clock may be from the host's, which is told every minute.
const CLOCK_TOLERANCE: Duration = Duration::from_millis(250);

/// The driver that tells the host what memory is free.
const BALLOON: &str = "virtio_balloon";

/// Sets the clock to seconds and nanoseconds since 1970.
fn set_clock((seconds, nanoseconds): (i64, u32)) -> io::Result<()> {
    let time = nix::sys::time::TimeSpec::new(seconds, i64::from(nanoseconds));
    Ok(nix::time::clock_settime(nix::time::ClockId::CLOCK_REALTIME, time)?)
}

/// The platform of version 2.
struct VirtualMachine {
    listener: OwnedFd,
    streams: Streams,
    /// What distros need beyond what it took to reach the service.
    early_modules: Vec<PathBuf>,
    modules: Option<Modules>,
    /// What else is to be loaded of them.
    load_modules: Vec<String>,
    /// The numbers of distros with a network of their own.
    isolated: HashMap<Uuid, u8>,
    /// What the service said of the network.
    network: Option<Network>,
    /// Those ports, where the host wants to know.
    listeners: Option<Listeners>,
    /// The host's ports, where they are distros' too.
    mirror: Option<Mirror>,
}

impl Platform for VirtualMachine {
    fn interests(&self) -> Vec<BorrowedFd<'_>> {
        let listeners = self.listeners.iter().map(AsFd::as_fd);
        let listener = std::iter::once(self.listener.as_fd());
        listener.chain(listeners).chain(self.streams.interests()).collect()
    }

    fn events(&mut self) -> Vec<Event> {
        self.listeners.as_mut().map(Listeners::changes).unwrap_or_default()
    }

    fn deadline(&self) -> Option<Instant> {
        self.streams.deadline()
    }

    fn arrived(&mut self) -> Vec<Arrived> {
        self.accept();
        self.streams.advance().into_iter().filter_map(arrived).collect()
    }

    fn prepare(&mut self) -> io::Result<Option<Job>> {
        let modules = std::mem::take(&mut self.early_modules);
        let load = move || {
            boot::load_modules(&modules);
            Ok(Vec::new())
        };
        Job::start(load).map(Some)
    }

    fn configure(&mut self, configure: Configure) -> Work {
        let mut warnings = Vec::new();
        if let Err(error) = set_clock(configure.time) {
            warnings.push(format!("cannot set the clock: {error}"));
        }
        let random = File::options().write(true).open("/dev/random");
        if let Err(error) = random.and_then(|file| sys::add_entropy(&file, &configure.entropy)) {
            warnings.push(format!("cannot add entropy: {error}"));
        }
        if configure.crash_dumps {
            crash::receive();
        }
        let Configure { modules, swap, network, load_modules, .. } = configure;
        self.load_modules = load_modules;
        let network = network.map(|network| {
            let (network, mirror, warning) = mirror::prepare(network, Mirror::new);
            self.mirror = mirror;
            warnings.extend(warning);
            network
        });
        self.network.clone_from(&network);
        if modules.is_none() && swap.is_none() && network.is_none() {
            return Work::Done(Ok(warnings));
        }
        let work = move || {
            if let Some(lun) = modules {
                disk::mount_modules(lun, Path::new(boot::MODULES))?;
            }
            if let Some(lun) = swap {
                let device = Path::new("/dev").join(disk::wait_for(lun)?);
                if let Err(error) = sys::swap_on(&device) {
                    warnings.push(format!("the virtual machine runs without swap: {error}"));
                }
            }
            if let Some(network) = network {
                let directory = modules::directory();
                warnings.extend(network::set_up(&network, directory.as_deref()));
            }
            Ok(warnings)
        };
        match Job::start(work) {
            Ok(job) => Work::Begun(job),
            Err(error) => Work::Done(Err(GuestError::system("forking", &error))),
        }
    }

    fn set_search(&mut self, search: Option<String>) -> Outcome {
        let Some(network) = &mut self.network else { return Ok(Vec::new()) };
        network.search = search;
        network::write_resolver(network)
            .map(|()| Vec::new())
            .map_err(|error| GuestError::system("writing '/mnt/wsl/resolv.conf'", &error))
    }

    fn set_host_ports(&mut self, changes: &HostPorts) -> io::Result<()> {
        match &mut self.mirror {
            Some(mirror) => mirror.change(changes),
            None => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    fn set_time(&mut self, time: (i64, u32)) -> io::Result<()> {
        let clock = nix::time::ClockId::CLOCK_REALTIME;
        let own = nix::time::clock_gettime(clock)?;
        let seconds = time.0.saturating_sub(own.tv_sec());
        let apart =
            i128::from(seconds) * 1_000_000_000 + i128::from(time.1) - i128::from(own.tv_nsec());
        // A message takes its time; what is less than that is no difference.
        if apart.unsigned_abs() < CLOCK_TOLERANCE.as_nanos() {
            return Ok(());
        }
        log::warn(format_args!("the clock is {apart} ns apart from the host's"));
        set_clock(time)
    }

    fn configured(&mut self) -> Option<Job> {
        let caller = self.network.as_ref().and_then(|network| network.caller);
        if let Some((host4, host6)) = caller {
            let listeners = interface::number(network::NAME)
                .map(|interface| Entrance { interface, host4, host6 })
                .and_then(Listeners::new);
            match listeners {
                Ok(listeners) => self.listeners = Some(listeners),
                Err(error) => {
                    log::warn(format_args!("ports are not forwarded to the host: {error}"));
                }
            }
        }
        let release = modules::release()?;
        let directory = modules::directory_of(&release);
        self.modules = Some(Modules { release, directory: directory.clone() });
        let mut names = std::mem::take(&mut self.load_modules);
        names.insert(0, BALLOON.to_owned());
        let load = move || {
            // Commands that are about to start come first.
            sys::lower_priority();
            modules::load(&directory, &names);
            Ok(Vec::new())
        };
        Job::start(load).ok()
    }

    fn reclaim(&mut self, gradually: bool) -> io::Result<Job> {
        Job::start(|| memory::reclaim(gradually))
    }

    fn options(&mut self, start: StartDistro) -> Result<Options, GuestError> {
        let Root::Disk { lun } = start.root else {
            let error = io::ErrorKind::Unsupported.into();
            return Err(GuestError::system("starting a distribution of version 1", &error));
        };
        Ok(Options {
            name: start.name,
            hostname: start.hostname,
            time_zone: start.time_zone,
            stop_limit: start.stop_limit,
            safe_mode: start.safe_mode,
            root: distro::Root::Disk { lun, staging: PathBuf::from(boot::STAGING) },
            kernel: Kernel::Own,
            shared: Some(PathBuf::from(boot::SHARED)),
            init: Some(PathBuf::from("/init")),
            modules: self.modules.clone(),
            network: if start.isolated { self.own_network(start.distro) } else { Net::Shared },
            networking: self.mode(start.isolated).to_owned(),
        })
    }

    fn group(&mut self, distro: Uuid) -> Option<OwnedFd> {
        let group = cgroup::create(distro)
            .map_err(|error| log::warn(format_args!("cannot make a cgroup: {error}")))
            .ok()?;
        // Before anything of the distro runs.
        if let Some(Err(error)) =
            self.listeners.as_mut().map(|listeners| listeners.watch(distro, group.as_fd()))
        {
            log::warn(format_args!("ports of a distribution are not forwarded: {error}"));
        }
        if let Some(Err(error)) = self.mirror.as_ref().map(|mirror| mirror.attach(group.as_fd())) {
            log::warn(format_args!("the host's ports are not a distribution's: {error}"));
        }
        Some(group)
    }

    fn stops(&mut self, distro: Uuid) {
        cgroup::end_debug(distro);
    }

    fn disk(&self, request: &Request, distro: Option<(&Root, Pid)>) -> Outcome {
        match (request, distro) {
            (Request::GrowDistro { .. }, Some((Root::Disk { lun }, pid))) => {
                let root = PathBuf::from(format!("/proc/{pid}/root"));
                disk::grow_running(*lun, &root).map(|()| Vec::new())
            }
            (Request::MountDisk(request), _) => {
                let directory = modules::directory();
                volume::attach(request, directory.as_deref())
            }
            (Request::UnmountDisk { lun, names }, _) => volume::detach(*lun, names),
            _ => Err(GuestError::system("using a disk", &io::ErrorKind::Unsupported.into())),
        }
    }

    fn release(&self, distro: Uuid, root: &Root) -> Outcome {
        cgroup::remove(distro);
        match root {
            Root::Disk { lun } => disk::release(*lun).map(|()| Vec::new()),
            Root::Directory { .. } => Ok(Vec::new()),
        }
    }
}

impl VirtualMachine {
    /// What a distro is told of how it is connected. The ports of one that is isolated are its
    /// own in every mode.
    fn mode(&self, isolated: bool) -> &str {
        match &self.network {
            None => Mode::None.name(),
            Some(network) if isolated && network.mirrored.is_some() => Mode::Nat.name(),
            Some(network) => &network.mode,
        }
    }

    /// The network of a distro's own, with the same addresses at each of its starts.
    fn own_network(&mut self, distro: Uuid) -> Net {
        let next = u8::try_from(self.isolated.len() + 1).unwrap_or(u8::MAX);
        let number = *self.isolated.entry(distro).or_insert(next);
        let own = self.network.as_ref().and_then(|network| {
            let (guest4, guest6) = addresses::own(network.guest4, network.guest6, number)?;
            // Its ports are nobody else's.
            let network = network.clone();
            Some(Box::new(Network { guest4, guest6, caller: None, mirrored: None, ..network }))
        });
        Net::Own(own)
    }

    /// Takes all connections that wait.
    fn accept(&mut self) {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        while let Ok(fd) = accept4(self.listener.as_raw_fd(), flags) {
            // SAFETY: the call returned a new descriptor that nothing else owns.
            let stream = unsafe { OwnedFd::from_raw_fd(fd) };
            // A user of a distro may reach this port too, where the kernel's local
            // transport is loaded: only the host speaks for the user of them all.
            let peer = getpeername::<VsockAddr>(stream.as_raw_fd());
            if peer.is_ok_and(|peer| peer.cid() == libc::VMADDR_CID_HOST) {
                self.streams.accept(stream);
            }
        }
    }
}

/// A session as the distro's init takes it.
fn arrived(whole: Whole) -> Option<Arrived> {
    match link::memory_file(&whole.encoded) {
        Ok(request) => Some(Arrived {
            distro: whole.session.distro,
            request,
            control: whole.control,
            streams: whole.streams,
            is_debug: whole.session.program == Program::DebugShell,
        }),
        Err(error) => {
            log::warn(format_args!("a session is refused: {error}"));
            server::refuse(whole.control);
            None
        }
    }
}
