//! The distro's own init as its first process (behaviour reference 4.5).
//!
//! The first process of the distro's PID namespace waits until it is told to *become* the
//! distro's `/sbin/init`; a child of it is the distro's init of this program. So systemd
//! starts with the first session, and one that comes before the packages of a new distro
//! are configured finds none. Both have a cgroup of their own, as one that has groups with
//! controllers below it can hold no process.
//!
//! That systemd is up it tells itself, on the socket that a container's manager names in
//! `NOTIFY_SOCKET` (sd_notify(3)): when its last job is done, failed units or not.

use std::ffi::{CStr, CString};
use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, symlink};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::process::exit;
use std::time::{Duration, Instant};

use nix::mount::MsFlags;
use nix::unistd::{AccessFlags, Pid, access, execve};

use super::root::mount_at;
use crate::config::wslconf::WslConf;
use crate::guest::cgroup;
use crate::guest::sys::{self, Forked};

/// What becomes the first process.
const INIT: &CStr = c"/sbin/init";

/// What this program keeps in a running distro; only root may enter.
const STATE: &str = "/run/wslr";

/// Where systemd tells how it is.
const NOTIFY: &str = "/run/wslr/notify";

/// The status of the kernel's foreign binary formats, which all distros share.
const BINFMT_STATUS: &str = "/proc/sys/fs/binfmt_misc/status";

/// Units that wait for what never comes in a distro (B164); that would set up the network,
/// which all distros share and which is not theirs; and a memory file system on `/tmp`,
/// which hides what is there, and which not every distro may mount. Masked where an
/// administrator's own `/etc/systemd/system` does not say otherwise.
const MASKED: [&str; 12] = [
    "NetworkManager-wait-online.service",
    "NetworkManager.service",
    "console-getty.service",
    "dhcpcd.service",
    "networking.service",
    "systemd-networkd-wait-online.service",
    "systemd-networkd.service",
    "systemd-networkd.socket",
    "systemd-resolved.service",
    "systemd-timesyncd.service",
    "systemd-vconsole-setup.service",
    "tmp.mount",
];

/// The signal to systemd that starts `poweroff.target` (systemd(1)): `SIGRTMIN+4`.
const POWER_OFF: i32 = 34 + 4;

/// How many messages of systemd's are taken at once, so that the rest of the work goes on.
const MAXIMUM_MESSAGES: usize = 64;

/// systemd on its way up, or there.
#[derive(Debug)]
pub struct Systemd {
    /// To the first process: closed by it when it becomes systemd.
    first: UnixStream,
    /// It has been closed.
    is_executed: bool,
    notify: UnixDatagram,
    stage: Stage,
    limit: Duration,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Stage {
    /// The first process waits.
    Held,
    /// It has been told to become systemd.
    Starting {
        /// Until when sessions wait for it.
        deadline: Option<Instant>,
    },
    /// Sessions wait no longer.
    Up,
    /// It could not be executed; the first process waits for ever.
    Failed,
}

/// What has become of systemd's start.
#[derive(Debug, Eq, PartialEq)]
pub enum Progress {
    /// It is not up yet.
    Waiting,
    /// Sessions can start; what the user is told.
    Done(Option<String>),
    /// There is no systemd, and why.
    Failed(String),
}

impl Systemd {
    /// Prepares what systemd needs and forks; this process waits to become it, only the
    /// child returns.
    ///
    /// # Errors
    /// Why this distro cannot have systemd here, as a sentence for the user; this process
    /// has not forked then.
    pub fn prepare(conf: &WslConf) -> Result<Self, String> {
        let system = |action: &str, error: io::Error| format!("{action}: {error}");
        access(INIT, AccessFlags::X_OK)
            .map_err(|error| format!("'/sbin/init' cannot be executed: {}", error.desc()))?;
        let group = Group::enter().map_err(|error| {
            format!(
                "it has no cgroup of version 2 that it may write to ({error}); a user who is not \
                 root gets one with 'systemd-run --user --scope -p Delegate=yes wslr ...', and \
                 'systemd = false' in /etc/wsl.conf ends this warning"
            )
        })?;
        let notify = make_state().map_err(|error| system("cannot write in '/run'", error))?;
        if conf.boot.protect_binfmt {
            // Where there is none to protect, nothing is amiss.
            let _ = protect_binfmt();
        }
        let pair = UnixStream::pair();
        let (first, child) = pair.map_err(|error| system("cannot make a socket", error))?;
        match sys::fork().map_err(|error| system("cannot fork", error))? {
            Forked::Parent(_) => become_when_told(&group, first),
            Forked::Child => {
                // What is left behind by relays is for this process, not for systemd.
                let _ = nix::sys::prctl::set_child_subreaper(true);
                let _ = child.set_nonblocking(true);
                let limit = conf.boot.init_timeout;
                Ok(Self { first: child, is_executed: false, notify, stage: Stage::Held, limit })
            }
        }
    }

    /// Whether the first process still waits.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.stage == Stage::Held
    }

    /// Whether sessions are to wait.
    #[must_use]
    pub fn is_starting(&self) -> bool {
        matches!(self.stage, Stage::Starting { .. })
    }

    /// Whether the first process is systemd, or about to be.
    #[must_use]
    pub fn is_first(&self) -> bool {
        matches!(self.stage, Stage::Starting { .. } | Stage::Up)
    }

    /// Lets the first process become systemd.
    pub fn start(&mut self) {
        // Where it is gone, so will be this process in a moment.
        let _ = self.first.write_all(&[1]);
        self.stage = Stage::Starting { deadline: Instant::now().checked_add(self.limit) };
    }

    /// Where systemd says what happens, to its end; it waits where nobody listens.
    #[must_use]
    pub fn messages(&self) -> Option<BorrowedFd<'_>> {
        self.is_first().then(|| self.notify.as_fd())
    }

    /// What else to poll for while it is starting.
    #[must_use]
    pub fn execution(&self) -> Option<BorrowedFd<'_>> {
        // Its end would be ready for ever.
        (self.is_starting() && !self.is_executed).then(|| self.first.as_fd())
    }

    /// Until when to poll.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        match self.stage {
            Stage::Starting { deadline } => deadline,
            Stage::Held | Stage::Up | Stage::Failed => None,
        }
    }

    /// Takes what systemd has said since; whether that it is up was among it.
    pub fn listen(&self) -> bool {
        let mut message = [0; 4096];
        let mut is_ready = false;
        for _ in 0..MAXIMUM_MESSAGES {
            let Ok(length) = self.notify.recv(&mut message) else { break };
            let message = message.get(..length).unwrap_or_default();
            is_ready |= message.split(|byte| *byte == b'\n').any(|line| line == b"READY=1");
        }
        is_ready
    }

    /// Looks how far systemd has come, once it was told to start.
    pub fn advance(&mut self) -> Progress {
        let is_ready = self.listen();
        let Stage::Starting { deadline } = self.stage else { return Progress::Done(None) };
        let mut errno = [0; 4];
        match self.first.read_exact(&mut errno) {
            Ok(()) => {
                self.stage = Stage::Failed;
                let error = io::Error::from_raw_os_error(i32::from_ne_bytes(errno));
                return Progress::Failed(format!("'/sbin/init' cannot be executed: {error}"));
            }
            Err(error) => self.is_executed |= error.kind() != io::ErrorKind::WouldBlock,
        }
        if is_ready {
            self.stage = Stage::Up;
            return Progress::Done(None);
        }
        if deadline.is_none_or(|time| time > Instant::now()) {
            return Progress::Waiting;
        }
        self.stage = Stage::Up;
        // A time of zero is the wish not to wait (B166).
        Progress::Done((!self.limit.is_zero()).then(|| {
            format!(
                "systemd did not come up within {} ms ([boot] initTimeout); 'systemctl \
                 list-jobs' shows what it waits for, 'journalctl -b' why",
                self.limit.as_millis()
            )
        }))
    }

    /// Starts an orderly power-off. Mounts that other distros share stay theirs (B170).
    pub fn power_off(&self, shared: &Path) {
        let slave = MsFlags::MS_REC | MsFlags::MS_SLAVE;
        let _ = mount_at(None, shared, None, slave, None);
        let _ = sys::kill(Pid::from_raw(1), POWER_OFF);
    }
}

/// The cgroups of a distro with systemd.
#[derive(Debug)]
struct Group {
    systemd: PathBuf,
}

impl Group {
    /// Makes the groups below that of this process, and moves it into its own.
    fn enter() -> io::Result<Self> {
        let own = cgroup::of_this_process()?;
        let (ours, systemd) = (own.join("wslr"), own.join("systemd"));
        for group in [&ours, &systemd] {
            match fs::create_dir(group) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
        }
        cgroup::join(&ours)?;
        // Where it cannot be joined now it cannot be later: there is still a way back.
        let procs = systemd.join("cgroup.procs");
        File::options().write(true).open(&procs)?;
        cgroup::enable_controllers(&own);
        Ok(Self { systemd })
    }
}

/// The first process until it is systemd: told so by a byte. Its child's end is its own.
fn become_when_told(group: &Group, mut child: UnixStream) -> ! {
    use std::os::fd::AsRawFd;
    sys::close_all_except(&[child.as_raw_fd()]);
    loop {
        // Orphans need no reaping while SIGCHLD is ignored.
        sys::ignore_children();
        if child.read_exact(&mut [0]).is_err() {
            exit(0);
        }
        // Not before: packages take the directory for a systemd that runs, and one that is
        // configured at the first start cannot be without it then.
        let ready = cgroup::join(&group.systemd).and_then(|()| mask_units());
        let error = ready.map_or_else(|error| error, |()| execute());
        let _ = child.write_all(&error.raw_os_error().unwrap_or(libc::EIO).to_ne_bytes());
    }
}

/// Becomes systemd; gives why it cannot. The variables are those of systemd's container
/// interface.
fn execute() -> io::Error {
    sys::reset_signals();
    let variables = [
        "container=wsl".to_owned(),
        "container_host_id=wslr".to_owned(),
        format!("container_host_version_id={}", env!("CARGO_PKG_VERSION")),
        format!("NOTIFY_SOCKET={NOTIFY}"),
    ];
    let environment: Vec<CString> =
        variables.into_iter().filter_map(|text| CString::new(text).ok()).collect();
    match execve(INIT, &[INIT], &environment) {
        Ok(never) => match never {},
        Err(error) => error.into(),
    }
}

/// Makes the directory of this program's state, and the socket that systemd talks to.
fn make_state() -> io::Result<UnixDatagram> {
    DirBuilder::new().recursive(true).mode(0o700).create(STATE)?;
    let notify = UnixDatagram::bind(NOTIFY)?;
    notify.set_nonblocking(true)?;
    Ok(notify)
}

fn mask_units() -> io::Result<()> {
    let units = Path::new("/run/systemd/system");
    DirBuilder::new().recursive(true).mode(0o755).create(units)?;
    for unit in MASKED {
        match symlink("/dev/null", units.join(unit)) {
            // Of an attempt before.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            result => result?,
        }
    }
    Ok(())
}

/// Puts a read-only file over the status, so that the end of systemd's own service for
/// formats turns nobody's off (B168).
fn protect_binfmt() -> io::Result<()> {
    let file = Path::new(STATE).join("binfmt-status");
    let mut written = File::options().write(true).create_new(true).mode(0o444).open(&file)?;
    written.write_all(b"enabled\n")?;
    written.set_permissions(fs::Permissions::from_mode(0o444))?;
    let mount = sys::copy_mount(&file)?;
    sys::set_attributes(&mount, libc::MOUNT_ATTR_RDONLY)?;
    fs::metadata(BINFMT_STATUS)?;
    sys::attach_mount(&mount, Path::new(BINFMT_STATUS))
}
