//! What goes in and comes out.

use std::fs::{self, File};
use std::io::Read;
use std::process::Stdio;
use std::time::{Duration, Instant};

use flate2::read::GzDecoder;
use rand::{RngCore, SeedableRng};

use crate::fixture::{feed, home, in_distro, shell};
use crate::support::wait_for;
use crate::terminal;

crate::as_root_and_as_user! {
    b016_a_shell_without_input_ends
    b020_bytes_arrive_as_they_went
    b021_output_is_appended
    b022_output_and_errors_stay_apart
    b023_output_is_whole_although_the_command_ends_at_once
    b024_a_terminal_session
    b025_the_first_process_blocks_no_signals
    b028_errors_of_the_tool_are_apart_from_data
    killing_the_command_kills_its_process
    an_interrupted_command_ends
    twenty_commands_at_once_are_all_right
}

fn b016_a_shell_without_input_ends() {
    home().wslr([""; 0]).run();
    home().wslr([""; 0]).stdin("echo $USER; exit 5\n").stdout("root\n").status(5).run();
}

fn b020_bytes_arrive_as_they_went() {
    let mut bytes = vec![0; 8 << 20];
    rand::rngs::StdRng::seed_from_u64(20).fill_bytes(&mut bytes);
    let mut test = home().wslr(["gzip", "-1"]);
    let command = test.command().stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let writer = feed(&mut child, bytes.clone());
    let mut unpacked = Vec::new();
    GzDecoder::new(child.stdout.take().unwrap()).read_to_end(&mut unpacked).unwrap();
    writer.join().unwrap();
    assert!(child.wait().unwrap().success());
    assert!(unpacked == bytes, "the bytes differ");
}

fn b021_output_is_appended() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    fs::write(&path, "before\n").unwrap();
    for text in ["one", "two"] {
        let file = File::options().append(true).open(&path).unwrap();
        let mut test = home().wslr(["echo", text]);
        assert!(test.command().stdout(file).status().unwrap().success());
    }
    assert_eq!(fs::read_to_string(&path).unwrap(), "before\none\ntwo\n");
}

fn b022_output_and_errors_stay_apart() {
    home()
        .wslr(["echo out; echo err >&2; echo out2; exit 3"])
        .stdout("out\nout2\n")
        .stderr("err\n")
        .status(3)
        .run();
}

fn b023_output_is_whole_although_the_command_ends_at_once() {
    let output = in_distro(&["sh", "-c", "seq 1 200000; seq 1 1000 >&2"]);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(output.stdout.len(), 1_288_895);
    assert!(output.stdout.ends_with(b"\n199999\n200000\n"));
    assert!(output.stderr.ends_with(b"\n999\n1000\n"));
}

fn b024_a_terminal_session() {
    terminal::session();
}

fn b025_the_first_process_blocks_no_signals() {
    assert_eq!(shell("grep SigBlk /proc/1/status"), "SigBlk:\t0000000000000000\n");
    assert_eq!(shell("grep SigBlk /proc/self/status"), "SigBlk:\t0000000000000000\n");
}

fn b028_errors_of_the_tool_are_apart_from_data() {
    // WSL has them on standard output; here scripts can tell them from data.
    let output = home().wslr(["-u", "nosuchuser", "id"]).command().output().unwrap();
    assert!(output.stdout.is_empty());
    assert!(output.stderr.starts_with(b"wslr: "));
}

fn killing_the_command_kills_its_process() {
    let mut client = home().wslr(["--", "sleep", "98765"]).spawn();
    let count = || shell("pgrep -cx -f 'sleep 98765' || true");
    wait_for("the process to start", || count() == "1\n");
    client.kill().unwrap();
    client.wait().unwrap();
    wait_for("the process to end", || count() == "0\n");
}

fn an_interrupted_command_ends() {
    let mut test =
        home().wslr(["sh", "-c", "trap 'echo got it; exit 9' INT; echo ready; sleep 60 & wait"]);
    let mut child = test.command().stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let mut ready = [0; 6];
    stdout.read_exact(&mut ready).unwrap();
    let started = Instant::now();
    let signal = nix::sys::signal::Signal::SIGINT;
    let process = nix::unistd::Pid::from_raw(child.id().try_into().unwrap());
    nix::sys::signal::kill(process, signal).unwrap();
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).unwrap();
    assert_eq!((rest.as_str(), child.wait().unwrap().code()), ("got it\n", Some(9)));
    assert!(started.elapsed() < Duration::from_secs(10));
}

fn twenty_commands_at_once_are_all_right() {
    let home = home();
    std::thread::scope(|scope| {
        for number in 0..20 {
            scope.spawn(move || {
                let line = format!("echo {number}; sleep 0.{number}; exit {number}");
                home.wslr(["sh", "-c", &line]).stdout(format!("{number}\n")).status(number).run();
            });
        }
    });
}
