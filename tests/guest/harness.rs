//! A distro started in namespaces on this machine, without a virtual machine: its root is
//! this system's own, under an overlay in memory.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use uuid::Uuid;
use wslr::guest::host::{self, Spawned};
use wslr::namespaces::user::Mapping;
use wslr::protocol::frame;
use wslr::protocol::guest::{
    Envelope, Event, GuestError, Request as Ask, Root, StartDistro, VERSION,
};
use wslr::protocol::session::StreamKind;

use super::debian;
use super::session::{Finished, PATIENCE, Request, Running};

/// A running distro.
pub struct Distro {
    id: Uuid,
    spawned: Spawned,
    pub root: PathBuf,
    /// What its start told the user.
    pub warnings: Vec<String>,
    _directory: tempfile::TempDir,
}

impl Distro {
    pub fn start() -> Self {
        Self::try_start(Path::new("/")).unwrap()
    }

    /// Starts a distro with this `/etc/wsl.conf`.
    pub fn with_conf(conf: &str) -> Self {
        let distro = Self::try_start_with(Path::new("/"), |root| {
            fs::write(root.join("etc/wsl.conf"), conf).unwrap();
        });
        distro.unwrap()
    }

    /// Starts a Debian that has systemd.
    pub fn with_systemd(conf: &str) -> Self {
        Self::with_systemd_and(conf, |_| ())
    }

    /// As [`Self::with_systemd`], after `prepare` has had the root.
    pub fn with_systemd_and(conf: &str, prepare: impl FnOnce(&Path)) -> Self {
        let distro = Self::try_start_with(&debian::systemd_tree(), |root| {
            fs::write(root.join("etc/wsl.conf"), conf).unwrap();
            prepare(root);
        });
        distro.unwrap()
    }

    /// Starts a distro on an overlay over `lower`.
    pub fn try_start(lower: &Path) -> Result<Self, GuestError> {
        let distro = Self::try_start_with(lower, |_| ())?;
        assert_eq!(distro.warnings, Vec::<String>::new());
        Ok(distro)
    }

    /// As [`Self::try_start`], after `prepare` has had the root, and with any warnings.
    pub fn try_start_with(lower: &Path, prepare: impl FnOnce(&Path)) -> Result<Self, GuestError> {
        assert!(nix::unistd::geteuid().is_root(), "the guest's tests need root");
        let directory = tempfile::tempdir().unwrap();
        let base = directory.path();
        let none = None::<&str>;
        mount(Some("tmpfs"), base, Some("tmpfs"), MsFlags::empty(), none).unwrap();
        for name in ["upper", "work", "root"] {
            fs::create_dir(base.join(name)).unwrap();
        }
        let options = format!(
            "lowerdir={},upperdir={base}/upper,workdir={base}/work",
            lower.display(),
            base = base.display()
        );
        let root = base.join("root");
        mount(Some("overlay"), &root, Some("overlay"), MsFlags::empty(), Some(options.as_str()))
            .unwrap();
        prepare(&root);
        let shared = base.join("shared");
        fs::create_dir(&shared).unwrap();
        let executable = Path::new(env!("CARGO_BIN_EXE_wslr"));
        let spawned = host::spawn(&Mapping::Own, executable, &shared).unwrap();
        spawned.control.set_read_timeout(Some(PATIENCE)).unwrap();
        let id = Uuid::new_v4();
        let mut distro =
            Self { id, spawned, root: root.clone(), warnings: vec![], _directory: directory };
        match distro.event() {
            Event::Hello { version, .. } => assert_eq!(version, VERSION),
            other => panic!("{other:?}"),
        }
        distro.warnings = distro.ask(Ask::StartDistro(StartDistro {
            distro: id,
            name: "Test".into(),
            root: Root::Directory { path: root },
            hostname: "testhost".into(),
            time_zone: Some("Europe/Berlin".into()),
            stop_limit: Duration::from_secs(20),
            safe_mode: false,
            isolated: false,
        }))?;
        Ok(distro)
    }

    /// What it is used for beside sessions.
    pub fn uses(&mut self) -> Vec<String> {
        let distro = self.id;
        self.ask(Ask::Look { distro }).unwrap()
    }

    fn event(&mut self) -> Event {
        frame::read(&mut self.spawned.control).unwrap()
    }

    /// Asks the process that serves the distro.
    pub fn ask(&mut self, request: Ask) -> Result<Vec<String>, GuestError> {
        frame::write(&mut self.spawned.control, &Envelope { id: 1, request }).unwrap();
        loop {
            if let Event::Reply { result, .. } = self.event() {
                return result;
            }
        }
    }

    /// Starts a session.
    pub fn session(&self, request: Request) -> Running {
        let session = request.session(self.id);
        let encoded = postcard::to_stdvec(&session).unwrap();
        let (control, theirs) = UnixStream::pair().unwrap();
        let mut ours = Vec::new();
        let mut streams: Vec<(StreamKind, OwnedFd)> = Vec::new();
        for kind in request.streams.kinds() {
            let (here, there) = UnixStream::pair().unwrap();
            ours.push((kind, here));
            streams.push((kind, there.into()));
        }
        host::deliver(&self.spawned.sessions, self.id, &encoded, &theirs, &streams).unwrap();
        control.set_read_timeout(Some(PATIENCE)).unwrap();
        Running { control, streams: ours, warnings: vec![] }
    }

    /// Runs a shell line to its end, with pipes.
    pub fn run(&self, line: &str) -> Finished {
        self.session(Request::words(&["sh", "-c", line])).finish(b"")
    }

    /// Asks it to stop; how long it took.
    pub fn stop(self) -> Duration {
        self.stop_keeping(|| ()).0
    }

    /// As [`Self::stop`], and looks at something before its root goes.
    pub fn stop_keeping<T>(mut self, look: impl FnOnce() -> T) -> (Duration, T) {
        let start = Instant::now();
        self.ask(Ask::StopDistro { distro: self.id }).unwrap();
        (start.elapsed(), look())
    }

    /// Waits for its end by itself.
    pub fn wait_end(&mut self) {
        let event = self.event();
        assert_eq!(event, Event::DistroExited { distro: self.id });
    }
}

impl Drop for Distro {
    fn drop(&mut self) {
        let _ = self.spawned.child.kill();
        let _ = self.spawned.child.wait();
        let _ = umount2(&self.root, MntFlags::MNT_DETACH);
        let _ = umount2(self._directory.path(), MntFlags::MNT_DETACH);
    }
}
