//! The guest's init in a real virtual machine: the test is the service.
//!
//! Needs a KVM that runs stock kernels; the rig runs it with `--ignored` and names by
//! `WSLR_TEST_KERNEL` a folder with `vmlinux` and `modules`, by `WSLR_TEST_EXECUTABLE` the
//! executable, by `WSLR_TEST_DISTRO` a distro's files as a tar. One machine serves all
//! tests.

#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::expect_used)]

#[allow(dead_code)]
#[path = "guest/session.rs"]
mod session;

use std::collections::HashMap;
use std::env;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{LazyLock, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use session::{Finished, Request, Running, Screen, random};
use uuid::Uuid;
use wslr::devices::VirtioDevice;
use wslr::devices::scsi::{DiskOptions, ScsiBus, ScsiDevice};
use wslr::devices::vsock::{Vsock, VsockDevice};
use wslr::kernel::initramfs;
use wslr::protocol::frame;
use wslr::protocol::guest::{
    CONTROL_PORT, Configure, Envelope, Event, GuestError, Request as Ask, Root, STREAM_PORT,
    StartDistro, StreamHeader, VERSION,
};
use wslr::protocol::session::{ExitStatus, Input, Output, SessionError, StreamKind, WindowSize};
use wslr::vmm::command_line;
use wslr::vmm::exit::Exit;
use wslr::vmm::machine::{Configuration, VirtualMachine};

struct Machine {
    machine: VirtualMachine,
    disks: ScsiBus,
    vsock: Vsock,
    control: UnixStream,
    events: Receiver<Event>,
    waiting: HashMap<u64, Result<Vec<String>, GuestError>>,
    exited: Vec<Uuid>,
    next: u64,
    directory: tempfile::TempDir,
}

/// A distro that a test attached.
struct Distro {
    id: Uuid,
    lun: u16,
}

fn variable(name: &str) -> PathBuf {
    env::var_os(name).unwrap_or_else(|| panic!("{name} is not set")).into()
}

/// The one machine.
fn machine() -> MutexGuard<'static, Machine> {
    static MACHINE: LazyLock<Mutex<Machine>> = LazyLock::new(|| Mutex::new(Machine::boot()));
    MACHINE.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl Machine {
    fn boot() -> Self {
        let start = Instant::now();
        let directory = tempfile::tempdir().unwrap();
        let folder = variable("WSLR_TEST_KERNEL");
        let mut modules: Vec<PathBuf> = fs::read_dir(folder.join("modules"))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        modules.sort();
        let executable = variable("WSLR_TEST_EXECUTABLE");
        let disks = ScsiBus::new();
        let vsock = Vsock::new().unwrap();
        let (sender, connections) = channel();
        vsock.listen(CONTROL_PORT, move |stream| sender.send(stream).unwrap()).unwrap();
        let devices: Vec<Box<dyn VirtioDevice>> = vec![
            Box::new(ScsiDevice::new(disks.clone(), 1)),
            Box::new(VsockDevice::new(vsock.clone())),
        ];
        let machine = VirtualMachine::start(Configuration {
            kernel: folder.join("vmlinux"),
            initramfs: initramfs::build(&executable, &modules).unwrap(),
            command_line: command_line::build(1, true, "printk.devkmsg=on").unwrap(),
            memory: 512 << 20,
            processors: 1,
            nested_virtualization: false,
            console_log: directory.path().join("kernel.log"),
            devices,
        })
        .unwrap();
        let control = connections.recv_timeout(Duration::from_secs(120)).unwrap();
        let mut reader = control.try_clone().unwrap();
        let Event::Hello { version, kernel } = frame::read(&mut reader).unwrap() else {
            panic!("no greeting")
        };
        assert_eq!(version, VERSION);
        println!("kernel {kernel}: hello after {:?}", start.elapsed());
        let (sender, events) = channel();
        thread::spawn(move || {
            while let Ok(event) = frame::read(&mut reader) {
                let _ = sender.send(event);
            }
        });
        let mut this = Self {
            machine,
            disks,
            vsock,
            control,
            events,
            waiting: HashMap::new(),
            exited: Vec::new(),
            next: 0,
            directory,
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let configure = Configure {
            time: (now.as_secs().try_into().unwrap(), now.subsec_nanos()),
            entropy: random(64),
            modules: None,
            swap: None,
            network: None,
            crash_dumps: false,
            load_modules: Vec::new(),
        };
        this.ask(Ask::Configure(configure)).unwrap();
        this
    }

    fn ask(&mut self, request: Ask) -> Result<Vec<String>, GuestError> {
        let id = self.tell(request);
        self.answer(id)
    }

    fn tell(&mut self, request: Ask) -> u64 {
        self.next += 1;
        frame::write(&mut self.control, &Envelope { id: self.next, request }).unwrap();
        self.next
    }

    fn answer(&mut self, id: u64) -> Result<Vec<String>, GuestError> {
        loop {
            if let Some(result) = self.waiting.remove(&id) {
                return result;
            }
            self.take_event();
        }
    }

    fn take_event(&mut self) {
        match self.events.recv_timeout(Duration::from_secs(60)) {
            Ok(Event::Reply { id, result }) => drop(self.waiting.insert(id, result)),
            Ok(Event::DistroExited { distro }) => self.exited.push(distro),
            Ok(Event::Described { .. } | Event::PortOpened(_) | Event::PortClosed { .. }) => {}
            Ok(Event::Hello { .. }) => panic!("a second greeting"),
            Err(_) => panic!("no answer:\n{}", self.log()),
        }
    }

    fn wait_exited(&mut self, distro: &Distro) {
        while !self.exited.contains(&distro.id) {
            self.take_event();
        }
    }

    fn log(&self) -> String {
        let log = fs::read(self.directory.path().join("kernel.log")).unwrap();
        String::from_utf8_lossy(&log).into_owned()
    }

    /// A disk file of its own with a distro's files.
    fn disk(&self) -> PathBuf {
        static MASTER: LazyLock<PathBuf> = LazyLock::new(|| {
            let base = env::temp_dir();
            let (tree, image) = (base.join("tree"), base.join("master.img"));
            if image.exists() {
                return image;
            }
            fs::create_dir_all(&tree).unwrap();
            let distro = variable("WSLR_TEST_DISTRO");
            // What no test needs: the rig's processor is slow.
            let mut unpack = vec!["-x", "-f", text(&distro), "-C", text(&tree)];
            unpack.extend(["--exclude=./dev/*", "--exclude=./usr/share/*", "--exclude=*/gconv"]);
            unpack.extend(["--exclude=./var/lib/dpkg", "--exclude=./usr/lib/locale"]);
            run("tar", &unpack);
            run("mke2fs", &["-q", "-t", "ext4", "-d", text(&tree), text(&image), "256M"]);
            fs::remove_dir_all(&tree).unwrap();
            image
        });
        let path = self.directory.path().join(format!("{}.img", Uuid::new_v4()));
        run("cp", &["--sparse=always", text(&MASTER), text(&path)]);
        path
    }

    fn attach(&mut self, disk: &Path, read_only: bool) -> u16 {
        let file = File::options().read(true).write(!read_only).open(disk).unwrap();
        self.disks.attach(file, DiskOptions { read_only, serial: String::new() }).unwrap()
    }

    fn try_start(
        &mut self,
        disk: &Path,
        read_only: bool,
    ) -> Result<(Distro, Vec<String>), GuestError> {
        let lun = self.attach(disk, read_only);
        let id = Uuid::new_v4();
        let start = StartDistro {
            distro: id,
            name: format!("Test{lun}"),
            root: Root::Disk { lun },
            hostname: "machine".into(),
            time_zone: None,
            stop_limit: Duration::from_secs(8),
            safe_mode: false,
            isolated: false,
        };
        let result = self.ask(Ask::StartDistro(start));
        if result.is_err() {
            self.disks.detach(lun).unwrap();
        }
        result.map(|warnings| (Distro { id, lun }, warnings))
    }

    fn start(&mut self, disk: &Path) -> Distro {
        let start = Instant::now();
        let (distro, warnings) = self.try_start(disk, false).unwrap();
        println!("distro up after {:?}", start.elapsed());
        assert_eq!(warnings, Vec::<String>::new());
        distro
    }

    fn stop(&mut self, distro: &Distro) {
        self.ask(Ask::StopDistro { distro: distro.id }).unwrap();
        self.disks.detach(distro.lun).unwrap();
    }

    fn session(&mut self, distro: &Distro, request: Request) -> Running {
        self.next += 1;
        let number = self.next;
        let connect = |kind, session: Option<&wslr::protocol::session::Session>| {
            let (ours, theirs) = UnixStream::pair().unwrap();
            let mut prefix = frame::encode(&StreamHeader { session: number, kind }).unwrap();
            if let Some(session) = session {
                prefix.extend(frame::encode(session).unwrap());
            }
            self.vsock.connect(STREAM_PORT, theirs.into(), prefix, |_| {}).unwrap();
            ours
        };
        let session = request.session(distro.id);
        let control = connect(StreamKind::Control, Some(&session));
        control.set_read_timeout(Some(session::PATIENCE)).unwrap();
        let kinds = request.streams.kinds().into_iter();
        let streams = kinds.map(|kind| (kind, connect(kind, None))).collect();
        Running { control, streams, warnings: vec![] }
    }

    fn run(&mut self, distro: &Distro, line: &str) -> Finished {
        self.session(distro, Request::words(&["sh", "-c", line])).finish(b"")
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn run(program: &str, arguments: &[&str]) {
    let status = Command::new(program).args(arguments).status().unwrap();
    assert!(status.success(), "{program} {arguments:?}");
}

/// Whether an independent judge finds the file system whole, its journal replayed.
fn check(disk: &Path) {
    run("e2fsck", &["-fy", "-E", "journal_only", text(disk)]);
    run("e2fsck", &["-fn", text(disk)]);
}

#[test]
#[ignore = "needs a KVM that boots stock kernels"]
fn b146_b229_two_distros_share_the_machine_and_nothing_else() {
    let mut machine = machine();
    let (disk, other_disk) = (machine.disk(), machine.disk());
    let distro = machine.start(&disk);
    let other = machine.start(&other_disk);
    let boot = "cat /proc/sys/kernel/random/boot_id";
    assert_eq!(machine.run(&distro, boot).text(), machine.run(&other, boot).text());
    assert_eq!(machine.run(&distro, "exit 42").status, ExitStatus::Code(42));
    // B146
    machine.run(
        &distro,
        "echo shared > /mnt/wsl/file; mkdir /mnt/wsl/m; mount -t tmpfs x /mnt/wsl/m; \
                          echo mounted > /mnt/wsl/m/file",
    );
    assert_eq!(
        machine.run(&other, "cat /mnt/wsl/file /mnt/wsl/m/file").text(),
        "shared\nmounted\n"
    );
    machine.run(&distro, "umount /mnt/wsl/m");
    assert_eq!(machine.run(&other, "ls /mnt/wsl/m").text(), "");
    // B155, B159
    machine.run(&distro, "echo x > /dev/shm/mine; touch /run/mine");
    assert_eq!(machine.run(&other, "ls /dev/shm /run/mine 2>/dev/null").text(), "/dev/shm:\n");
    let group = |machine: &mut Machine, distro| machine.run(distro, "cat /proc/self/cgroup").text();
    let (one, two) = (group(&mut machine, &distro), group(&mut machine, &other));
    assert!(one.starts_with("0::/wsl-user/distro-") && one != two, "{one} {two}");
    let mounts = machine.run(&distro, "cat /proc/self/mounts").text();
    println!("{mounts}");
    assert!(
        mounts
            .contains("cgroup2 /sys/fs/cgroup cgroup2 rw,nosuid,nodev,noexec,relatime,nsdelegate")
    );
    assert!(mounts.lines().any(|line| line.starts_with("rootfs /init rootfs ro")), "B151");
    assert!(mounts.lines().any(|line| line.contains(" / ext4 rw,") && line.contains("discard")));
    assert_eq!(
        machine.run(&distro, "cat /sys/fs/cgroup/wsl-user/cpu.max").text(),
        "99000 100000\n"
    );
    assert_eq!(
        machine.run(&distro, "sysctl -n kernel.dmesg_restrict; ulimit -n; ulimit -Hn").text(),
        { "0\n10240\n1048576\n" }
    );
    assert_eq!(machine.run(&distro, "cat /sys/class/net/lo/flags").text(), "0x9\n");
    assert_eq!(
        machine.run(&distro, "cat /proc/1/oom_score_adj /proc/self/oom_score_adj").text(),
        { "-1000\n0\n" }
    );
    machine.stop(&distro);
    assert_eq!(machine.run(&other, "ls /sys/fs/cgroup/wsl-user | grep -c distro-").text(), "1\n");
    machine.stop(&other);
    assert!(machine.disks.attached().is_empty());
    check(&disk);
    check(&other_disk);
}

#[test]
#[ignore = "needs a KVM that boots stock kernels"]
fn b020_b228_bytes_and_statuses_come_back_right() {
    let mut machine = machine();
    let megabytes = env::var("WSLR_TEST_MEGABYTES").map_or(16, |count| count.parse().unwrap());
    let disk = machine.disk();
    let distro = machine.start(&disk);
    let bytes = random(megabytes << 20);
    let start = Instant::now();
    let back = machine.session(&distro, Request::words(&["cat"])).finish(&bytes);
    println!("{megabytes} MiB through cat in {:?}", start.elapsed());
    assert!(back.stdout == bytes, "{} of {} bytes", back.stdout.len(), bytes.len());
    let running: Vec<Running> = (0..20)
        .map(|index| {
            let line = format!("cat; echo {index}; exit {index}");
            machine.session(&distro, Request::words(&["sh", "-c", &line]))
        })
        .collect();
    for (index, running) in running.into_iter().enumerate() {
        let finished = running.finish(b"x\n");
        assert_eq!((finished.text(), finished.code()), (format!("x\n{index}\n"), index as u8));
    }
    let start = Instant::now();
    for _ in 0..10 {
        assert_eq!(machine.session(&distro, Request::words(&["true"])).finish(b"").code(), 0);
    }
    println!("a warm command in {:?}", start.elapsed() / 10);
    machine.stop(&distro);
}

#[test]
#[ignore = "needs a KVM that boots stock kernels"]
fn b024_a_terminal_over_the_machine() {
    let mut machine = machine();
    let disk = machine.disk();
    let distro = machine.start(&disk);
    let request = Request::words(&["bash", "--norc", "-i"]).on_terminal(100, 30);
    let mut running = machine.session(&distro, request);
    let mut screen = Screen::new(running.take(StreamKind::Terminal));
    assert_eq!(running.next().unwrap(), Output::Started);
    screen.type_in("PS1='$ '; stty size; tty\n");
    screen.expect("30 100\r\n");
    screen.expect("/dev/pts/0\r\n");
    running.send(Input::Resize(WindowSize { columns: 77, rows: 22 }));
    screen.type_in("sleep 0.5; stty size\n");
    screen.expect("22 77\r\n");
    screen.type_in("sleep 100\n");
    screen.expect("sleep 100\r\n");
    thread::sleep(Duration::from_millis(500));
    screen.type_in("\u{1a}");
    screen.expect("Stopped");
    screen.type_in("fg\n");
    screen.expect("sleep 100\r\n");
    thread::sleep(Duration::from_millis(500));
    screen.type_in("\u{3}");
    screen.expect("^C");
    screen.type_in("exit 5\n");
    assert_eq!(running.exited_after_start(), ExitStatus::Code(5));
    running.wait_idle();
    machine.stop(&distro);
}

#[test]
#[ignore = "needs a KVM that boots stock kernels"]
fn b157_b158_a_distro_ends_by_itself_and_by_force() {
    let mut machine = machine();
    let (disk, other_disk) = (machine.disk(), machine.disk());
    let distro = machine.start(&disk);
    let other = machine.start(&other_disk);
    let line = "echo durable > /durable; exec perl -e \
                'syscall(169, 0xfee1dead, 672274793, 0x01234567, 0)'";
    let mut running = machine.session(&distro, Request::words(&["sh", "-c", line]));
    machine.wait_exited(&distro);
    while running.next().is_ok() {}
    machine.disks.detach(distro.lun).unwrap();
    assert_eq!(machine.run(&other, "echo alive").text(), "alive\n");
    assert_eq!(
        machine.session(&distro, Request::words(&["true"])).next().unwrap(),
        Output::Failed(SessionError::NotRunning)
    );
    check(&disk);
    let distro = machine.start(&disk);
    assert_eq!(machine.run(&distro, "cat /durable").text(), "durable\n");
    // A distro that does not want to go: everything ignored,
    // its root mounted where the others see it.
    let line = "trap '' TERM HUP INT; mkdir /mnt/wsl/root; mount --bind / /mnt/wsl/root; \
                (while :; do sleep 1; done) & echo ready; while :; do sleep 1; done";
    let mut hostile = machine.session(&distro, Request::words(&["bash", "-c", line]));
    let mut ready = [0; 6];
    hostile.take(StreamKind::Stdout).read_exact(&mut ready).unwrap();
    assert_eq!(machine.run(&other, "cat /mnt/wsl/root/durable").text(), "durable\n");
    let start = Instant::now();
    machine.stop(&distro);
    println!("a hostile distro stopped in {:?}", start.elapsed());
    assert!(start.elapsed() < Duration::from_secs(15));
    check(&disk);
    assert_eq!(machine.run(&other, "ls /mnt/wsl/root").text(), "");
    assert_eq!(machine.ask(Ask::StopDistro { distro: distro.id }), Err(GuestError::NotRunning));
    machine.stop(&other);
}

#[test]
#[ignore = "needs a KVM that boots stock kernels"]
fn b052_b101_disks_that_are_no_good() {
    let mut machine = machine();
    let empty = machine.directory.path().join("empty.img");
    File::create(&empty).unwrap().set_len(64 << 20).unwrap();
    let result = machine.try_start(&empty, false).map(|_| ());
    assert!(matches!(result, Err(GuestError::DiskCorrupted { .. })), "{result:?}");
    run("mke2fs", &["-q", "-t", "ext4", text(&empty)]);
    let result = machine.try_start(&empty, false).map(|_| ());
    assert_eq!(result, Err(GuestError::NotALinuxDistro));
    let disk = machine.disk();
    let (distro, warnings) = machine.try_start(&disk, true).unwrap();
    assert!(warnings[0].contains("mounted read-only as a fallback"), "{warnings:?}");
    assert_eq!(machine.run(&distro, "echo x > /written; cat /written").text(), "x\n");
    machine.stop(&distro);
    let distro = machine.start(&disk);
    assert_eq!(machine.run(&distro, "ls /written 2>/dev/null").text(), "");
    machine.stop(&distro);
    assert!(machine.disks.attached().is_empty());
}

/// Last by name: it ends the machine.
#[test]
#[ignore = "needs a KVM that boots stock kernels"]
fn z_the_machine_powers_off_with_everything_on_the_disks() {
    let mut machine = machine();
    let disk = machine.disk();
    let distro = machine.start(&disk);
    let line = "echo last > /last; echo ready; trap '' TERM; exec sleep 1000";
    let mut running = machine.session(&distro, Request::words(&["bash", "-c", line]));
    let mut stdout = running.take(StreamKind::Stdout);
    let mut ready = [0; 6];
    stdout.read_exact(&mut ready).unwrap();
    let start = Instant::now();
    machine.tell(Ask::PowerOff);
    machine.control.flush().unwrap();
    assert_eq!(machine.machine.wait(), Exit::PowerOff);
    println!("off in {:?}", start.elapsed());
    let log = machine.log();
    println!("{log}");
    check(&disk);
    run("debugfs", &["-R", "cat /last", text(&disk)]);
    for bad in ["BUG:", "Oops", "rcu: INFO", "Call Trace"] {
        assert!(!log.contains(bad), "{bad}");
    }
}
