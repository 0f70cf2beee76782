//! The service with a scripted guest in place of the virtual machine.

mod user_disks;

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::machine::{Boot, Kind, Machine, MachineError, Resources, Storage};
use super::supervisor::Supervisor;
use super::{build, lock, server};
use crate::config::paths::Paths;
use crate::config::wslconfig::WslConfig;
use crate::error::Failure;
use crate::protocol::client::{Answer, Hello, Request, Run, Status, Welcome};
use crate::protocol::frame;
use crate::protocol::guest::VERSION;
use crate::protocol::guest::{
    Envelope, Event, GuestError, MountDisk, Request as GuestRequest, Root,
};
use crate::protocol::session::{
    Directory, ExitStatus, Input, Output, Program, Session, StreamKind, Streams,
};
use crate::registry::{self, Distro, RegistryError, State};
use crate::vmm::exit::{Exit, ExitLatch};

/// A guest that obeys: programs are `exit N`, `cat`, `wait`, `panic`, `setup`, `daemon`.
#[derive(Debug)]
struct Guest {
    exit: ExitLatch,
    control: Mutex<Option<UnixStream>>,
    events: Mutex<Option<UnixStream>>,
    /// Distros that run, with what ends their sessions.
    distros: Mutex<HashMap<Uuid, Vec<UnixStream>>>,
    streams: Mutex<HashMap<(u64, u8), UnixStream>>,
    arrived: Condvar,
    disks: Mutex<HashMap<u16, File>>,
    /// What is mounted of the user's disks.
    mounts: Mutex<Vec<MountDisk>>,
    /// Nothing is answered any more.
    hangs: AtomicBool,
    /// What distros are used for beside sessions.
    uses: Mutex<Vec<String>>,
}

#[derive(Debug, Default)]
struct Boots {
    count: AtomicUsize,
    last: Mutex<Option<Arc<Guest>>>,
    host: Mutex<Option<Arc<Guest>>>,
}

#[derive(Debug)]
struct Booter(Arc<Boots>);

impl Boot for Booter {
    fn boot(&self, kind: Kind, _: &WslConfig) -> Result<Arc<dyn Machine>, Failure> {
        self.0.count.fetch_add(1, Ordering::Relaxed);
        let (host, guest) = UnixStream::pair().unwrap();
        let machine = Arc::new(Guest {
            exit: ExitLatch::default(),
            control: Mutex::new(Some(host)),
            events: Mutex::new(Some(guest.try_clone().unwrap())),
            distros: Mutex::default(),
            streams: Mutex::default(),
            arrived: Condvar::new(),
            disks: Mutex::default(),
            mounts: Mutex::default(),
            hangs: AtomicBool::new(false),
            uses: Mutex::default(),
        });
        let last = match kind {
            Kind::Host => &self.0.host,
            Kind::Virtual => &self.0.last,
        };
        *lock(last) = Some(Arc::clone(&machine));
        let theirs = Arc::clone(&machine);
        thread::spawn(move || theirs.init(guest));
        Ok(Arc::new(machine))
    }
}

impl Guest {
    fn init(&self, mut control: UnixStream) {
        frame::write(&mut control, &Event::Hello { version: VERSION, kernel: "6.1-test".into() })
            .unwrap();
        while let Ok(Envelope { id, request }) = frame::read::<Envelope>(&mut control) {
            if self.hangs.load(Ordering::Relaxed) {
                continue;
            }
            let result = match request {
                GuestRequest::Configure(_) | GuestRequest::SetSearch { .. } => Ok(Vec::new()),
                GuestRequest::SetTime { .. }
                | GuestRequest::SetTimeZone { .. }
                | GuestRequest::ReclaimMemory { .. } => Ok(Vec::new()),
                GuestRequest::SetHostPorts(_) | GuestRequest::GrowDistro { .. } => Ok(Vec::new()),
                GuestRequest::MountDisk(disk) => match &disk.mount {
                    Some(mount) if mount.kind.as_deref() == Some("bad") => {
                        let error = io::Error::from_raw_os_error(22);
                        Err(GuestError::system("mounting it", &error))
                    }
                    _ => {
                        lock(&self.mounts).push(disk);
                        Ok(Vec::new())
                    }
                },
                GuestRequest::UnmountDisk { names, .. } if names.contains(&"busy".to_owned()) => {
                    Err(GuestError::system("unmounting it", &io::Error::from_raw_os_error(16)))
                }
                GuestRequest::UnmountDisk { lun, .. } => {
                    lock(&self.mounts).retain(|disk| disk.lun != lun);
                    Ok(Vec::new())
                }
                GuestRequest::Look { .. } => Ok(lock(&self.uses).clone()),
                GuestRequest::PowerOff => {
                    self.end(Exit::PowerOff);
                    return;
                }
                GuestRequest::StartDistro(start) if start.name == "bad" => {
                    Err(GuestError::DiskCorrupted { reason: "bad magic".into() })
                }
                GuestRequest::StartDistro(start) => {
                    lock(&self.distros).insert(start.distro, Vec::new());
                    Ok(vec![format!("{} starts", start.name)])
                }
                GuestRequest::StopDistro { distro } => match lock(&self.distros).remove(&distro) {
                    Some(sessions) => {
                        hang_up(&sessions);
                        Ok(Vec::new())
                    }
                    None => Err(GuestError::NotRunning),
                },
            };
            let _ = frame::write(&mut control, &Event::Reply { id, result });
        }
    }

    fn end(&self, exit: Exit) {
        self.exit.set(exit);
        lock(&self.distros).drain().for_each(|(_, sessions)| hang_up(&sessions));
        if let Some(control) = lock(&self.events).take() {
            let _ = control.shutdown(std::net::Shutdown::Both);
        }
        lock(&self.disks).clear();
    }

    fn distro_ends(&self, distro: Uuid) {
        hang_up(&lock(&self.distros).remove(&distro).unwrap());
        let mut events = lock(&self.events);
        frame::write(events.as_mut().unwrap(), &Event::DistroExited { distro }).unwrap();
    }

    fn stream(&self, session: u64, kind: StreamKind) -> UnixStream {
        let mut streams = lock(&self.streams);
        loop {
            if let Some(stream) = streams.remove(&(session, kind as u8)) {
                return stream;
            }
            streams = self.arrived.wait(streams).unwrap();
        }
    }

    fn session(&self, number: u64, session: &Session, mut control: UnixStream) {
        let Program::Arguments(words) = &session.program else { return };
        let words: Vec<_> = words.iter().map(|word| String::from_utf8_lossy(word)).collect();
        let mut tell = |output: Output| {
            let _ = frame::write(&mut control, &output);
        };
        tell(Output::Started);
        match words.first().unwrap().as_ref() {
            "exit" => tell(Output::Exited(ExitStatus::Code(words[1].parse().unwrap()))),
            "cat" => {
                let mut input = self.stream(number, StreamKind::Stdin);
                let mut output = self.stream(number, StreamKind::Stdout);
                let _ = io::copy(&mut input, &mut output);
                drop(output);
                tell(Output::Exited(ExitStatus::Code(0)));
            }
            "panic" => self.end(Exit::Reset),
            "daemon" => {
                tell(Output::Exited(ExitStatus::Code(0)));
                while frame::read::<Input>(&mut control).is_ok() {}
            }
            "wait" => {
                if let Ok(Input::Hangup) = frame::read::<Input>(&mut control) {
                    let _ = frame::write(&mut control, &Output::Exited(ExitStatus::Signal(1)));
                }
            }
            "/bin/sh" => {
                let mut output = self.stream(number, StreamKind::Stdout);
                output.write_all(b"2\nSetting up a (1) ...\nSetting up b (2) ...\n").unwrap();
                drop(output);
                tell(Output::Exited(ExitStatus::Code(0)));
            }
            other => panic!("{other}"),
        }
    }
}

fn hang_up(sessions: &[UnixStream]) {
    for session in sessions {
        let _ = session.shutdown(std::net::Shutdown::Both);
    }
}

impl Machine for Arc<Guest> {
    fn attach(&self, storage: Storage) -> Result<Root, MachineError> {
        let mut disks = lock(&self.disks);
        let lun = (0..).find(|lun| !disks.contains_key(lun)).unwrap();
        disks.insert(lun, storage.file);
        Ok(Root::Disk { lun })
    }

    fn detach(&self, root: &Root) -> Result<(), MachineError> {
        let Root::Disk { lun } = root else { panic!("{root:?}") };
        let removed = lock(&self.disks).remove(lun);
        removed.map(drop).ok_or_else(|| MachineError::NotAttached { root: root.clone() })
    }

    fn measure_again(&self, _: &Root) -> Result<(), MachineError> {
        Ok(())
    }

    fn open(
        &self,
        number: u64,
        session: &Session,
        control: UnixStream,
        streams: Vec<(StreamKind, OwnedFd)>,
    ) -> Result<(), MachineError> {
        let mut distros = lock(&self.distros);
        if let Some(sessions) = distros.get_mut(&session.distro) {
            sessions.push(control.try_clone().unwrap());
            let (guest, session) = (Arc::clone(self), session.clone());
            let end = control.try_clone().unwrap();
            thread::spawn(move || {
                guest.session(number, &session, control);
                hang_up(&[end]);
            });
        }
        let mut waiting = lock(&self.streams);
        for (kind, stream) in streams {
            waiting.insert((number, kind as u8), stream.into());
        }
        self.arrived.notify_all();
        Ok(())
    }

    fn control(&self, _: Duration) -> Result<UnixStream, MachineError> {
        Ok(lock(&self.control).take().unwrap())
    }

    fn modules(&self) -> Option<u16> {
        None
    }

    fn kill(&self) {
        self.end(Exit::Killed);
    }

    fn wait(&self) -> Exit {
        self.exit.wait()
    }

    fn resources(&self) -> Option<Resources> {
        Some(Resources { processors: 3, memory: 1 << 30 })
    }

    fn save_log(&self, to: &Path) -> io::Result<()> {
        fs::write(to, "Kernel panic")
    }
}

/// A service in this process, with its files in a directory of its own.
struct Service {
    directory: tempfile::TempDir,
    supervisor: Arc<Supervisor>,
    boots: Arc<Boots>,
}

impl Service {
    fn start(config: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let paths = Paths::below(directory.path());
        fs::create_dir_all(&paths.runtime).unwrap();
        fs::create_dir_all(paths.logs()).unwrap();
        fs::write(&paths.config, config).unwrap();
        let boots = Arc::new(Boots::default());
        let listener = UnixListener::bind(paths.socket()).unwrap();
        let supervisor = Supervisor::new(paths, Box::new(Booter(Arc::clone(&boots))));
        let served = Arc::clone(&supervisor);
        thread::spawn(move || server::serve(&listener, &served));
        let watched = Arc::clone(&supervisor);
        thread::spawn(move || watched.watch());
        Self { directory, supervisor, boots }
    }

    fn paths(&self) -> Paths {
        Paths::below(self.directory.path())
    }

    fn distro(&self, name: &str, configured: bool) -> Uuid {
        self.distro_of(2, name, configured)
    }

    fn distro_of(&self, version: u32, name: &str, configured: bool) -> Uuid {
        let id = Uuid::new_v4();
        let base = self.directory.path().join(name);
        fs::create_dir(&base).unwrap();
        fs::write(base.join("ext4.img"), "").unwrap();
        fs::create_dir(base.join("rootfs")).unwrap();
        let distro = Distro {
            id,
            name: name.to_owned(),
            version,
            base_path: base,
            disk: if version == 1 { "rootfs" } else { "ext4.img" }.to_owned(),
            leftover: None,
            elsewhere: None,
            reserved: false,
            state: State::Installed,
            activity: None,
            default_uid: 0,
            run_oobe: false,
            flavor: String::new(),
            os_version: String::new(),
            configured,
            packages: 0,
            other: serde_json::Map::new(),
        };
        registry::update(&self.paths(), |registry| {
            registry.distros.push(distro);
            Ok::<_, RegistryError>(())
        })
        .unwrap();
        id
    }

    fn connect(&self) -> UnixStream {
        let mut stream = UnixStream::connect(self.paths().socket()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        frame::write(&mut stream, &Hello { build: build::id().to_owned() }).unwrap();
        let welcome: Welcome = frame::read(&mut stream).unwrap();
        assert_eq!(welcome.build, build::id());
        stream
    }

    fn ask(&self, request: &Request) -> Answer {
        let mut stream = self.connect();
        frame::write(&mut stream, request).unwrap();
        frame::read(&mut stream).unwrap()
    }

    fn status(&self) -> Status {
        match self.ask(&Request::Status { uses: true }) {
            Answer::Status(status) => status,
            other => panic!("{other:?}"),
        }
    }

    fn begin(&self, distro: Uuid, words: &[&str]) -> UnixStream {
        let none = Streams { terminal: None, stdin: false, stdout: false, stderr: false };
        let stream = self.connect();
        send(&stream, distro, words, none, Vec::new());
        stream
    }

    fn run(&self, distro: Uuid, words: &[&str]) -> Answer {
        last(&mut self.begin(distro, words))
    }

    fn guest(&self) -> Arc<Guest> {
        Arc::clone(lock(&self.boots.last).as_ref().unwrap())
    }

    fn eventually(&self, what: impl Fn(&Status) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !what(&self.status()) {
            assert!(Instant::now() < deadline, "{:?}", self.status());
            thread::sleep(Duration::from_millis(5));
        }
    }
}

fn send(stream: &UnixStream, distro: Uuid, words: &[&str], streams: Streams, ends: Vec<OwnedFd>) {
    let program = Program::Arguments(words.iter().map(|word| word.as_bytes().to_vec()).collect());
    let request = Request::Run(Run {
        distro,
        program,
        user: None,
        directory: Directory::Home,
        environment: Vec::new(),
        streams,
    });
    crate::command::client::send(stream, &request, &ends).unwrap();
}

/// The last answer to a [`Run`].
fn last(stream: &mut UnixStream) -> Answer {
    loop {
        match frame::read::<Answer>(stream).unwrap() {
            Answer::Started | Answer::Progress(_) | Answer::Warning(_) => {}
            answer => return answer,
        }
    }
}

fn code(answer: Answer) -> String {
    match answer {
        Answer::Failed(failure) => failure.code.unwrap(),
        other => panic!("{other:?}"),
    }
}

fn exited(answer: &Answer, code: u8) -> bool {
    matches!(answer, Answer::Exited(ExitStatus::Code(status)) if *status == code)
}

#[test]
fn twenty_first_commands_at_once_share_one_machine_and_all_succeed() {
    let service = Service::start("");
    let distros = [service.distro("a", true), service.distro("b", true)];
    thread::scope(|scope| {
        for number in 0..20_u8 {
            let service = &service;
            scope.spawn(move || {
                let answer =
                    service.run(distros[usize::from(number % 2)], &["exit", &number.to_string()]);
                assert!(exited(&answer, number), "{answer:?}");
            });
        }
    });
    assert_eq!(service.boots.count.load(Ordering::Relaxed), 1);
    let status = service.status();
    assert_eq!(status.distros.len(), 2);
    assert_eq!(status.machine.unwrap().kernel, "6.1-test");
}

#[test]
fn bytes_reach_the_command_and_come_back() {
    let service = Service::start("");
    let distro = service.distro("a", true);
    let streams = Streams { terminal: None, stdin: true, stdout: true, stderr: true };
    let mut ours = Vec::new();
    let mut theirs = Vec::new();
    for _ in 0..3 {
        let (one, other) = UnixStream::pair().unwrap();
        ours.push(one);
        theirs.push(OwnedFd::from(other));
    }
    let mut stream = service.connect();
    send(&stream, distro, &["cat"], streams, theirs);
    let data: Vec<u8> = (0..3_000_000_u32).map(|number| (number % 251) as u8).collect();
    let mut back = Vec::new();
    thread::scope(|scope| {
        let (mut input, data) = (&ours[0], &data);
        scope.spawn(move || {
            input.write_all(data).unwrap();
            input.shutdown(std::net::Shutdown::Write).unwrap();
        });
        (&ours[1]).read_to_end(&mut back).unwrap();
    });
    assert!(back == data);
    assert!(exited(&last(&mut stream), 0));
}

#[test]
fn b135_an_idle_distro_stops_then_the_machine_and_the_next_command_boots_again() {
    let service = Service::start("[wsl2]\nvmIdleTimeout=50\n[general]\ninstanceIdleTimeout=50\n");
    let distro = service.distro("a", true);
    assert!(exited(&service.run(distro, &["exit", "3"]), 3));
    service.eventually(|status| status.distros.is_empty());
    service.eventually(|status| status.machine.is_none());
    assert!(exited(&service.run(distro, &["exit", "4"]), 4));
    assert_eq!(service.boots.count.load(Ordering::Relaxed), 2);
}

#[test]
fn a_distro_with_services_is_not_idle() {
    let service = Service::start("[wsl2]\nvmIdleTimeout=-1\n[general]\ninstanceIdleTimeout=500\n");
    let distro = service.distro("a", true);
    let mut waiting = service.connect();
    let streams = Streams { terminal: None, stdin: false, stdout: false, stderr: false };
    send(&waiting, distro, &["wait"], streams, Vec::new());
    while !matches!(frame::read::<Answer>(&mut waiting).unwrap(), Answer::Started) {}
    *lock(&service.guest().uses) = vec!["x listens\n".to_owned()];
    let running = service.status().distros;
    assert_eq!((running[0].sessions, running[0].uses.as_slice()), (1, &["x listens?".into()][..]));
    drop(waiting);
    thread::sleep(Duration::from_secs(2));
    assert_eq!(service.status().distros.len(), 1);
    lock(&service.guest().uses).clear();
    service.eventually(|status| status.distros.is_empty());
}

#[test]
fn services_do_not_count_where_they_are_not_to() {
    let service = Service::start(
        "[wsl2]\nvmIdleTimeout=-1\n[general]\ninstanceIdleTimeout=50\n\
         [wslr]\nservicesKeepRunning=false\n",
    );
    let distro = service.distro("a", true);
    assert!(exited(&service.run(distro, &["exit", "3"]), 3));
    *lock(&service.guest().uses) = vec!["x".to_owned()];
    service.eventually(|status| status.distros.is_empty());
}

#[test]
fn the_machines_of_both_versions_live_and_end_apart() {
    let service = Service::start("[wsl2]\nvmIdleTimeout=-1\n");
    let (one, two) = (service.distro_of(1, "one", true), service.distro("two", true));
    assert!(exited(&service.run(one, &["exit", "3"]), 3));
    // No virtual machine is started for it.
    assert!(service.status().machine.is_none());
    assert!(lock(&service.boots.last).is_none());
    assert!(exited(&service.run(two, &["exit", "4"]), 4));
    let host = Arc::clone(lock(&service.boots.host).as_ref().unwrap());
    assert_eq!(service.boots.count.load(Ordering::Relaxed), 2);
    assert!(matches!(service.ask(&Request::Terminate { distro: one }), Answer::Done));
    // The one on the host ends with its last distro, the virtual one stays.
    assert_eq!(host.exit.wait(), Exit::PowerOff);
    assert!(service.guest().exit.get().is_none());
    assert!(exited(&service.run(one, &["exit", "5"]), 5));
    assert_eq!(service.boots.count.load(Ordering::Relaxed), 3);
    // One that crashes takes only its own distros.
    assert_eq!(code(service.run(one, &["panic"])), "Wsl/Service/WSL_E_VM_CRASHED");
    service.eventually(|status| status.distros.len() == 1);
    assert!(exited(&service.run(two, &["exit", "6"]), 6));
    assert!(matches!(service.ask(&Request::Shutdown { force: false }), Answer::Done));
    assert_eq!(service.guest().exit.wait(), Exit::PowerOff);
}

#[test]
fn b007_what_a_command_leaves_running_keeps_its_distro() {
    let service = Service::start("[general]\ninstanceIdleTimeout=20\n");
    let distro = service.distro("a", true);
    assert!(exited(&service.run(distro, &["daemon"]), 0));
    thread::sleep(Duration::from_millis(300));
    assert_eq!(service.status().distros.len(), 1);
    assert!(matches!(service.ask(&Request::Terminate { distro }), Answer::Done));
    assert!(service.status().distros.is_empty());
}

#[test]
fn a_client_that_dies_hangs_up_its_command() {
    let service = Service::start("");
    let distro = service.distro("a", true);
    let mut stream = service.begin(distro, &["wait"]);
    while !matches!(frame::read::<Answer>(&mut stream), Ok(Answer::Started)) {}
    assert_eq!(service.status().distros[0].sessions, 1);
    drop(stream);
    service.eventually(|status| status.distros[0].sessions == 0);
}

#[test]
fn a_panic_is_told_to_every_waiting_client_with_the_kernels_log() {
    let service = Service::start("");
    let distros = [service.distro("a", true), service.distro("b", true)];
    let mut waiting: Vec<_> =
        distros.iter().map(|distro| service.begin(*distro, &["wait"])).collect();
    service.eventually(|status| status.distros.len() == 2);
    assert_eq!(code(service.run(distros[0], &["panic"])), "Wsl/Service/WSL_E_VM_CRASHED");
    for stream in &mut waiting {
        let Answer::Failed(failure) = last(stream) else { panic!() };
        assert_eq!(failure.code.unwrap(), "Wsl/Service/WSL_E_VM_CRASHED");
        assert!(failure.hint.unwrap().contains("kernel-panic-"));
    }
    assert!(service.status().machine.is_none());
    assert!(exited(&service.run(distros[1], &["exit", "0"]), 0));
}

#[test]
fn b157_a_distro_that_ends_by_itself_leaves_the_others_alone() {
    let service = Service::start("");
    let distros = [service.distro("a", true), service.distro("b", true)];
    let mut first = service.begin(distros[0], &["wait"]);
    let mut second = service.begin(distros[1], &["wait"]);
    for stream in [&mut first, &mut second] {
        while !matches!(frame::read::<Answer>(stream), Ok(Answer::Started)) {}
    }
    service.guest().distro_ends(distros[0]);
    assert_eq!(code(last(&mut first)), "Wsl/Service/E_ABORT");
    service.eventually(|status| status.distros.len() == 1);
    assert_eq!(lock(&service.guest().disks).len(), 1);
    assert!(exited(&service.run(distros[0], &["exit", "5"]), 5));
    assert_eq!(service.boots.count.load(Ordering::Relaxed), 1);
}

#[test]
fn b158_terminate_stops_one_distro_even_in_the_middle_of_a_command() {
    let service = Service::start("");
    let distros = [service.distro("a", true), service.distro("b", true)];
    assert!(exited(&service.run(distros[1], &["exit", "0"]), 0));
    let mut stream = service.begin(distros[0], &["wait"]);
    while !matches!(frame::read::<Answer>(&mut stream), Ok(Answer::Started)) {}
    assert!(matches!(service.ask(&Request::Terminate { distro: distros[0] }), Answer::Done));
    assert_eq!(code(last(&mut stream)), "Wsl/Service/E_ABORT");
    assert_eq!(service.status().distros.len(), 1);
    // A distro that does not run is fine as well.
    assert!(matches!(service.ask(&Request::Terminate { distro: Uuid::nil() }), Answer::Done));
}

#[test]
fn a_hung_guest_is_killed_when_its_distro_is_terminated() {
    let service = Service::start("[wsl2]\ndistributionStartTimeout=12000\n");
    let distro = service.distro("a", true);
    let mut stream = service.begin(distro, &["wait"]);
    while !matches!(frame::read::<Answer>(&mut stream), Ok(Answer::Started)) {}
    service.guest().hangs.store(true, Ordering::Relaxed);
    assert!(matches!(service.ask(&Request::Terminate { distro }), Answer::Done));
    assert!(matches!(last(&mut stream), Answer::Failed(_)));
    assert!(exited(&service.run(distro, &["exit", "6"]), 6));
    assert_eq!(service.boots.count.load(Ordering::Relaxed), 2);
}

#[test]
fn shutdown_does_not_depend_on_the_guest() {
    let service = Service::start("[wsl2]\ndistributionStartTimeout=12000\n");
    let distro = service.distro("a", true);
    assert!(exited(&service.run(distro, &["exit", "0"]), 0));
    service.guest().hangs.store(true, Ordering::Relaxed);
    let begin = Instant::now();
    assert!(matches!(service.ask(&Request::Shutdown { force: true }), Answer::Done));
    assert!(begin.elapsed() < Duration::from_secs(1));
    assert_eq!(service.guest().exit.get(), Some(Exit::Killed));
    // The service is leaving: it greets nobody, so that clients start another one.
    let mut stream = UnixStream::connect(service.paths().socket()).unwrap();
    let _ = frame::write(&mut stream, &Hello { build: build::id().to_owned() });
    assert!(frame::read::<Welcome>(&mut stream).is_err());
}

#[test]
fn shutdown_powers_the_guest_off() {
    let service = Service::start("");
    let distro = service.distro("a", true);
    assert!(exited(&service.run(distro, &["exit", "0"]), 0));
    assert!(matches!(service.ask(&Request::Shutdown { force: false }), Answer::Done));
    assert_eq!(service.guest().exit.get(), Some(Exit::PowerOff));
}

#[test]
fn the_first_start_configures_the_packages_once_and_tells_how_far_it_is() {
    let service = Service::start("");
    let distro = service.distro("a", false);
    let mut stream = service.begin(distro, &["exit", "0"]);
    let mut labels = Vec::new();
    loop {
        match frame::read::<Answer>(&mut stream).unwrap() {
            Answer::Progress(progress) => labels.push(progress.label),
            Answer::Exited(_) => break,
            Answer::Failed(failure) => panic!("{failure}"),
            _ => {}
        }
    }
    assert!(labels.iter().all(|label| label.starts_with("Setting up ")), "{labels:?}");
    let registry = registry::Registry::load(&service.paths()).unwrap();
    assert!(registry.by_id(distro).unwrap().configured);
    let log = service.paths().logs().join(format!("configure-{distro}.log"));
    assert!(fs::read_to_string(log).unwrap().contains("Setting up b (2)"));
}

#[test]
fn failures_to_start_name_their_cause_and_leave_the_disk_free() {
    let service = Service::start("");
    let bad = service.distro("bad", true);
    let disk = service.directory.path().join("bad/ext4.img");
    assert_eq!(
        code(service.run(bad, &["exit", "0"])),
        "Wsl/Service/CreateInstance/WSL_E_DISK_CORRUPTED"
    );
    let file = File::open(&disk).unwrap();
    file.try_lock().unwrap();
    assert_eq!(code(service.run(bad, &["exit", "0"])), "Wsl/Service/ERROR_SHARING_VIOLATION");
    fs::remove_file(&disk).unwrap();
    assert_eq!(code(service.run(bad, &["exit", "0"])), "Wsl/Service/ERROR_FILE_NOT_FOUND");
    let nobody = service.run(Uuid::new_v4(), &["exit", "0"]);
    assert_eq!(code(nobody), "Wsl/Service/WSL_E_DISTRO_NOT_FOUND");
    assert!(service.status().distros.is_empty());
}

#[test]
fn a_client_of_another_build_gets_an_idle_service_to_leave() {
    let service = Service::start("");
    let distro = service.distro("a", true);
    let mut stream = service.begin(distro, &["wait"]);
    while !matches!(frame::read::<Answer>(&mut stream), Ok(Answer::Started)) {}
    let greet = || {
        let mut other = UnixStream::connect(service.paths().socket()).unwrap();
        frame::write(&mut other, &Hello { build: "another".to_owned() }).unwrap();
        frame::read::<Welcome>(&mut other).unwrap()
    };
    assert!(greet().busy);
    assert!(matches!(service.ask(&Request::Terminate { distro }), Answer::Done));
    assert!(!greet().busy);
    assert!(UnixStream::connect(service.paths().socket()).is_ok_and(|mut late| {
        let _ = frame::write(&mut late, &Hello { build: build::id().to_owned() });
        frame::read::<Welcome>(&mut late).is_err()
    }));
    let _ = &service.supervisor;
}

#[test]
fn nonsense_on_the_socket_harms_nobody() {
    let service = Service::start("");
    let distro = service.distro("a", true);
    for nonsense in [&b"\xff\xff\xff\xff"[..], b"", b"GET / HTTP/1.0\r\n\r\n", &[0; 4096]] {
        let mut stream = UnixStream::connect(service.paths().socket()).unwrap();
        let _ = stream.write_all(nonsense);
        let mut stream = service.connect();
        let _ = stream.write_all(nonsense);
    }
    let mut stream = service.connect();
    // Streams are announced and none is passed.
    let streams = Streams { terminal: None, stdin: true, stdout: true, stderr: true };
    send(&stream, distro, &["cat"], streams, Vec::new());
    assert_eq!(code(last(&mut stream)), "Wsl/Service/E_UNEXPECTED");
    assert!(exited(&service.run(distro, &["exit", "0"]), 0));
}
