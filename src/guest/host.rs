//! The process that serves version 1 distros, on the host's own kernel.
//!
//! It runs the same loop as the init of a virtual machine. It is a process of its own
//! because it must have one thread to fork into namespaces, and because an ordinary user's
//! distros live in a user namespace. Requests come over a socket, sessions as packets with
//! their streams as descriptors, so that bytes go straight from a command's socket to the
//! relay.
//!
//! When the service ends, the kernel kills this process, and when this one ends, the inits
//! of its distros and with them all their processes.

use std::convert::Infallible;
use std::ffi::{CString, OsStr};
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio, exit};
use std::time::Instant;

use nix::fcntl::AtFlags;
use nix::mount::{MsFlags, mount};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Pid, execveat};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::distro::{self, Kernel, Net, Options, link};
use super::host_cgroup::Groups;
use super::job::{Job, Outcome};
use super::server::{Arrived, Platform, Server, Work};
use super::{boot, log, sys};
use crate::namespaces::user::Mapping;
use crate::protocol::guest::{Configure, GuestError, Request, Root, StartDistro};
use crate::protocol::session::StreamKind;

/// `argv[0]` of this process.
pub const ARGUMENT: &str = "wslr-machine";

/// How long the process may take to make room for a session, in milliseconds.
const DELIVERY_LIMIT: u16 = 10_000;

/// The host's resolver configuration.
const RESOLVER: &str = "/etc/resolv.conf";

/// The largest resolver configuration, in bytes.
const MAXIMUM_RESOLVER: u64 = 64 << 10;

/// The process as its parent, the service, holds it.
#[derive(Debug)]
pub struct Spawned {
    /// The process. Its standard error is a pipe, on which it says what goes wrong.
    pub child: Child,
    /// For [`Request`]s.
    pub control: UnixStream,
    /// For [`deliver`].
    pub sessions: OwnedFd,
}

/// Starts the process with the given executable (wslr itself). `shared` is an existing,
/// private directory that it mounts over, in its own namespace only. The process is killed
/// when the thread that calls this ends.
///
/// # Errors
/// The system's.
pub fn spawn(mapping: &Mapping, executable: &Path, shared: &Path) -> io::Result<Spawned> {
    let (control, theirs) = UnixStream::pair()?;
    theirs.set_nonblocking(true)?;
    let (sessions, packets) = link::pair()?;
    // The environment of this process is not for distros, which could see it.
    let child = mapping
        .command(executable, ARGUMENT)
        .arg(shared)
        .env_clear()
        .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
        .stdin(OwnedFd::from(theirs))
        .stdout(packets)
        .stderr(Stdio::piped())
        .spawn()?;
    Ok(Spawned { child, control, sessions })
}

/// The head of a packet with a session. The descriptors are those of
/// [`link::descriptors`].
#[derive(Debug, Deserialize, Serialize)]
struct Delivery {
    distro: Uuid,
    kinds: Vec<StreamKind>,
}

/// Sends a session: `request` is the encoded
/// [`Session`](crate::protocol::session::Session).
///
/// # Errors
/// The system's; `TimedOut` where the process does not take it.
pub fn deliver(
    sessions: &impl AsFd,
    distro: Uuid,
    request: &[u8],
    control: &impl AsFd,
    streams: &[(StreamKind, OwnedFd)],
) -> io::Result<()> {
    let request = link::memory_file(request)?;
    let descriptors = link::descriptors(&request, control, streams);
    let delivery = Delivery { distro, kinds: streams.iter().map(|(kind, _)| *kind).collect() };
    loop {
        match link::send(sessions, &delivery, &descriptors) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let mut polled = [PollFd::new(sessions.as_fd(), PollFlags::POLLOUT)];
                if poll(&mut polled, PollTimeout::from(DELIVERY_LIMIT))? == 0 {
                    return Err(io::ErrorKind::TimedOut.into());
                }
            }
            result => return result,
        }
    }
}

/// The process that [`spawn`] starts.
pub fn run() -> ! {
    let _ = SigSet::all().thread_block();
    let _ = nix::sys::prctl::set_pdeathsig(Signal::SIGKILL);
    let _ = nix::sys::prctl::set_name(c"wslr-machine");
    log::to_standard_error();
    let mut words = std::env::args_os().skip(1).map(PathBuf::from);
    let started = match (words.next(), words.next()) {
        (Some(shared), Some(executable)) => start(shared, executable),
        (Some(shared), None) => prepare(&shared).map(|never| match never {}),
        _ => Err(io::ErrorKind::InvalidInput.into()),
    };
    match started {
        Ok(mut server) => {
            server.serve();
            // What it holds goes in good order.
            drop(server);
            exit(0)
        }
        Err(error) => {
            log::warn(format_args!("cannot run distributions of version 1: {error}"));
            exit(1)
        }
    }
}

/// Makes the namespace of this process, and executes it again from a read-only mount: so
/// nobody in a distro can change the executable through `/proc/1/exe`.
fn prepare(shared: &Path) -> io::Result<Infallible> {
    let failed = |action: &str, error: io::Error| io::Error::other(format!("{action}: {error}"));
    share(shared).map_err(|error| failed("mounting", error))?;
    let executable = fs::read_link("/proc/self/exe")?;
    let mount = sys::copy_mount(&executable)
        .and_then(|mount| sys::set_attributes(&mount, libc::MOUNT_ATTR_RDONLY).map(|()| mount))
        .map_err(|error| failed("mounting the executable", error))?;
    let string = |text: &OsStr| CString::new(text.as_bytes());
    let words =
        [string(ARGUMENT.as_ref())?, string(shared.as_ref())?, string(executable.as_ref())?];
    let path = std::env::var_os("PATH").unwrap_or_default();
    let environment = [CString::new([b"PATH=", path.as_bytes()].concat())?];
    Ok(execveat(&mount, c"", &words, &environment, AtFlags::AT_EMPTY_PATH)?)
}

fn start(shared: PathBuf, executable: PathBuf) -> io::Result<Server<Host>> {
    let control = io::stdin().as_fd().try_clone_to_owned()?;
    let packets = io::stdout().as_fd().try_clone_to_owned()?;
    let nothing = File::options().read(true).write(true).open("/dev/null")?;
    nix::unistd::dup2_stdin(&nothing)?;
    nix::unistd::dup2_stdout(&nothing)?;
    std::env::set_current_dir("/")?;
    boot::set_limits();
    // The service's hides all from others; a distro has users.
    umask(Mode::from_bits_truncate(0o022));
    let has_one_user = sys::is_single_user();
    let groups = Groups::find();
    let platform = Host { packets, shared, executable, groups, has_one_user, resolver: None };
    Server::start(platform, control)
}

/// Mounts the memory file system that distros share (B146), in a mount namespace of this
/// process that still follows what the host mounts and unmounts.
fn share(shared: &Path) -> io::Result<()> {
    let none = None::<&str>;
    unshare(CloneFlags::CLONE_NEWNS)?;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_SLAVE, none)?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("tmpfs"), shared, Some("tmpfs"), flags, Some("mode=0755"))?;
    mount(none, shared, none, MsFlags::MS_SHARED, none)?;
    Ok(())
}

/// Whether this process, root, has the ids of the host and not those of a user namespace.
pub(super) fn is_initial_user_namespace() -> bool {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    map.split_ascii_whitespace().eq(["0", "0", "4294967295"])
}

/// The platform of version 1.
struct Host {
    packets: OwnedFd,
    /// What is `/mnt/wsl` in every distro.
    shared: PathBuf,
    /// What is `/init` in every distro.
    executable: PathBuf,
    groups: Option<Groups>,
    has_one_user: bool,
    /// Which version of the host's resolver configuration was copied last.
    resolver: Option<Version>,
}

/// Tells one state of a file from another.
type Version = (u64, u64, i64, i64, u64);

impl Platform for Host {
    fn interests(&self) -> Vec<BorrowedFd<'_>> {
        vec![self.packets.as_fd()]
    }

    fn deadline(&self) -> Option<Instant> {
        None
    }

    fn arrived(&mut self) -> Vec<Arrived> {
        let mut sessions = Vec::new();
        while let Ok(Some((Delivery { distro, kinds }, descriptors))) =
            link::receive::<Delivery>(&self.packets)
        {
            let mut descriptors = descriptors.into_iter();
            if let (Some(request), Some(control)) = (descriptors.next(), descriptors.next()) {
                let streams = kinds.into_iter().zip(descriptors).collect();
                sessions.push(Arrived { distro, request, control, streams, is_debug: false });
            }
        }
        if !sessions.is_empty() {
            self.copy_resolver();
        }
        sessions
    }

    fn prepare(&mut self) -> io::Result<Option<Job>> {
        Ok(None)
    }

    fn configure(&mut self, _: Configure) -> Work {
        // Time, entropy and modules are the host's.
        Work::Done(Ok(Vec::new()))
    }

    fn configured(&mut self) -> Option<Job> {
        None
    }

    fn options(&mut self, start: StartDistro) -> Result<Options, GuestError> {
        let Root::Directory { path } = start.root else {
            let error = io::ErrorKind::Unsupported.into();
            return Err(GuestError::system("starting a distribution of version 2", &error));
        };
        self.copy_resolver();
        Ok(Options {
            name: start.name,
            hostname: start.hostname,
            time_zone: start.time_zone,
            stop_limit: start.stop_limit,
            safe_mode: start.safe_mode,
            root: distro::Root::Directory(path),
            kernel: Kernel::Shared {
                has_one_user: self.has_one_user,
                has_group: self.groups.is_some(),
            },
            shared: Some(self.shared.clone()),
            // One that was replaced meanwhile is as good; one that is gone is not needed.
            init: Some(self.executable.clone()).filter(|path| path.exists()),
            modules: None,
            networking: if start.isolated { "none" } else { "wsl1" }.to_owned(),
            // The host's is all there is: it is that or nothing.
            network: if start.isolated { Net::Own(None) } else { Net::Shared },
        })
    }

    fn group(&mut self, distro: Uuid) -> Option<OwnedFd> {
        self.groups
            .as_ref()?
            .create(distro)
            .map_err(|error| log::warn(format_args!("cannot make a cgroup: {error}")))
            .ok()
    }

    fn disk(&self, _: &Request, _: Option<(&Root, Pid)>) -> Outcome {
        Err(GuestError::system("using a disk", &io::ErrorKind::Unsupported.into()))
    }

    fn release(&self, distro: Uuid, _: &Root) -> Outcome {
        if let Some(groups) = &self.groups {
            groups.remove(distro);
        }
        Ok(Vec::new())
    }
}

impl Host {
    /// Gives distros the host's resolver configuration where it is another than before.
    /// The network is the host's too, so that a resolver on a loopback address works.
    fn copy_resolver(&mut self) {
        let Ok(metadata) = fs::metadata(RESOLVER) else { return };
        let version = (
            metadata.dev(),
            metadata.ino(),
            metadata.mtime(),
            metadata.mtime_nsec(),
            metadata.size(),
        );
        if self.resolver == Some(version) || metadata.len() > MAXIMUM_RESOLVER {
            return;
        }
        let beside = self.shared.join(".resolv.conf");
        let copied = fs::read(RESOLVER)
            .and_then(|content| {
                // A distro may have put anything there.
                let _ = fs::remove_file(&beside);
                fs::OpenOptions::new().write(true).create_new(true).open(&beside).and_then(
                    |mut file| {
                        use std::io::Write;
                        use std::os::unix::fs::PermissionsExt;
                        file.set_permissions(fs::Permissions::from_mode(0o644))?;
                        file.write_all(&content)
                    },
                )
            })
            .and_then(|()| fs::rename(&beside, self.shared.join("resolv.conf")));
        match copied {
            Ok(()) => self.resolver = Some(version),
            Err(error) => log::warn(format_args!("cannot copy '{RESOLVER}': {error}")),
        }
    }
}
