//! The executable from end to end: distros in the virtual machine, as their user meets
//! them.
//!
//! Needs a KVM that runs stock kernels; the rig runs it with `--ignored` and names by
//! `WSLR_TEST_DISTRO` a configured Debian as a tar, by `WSLR_TEST_DATA` a data directory
//! with a prepared kernel. All tests share one home with two distros, `One` and `Two`.

#![allow(missing_docs, clippy::panic, clippy::unwrap_used, reason = "these are tests")]

#[path = "support/mod.rs"]
mod support;

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::symlink;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use sha2::{Digest, Sha256};
use support::Home;

/// How long anything in a slow machine may take.
const LIMIT: Duration = Duration::from_secs(120);

/// The home that all tests share, one after the other.
fn home() -> MutexGuard<'static, Home> {
    static HOME: LazyLock<Mutex<Home>> = LazyLock::new(|| {
        let home = Home::new();
        home.write(
            ".wslconfig",
            "[wsl2]\nmemory=768MB\nkernelBootTimeout=200000\ndistributionStartTimeout=200000\n\
             [general]\ninstanceIdleTimeout=60000\n",
        );
        let data = variable("WSLR_TEST_DATA");
        fs::create_dir_all(home.data("")).unwrap();
        symlink(format!("{data}/kernels"), home.data("kernels")).unwrap();
        for name in ["One", "Two"] {
            let tar = variable("WSLR_TEST_DISTRO");
            let words = ["--install", "-n", "-f", &tar, "--name", name, "--vhd-size", "8GB"];
            let output = home.wslr(words).command().output().unwrap();
            assert!(output.status.success(), "{output:?}");
        }
        Mutex::new(home)
    });
    HOME.lock().unwrap_or_else(PoisonError::into_inner)
}

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set"))
}

/// What a command writes, which must succeed.
#[track_caller]
fn stdout(home: &Home, words: &[&str]) -> String {
    let output = home.wslr(words).command().output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{words:?} ended with {}: {stderr}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

fn disk(home: &Home, name: &str) -> String {
    let list: Value = serde_json::from_str(&stdout(home, &["--list", "--json"])).unwrap();
    let rows = list.as_array().unwrap();
    let row = rows.iter().find(|row| row["name"] == name).unwrap();
    format!("{}/ext4.img", row["basePath"].as_str().unwrap())
}

#[test]
#[ignore = "needs a KVM that boots stock kernels"]
fn b006_output_and_status_come_through() {
    let home = home();
    let words = ["-d", "one", "--", "sh", "-c", "cat /etc/os-release; echo err >&2; exit 42"];
    let output = home.wslr(words).command().output().unwrap();
    assert_eq!(output.status.code(), Some(42), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("ID=debian"));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "err\n");
    home.wslr(["false"]).status(1).run();
    home.wslr(["--", "sh", "-c", "kill -KILL $$"]).status(128 + 9).run();
}

#[test]
#[ignore = "needs a KVM that boots stock kernels"]
fn b018_one_word_is_a_line_and_several_arrive_as_typed() {
    let home = home();
    home.wslr(["echo a; echo b | wc -l"]).stdout("a\n1\n").run();
    home.wslr(["echo", "-n", "$USER", "", "a  b"]).stdout("$USER  a  b").run();
    home.wslr(["--exec", "echo", "-x"]).stdout("-x\n").run();
    home.wslr(["--cd", "/", "pwd"]).stdout("/\n").run();
    home.wslr(["--cd", "/no/such", "pwd"]).stdout("/root\n").run();
    home.wslr(["~", "pwd"]).stdout("/root\n").run();
    home.wslr(["-u", "root", "whoami"]).stdout("root\n").run();
    home.wslr(["-u", "nosuchuser", "id"])
        .fails("User not found.", Some("[..]"), Some("[..]/WSL_E_USER_NOT_FOUND"))
        .run();
}

#[test]
#[ignore = "needs a KVM that boots stock kernels"]
fn b229_two_distros_share_one_machine() {
    let home = home();
    let boot = ["cat", "/proc/sys/kernel/random/boot_id"];
    let one = stdout(&home, &[&["-d", "One"], boot.as_slice()].concat());
    let two = stdout(&home, &[&["-d", "Two"], boot.as_slice()].concat());
    assert_eq!(one, two);
    stdout(&home, &["-d", "One", "touch", "/only-in-one"]);
    home.wslr(["-d", "Two", "test", "-e", "/only-in-one"]).status(1).run();
    let list = stdout(&home, &["-l", "-v"]);
    assert_eq!(list.matches("Running").count(), 2, "{list}");
    home.wslr(["-t", "Two"]).stdout("The operation completed successfully.\n").run();
    home.wslr(["-l", "--running", "-q"]).stdout("One\n").run();
}

#[test]
#[ignore = "needs a KVM that boots stock kernels"]
fn b228_twenty_commands_at_once() {
    let home = home();
    thread::scope(|scope| {
        for number in 0..20 {
            let home = &*home;
            scope.spawn(move || {
                let text = format!("number {number}");
                home.wslr(["-d", "One", "echo", &text]).stdout(format!("{text}\n")).run();
            });
        }
    });
}

#[test]
#[ignore = "needs a KVM that boots stock kernels"]
fn b020_sixty_four_megabytes_come_back_the_same() {
    let home = home();
    let mut bytes = vec![0; 64 << 20];
    fs::File::open("/dev/urandom").unwrap().read_exact(&mut bytes).unwrap();
    let expected = Sha256::digest(&bytes);
    let mut test = home.wslr(["-d", "One", "cat"]);
    let mut child = test.command().stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let writer = thread::spawn(move || stdin.write_all(&bytes).unwrap());
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    assert!(output.status.success());
    assert_eq!(output.stdout.len(), 64 << 20);
    assert_eq!(Sha256::digest(&output.stdout), expected);
}

/// A session on a terminal, by script(1).
struct Terminal {
    child: Child,
    screen: Arc<Mutex<String>>,
    changed: Receiver<()>,
}

impl Terminal {
    fn open(home: &Home, command: &str) -> Self {
        let mut test = home.wslr([""; 0]);
        let executable = env!("CARGO_BIN_EXE_wslr");
        let line = format!("stty rows 33 cols 111; exec {executable} {command}");
        let mut script = Command::new("script");
        script.args(["-qec", &line, "/dev/null"]).env_clear().env("TERM", "xterm");
        for (name, value) in test.command().get_envs() {
            script.env(name, value.unwrap());
        }
        let mut child = script.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let screen = Arc::new(Mutex::new(String::new()));
        let (sender, changed) = mpsc::channel();
        let (mut output, copy) = (child.stdout.take().unwrap(), Arc::clone(&screen));
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = output.read(&mut buffer) {
                copy.lock().unwrap().push_str(&String::from_utf8_lossy(&buffer[..count]));
                let _ = sender.send(());
            }
        });
        Self { child, screen, changed }
    }

    fn send(&mut self, text: &str) {
        self.child.stdin.as_mut().unwrap().write_all(text.as_bytes()).unwrap();
    }

    /// Waits until the screen shows `text` after what was waited for before.
    #[track_caller]
    fn expect(&mut self, text: &str) {
        let end = Instant::now() + LIMIT;
        loop {
            let mut screen = self.screen.lock().unwrap();
            if let Some(position) = screen.find(text) {
                screen.drain(..position + text.len());
                return;
            }
            assert!(Instant::now() < end, "no {text:?} in {screen:?}");
            drop(screen);
            let _ = self.changed.recv_timeout(Duration::from_secs(1));
        }
    }
}

#[test]
#[ignore = "needs a KVM that boots stock kernels"]
fn b024_a_terminal_has_size_interrupts_and_jobs() {
    let home = home();
    stdout(&home, &["-d", "One", "true"]);
    let mut terminal = Terminal::open(&home, "-d One -- bash --norc -i");
    terminal.send("echo size $(stty size)\n");
    terminal.expect("size 33 111");
    terminal.send("echo wait; sleep 1000\n");
    terminal.expect("wait\r\n");
    thread::sleep(Duration::from_secs(1));
    terminal.send("\x03");
    terminal.send("echo status=$?\n");
    terminal.expect("status=130");
    terminal.send("echo again; sleep 1000\n");
    terminal.expect("again\r\n");
    thread::sleep(Duration::from_secs(1));
    terminal.send("\x1a");
    terminal.expect("Stopped");
    terminal.send("kill %1; exit 7\n");
    assert_eq!(terminal.child.wait().unwrap().code(), Some(7));
}

#[test]
#[ignore = "needs a KVM that boots stock kernels"]
fn killing_the_command_kills_the_linux_process() {
    let home = home();
    let mut child = home.wslr(["-d", "One", "--", "sleep", "98765"]).spawn();
    let count = ["-d", "One", "--", "sh", "-c", "pgrep -cf '^sleep 98765' || true"];
    wait_until(|| stdout(&home, &count).trim() == "1");
    child.kill().unwrap();
    child.wait().unwrap();
    wait_until(|| stdout(&home, &count).trim() == "0");
}

#[test]
#[ignore = "needs a KVM that boots stock kernels"]
fn what_is_synced_survives_the_death_of_the_service() {
    let home = home();
    let disk = disk(&home, "One");
    let script = "cd /root; for i in 1 2 3 4 5; do dd if=/dev/urandom of=f$i bs=64k count=16 \
        conv=fsync 2>/dev/null; done; sha256sum f1 f2 f3 f4 f5 >sums; sync sums; \
        echo synced; while :; do dd if=/dev/urandom of=g bs=64k count=64 2>/dev/null; cp g h; rm g; done";
    let mut test = home.wslr(["-d", "One", "--", "sh", "-c", script]);
    let mut child = test.command().stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut line = [0; 7];
    child.stdout.as_mut().unwrap().read_exact(&mut line).unwrap();
    thread::sleep(Duration::from_secs(2));
    let status: Value = serde_json::from_str(&stdout(&home, &["--status", "--json"])).unwrap();
    let service = status["service"]["process"].to_string();
    assert!(Command::new("kill").args(["-9", &service]).status().unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(255), "the command is told");
    wait_until(|| !fs::exists(format!("/proc/{service}")).unwrap());
    // The first replays the journal, and repairs nothing else that a crash may not leave.
    let replay = Command::new("/sbin/e2fsck").args(["-fp", &disk]).output().unwrap();
    assert!(replay.status.code().is_some_and(|code| code <= 1), "{replay:?}");
    let check = Command::new("/sbin/e2fsck").args(["-fn", &disk]).output().unwrap();
    assert!(check.status.success(), "{check:?}");
    let sums = stdout(&home, &["-d", "One", "--", "sh", "-c", "cd /root && sha256sum -c sums"]);
    assert_eq!(sums.matches(": OK").count(), 5, "{sums}");
}

#[test]
#[ignore = "needs a KVM that boots stock kernels"]
fn shutdown_ends_everything_and_the_next_command_starts_again() {
    let home = home();
    stdout(&home, &["-d", "One", "true"]);
    home.wslr(["--shutdown"]).run();
    home.wslr(["-l", "--running", "-q"]).run();
    stdout(&home, &["-d", "One", "true"]);
    home.wslr(["--shutdown", "--force"]).run();
    home.wslr(["-l", "--running", "-q"]).run();
}

#[track_caller]
fn wait_until(mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + LIMIT;
    while !condition() {
        assert!(Instant::now() < end, "it did not come about within {LIMIT:?}");
        thread::sleep(Duration::from_millis(200));
    }
}
