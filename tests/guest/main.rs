//! Distros in namespaces and sessions in them, on this machine's own kernel.
//!
//! Needs root. Everything that a session does is judged by other programs: the shell,
//! `cat`, `stty`, the kernel.

#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::expect_used)]

mod conf;
#[path = "../support/debian.rs"]
mod debian;
mod harness;
mod session;
mod systemd;

use std::fs;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::thread;
use std::time::{Duration, Instant};

use harness::Distro;
use session::{Request, Screen, collect, random};
use wslr::protocol::guest::GuestError;
use wslr::protocol::session::{
    Directory, ExitStatus, Input, Output, Program, SessionError, StreamKind, Streams, User,
    WindowSize,
};

fn name(name: &str) -> User {
    User::Name(name.to_owned())
}

#[test]
fn b006_exit_statuses_pass_through() {
    let distro = Distro::start();
    for code in [0, 1, 42, 255] {
        assert_eq!(distro.run(&format!("exit {code}")).status, ExitStatus::Code(code));
    }
    for signal in [9, 15, 34] {
        let finished = distro.run(&format!("kill -{signal} $$"));
        assert_eq!(finished.status, ExitStatus::Signal(signal));
    }
}

#[test]
fn b001_b022_output_and_error_are_apart() {
    let finished = Distro::start().run("echo out; echo err >&2");
    assert_eq!((finished.stdout, finished.stderr), (b"out\n".to_vec(), b"err\n".to_vec()));
}

#[test]
fn b020_b023_64_mb_come_back_byte_exact() {
    let distro = Distro::start();
    let bytes = random(64 << 20);
    let back = distro.session(Request::words(&["cat"])).finish(&bytes);
    assert_eq!(back.code(), 0);
    assert!(back.stdout == bytes, "{} of {} bytes", back.stdout.len(), bytes.len());
}

#[test]
fn b023_large_output_before_an_immediate_exit_is_whole() {
    let distro = Distro::start();
    for _ in 0..20 {
        let mut running = distro.session(Request::words(&["head", "-c", "3000000", "/dev/zero"]));
        drop(running.take(StreamKind::Stdin));
        // A reader that starts late: all that fits is in the buffers when the command ends.
        thread::sleep(Duration::from_millis(20));
        let stdout = collect(running.take(StreamKind::Stdout));
        assert_eq!(running.exited().code(), 0);
        assert_eq!(stdout.join().unwrap().len(), 3_000_000);
    }
}

#[test]
fn b228_20_concurrent_commands_are_all_right() {
    let distro = Distro::start();
    thread::scope(|scope| {
        for index in 0..20 {
            let distro = &distro;
            scope.spawn(move || {
                let finished = distro.run(&format!("cat; echo {index}; exit {index}"));
                assert_eq!((finished.text(), finished.code()), (format!("{index}\n"), index));
            });
        }
    });
}

#[test]
fn b007_a_daemon_keeps_the_session_but_not_the_status() {
    let distro = Distro::start();
    let start = Instant::now();
    // It keeps the pipes open too.
    let mut running = distro.session(Request::words(&["sh", "-c", "echo hi; sleep 2 &"]));
    let stdout = collect(running.take(StreamKind::Stdout));
    assert_eq!(running.exited(), ExitStatus::Code(0));
    assert_eq!(stdout.join().unwrap(), b"hi\n");
    assert!(start.elapsed() < Duration::from_secs(1));
    assert!(running.is_busy());
    running.wait_idle();
    assert!(start.elapsed() >= Duration::from_secs(2));
}

#[test]
fn b007_a_daemon_of_its_own_session_keeps_the_session_too() {
    let distro = Distro::start();
    let line = "setsid sh -c 'sleep 1 & exit' </dev/null >/dev/null 2>&1; exit 3";
    let mut running = distro.session(Request::words(&["sh", "-c", line]));
    assert_eq!(running.exited(), ExitStatus::Code(3));
    assert!(running.is_busy());
    running.wait_idle();
}

#[test]
fn a_client_that_is_gone_takes_the_command_with_it() {
    let distro = Distro::start();
    // One that goes by SIGHUP, one that must be killed.
    for line in ["sleep 60", "trap '' HUP; sleep 60; sleep 60"] {
        let mut running = distro.session(Request::words(&["sh", "-c", line]));
        assert_eq!(running.next().unwrap(), Output::Started);
        running.send(Input::Hangup);
        assert!(matches!(running.exited_after_start(), ExitStatus::Signal(1 | 9)));
        running.wait_idle();
    }
    let mut running = distro.session(Request::words(&["sleep", "61"]));
    assert_eq!(running.next().unwrap(), Output::Started);
    drop(running);
    let deadline = Instant::now() + Duration::from_secs(5);
    while distro.run("pgrep -x -f 'sleep 61'").code() == 0 {
        assert!(Instant::now() < deadline, "the command lives on");
    }
}

#[test]
fn signals_of_the_client_reach_the_command() {
    let distro = Distro::start();
    let line = "trap 'exit 7' INT; echo ready; while :; do sleep 0.05; done";
    let mut running = distro.session(Request::words(&["bash", "-c", line]));
    let mut stdout = running.take(StreamKind::Stdout);
    assert_eq!(running.next().unwrap(), Output::Started);
    let mut ready = [0; 6];
    stdout.read_exact(&mut ready).unwrap();
    running.send(Input::Signal(2));
    assert_eq!(running.exited_after_start(), ExitStatus::Code(7));
}

#[test]
fn a_reader_that_leaves_ends_the_writer_by_sigpipe() {
    let distro = Distro::start();
    let mut running = distro.session(Request::words(&["yes"]));
    let mut stdout = running.take(StreamKind::Stdout);
    let mut some = [0; 1000];
    stdout.read_exact(&mut some).unwrap();
    drop(stdout);
    assert_eq!(running.exited(), ExitStatus::Signal(13));
}

#[test]
fn a_command_that_closes_its_input_closes_the_stream() {
    let distro = Distro::start();
    let line = "exec <&-; echo closed; sleep 60";
    let mut running = distro.session(Request::words(&["sh", "-c", line]));
    let mut stdin = running.take(StreamKind::Stdin);
    let mut stdout = running.take(StreamKind::Stdout);
    let mut text = [0; 7];
    stdout.read_exact(&mut text).unwrap();
    assert_eq!(stdin.read(&mut [0; 1]).unwrap(), 0);
    assert!(stdin.write_all(b"x").is_err());
    running.send(Input::Hangup);
}

#[test]
fn b016_a_shell_without_a_terminal_ends_with_its_input() {
    let distro = Distro::start();
    let mut running = distro.session(Request::new(Program::Shell));
    let mut stdin = running.take(StreamKind::Stdin);
    stdin.write_all(b"echo $0; shopt -q login_shell && echo login\n").unwrap();
    stdin.shutdown(Shutdown::Write).unwrap();
    let stdout = collect(running.take(StreamKind::Stdout));
    assert_eq!(running.exited().code(), 0);
    assert_eq!(stdout.join().unwrap(), b"-bash\nlogin\n");
}

#[test]
fn b015_b018_a_line_is_one_for_the_users_shell() {
    let distro = Distro::start();
    let line = |line: &str, login| {
        let program = Program::Line { line: line.as_bytes().to_vec(), login };
        distro.session(Request::new(program)).finish(b"").text()
    };
    assert_eq!(line("echo a; echo \"$USER\" | wc -l", false), "a\n1\n");
    assert_eq!(line("shopt -q login_shell || echo no", false), "no\n");
    assert_eq!(line("shopt -q login_shell && echo yes", true), "yes\n");
}

#[test]
fn b013_arguments_arrive_as_typed() {
    let distro = Distro::start();
    let request = Request::words(&["printf", "<%s>", "foo", "", "$USER", "a b", "\u{e9}\n"]);
    let text = distro.session(request).finish(b"").text();
    assert_eq!(text, "<foo><><$USER><a b><\u{e9}\n>");
}

#[test]
fn b002_b011_b012_a_session_runs_as_its_user() {
    let distro = Distro::start();
    let add = "useradd -m -u 4321 -s /bin/bash alice; \
               for i in $(seq 40); do groupadd -g $((5000+i)) -U alice g$i; done";
    assert_eq!(distro.run(add).code(), 0);
    let as_alice = |line: &str| {
        let mut request = Request::words(&["bash", "-c", line]);
        request.user = name("alice");
        distro.session(request).finish(b"").text()
    };
    assert_eq!(as_alice("whoami; pwd; echo $HOME $USER $LOGNAME"), {
        "alice\n/home/alice\n/home/alice alice alice\n"
    });
    // `id NAME` asks the C library, `id` the kernel.
    assert_eq!(
        as_alice("id -G alice | tr ' ' '\\n' | sort"),
        as_alice("id -G | tr ' ' '\\n' | sort")
    );
    assert_eq!(as_alice("id -G | wc -w"), "41\n");
    let mut request = Request::words(&["id"]);
    request.user = name("nosuchuser");
    assert_eq!(
        distro.session(request).next().unwrap(),
        Output::Failed(SessionError::UserNotFound { name: "nosuchuser".into() })
    );
}

#[test]
fn b003_b004_a_session_starts_where_it_is_told_or_at_home() {
    let distro = Distro::start();
    for (directory, expected) in [
        (Directory::Home, "/root\n"),
        (Directory::Path(b"/".to_vec()), "/\n"),
        (Directory::Path(b"~".to_vec()), "/root\n"),
        (Directory::Path(b"~/..".to_vec()), "/\n"),
        (Directory::Path(b"/usr/bin".to_vec()), "/usr/bin\n"),
        (Directory::Path(b"/no/such".to_vec()), "/root\n"),
    ] {
        let mut request = Request::words(&["pwd"]);
        request.directory = directory;
        assert_eq!(distro.session(request).finish(b"").text(), expected);
    }
}

#[test]
fn a_program_that_cannot_run_ends_as_in_a_shell() {
    let distro = Distro::start();
    let run = |program: &str| {
        let finished = distro.session(Request::words(&[program])).finish(b"");
        (finished.code(), String::from_utf8(finished.stderr).unwrap())
    };
    assert_eq!(run("no-such-program"), (127, "wslr: no-such-program: command not found\n".into()));
    let (code, text) = run("/no/such");
    assert_eq!((code, text.as_str()), (127, "wslr: /no/such: No such file or directory\n"));
    assert_eq!(run("/etc/passwd").0, 126);
    assert_eq!(run("/etc").0, 126);
    let script = "printf 'echo script $1' > /run/script; chmod +x /run/script; /run/script";
    assert_eq!(distro.run(script).code(), 0);
    let text = distro.session(Request::words(&["/run/script", "x"])).finish(b"").text();
    assert_eq!(text, "script x\n");
}

#[test]
fn a_command_starts_clean() {
    let distro = Distro::start();
    let status = distro.session(Request::words(&["cat", "/proc/self/status"])).finish(b"").text();
    for mask in ["SigBlk", "SigIgn", "SigCgt"] {
        assert!(status.contains(&format!("{mask}:\t0000000000000000\n")), "{status}");
    }
    assert_eq!(distro.run("ls /proc/self/fd | tr '\\n' ' '").text(), "0 1 2 3 ");
    assert_eq!(distro.run("umask").text(), "0022\n");
    assert_eq!(
        distro.run("ps -o pid=,pgid=,sid= -p $$ | xargs -n1 | sort -u | wc -l").text(),
        "1\n"
    );
}

#[test]
fn b025_b155_the_distros_first_process_blocks_nothing_and_sees_only_its_own() {
    let distro = Distro::start();
    let mask = distro.run("grep SigBlk /proc/1/status").text();
    assert_eq!(mask, "SigBlk:\t0000000000000000\n");
    assert_eq!(distro.run("cat /proc/1/comm; hostname; cat /etc/hostname").text(), {
        "init\ntesthost\ntesthost\n"
    });
    // init, relay, shell, ps, and nobody of this machine.
    let count: u32 = distro.run("ls -d /proc/[0-9]* | wc -l").text().trim().parse().unwrap();
    assert!(count <= 6, "{count} processes");
    for space in ["mnt", "pid", "ipc", "uts"] {
        let inside = distro.run(&format!("readlink /proc/self/ns/{space}")).text();
        let outside = fs::read_link(format!("/proc/self/ns/{space}")).unwrap();
        assert_ne!(inside.trim(), outside.to_str().unwrap(), "{space}");
    }
    let inside = distro.run("readlink /proc/self/ns/net").text();
    assert_eq!(inside.trim(), fs::read_link("/proc/self/ns/net").unwrap().to_str().unwrap());
}

#[test]
fn the_mounts_of_a_distro_are_those_of_wsl() {
    let distro = Distro::start();
    let table = distro.run("cat /proc/self/mounts").text();
    let find = |target: &str| {
        let line = table.lines().rfind(|line| line.split(' ').nth(1) == Some(target));
        line.unwrap_or_else(|| panic!("no {target} in\n{table}")).to_owned()
    };
    assert!(find("/").starts_with("overlay "));
    assert!(find("/dev/pts").contains("gid=5,mode=620,ptmxmode=666"));
    // B148
    let cgroup = find("/sys/fs/cgroup");
    assert!(cgroup.starts_with("cgroup2 /sys/fs/cgroup cgroup2 rw,nosuid,nodev,noexec,relatime"));
    // B151
    assert!(find("/init").contains(" ro,"));
    assert_eq!(distro.run("stat -c %a /init").text(), "755\n");
    for target in ["/proc", "/sys", "/dev/shm", "/run", "/run/lock"] {
        find(target);
    }
    assert_eq!(distro.run("stat -c %a /dev/shm /run/lock /run/user").text(), "1777\n1777\n755\n");
    // Nothing of the mounts outside is left.
    assert!(!table.contains("/.old") && table.lines().count() <= 45, "{table}");
    // Nothing is mounted at all outside.
    let outside = fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(!outside.contains(" /init "));
}

#[test]
fn b157_reboot_in_a_distro_ends_it() {
    let mut distro = Distro::start();
    // What `reboot -f` does: LINUX_REBOOT_CMD_RESTART.
    let line = "syscall(169, 0xfee1dead, 672274793, 0x01234567, 0)";
    let _running = distro.session(Request::words(&["perl", "-e", line]));
    distro.wait_end();
}

#[test]
fn b158_a_distro_stops_in_order_even_with_hostile_processes() {
    let distro = Distro::start();
    let file = distro.root.join("ended");
    let mut polite = distro.session(Request::words(&[
        "bash",
        "-c",
        "trap 'echo bye > /ended; exit 9' TERM; echo ready; while :; do sleep 0.05; done",
    ]));
    let mut ready = [0; 6];
    polite.take(StreamKind::Stdout).read_exact(&mut ready).unwrap();
    let took = distro.stop_keeping(|| fs::read_to_string(&file).unwrap());
    assert_eq!(took.1, "bye\n");
    assert!(took.0 < Duration::from_secs(1), "{took:?}");
    assert_eq!(polite.exited(), ExitStatus::Code(9));

    let distro = Distro::start();
    let mut hostile = distro.session(Request::words(&[
        "bash",
        "-c",
        "trap '' TERM HUP INT; (while :; do sleep 1; done) & echo ready; while :; do sleep 1; done",
    ]));
    hostile.take(StreamKind::Stdout).read_exact(&mut ready).unwrap();
    let took = distro.stop();
    assert!(took < Duration::from_secs(4), "{took:?}");
}

#[test]
fn a_distro_without_processes_stops_at_once() {
    let distro = Distro::start();
    assert_eq!(distro.run("true").code(), 0);
    thread::sleep(Duration::from_millis(200));
    let took = distro.stop();
    assert!(took < Duration::from_secs(1), "{took:?}");
}

#[test]
fn an_empty_root_is_no_distro() {
    let empty = tempfile::tempdir().unwrap();
    let result = Distro::try_start(empty.path());
    let error = result.map(|_| ()).unwrap_err();
    assert!(matches!(error, GuestError::NotALinuxDistro), "{error:?}");
}

#[test]
fn b024_a_terminal_has_a_size_and_job_control() {
    let distro = Distro::start();
    let request = Request::words(&["bash", "--norc", "-i"]).on_terminal(100, 30);
    let mut running = distro.session(request);
    let mut screen = Screen::new(running.take(StreamKind::Terminal));
    assert_eq!(running.next().unwrap(), Output::Started);
    screen.type_in("PS1='$ '; stty size; tty\n");
    screen.expect("30 100\r\n");
    screen.expect("/dev/pts/0\r\n");
    running.send(Input::Resize(WindowSize { columns: 77, rows: 22 }));
    screen.type_in("stty size; stty -a | grep -c iutf8\n");
    screen.expect("22 77\r\n1\r\n");
    screen.type_in("sleep 100; echo code=$?\n");
    screen.expect("echo code=$?\r\n");
    thread::sleep(Duration::from_millis(200));
    screen.type_in("\u{3}");
    screen.expect("^C");
    // A shell interrupted in a list drops the rest of it.
    screen.type_in("echo code=$?\n");
    screen.expect("code=130\r\n");
    screen.type_in("sleep 100\n");
    thread::sleep(Duration::from_millis(200));
    screen.type_in("\u{1a}");
    screen.expect("Stopped");
    screen.type_in("jobs; kill %1; fg; echo < /dev/tty > /dev/tty done\n");
    screen.expect("Stopped");
    screen.expect("Terminated");
    screen.expect("done\r\n");
    screen.type_in("exit 5\n");
    assert_eq!(running.exited_after_start(), ExitStatus::Code(5));
    running.wait_idle();
}

#[test]
fn all_output_to_a_terminal_arrives_before_the_end() {
    let distro = Distro::start();
    for background in ["", "sleep 3 &"] {
        let line = format!("{background} seq 20000");
        let mut running = distro.session(Request::words(&["sh", "-c", &line]).on_terminal(80, 24));
        let screen = collect(running.take(StreamKind::Terminal));
        let start = Instant::now();
        assert_eq!(running.exited().code(), 0);
        assert!(start.elapsed() < Duration::from_secs(2));
        let text = String::from_utf8(screen.join().unwrap()).unwrap();
        assert!(text.ends_with("\r\n19999\r\n20000\r\n"), "{:?}", &text[text.len() - 40..]);
        assert_eq!(text.lines().count(), 20_000);
    }
}

#[test]
fn a_terminal_beside_pipes() {
    let distro = Distro::start();
    let mut request = Request::words(&["sh", "-c", "cat; tty <&2; test -t 1; echo $?"]);
    request.streams = Streams {
        terminal: Some(WindowSize { columns: 80, rows: 24 }),
        stdin: true,
        stdout: false,
        stderr: false,
    };
    let mut running = distro.session(request);
    let mut stdin = running.take(StreamKind::Stdin);
    stdin.write_all(b"from a pipe\n").unwrap();
    drop(stdin);
    let screen = collect(running.take(StreamKind::Terminal));
    assert_eq!(running.exited().code(), 0);
    assert_eq!(screen.join().unwrap(), b"from a pipe\r\n/dev/pts/0\r\n0\r\n");
}

#[test]
fn a_terminal_that_is_gone_hangs_up() {
    let distro = Distro::start();
    let line = "trap 'echo hup > /hup; exit' HUP; echo ready; while :; do sleep 0.05; done";
    let mut running = distro.session(Request::words(&["bash", "-c", line]).on_terminal(80, 24));
    let mut screen = Screen::new(running.take(StreamKind::Terminal));
    screen.expect("ready");
    assert_eq!(running.next().unwrap(), Output::Started);
    running.send(Input::Hangup);
    running.exited_after_start();
    running.wait_idle();
    assert_eq!(fs::read_to_string(distro.root.join("hup")).unwrap(), "hup\n");
}

#[test]
fn no_stream_at_all_is_the_null_device() {
    let distro = Distro::start();
    let mut request = Request::words(&["sh", "-c", "readlink /proc/self/fd/0; cat; exit 4"]);
    request.streams = Streams { terminal: None, stdin: false, stdout: false, stderr: false };
    assert_eq!(distro.session(request).exited(), ExitStatus::Code(4));
}

#[test]
fn what_a_distro_puts_at_the_place_of_its_files_holds_nobody_up() {
    let tree = tempfile::tempdir().unwrap();
    let at = |path: &str| tree.path().join(path.trim_start_matches('/'));
    fs::create_dir_all(at("/etc")).unwrap();
    for name in ["/bin", "/usr", "/lib", "/lib64"] {
        std::os::unix::fs::symlink(format!("/proc/1/root{name}"), at(name)).unwrap();
    }
    for name in ["/etc/passwd", "/etc/hosts", "/etc/wsl.conf", "/etc/environment"] {
        nix::unistd::mkfifo(&at(name), nix::sys::stat::Mode::S_IRWXU).unwrap();
    }
    // Links out of the tree lead nowhere but into it.
    std::os::unix::fs::symlink("../../../../../../run", at("/mnt")).unwrap();
    std::os::unix::fs::symlink("/etc/hosts", at("/etc/resolv.conf")).unwrap();
    let distro = Distro::try_start_with(tree.path(), |_| ()).unwrap();
    let warnings = [
        "Failed to open config file /etc/wsl.conf, it is not a regular file",
        "cannot make '/bin/wslinfo': Too many levels of symbolic links (os error 40)",
    ];
    assert_eq!(distro.warnings, warnings);
    let mut running = distro.session(Request::words(&["/init"]));
    let failed = running.next().unwrap();
    assert!(matches!(failed, Output::Failed(SessionError::System { .. })), "{failed:?}");
    assert!(fs::read_to_string(distro.root.join("etc/hosts")).unwrap().contains("testhost"));
    assert!(distro.stop() < Duration::from_secs(1));
}
