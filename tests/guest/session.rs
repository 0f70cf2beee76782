//! Sessions as a test drives them: the service's and the client's side of one.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, poll};
use uuid::Uuid;
use wslr::protocol::frame::{self, FrameError};
use wslr::protocol::session::{
    Directory, ExitStatus, Input, Output, Program, Session, StreamKind, Streams, User, WindowSize,
};

/// How long anything may take before a test fails.
pub const PATIENCE: Duration = Duration::from_secs(180);

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

impl Request {
    /// The request as it is sent.
    pub fn session(&self, distro: Uuid) -> Session {
        Session {
            distro,
            program: self.program.clone(),
            user: self.user.clone(),
            directory: self.directory.clone(),
            environment: self.environment.clone(),
            streams: self.streams,
        }
    }
}

/// A session under way.
pub struct Running {
    pub control: UnixStream,
    pub streams: Vec<(StreamKind, UnixStream)>,
    pub warnings: Vec<String>,
}

/// What a session left.
#[derive(Debug)]
pub struct Finished {
    pub status: ExitStatus,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    pub warnings: Vec<String>,
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
        loop {
            match self.next().unwrap() {
                Output::Warning(warning) => self.warnings.push(warning),
                started => {
                    assert_eq!(started, Output::Started);
                    break;
                }
            }
        }
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
        let (stdout, stderr) = (stdout.join().unwrap(), stderr.join().unwrap());
        Finished { status, stdout, stderr, warnings: self.warnings }
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

/// Random bytes, as the kernel makes them.
pub fn random(length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    File::open("/dev/urandom").unwrap().read_exact(&mut bytes).unwrap();
    bytes
}
