//! A distro started in namespaces on this machine, without a virtual machine: its root is
//! this system's own, under an overlay in memory.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::thread;
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::poll::{PollFd, PollFlags, poll};
use uuid::Uuid;
use wslr::guest::distro::link::{self, Order, Report};
use wslr::guest::distro::{Devices, Options, Root, entry};
use wslr::protocol::guest::GuestError;
use wslr::protocol::session::StreamKind;

use super::session::{Finished, PATIENCE, Request, Running};

/// A running distro.
pub struct Distro {
    pub link: OwnedFd,
    pub process: Child,
    pub root: PathBuf,
    /// What its start told the user.
    pub warnings: Vec<String>,
    group: Option<Group>,
    _directory: tempfile::TempDir,
}

/// A cgroup of version 2 that goes with its processes.
struct Group(PathBuf);

impl Group {
    fn new() -> Self {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        let mount = mounts.lines().find(|line| line.split(' ').nth(2) == Some("cgroup2"));
        let mount = mount.expect("systemd needs a cgroup v2 hierarchy").split(' ').nth(1).unwrap();
        let path = Path::new(mount).join(format!("wslr-test-{}", Uuid::new_v4()));
        fs::create_dir(&path).unwrap();
        Self(path)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        fn remove(group: &Path) {
            for entry in fs::read_dir(group).into_iter().flatten().flatten() {
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    remove(&entry.path());
                }
            }
            let _ = fs::remove_dir(group);
        }
        let _ = fs::write(self.0.join("cgroup.kill"), "1");
        thread::sleep(Duration::from_millis(50));
        remove(&self.0);
    }
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

    /// Starts a Debian that has systemd, in a cgroup of its own.
    ///
    /// The tree is the one that `WSLR_TEST_SYSTEMD` names.
    pub fn with_systemd(conf: &str) -> Self {
        Self::with_systemd_and(conf, |_| ())
    }

    /// As [`Self::with_systemd`], after `prepare` has had the root.
    pub fn with_systemd_and(conf: &str, prepare: impl FnOnce(&Path)) -> Self {
        let tree = std::env::var_os("WSLR_TEST_SYSTEMD")
            .expect("WSLR_TEST_SYSTEMD must name the tree of a Debian with systemd");
        let directory = tempfile::tempdir().unwrap();
        let group = Group::new();
        let wrapper = directory.path().join("wslr");
        let script = format!(
            "#!/bin/bash\necho $$ >'{}/cgroup.procs'\nexec -a wslr-distro '{}'\n",
            group.0.display(),
            env!("CARGO_BIN_EXE_wslr")
        );
        fs::write(&wrapper, script).unwrap();
        fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755)).unwrap();
        let mut distro = Self::start_by(&wrapper, Path::new(&tree), |root| {
            fs::write(root.join("etc/wsl.conf"), conf).unwrap();
            prepare(root);
        })
        .unwrap();
        distro.group = Some(group);
        distro
    }

    /// Starts a distro on an overlay over `lower`.
    pub fn try_start(lower: &Path) -> Result<Self, GuestError> {
        let distro = Self::try_start_with(lower, |_| ())?;
        assert_eq!(distro.warnings, Vec::<String>::new());
        Ok(distro)
    }

    /// As [`Self::try_start`], after `prepare` has had the root, and with any warnings.
    pub fn try_start_with(lower: &Path, prepare: impl FnOnce(&Path)) -> Result<Self, GuestError> {
        Self::start_by(Path::new(env!("CARGO_BIN_EXE_wslr")), lower, prepare)
    }

    fn start_by(
        executable: &Path,
        lower: &Path,
        prepare: impl FnOnce(&Path),
    ) -> Result<Self, GuestError> {
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
        let options = Options {
            name: "Test".into(),
            hostname: "testhost".into(),
            time_zone: Some("Europe/Berlin".into()),
            stop_limit: Duration::from_secs(20),
            root: Root::Directory(root.clone()),
            devices: Devices::Harmless,
            shared: None,
            init: Some(env!("CARGO_BIN_EXE_wslr").into()),
            modules: None,
        };
        let (process, link) = entry::spawn(executable, &options).unwrap();
        let mut distro =
            Self { link, process, root, warnings: vec![], group: None, _directory: directory };
        wait_readable(&distro.link);
        match link::receive(&distro.link).unwrap() {
            Some((Report::Ready { warnings, .. }, _)) => {
                distro.warnings = warnings;
                Ok(distro)
            }
            Some((Report::Failed(error), _)) => Err(error),
            None => panic!("the distro's init is gone"),
        }
    }

    /// Starts a session.
    pub fn session(&self, request: Request) -> Running {
        let session = request.session(Uuid::nil());
        let encoded = postcard::to_stdvec(&session).unwrap();
        let (control, theirs) = UnixStream::pair().unwrap();
        let mut ours = Vec::new();
        let mut streams: Vec<(StreamKind, OwnedFd)> = Vec::new();
        for kind in request.streams.kinds() {
            let (here, there) = UnixStream::pair().unwrap();
            ours.push((kind, here));
            streams.push((kind, there.into()));
        }
        link::send_session(&self.link, &encoded, &theirs, &streams).unwrap();
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
        link::send(&self.link, &Order::Stop, &[]).unwrap();
        self.wait_end();
        (start.elapsed(), look())
    }

    /// Waits for the end of its processes.
    pub fn wait_end(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        while self.process.try_wait().unwrap().is_none() {
            assert!(Instant::now() < deadline, "the distro does not end");
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Distro {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = umount2(&self.root, MntFlags::MNT_DETACH);
        let _ = umount2(self._directory.path(), MntFlags::MNT_DETACH);
    }
}

fn wait_readable(fd: &impl AsFd) {
    let mut polled = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
    assert_eq!(poll(&mut polled, 20_000_u16).unwrap(), 1, "no answer");
}
