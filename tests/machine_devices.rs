//! The disk and stream devices under a real kernel's drivers.
//!
//! The guest's init is this very program: started as process 1 it runs [`the_guest`],
//! which does on the disks and sockets what the host's side of the test asks for. Needs
//! what `machine_boot.rs` needs, and `mkfs.ext4`.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::Shutdown;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount, umount};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, VsockAddr, accept, bind, connect, listen, socket,
};
use wslr::devices::scsi::{DiskOptions, ScsiBus, ScsiDevice};
use wslr::devices::vsock::{Ended, Vsock, VsockDevice};
use wslr::vmm::command_line;
use wslr::vmm::exit::Exit;
use wslr::vmm::machine::{Configuration, VirtualMachine};

/// The guest's port for commands, one line each.
const COMMANDS: u32 = 1000;
/// The guest's port that sends everything back.
const ECHO: u32 = 1001;
/// The guest's port that never answers and never reads.
const DEAF: u32 = 1002;
/// The host's port that sends everything back.
const HOST_ECHO: u32 = 2000;

const MEGABYTE: usize = 1 << 20;

/// How long anything may take; the rig's processors are slow.
const PATIENCE: Duration = Duration::from_secs(240);

// ---------------------------------------------------------------------------------------
// The guest.

#[test]
#[ignore = "the guest's side of the other tests; only works as process 1"]
fn the_guest() {
    if std::process::id() != 1 {
        return;
    }
    let _later = wslr::guest::boot::prepare();
    let commands = guest_listener(COMMANDS);
    let echo = guest_listener(ECHO);
    let deaf = guest_listener(DEAF);
    std::thread::spawn(move || {
        loop {
            let stream = guest_accept(&echo);
            std::thread::spawn(move || send_back(stream));
        }
    });
    std::thread::spawn(move || {
        let mut kept = Vec::new();
        loop {
            kept.push(guest_accept(&deaf));
        }
    });
    loop {
        let mut stream = guest_accept(&commands);
        std::thread::spawn(move || {
            let mut line = String::new();
            BufReader::new(stream.try_clone().unwrap()).read_line(&mut line).unwrap();
            let words: Vec<&str> = line.split_whitespace().collect();
            let answer = guest_command(&words).unwrap_or_else(|error| format!("error: {error}"));
            stream.write_all(answer.as_bytes()).unwrap();
        });
    }
}

fn guest_listener(port: u32) -> OwnedFd {
    let kind = SockType::Stream;
    let fd = socket(AddressFamily::Vsock, kind, SockFlag::SOCK_CLOEXEC, None).unwrap();
    bind(fd.as_raw_fd(), &VsockAddr::new(libc::VMADDR_CID_ANY, port)).unwrap();
    listen(&fd, Backlog::MAXCONN).unwrap();
    fd
}

fn guest_accept(listener: &OwnedFd) -> File {
    use std::os::fd::FromRawFd as _;
    let number = accept(listener.as_raw_fd()).unwrap();
    // SAFETY: the kernel has just made the descriptor, nobody else has it.
    File::from(unsafe { OwnedFd::from_raw_fd(number) })
}

fn guest_call(port: u32) -> File {
    let fd = socket(AddressFamily::Vsock, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
    connect(fd.as_raw_fd(), &VsockAddr::new(libc::VMADDR_CID_HOST, port)).unwrap();
    File::from(fd)
}

/// Ends the sending direction of a socket.
fn end(stream: &File) {
    nix::sys::socket::shutdown(stream.as_raw_fd(), nix::sys::socket::Shutdown::Write).unwrap();
}

fn send_back(mut stream: File) {
    let mut buffer = vec![0; 256 << 10];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => return,
            Ok(count) => {
                if stream.write_all(&buffer[..count]).is_err() {
                    return;
                }
            }
        }
    }
}

fn scsi(lun: &str) -> PathBuf {
    PathBuf::from(format!("/sys/bus/scsi/devices/0:0:0:{lun}"))
}

fn device(lun: &str) -> std::io::Result<PathBuf> {
    let end = Instant::now() + PATIENCE;
    loop {
        let name = fs::read_dir(scsi(lun).join("block")).ok().and_then(|mut names| names.next());
        if let Some(name) = name {
            let name = name?.file_name();
            let path = Path::new("/dev").join(&name);
            // Until it opens, the node may still be that of a disk that has gone.
            if File::open(&path).is_ok() && Path::new("/sys/block").join(&name).exists() {
                return Ok(path);
            }
        }
        if Instant::now() > end {
            return Err(std::io::Error::other("the disk did not appear"));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn guest_command(words: &[&str]) -> std::io::Result<String> {
    let mounted = |lun: &str| PathBuf::from(format!("/mnt/{lun}"));
    Ok(match *words {
        ["size", lun] => {
            let path = device(lun)?;
            let name = path.file_name().unwrap_or_default().to_owned();
            fs::read_to_string(Path::new("/sys/block").join(name).join("size"))?.trim().to_owned()
        }
        ["queue", lun, what] => {
            let name = device(lun)?.file_name().unwrap_or_default().to_owned();
            let path = Path::new("/sys/block").join(name).join("queue").join(what);
            fs::read_to_string(path)?.trim().to_owned()
        }
        ["gone", lun] => {
            let end = Instant::now() + PATIENCE;
            while scsi(lun).exists() && Instant::now() < end {
                std::thread::sleep(Duration::from_millis(5));
            }
            (!scsi(lun).exists()).to_string()
        }
        ["mount", lun] => {
            fs::create_dir_all(mounted(lun))?;
            let none = None::<&str>;
            mount(Some(&device(lun)?), &mounted(lun), Some("ext4"), MsFlags::empty(), none)?;
            String::new()
        }
        ["write", lun, megabytes] => {
            let mut file = File::create(mounted(lun).join("file"))?;
            Pattern::new().write(&mut file, megabytes.parse().unwrap())?;
            file.sync_all()?;
            String::new()
        }
        ["check", lun, megabytes] => {
            fs::write("/proc/sys/vm/drop_caches", "3")?;
            let mut file = File::open(mounted(lun).join("file"))?;
            Pattern::new().check(&mut file, megabytes.parse().unwrap())?
        }
        ["remove", lun] => {
            fs::remove_file(mounted(lun).join("file"))?;
            nix::unistd::sync();
            String::new()
        }
        ["trim", lun] => {
            // struct fstrim_range: start, length, least length.
            let mut range = [0_u64, u64::MAX, 0];
            let directory = File::open(mounted(lun))?;
            // SAFETY: FITRIM reads and writes the 24 bytes it is given.
            let result =
                unsafe { libc::ioctl(directory.as_raw_fd(), 0xc018_5879, range.as_mut_ptr()) };
            nix::errno::Errno::result(result)?;
            range[1].to_string()
        }
        ["unmount", lun] => {
            umount(&mounted(lun))?;
            String::new()
        }
        ["read-only", lun] => {
            let name = device(lun)?.file_name().unwrap_or_default().to_owned();
            fs::read_to_string(Path::new("/sys/block").join(name).join("ro"))?.trim().to_owned()
        }
        ["call", megabytes] => {
            let mut stream = guest_call(HOST_ECHO);
            let megabytes = megabytes.parse().unwrap();
            let mut reader = stream.try_clone()?;
            let reading = std::thread::spawn(move || Pattern::new().check(&mut reader, megabytes));
            Pattern::new().write(&mut stream, megabytes)?;
            end(&stream);
            reading.join().unwrap()?
        }
        ["exit"] => {
            nix::unistd::sync();
            nix::sys::reboot::reboot(nix::sys::reboot::RebootMode::RB_POWER_OFF)?;
            String::new()
        }
        _ => return Err(std::io::Error::other("unknown command")),
    })
}

// ---------------------------------------------------------------------------------------
// Both.

/// A megabyte of noise that differs with its number in every page, cheap to make again:
/// the rig's processors are slow.
struct Pattern(Vec<u8>);

impl Pattern {
    fn new() -> Self {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut bytes = vec![0; MEGABYTE];
        for word in bytes.as_chunks_mut::<8>().0 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            *word = state.to_le_bytes();
        }
        Self(bytes)
    }

    fn block(&mut self, number: u64) -> &[u8] {
        for (page, bytes) in (0_u64..).zip(self.0.chunks_mut(4096)) {
            bytes[..8].copy_from_slice(&(number << 8 | page).to_le_bytes());
        }
        &self.0
    }

    fn write(&mut self, to: &mut impl std::io::Write, megabytes: u64) -> std::io::Result<()> {
        (0..megabytes).try_for_each(|number| to.write_all(self.block(number)))
    }

    /// Reads that many megabytes and the end; says what is not as expected.
    fn check(&mut self, from: &mut impl std::io::Read, megabytes: u64) -> std::io::Result<String> {
        let mut found = vec![0; MEGABYTE];
        for number in 0..megabytes {
            from.read_exact(&mut found)?;
            if found != self.block(number) {
                return Ok(format!("megabyte {number} differs"));
            }
        }
        Ok(if from.read(&mut found)? == 0 { "whole" } else { "too long" }.to_owned())
    }
}

// ---------------------------------------------------------------------------------------
// The host.

struct Host {
    machine: VirtualMachine,
    disks: ScsiBus,
    vsock: Vsock,
    log: tempfile::TempDir,
    started: Instant,
}

impl Drop for Host {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("{:?}\n{}", self.machine.exit(), self.kernel_log());
        }
    }
}

impl Host {
    fn start(processors: u32, before: impl FnOnce(&ScsiBus)) -> Self {
        let folder =
            PathBuf::from(std::env::var_os("WSLR_TEST_KERNEL").expect("WSLR_TEST_KERNEL not set"));
        let mut modules: Vec<PathBuf> =
            fs::read_dir(folder.join("modules")).unwrap().map(|e| e.unwrap().path()).collect();
        modules.sort();
        let myself = std::env::current_exe().unwrap();
        let disks = ScsiBus::new();
        before(&disks);
        let vsock = Vsock::new().unwrap();
        vsock.listen(HOST_ECHO, host_echo).unwrap();
        let words = "-- the_guest --exact --ignored --nocapture";
        let log = tempfile::tempdir().unwrap();
        let started = Instant::now();
        let machine = VirtualMachine::start(Configuration {
            kernel: folder.join("vmlinux"),
            initramfs: wslr::kernel::initramfs::build(&myself, &modules).unwrap(),
            command_line: command_line::build(processors, false, words).unwrap(),
            memory: 768 << 20,
            processors,
            nested_virtualization: true,
            console_log: log.path().join("kernel.log"),
            devices: vec![
                Box::new(ScsiDevice::new(disks.clone(), processors)),
                Box::new(VsockDevice::new(vsock.clone())),
            ],
        })
        .unwrap();
        let host = Self { machine, disks, vsock, log, started };
        let end = Instant::now() + PATIENCE;
        while host.try_ask("size none").is_none() {
            assert!(host.machine.exit().is_none(), "the guest ended: {}", host.kernel_log());
            assert!(Instant::now() < end, "the guest did not come up: {}", host.kernel_log());
            std::thread::sleep(Duration::from_millis(20));
        }
        host.say("the guest takes commands");
        host
    }

    fn say(&self, what: &str) {
        println!("{:8.2} s  {what}", self.started.elapsed().as_secs_f64());
    }

    fn kernel_log(&self) -> String {
        let log = fs::read(self.log.path().join("kernel.log")).unwrap_or_default();
        String::from_utf8_lossy(&log).into_owned()
    }

    fn bridge(&self, port: u32, prefix: &[u8]) -> Option<(UnixStream, Receiver<Ended>)> {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (sender, ended) = channel();
        let on_end = move |how| {
            let _ = sender.send(how);
        };
        self.vsock.connect(port, theirs.into(), prefix.to_vec(), on_end).ok()?;
        ours.set_read_timeout(Some(PATIENCE)).unwrap();
        Some((ours, ended))
    }

    /// Sends a command and returns the answer; nothing where nobody listens yet.
    fn try_ask(&self, command: &str) -> Option<String> {
        if command == "size none" {
            // Only to see whether somebody listens.
            let (stream, ended) = self.bridge(ECHO, b"x")?;
            stream.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
            let heard = (&stream).read(&mut [0; 1]).ok()? == 1;
            drop((stream, ended));
            return heard.then(String::new);
        }
        let (mut stream, _) = self.bridge(COMMANDS, format!("{command}\n").as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        Some(answer)
    }

    fn ask(&self, command: &str) -> String {
        let started = Instant::now();
        let answer = self.try_ask(command);
        let answer = answer.unwrap_or_else(|| panic!("{command}: {}", self.kernel_log()));
        self.say(&format!("{command} -> {answer:?} after {:?}", started.elapsed()));
        assert!(!answer.starts_with("error"), "{command}: {answer}\n{}", self.kernel_log());
        answer
    }

    fn finish(self) {
        let _ = self.try_ask("exit");
        assert_eq!(self.machine.wait(), Exit::PowerOff);
        self.say("powered off");
        let log = self.kernel_log();
        println!("{log}");
        for complaint in ["EXT4-fs error", "BUG:", "WARNING:", "blocked for more than"] {
            assert!(!log.contains(complaint), "{complaint}");
        }
    }
}

fn host_echo(stream: UnixStream) {
    std::thread::spawn(move || send_back(File::from(OwnedFd::from(stream))));
}

/// An empty ext4 file system in a sparse file.
fn file_system(folder: &Path, name: &str, megabytes: u64) -> PathBuf {
    let path = folder.join(name);
    File::create(&path).unwrap().set_len(megabytes << 20).unwrap();
    let status = Command::new("/sbin/mkfs.ext4").args(["-q", "-F"]).arg(&path).status().unwrap();
    assert!(status.success());
    path
}

fn open(path: &Path) -> File {
    File::options().read(true).write(true).open(path).unwrap()
}

fn used(path: &Path) -> u64 {
    fs::metadata(path).unwrap().blocks() * 512
}

fn check(path: &Path) {
    let output = Command::new("/sbin/e2fsck").arg("-fn").arg(path).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
#[ignore = "needs a KVM that boots stock kernels"]
fn disks_come_and_go_hold_what_is_written_and_shrink() {
    let folder = tempfile::tempdir().unwrap();
    let first = file_system(folder.path(), "first", 64);
    let second = file_system(folder.path(), "second", 512);
    let options = |read_only| DiskOptions { read_only, serial: String::new() };
    // Two processors make two request queues.
    let host = Host::start(2, |disks| {
        assert_eq!(disks.attach(open(&first), options(true)).unwrap(), 0);
    });
    assert_eq!(host.ask("size 0"), (64 * 2048).to_string());
    assert_eq!(host.ask("read-only 0"), "1");

    let lun = host.disks.attach(open(&second), options(false)).unwrap();
    assert_eq!(host.ask(&format!("size {lun}")), (512 * 2048).to_string());
    for (what, expected) in [
        ("physical_block_size", "4096"),
        ("discard_granularity", "4096"),
        ("write_cache", "write back"),
        ("fua", "1"),
        ("rotational", "0"),
    ] {
        assert_eq!(host.ask(&format!("queue {lun} {what}")), expected);
    }
    assert_ne!(host.ask(&format!("queue {lun} write_zeroes_max_bytes")), "0");
    host.ask(&format!("mount {lun}"));
    host.ask(&format!("write {lun} 48"));
    let full = used(&second);
    assert!(full > 48 << 20);
    assert_eq!(host.ask(&format!("check {lun} 48")), "whole");
    host.ask(&format!("unmount {lun}"));
    host.disks.detach(lun).unwrap();
    assert_eq!(host.ask(&format!("gone {lun}")), "true");
    check(&second);

    let again = host.disks.attach(open(&second), options(false)).unwrap();
    assert_ne!(again, lun);
    host.ask(&format!("mount {again}"));
    assert_eq!(host.ask(&format!("check {again} 48")), "whole");
    host.ask(&format!("remove {again}"));
    let trimmed: u64 = host.ask(&format!("trim {again}")).parse().unwrap();
    assert!(trimmed > 48 << 20);
    let after = used(&second);
    assert!(after + (47 << 20) < full, "{full} {after}");
    host.ask(&format!("unmount {again}"));

    // A disk that grows, and many that come and go.
    let file = open(&second);
    file.set_len(600 << 20).unwrap();
    host.disks.measure_again(again).unwrap();
    let end = Instant::now() + PATIENCE;
    while host.ask(&format!("size {again}")) != (600 * 2048).to_string() {
        assert!(Instant::now() < end);
    }
    host.disks.detach(again).unwrap();
    check(&second);
    let mut many = Vec::new();
    for number in 0..16 {
        let path = folder.path().join(format!("disk{number}"));
        File::create(&path).unwrap().set_len((number + 1) << 20).unwrap();
        many.push(host.disks.attach(open(&path), options(false)).unwrap());
    }
    for (lun, size) in many.iter().zip(1..) {
        assert_eq!(host.ask(&format!("size {lun}")), (size * 2048).to_string());
    }
    for lun in &many {
        host.disks.detach(*lun).unwrap();
    }
    for lun in &many {
        assert_eq!(host.ask(&format!("gone {lun}")), "true");
    }
    host.finish();
}

#[test]
#[ignore = "needs a KVM that boots stock kernels"]
fn streams_are_whole_both_ways_and_many_live_side_by_side() {
    let host = Host::start(1, |_| {});
    let (stream, ended) = host.bridge(4711, b"nobody listens").unwrap();
    assert_eq!(ended.recv_timeout(PATIENCE).unwrap(), Ended::Refused);
    assert_eq!((&stream).read(&mut [0; 1]).unwrap(), 0);

    let total = 64;
    let started = Instant::now();
    let (mut stream, ended) = host.bridge(ECHO, b"").unwrap();
    let mut reader = stream.try_clone().unwrap();
    let reading = std::thread::spawn(move || Pattern::new().check(&mut reader, total).unwrap());
    Pattern::new().write(&mut stream, total).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(reading.join().unwrap(), "whole");
    drop(stream);
    assert_eq!(ended.recv_timeout(PATIENCE).unwrap(), Ended::Closed);
    host.say(&format!("{total} MiB there and back in {:?}", started.elapsed()));
    assert_eq!(host.ask(&format!("call {total}")), "whole");

    // One that never reads must not hold up the others.
    let (deaf, _) = host.bridge(DEAF, b"").unwrap();
    deaf.set_nonblocking(true).unwrap();
    while (&deaf).write(&[0; 65536]).is_ok() {}
    let started = Instant::now();
    let failures = Mutex::new(Vec::new());
    let pattern = Pattern::new().0;
    std::thread::scope(|scope| {
        for number in 0..200_u64 {
            let (host, failures, pattern) = (&host, &failures, &pattern);
            scope.spawn(move || {
                let (mut stream, ended) = host.bridge(ECHO, &number.to_le_bytes()).unwrap();
                let bytes = &pattern[number as usize..][..20_000];
                stream.write_all(bytes).unwrap();
                stream.shutdown(Shutdown::Write).unwrap();
                let mut back = Vec::new();
                let result = stream.read_to_end(&mut back);
                drop(stream);
                let how = ended.recv_timeout(PATIENCE);
                let expected = [&number.to_le_bytes()[..], bytes].concat();
                if result.is_err() || back != expected || how != Ok(Ended::Closed) {
                    failures.lock().unwrap().push((number, result.ok(), back.len(), how));
                }
            });
        }
    });
    assert_eq!(*failures.lock().unwrap(), []);
    host.say(&format!("200 connections in {:?}", started.elapsed()));
    host.finish();
}
