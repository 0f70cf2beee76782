//! A distro started in namespaces on this machine, without a virtual machine: its root is
//! this system's own, under an overlay in memory.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::poll::{PollFd, PollFlags, poll};
use uuid::Uuid;
use wslr::guest::distro::link::{self, Order, Report};
use wslr::guest::distro::{Devices, Options, Root, entry};
use wslr::protocol::frame::{self, FrameError};
use wslr::protocol::guest::GuestError;
use wslr::protocol::session::{
    Directory, ExitStatus, Input, Output, Program, Session, StreamKind, Streams, User, WindowSize,
};

/// How long anything may take before a test fails.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A running distro.
pub struct Distro {
    pub link: OwnedFd,
    pub process: Child,
    pub root: PathBuf,
    _directory: tempfile::TempDir,
}

impl Distro {
    pub fn start() -> Self {
        Self::try_start(Path::new("/")).unwrap()
    }

    /// Starts a distro on an overlay over `lower`.
    pub fn try_start(lower: &Path) -> Result<Self, GuestError> {
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
        let options = Options {
            name: "Test".into(),
            hostname: "testhost".into(),
            root: Root::Directory(root.clone()),
            devices: Devices::Harmless,
            shared: None,
            init: Some(env!("CARGO_BIN_EXE_wslr").into()),
            modules: None,
        };
        let executable = Path::new(env!("CARGO_BIN_EXE_wslr"));
        let (process, link) = entry::spawn(executable, &options).unwrap();
        let distro = Self { link, process, root, _directory: directory };
        wait_readable(&distro.link);
        match link::receive(&distro.link).unwrap() {
            Some((Report::Ready { warnings }, _)) => {
                assert_eq!(warnings, Vec::<String>::new());
                Ok(distro)
            }
            Some((Report::Failed(error), _)) => Err(error),
            None => panic!("the distro's init is gone"),
        }
    }

    /// Starts a session.
    pub fn session(&self, request: Request) -> Running {
        let session = Session {
            distro: Uuid::nil(),
            program: request.program,
            user: request.user,
            directory: request.directory,
            environment: request.environment,
            streams: request.streams,
        };
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
        Running { control, streams: ours }
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

/// What a test asks for.
pub struct Request {
    pub program: Program,
    pub user: User,
    pub directory: Directory,
    pub environment: Vec<(Vec<u8>, Vec<u8>)>,
    pub streams: Streams,
}

impl Request {
    pub fn new(program: Program) -> Self {
        Self {
            program,
            user: User::Number(0),
            directory: Directory::Home,
            environment: vec![],
            streams: Streams { terminal: None, stdin: true, stdout: true, stderr: true },
        }
    }

    pub fn words(words: &[&str]) -> Self {
        let words = words.iter().map(|word| word.as_bytes().to_vec()).collect();
        Self::new(Program::Arguments(words))
    }

    pub fn on_terminal(mut self, columns: u16, rows: u16) -> Self {
        let terminal = Some(WindowSize { columns, rows });
        self.streams = Streams { terminal, stdin: false, stdout: false, stderr: false };
        self
    }
}

/// A session under way.
pub struct Running {
    pub control: UnixStream,
    pub streams: Vec<(StreamKind, UnixStream)>,
}

/// What a session left.
#[derive(Debug)]
pub struct Finished {
    pub status: ExitStatus,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
}

impl Finished {
    pub fn text(&self) -> String {
        assert_eq!(String::from_utf8_lossy(&self.stderr), "");
        String::from_utf8(self.stdout.clone()).unwrap()
    }

    pub fn code(&self) -> u8 {
        self.status.code()
    }
}

impl Running {
    pub fn take(&mut self, wanted: StreamKind) -> UnixStream {
        let index = self.streams.iter().position(|(kind, _)| *kind == wanted).unwrap();
        self.streams.swap_remove(index).1
    }

    pub fn send(&mut self, input: Input) {
        frame::write(&mut self.control, &input).unwrap();
    }

    pub fn next(&mut self) -> Result<Output, FrameError> {
        frame::read(&mut self.control)
    }

    /// The end of the session's command.
    pub fn exited(&mut self) -> ExitStatus {
        assert_eq!(self.next().unwrap(), Output::Started);
        self.exited_after_start()
    }

    pub fn exited_after_start(&mut self) -> ExitStatus {
        match self.next().unwrap() {
            Output::Exited(status) => status,
            other => panic!("{other:?}"),
        }
    }

    /// Whether the session has still a living process.
    pub fn is_busy(&self) -> bool {
        let mut polled = [PollFd::new(self.control.as_fd(), PollFlags::POLLIN)];
        poll(&mut polled, 50_u16).unwrap() == 0
    }

    /// Waits until the last process is gone.
    pub fn wait_idle(&mut self) {
        assert!(matches!(self.next(), Err(FrameError::Closed)));
    }

    pub fn finish(mut self, input: &[u8]) -> Finished {
        let mut stdin = self.take(StreamKind::Stdin);
        let input = input.to_vec();
        let writer = thread::spawn(move || {
            let _ = stdin.write_all(&input);
        });
        let stdout = collect(self.take(StreamKind::Stdout));
        let stderr = collect(self.take(StreamKind::Stderr));
        let status = self.exited();
        writer.join().unwrap();
        Finished { status, stdout: stdout.join().unwrap(), stderr: stderr.join().unwrap() }
    }
}

pub fn collect(mut stream: UnixStream) -> JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        bytes
    })
}

/// A terminal's output as it is shown.
pub struct Screen {
    pub stream: UnixStream,
    pub shown: String,
}

impl Screen {
    pub fn new(stream: UnixStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { stream, shown: String::new() }
    }

    pub fn type_in(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).unwrap();
    }

    /// Waits until a text is shown, and forgets everything up to it.
    pub fn expect(&mut self, wanted: &str) -> String {
        loop {
            if let Some(start) = self.shown.find(wanted) {
                let before = self.shown[..start].to_owned();
                self.shown.drain(..start + wanted.len());
                return before;
            }
            let mut bytes = [0; 4096];
            let count = self
                .stream
                .read(&mut bytes)
                .unwrap_or_else(|error| panic!("{error}: '{wanted}' not in {:?}", self.shown));
            assert!(count > 0, "the terminal ended: '{wanted}' not in {:?}", self.shown);
            self.shown.push_str(&String::from_utf8_lossy(&bytes[..count]));
        }
    }
}

fn wait_readable(fd: &impl AsFd) {
    let mut polled = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
    assert_eq!(poll(&mut polled, 20_000_u16).unwrap(), 1, "no answer");
}

/// Random bytes, as the kernel makes them.
pub fn random(length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    File::open("/dev/urandom").unwrap().read_exact(&mut bytes).unwrap();
    bytes
}
