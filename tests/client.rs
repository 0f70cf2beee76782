//! A running command on the user's side of the service: descriptors, signals, the
//! terminal. The service is scripted by each test, so no virtual machine is needed.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "these are tests")]

mod support;

use std::fs::{self, File};
use std::io::{self, IoSliceMut, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, RawFd};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::pty::{Winsize, openpty};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, UnixAddr, recvmsg};
use nix::sys::termios::{LocalFlags, tcgetattr};
use nix::unistd::Pid;
use support::Home;
use wslr::error::Failure;
use wslr::protocol::client::{Answer, Hello, Progress, Request, Run, RunInput, Welcome};
use wslr::protocol::frame;
use wslr::protocol::session::{ExitStatus, Input, StreamKind, WindowSize};

const REGISTRY: &str = r#"{"version": 1, "distros": [{
    "id": "00000000-0000-4000-8000-000000000001", "name": "Debian", "version": 2,
    "basePath": "/nowhere", "disk": "ext4.img", "state": "Installed"}]}"#;

/// The service's end of one connection.
struct Session {
    connection: UnixStream,
    run: Run,
    streams: Vec<(StreamKind, UnixStream)>,
}

impl Session {
    fn accept(listener: &UnixListener) -> Self {
        let (mut connection, _) = listener.accept().unwrap();
        connection.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let hello: Hello = frame::read(&mut connection).unwrap();
        frame::write(&mut connection, &Welcome { build: hello.build, busy: true }).unwrap();
        let mut passed = Vec::new();
        let mut first = [0];
        let mut space = nix::cmsg_space!([RawFd; 4]);
        let mut slices = [IoSliceMut::new(&mut first)];
        let message = recvmsg::<UnixAddr>(
            connection.as_raw_fd(),
            &mut slices,
            Some(&mut space),
            MsgFlags::MSG_CMSG_CLOEXEC,
        )
        .unwrap();
        for control in message.cmsgs().unwrap() {
            if let ControlMessageOwned::ScmRights(descriptors) = control {
                // SAFETY: the kernel has just made these descriptors for this process.
                passed.extend(
                    descriptors.into_iter().map(|one| unsafe { UnixStream::from_raw_fd(one) }),
                );
            }
        }
        let mut whole = first.chain(&connection);
        let Request::Run(run) = frame::read(&mut whole).unwrap() else { panic!("not a run") };
        let kinds = run.streams.kinds();
        assert_eq!(kinds.len(), passed.len());
        Self { connection, run, streams: kinds.into_iter().zip(passed).collect() }
    }

    fn started(listener: &UnixListener) -> Self {
        let mut session = Self::accept(listener);
        session.answer(&Answer::Started);
        session
    }

    fn answer(&mut self, answer: &Answer) {
        frame::write(&mut self.connection, answer).unwrap();
    }

    fn stream(&mut self, kind: StreamKind) -> UnixStream {
        let at = self.streams.iter().position(|(other, _)| *other == kind).unwrap();
        self.streams.remove(at).1
    }

    fn input(&mut self) -> Input {
        frame::read::<RunInput>(&mut self.connection).unwrap()
    }

    fn exit(mut self, status: ExitStatus) {
        self.streams.clear();
        self.answer(&Answer::Exited(status));
    }
}

fn home() -> (Home, UnixListener) {
    let home = Home::new();
    home.write(".local/share/wslr/registry.json", REGISTRY);
    fs::DirBuilder::new().mode(0o700).create(home.path("run/wslr")).unwrap();
    let listener = UnixListener::bind(home.path("run/wslr/service.sock")).unwrap();
    (home, listener)
}

/// The executable with pipes on all three descriptors.
fn spawn(home: &Home) -> Child {
    let mut test = home.wslr(["-d", "Debian", "--", "prog", "a b", ""]);
    let command = test.command();
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn text(mut from: impl Read) -> String {
    let mut text = String::new();
    from.read_to_string(&mut text).unwrap();
    text
}

fn signal(child: &Child, signal: Signal) {
    kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), signal).unwrap();
}

#[test]
fn b020_b022_pipes_are_streams_of_their_own_and_the_status_passes() {
    let (home, listener) = home();
    let mut child = spawn(&home);
    let mut session = Session::started(&listener);
    assert_eq!(session.run.streams.terminal, None);
    let program = format!("{:?}", session.run.program);
    assert!(program.starts_with("Arguments"), "{program}");
    let bytes: Vec<u8> = (0..8_000_000_u32).map(|number| (number % 253) as u8).collect();
    let mut back = vec![0; bytes.len()];
    let mut stdin = child.stdin.take().unwrap();
    let (mut from, to) = (session.stream(StreamKind::Stdin), session.stream(StreamKind::Stdout));
    thread::scope(|scope| {
        scope.spawn(|| {
            stdin.write_all(&bytes).unwrap();
            drop(stdin);
        });
        scope.spawn(move || {
            io::copy(&mut from, &mut &to).unwrap();
        });
        child.stdout.as_mut().unwrap().read_exact(&mut back).unwrap();
    });
    assert!(back == bytes);
    session.stream(StreamKind::Stderr).write_all(b"oops\n").unwrap();
    session.exit(ExitStatus::Code(42));
    assert_eq!(text(child.stderr.take().unwrap()), "oops\n");
    assert_eq!(child.wait().unwrap().code(), Some(42));
}

#[test]
fn b023_output_that_is_still_on_its_way_when_the_command_has_ended_arrives() {
    let (home, listener) = home();
    let mut child = spawn(&home);
    let mut session = Session::accept(&listener);
    let mut stdout = session.stream(StreamKind::Stdout);
    // Not even "started" came before the end.
    session.exit(ExitStatus::Code(0));
    let writer = thread::spawn(move || stdout.write_all(&vec![b'x'; 3_000_000]).unwrap());
    thread::sleep(Duration::from_millis(200));
    assert_eq!(text(child.stdout.take().unwrap()).len(), 3_000_000);
    writer.join().unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_reader_that_is_gone_ends_the_stream_quietly() {
    let (home, listener) = home();
    let mut child = spawn(&home);
    let mut session = Session::started(&listener);
    drop(child.stdout.take());
    let mut stdout = session.stream(StreamKind::Stdout);
    while stdout.write_all(&[b'y'; 4096]).is_ok() {}
    session.exit(ExitStatus::Signal(13));
    assert_eq!(text(child.stderr.take().unwrap()), "");
    assert_eq!(child.wait().unwrap().code(), Some(141));
}

#[test]
fn a_full_disk_under_standard_output_is_an_error() {
    let (home, listener) = home();
    let mut test = home.wslr(["-d", "Debian", "--", "prog"]);
    let command = test.command();
    command.stdin(Stdio::null()).stdout(File::create("/dev/full").unwrap());
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    let mut session = Session::started(&listener);
    let _ = session.stream(StreamKind::Stdout).write_all(b"x");
    session.exit(ExitStatus::Code(0));
    let errors = text(child.stderr.take().unwrap());
    assert!(errors.starts_with("wslr: cannot write to standard output: No space left"), "{errors}");
    assert!(errors.ends_with("Error code: Wsl/ERROR_DISK_FULL\n"), "{errors}");
    assert_eq!(child.wait().unwrap().code(), Some(255));
}

#[test]
fn standard_input_ends_when_it_is_null() {
    let (home, listener) = home();
    let mut test = home.wslr(["-d", "Debian", "--", "prog"]);
    let mut child = test.command().stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let mut session = Session::started(&listener);
    assert_eq!(text(session.stream(StreamKind::Stdin)), "");
    session.exit(ExitStatus::Code(0));
    assert!(child.wait().unwrap().success());
}

#[test]
fn signals_are_passed_on_and_insisting_ends_the_command_itself() {
    let (home, listener) = home();
    let mut child = spawn(&home);
    let mut session = Session::started(&listener);
    // The handlers are set once the session has started, which this byte proves.
    session.stream(StreamKind::Stdout).write_all(b"x").unwrap();
    child.stdout.take().unwrap().read_exact(&mut [0]).unwrap();
    for one in [Signal::SIGINT, Signal::SIGTERM] {
        signal(&child, one);
        assert_eq!(session.input(), Input::Signal(one as i32));
    }
    signal(&child, Signal::SIGTERM);
    let mut last = session.input();
    while last != Input::Hangup {
        last = session.input();
    }
    assert_eq!(child.wait().unwrap().code(), Some(143));
}

#[test]
fn a_killed_command_closes_its_connection() {
    let (home, listener) = home();
    let mut child = spawn(&home);
    let mut session = Session::started(&listener);
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(frame::read::<RunInput>(&mut session.connection).is_err());
    assert_eq!(text(session.stream(StreamKind::Stdin)), "");
}

#[test]
fn a_service_that_dies_is_an_error_with_its_log() {
    let (home, listener) = home();
    let mut child = spawn(&home);
    drop(Session::started(&listener));
    let errors = text(child.stderr.take().unwrap());
    assert!(errors.starts_with("wslr: the service ended unexpectedly"), "{errors}");
    assert!(errors.contains("service.log"), "{errors}");
    assert_eq!(child.wait().unwrap().code(), Some(255));
}

#[test]
fn b029_warnings_and_failures_are_told_and_progress_only_to_a_terminal() {
    for (variable, warning) in [("0", "wslr: warning: w\n"), ("1", "")] {
        let (home, listener) = home();
        let mut test =
            home.wslr(["-d", "Debian", "--", "prog"]).env("WSL_DISABLE_WARNINGS", variable);
        let command = test.command();
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut session = Session::accept(&listener);
        session.answer(&Answer::Progress(Progress {
            label: "Setting up".into(),
            done: 1,
            total: 2,
        }));
        session.answer(&Answer::Warning("w".into()));
        session.answer(&Answer::Failed(Failure::plain("no").with_code("Wsl/Service/E_FAIL")));
        assert_eq!(
            text(child.stderr.take().unwrap()),
            format!("{warning}wslr: no\nError code: Wsl/Service/E_FAIL\n")
        );
        assert_eq!(child.wait().unwrap().code(), Some(255));
    }
}

#[test]
fn a_busy_service_of_another_build_is_left_alone() {
    let (home, listener) = home();
    let mut child = spawn(&home);
    let (mut connection, _) = listener.accept().unwrap();
    let _: Hello = frame::read(&mut connection).unwrap();
    frame::write(&mut connection, &Welcome { build: "0.0.1 abc".into(), busy: true }).unwrap();
    let errors = text(child.stderr.take().unwrap());
    assert!(errors.contains("another version of wslr (0.0.1 abc)"), "{errors}");
    assert!(errors.contains("hint: 'wslr --shutdown'"), "{errors}");
    assert_eq!(child.wait().unwrap().code(), Some(255));
}

mod ioctl {
    nix::ioctl_write_ptr_bad!(set_size, nix::libc::TIOCSWINSZ, nix::pty::Winsize);
}

/// A terminal whose session leader is the executable.
struct Terminal {
    child: Child,
    master: File,
    slave: File,
}

impl Terminal {
    fn start(home: &Home, stdout: Option<Stdio>) -> Self {
        let size = Winsize { ws_row: 33, ws_col: 99, ws_xpixel: 0, ws_ypixel: 0 };
        let pair = openpty(Some(&size), None).unwrap();
        let end = || Stdio::from(pair.slave.try_clone().unwrap());
        let mut test = home.wslr(["-d", "Debian"]).env("TERM", "vt100");
        let inner = test.command();
        let mut command = Command::new("setsid");
        command.args(["--ctty", env!("CARGO_BIN_EXE_wslr"), "-d", "Debian"]).env_clear();
        command.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command.stdin(end()).stdout(stdout.unwrap_or_else(end)).stderr(end());
        Self {
            child: command.spawn().unwrap(),
            master: pair.master.into(),
            slave: pair.slave.into(),
        }
    }

    fn is_raw(&self) -> bool {
        let modes = tcgetattr(&self.slave).unwrap();
        !modes.local_flags.intersects(LocalFlags::ICANON | LocalFlags::ECHO | LocalFlags::ISIG)
    }

    fn wait_until_raw(&self, raw: bool) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while self.is_raw() != raw {
            assert!(Instant::now() < deadline);
            thread::sleep(Duration::from_millis(5));
        }
    }

    fn shown(&mut self, text: &str) {
        let mut buffer = vec![0; text.len()];
        self.master.read_exact(&mut buffer).unwrap();
        assert_eq!(String::from_utf8_lossy(&buffer), text);
    }
}

#[test]
fn b024_a_terminal_is_raw_while_the_command_runs_and_as_before_after_it() {
    let (home, listener) = home();
    let mut terminal = Terminal::start(&home, None);
    let mut session = Session::accept(&listener);
    let streams = session.run.streams;
    assert_eq!(streams.terminal, Some(WindowSize { columns: 99, rows: 33 }));
    assert_eq!(streams.kinds(), [StreamKind::Terminal]);
    assert!(session.run.environment.contains(&(b"TERM".to_vec(), b"vt100".to_vec())));
    assert!(!terminal.is_raw());
    session.answer(&Answer::Started);
    terminal.wait_until_raw(true);
    assert!(matches!(session.input(), Input::Resize(WindowSize { columns: 99, rows: 33 })));

    let mut stream = session.stream(StreamKind::Terminal);
    terminal.master.write_all(b"a\x03\x1a\x04\r").unwrap();
    let mut keys = [0; 5];
    stream.read_exact(&mut keys).unwrap();
    assert_eq!(&keys, b"a\x03\x1a\x04\r");
    stream.write_all(b"one\ntwo").unwrap();
    terminal.shown("one\ntwo");

    let size = Winsize { ws_row: 50, ws_col: 132, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the size is a live value of the type that the request takes.
    unsafe { ioctl::set_size(terminal.master.as_raw_fd(), &raw const size) }.unwrap();
    assert_eq!(session.input(), Input::Resize(WindowSize { columns: 132, rows: 50 }));

    drop(stream);
    session.exit(ExitStatus::Code(7));
    assert_eq!(terminal.child.wait().unwrap().code(), Some(7));
    assert!(!terminal.is_raw());
    // What is typed now is for whoever reads next.
    terminal.master.write_all(b"later\n").unwrap();
    let mut line = [0; 6];
    terminal.slave.read_exact(&mut line).unwrap();
    assert_eq!(&line, b"later\n");
}

#[test]
fn the_terminal_is_set_back_on_every_way_out() {
    for way in ["service dies", "failure", "SIGTERM thrice", "SIGHUP"] {
        let (home, listener) = home();
        let mut terminal = Terminal::start(&home, None);
        let mut session = Session::started(&listener);
        terminal.wait_until_raw(true);
        match way {
            "service dies" => drop(session),
            "failure" => {
                session.streams.clear();
                session.answer(&Answer::Failed(Failure::plain("no")));
            }
            "SIGHUP" => {
                signal(&terminal.child, Signal::SIGHUP);
                let mut last = session.input();
                while last != Input::Hangup {
                    last = session.input();
                }
            }
            _ => {
                // Two of the same that wait for the handler would be one.
                for answer in [Input::Signal(15), Input::Signal(15), Input::Hangup] {
                    signal(&terminal.child, Signal::SIGTERM);
                    while session.input() != answer {}
                }
            }
        }
        assert!(!terminal.child.wait().unwrap().success(), "{way}");
        terminal.wait_until_raw(false);
    }
}

#[test]
fn a_pager_behind_a_pipe_keeps_its_terminal() {
    let (home, listener) = home();
    let mut terminal = Terminal::start(&home, Some(Stdio::piped()));
    let mut session = Session::started(&listener);
    assert_eq!(session.run.streams.terminal, None);
    let mut stdout = session.stream(StreamKind::Stdout);
    stdout.write_all(b"x").unwrap();
    terminal.child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
    assert!(!terminal.is_raw());
    // A line typed goes to the command, as with any program before a pipe.
    terminal.master.write_all(b"line\n").unwrap();
    let mut line = [0; 5];
    let mut stdin = session.stream(StreamKind::Stdin);
    stdin.read_exact(&mut line).unwrap();
    assert_eq!(&line, b"line\n");
    let _ = stdin.shutdown(Shutdown::Both);
    drop(stdout);
    session.exit(ExitStatus::Code(0));
    assert!(terminal.child.wait().unwrap().success());
    assert!(terminal.slave.as_fd().as_raw_fd() >= 0);
}
