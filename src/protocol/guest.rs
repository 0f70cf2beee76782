//! What the service and the guest's init say to each other.
//!
//! At boot init connects to the host's [`CONTROL_PORT`] and sends [`Event::Hello`]. From
//! then on the service sends [`Envelope`]s there and init answers each with
//! [`Event::Reply`], in any order. For each stream of a session the service connects to
//! init's [`STREAM_PORT`] and sends one [`StreamHeader`] frame; on a control stream a
//! [`Session`](super::session::Session) frame follows.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::session::StreamKind;

/// The word both ends must share; raised with every change of these types.
pub const VERSION: u32 = 7;

/// The vsock port of the host that init connects to.
pub const CONTROL_PORT: u32 = 50000;

/// The vsock port of the guest that the service connects to, once per stream.
pub const STREAM_PORT: u32 = 50001;

/// The vsock port of the host that takes [`CrashDump`]s.
pub const CRASH_PORT: u32 = 50005;

/// The first frame of the memory image of a process that crashed. The image follows in pieces,
/// each with its length before it, four bytes in little-endian order; that of zero is the end.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct CrashDump {
    /// The process, as its distro counts.
    pub process: u32,
    /// The signal that ended it.
    pub signal: u32,
    /// The path of its program, with `!` for `/`.
    pub executable: String,
}

/// The first frame of every stream.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct StreamHeader {
    /// The session's number, unique within one VM's life.
    pub session: u64,
    /// Which of its streams this is.
    pub kind: StreamKind,
}

/// A request and the number its answer will carry.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Envelope {
    /// Chosen by the service, unique within one VM's life.
    pub id: u64,
    /// What is asked.
    pub request: Request,
}

/// What the service asks of init.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum Request {
    /// First of all, once: time, entropy, modules.
    Configure(Configure),
    /// The suffixes for short names are others now.
    SetSearch {
        /// Separated by spaces.
        search: Option<String>,
    },
    /// The host's time zone is another now (B232).
    SetTimeZone {
        /// As [`StartDistro::time_zone`].
        zone: String,
    },
    /// What has changed of the ports that the host has, where they are distros' too.
    SetHostPorts(HostPorts),
    /// Let a running distro's file system grow to its disk, which has become longer.
    GrowDistro {
        /// Which.
        distro: Uuid,
    },
    /// Wait for an attached disk of the user's, and mount what is asked for of it.
    MountDisk(MountDisk),
    /// Unmount a disk of the user's and let go of it. Answered when it can be detached.
    UnmountDisk {
        /// Its logical unit.
        lun: u16,
        /// The names that it is mounted under.
        names: Vec<String>,
    },
    /// Flush everything to the disks and power the machine off. Never answered.
    PowerOff,
    /// Look what the distro is used for beside its sessions. Answered with one text for each
    /// use, in the place of warnings; with none where it is idle.
    Look {
        /// Which.
        distro: Uuid,
    },
    /// Free what files are cached in. Answered when that is done.
    ReclaimMemory {
        /// Little by little, and only what is not missed; else all of it.
        gradually: bool,
    },
    /// The host's clock, which may have jumped.
    SetTime {
        /// As [`Configure::time`].
        time: (i64, u32),
    },
    /// Mount the distro's disk and start its init. Answered when it takes sessions.
    StartDistro(StartDistro),
    /// End the distro and let go of its disk. Answered when the disk can be detached.
    StopDistro {
        /// Which.
        distro: Uuid,
    },
}

/// What a fresh VM needs to know.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Configure {
    /// Seconds and nanoseconds of the host's real-time clock.
    pub time: (i64, u32),
    /// Random bytes for the kernel's pool.
    pub entropy: Vec<u8>,
    /// The disk with the kernel's modules, if there is one.
    pub modules: Option<u16>,
    /// The disk to swap to, if there is one.
    pub swap: Option<u16>,
    /// The machine's network, if it has one.
    pub network: Option<Network>,
    /// Whether the host takes [`CrashDump`]s.
    pub crash_dumps: bool,
    /// Modules of the kernel to load, by their names (B129).
    pub load_modules: Vec<String>,
}

/// A disk of the user's.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct MountDisk {
    /// Its logical unit.
    pub lun: u16,
    /// What to mount; nothing where absent.
    pub mount: Option<Mount>,
}

/// What to mount of a disk, and where.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Mount {
    /// The name of the directory in `/mnt/wsl`.
    pub name: String,
    /// The number of the partition; the whole disk where absent.
    pub partition: Option<u32>,
    /// The file system; looked for where absent.
    pub kind: Option<String>,
    /// Mount options, separated by commas.
    pub options: String,
}

/// How the machine's interface is set up.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Network {
    /// What `wsl` calls such a network.
    pub mode: String,
    /// The machine's address.
    pub guest4: Ipv4Addr,
    /// Its way out.
    pub gateway4: Ipv4Addr,
    /// The length of the link's prefix.
    pub prefix4: u8,
    /// The machine's address of IPv6.
    pub guest6: Ipv6Addr,
    /// Its way out.
    pub gateway6: Ipv6Addr,
    /// The length of the link's prefix.
    pub prefix6: u8,
    /// Whether there is a way out by IPv6: the host has one.
    pub routes6: bool,
    /// What stands for the host, by both versions of IP, where ports that distros listen on
    /// are the host's too.
    pub caller: Option<(Ipv4Addr, Ipv6Addr)>,
    /// Where the ports of the distros and of the host are one.
    pub mirrored: Option<Mirrored>,
    /// Where names are asked for.
    pub resolver: IpAddr,
    /// The suffixes for short names, separated by spaces.
    pub search: Option<String>,
}

/// What makes the ports of the distros and of the host one.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Mirrored {
    /// What stands for the host, by both versions of IP, where the loopback addresses of
    /// distros reach it.
    pub host: Option<(Ipv4Addr, Ipv6Addr)>,
}

/// Changes of the ports on which somebody of the host listens.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct HostPorts {
    /// Somebody does now.
    pub taken: Vec<(Transport, u16)>,
    /// Nobody does any more.
    pub free: Vec<(Transport, u16)>,
}

/// A distro to start.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct StartDistro {
    /// Its id.
    pub distro: Uuid,
    /// Its registered name (`WSL_DISTRO_NAME`).
    pub name: String,
    /// Where its files are.
    pub root: Root,
    /// The host's name, cleaned (B141).
    pub hostname: String,
    /// The name of the host's time zone in the tz database, where it is known.
    pub time_zone: Option<String>,
    /// How long the distro may take to stop in good order.
    pub stop_limit: Duration,
    /// Its own settings do not count, nor is anything of it started (B125).
    pub safe_mode: bool,
    /// It has a network of its own, and nobody else's.
    pub isolated: bool,
}

/// Where a distro's files are, as init finds them.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum Root {
    /// An attached disk of a virtual machine.
    Disk {
        /// Its logical unit.
        lun: u16,
    },
    /// A directory of the host.
    Directory {
        /// Its absolute path.
        path: PathBuf,
    },
}

/// What init tells.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum Event {
    /// What a distro says of itself at its start: `ID` and `VERSION_ID` of its os-release, or
    /// empty (B089).
    Described {
        /// Which.
        distro: Uuid,
        /// `ID`.
        flavor: String,
        /// `VERSION_ID`.
        os_version: String,
    },
    /// A distro ended by itself: its first process is gone and its disk is released.
    DistroExited {
        /// Which.
        distro: Uuid,
    },
    /// A distro's socket begins to listen.
    PortOpened(Listener),
    /// One that was told of does not listen any more.
    PortClosed {
        /// [`Listener::socket`].
        socket: u64,
    },
    /// Sent once, first.
    Hello {
        /// [`VERSION`].
        version: u32,
        /// `uname -r`.
        kernel: String,
    },
    /// The answer to the request of that number.
    Reply {
        /// The number.
        id: u64,
        /// Warnings for the user, or why it failed.
        result: Result<Vec<String>, GuestError>,
    },
}

/// A socket of a distro that listens.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Listener {
    /// Its number, unique within one VM's life.
    pub socket: u64,
    /// Whose it is.
    pub distro: Uuid,
    /// By what it is reached.
    pub transport: Transport,
    /// Where it listens.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
    /// The name of the process that bound it, where it is known.
    pub process: Option<String>,
}

/// What carries bytes to a port.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// Connections.
    Tcp,
    /// Datagrams.
    Udp,
}

/// Why init could not do what it was asked.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize, thiserror::Error)]
pub enum GuestError {
    /// The file system of the disk is damaged or not ext4.
    #[error("the distribution's disk has no readable ext4 file system: {reason}")]
    DiskCorrupted {
        /// The system's reason.
        reason: String,
    },
    /// The disk did not appear.
    #[error("disk {lun} did not appear in the virtual machine")]
    DiskMissing {
        /// The logical unit.
        lun: u16,
    },
    /// The root has neither `/etc` nor `/bin/sh`.
    #[error("not a valid Linux distribution: it has neither /etc nor /bin/sh")]
    NotALinuxDistro,
    /// No distro of that id runs.
    #[error("the distribution is not running")]
    NotRunning,
    /// A system call failed.
    #[error("{action}: {reason}")]
    System {
        /// What was being done, with its paths.
        action: String,
        /// The system's reason.
        reason: String,
    },
}

impl GuestError {
    /// A failed system call.
    pub fn system(action: impl Into<String>, error: &std::io::Error) -> Self {
        Self::System { action: action.into(), reason: error.to_string() }
    }
}
