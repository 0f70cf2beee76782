//! `wslr` under the programs that people run other programs under, and without any.

use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::fixture::{OwnHome, home, shell, status};
use crate::support::wait_for;
use crate::terminal::Terminal;

crate::as_root_and_as_user! {
    without_a_terminal_as_from_cron
    without_descriptors
    a_reader_that_leaves_ends_the_command_quietly
    under_nohup_it_outlives_its_terminal
    under_script_it_has_a_terminal
    under_tmux_it_has_a_terminal
    under_expect_it_can_be_talked_to
    under_timeout_it_ends_in_time
    in_the_background_of_a_shell_it_waits_for_its_turn
    isolated_it_has_no_network_but_its_own
}

fn isolated_it_has_no_network_but_its_own() {
    // The distro's own settings have no say in it.
    let own = OwnHome::with_distro("Alone", "[wslr]\nisolatedDistributions = other, ALONE\n");
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let place = listener.local_addr().unwrap();
    let line = "tail -n +3 /proc/net/dev | cut -d : -f 1 | tr -d ' '; wslinfo --networking-mode";
    own.wslr(["sh", "-c", line]).stdout("lo\nnone\n").run();
    own.wslr(["wslinfo", "--check-connectivity", &place.to_string()])
        .stderr(format!(
            "wslinfo: '{place}' ({place}) cannot be connected to: Connection refused (os error 111)\n"
        ))
        .status(3)
        .run();
    own.wslr(["--shutdown"]).run();
    own.write(".wslconfig", "");
    own.wslr(["wslinfo", "--check-connectivity", &place.to_string()])
        .stdout(format!("'{place}' ({place}) is connected to\n"))
        .run();
}

/// `wslr` with these words, to be run by another program.
fn words(arguments: &[&str]) -> (Command, Vec<String>) {
    let test = home().wslr(arguments);
    let command = test.into_command();
    let mut words = vec![command.get_program().to_str().unwrap().to_owned()];
    words.extend(command.get_args().map(|word| word.to_str().unwrap().to_owned()));
    (command, words)
}

/// A program that is given `wslr` with these words, in the environment of the home.
fn under(program: &[&str], arguments: &[&str]) -> Command {
    let mut command = alone(program);
    command.args(words(arguments).1);
    command
}

/// A program in the environment of the home.
fn alone(program: &[&str]) -> Command {
    let (inherited, _) = words(&[]);
    let mut command = Command::new(program[0]);
    command.args(&program[1..]).current_dir(home().path("")).env_clear();
    for (name, value) in inherited.get_envs() {
        command.env(name, value.unwrap_or_default());
    }
    home().as_owner(&mut command);
    command
}

fn text(output: &Output) -> (String, String, Option<i32>) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).replace('\r', "");
    (text(&output.stdout), text(&output.stderr), output.status.code())
}

/// A word of a POSIX shell.
fn quoted(words: &[String]) -> String {
    let quote = |word: &String| format!("'{}'", word.replace('\'', "'\\''"));
    words.iter().map(quote).collect::<Vec<_>>().join(" ")
}

fn without_a_terminal_as_from_cron() {
    let line = "tty; test -t 0 || echo none; cat; exit 6";
    let output = under(&["setsid", "-w"], &["sh", "-c", line]).stdin(Stdio::null()).output();
    assert_eq!(text(&output.unwrap()), ("not a tty\nnone\n".into(), String::new(), Some(6)));
}

fn without_descriptors() {
    // A descriptor that is closed must not become another file of the tool's.
    let run = |closed: &str| {
        let (_, words) = words(&["sh", "-c", "cat; echo out; echo err >&2; exit 5"]);
        let line = format!("{} {closed}", quoted(&words));
        text(&alone(&["sh", "-c", &line]).stdin(Stdio::null()).output().unwrap())
    };
    assert_eq!(run("<&-"), ("out\n".into(), "err\n".into(), Some(5)));
    assert_eq!(run(">&-"), (String::new(), "err\n".into(), Some(5)));
    assert_eq!(run("2>&-"), ("out\n".into(), String::new(), Some(5)));
    assert_eq!(run("<&- >&- 2>&-"), (String::new(), String::new(), Some(5)));
}

fn a_reader_that_leaves_ends_the_command_quietly() {
    let mut test = home().wslr(["yes"]);
    let command = test.command().stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut start = [0; 4];
    child.stdout.take().unwrap().read_exact(&mut start).unwrap();
    // Its end of the pipe is closed: the command gets SIGPIPE, as in any pipeline.
    let output = child.wait_with_output().unwrap();
    assert_eq!((start, text(&output).1, output.status.code()), (*b"y\ny\n", "".into(), Some(141)));
    // So does a listing of the tool itself, which has nothing to say of it.
    for arguments in [["--help"], ["--list"]] {
        let (_, words) = words(&arguments);
        let line = format!("{{ sleep 0.3; {}; echo $? >&2; }} | true", quoted(&words));
        let output = alone(&["sh", "-c", &line]).stdin(Stdio::null()).output().unwrap();
        assert_eq!(text(&output), (String::new(), "0\n".into(), Some(0)));
    }
}

fn under_nohup_it_outlives_its_terminal() {
    let mark = format!("/root/nohup-{}", std::process::id());
    let line = format!("echo up; sleep 3; echo over >{mark}");
    let (_, words) = words(&["sh", "-c", &line]);
    // An interactive shell's job, whose terminal then hangs up.
    let line = format!("nohup {} </dev/null >out 2>&1 & sleep 1; exit", quoted(&words));
    let mut terminal = Terminal::of(&mut alone(&["sh", "-c", &line]));
    terminal.status();
    drop(terminal);
    wait_for("the command to go on", || shell(&format!("cat {mark} 2>&1 || true")) == "over\n");
    shell(&format!("rm {mark}"));
}

fn under_script_it_has_a_terminal() {
    let (_, words) = words(&["sh", "-c", "test -t 0 && test -t 1 && stty size && exit 9"]);
    let line = format!("stty rows 33 cols 44; {}", quoted(&words));
    let mut terminal = Terminal::of(&mut alone(&["script", "-qec", &line, "/dev/null"]));
    terminal.expect("33 44");
    assert_eq!(terminal.status(), Some(9));
}

fn under_tmux_it_has_a_terminal() {
    let socket = home().path(format!("tmux-{}", std::process::id()));
    let socket = socket.to_str().unwrap();
    let out = home().path(format!("tmux-{}.out", std::process::id()));
    let (_, words) =
        words(&["sh", "-c", "tty; stty size; echo \"$TERM\"; read line; echo got $line"]);
    let line = format!("{}; echo done $? >{}", quoted(&words), out.display());
    let tmux = |arguments: &[&str]| {
        let mut command = alone(&[&["tmux", "-S", socket], arguments].concat());
        command.env("TERM", "xterm").output().unwrap()
    };
    let started = tmux(&["-f", "/dev/null", "new-session", "-d", "-x", "81", "-y", "25", &line]);
    assert!(started.status.success(), "{started:?}");
    let shown = || String::from_utf8_lossy(&tmux(&["capture-pane", "-p"]).stdout).into_owned();
    // A status line may take one row.
    let has_size = |shown: String| ["24 81\n", "25 81\n"].iter().any(|size| shown.contains(size));
    wait_for("the size", || has_size(shown()));
    assert!(shown().contains("/dev/pts/"), "{}", shown());
    tmux(&["send-keys", "typed", "Enter"]);
    wait_for("the end", || std::fs::read_to_string(&out).is_ok_and(|text| text == "done 0\n"));
    tmux(&["kill-server"]);
}

fn under_expect_it_can_be_talked_to() {
    let (_, words) = words(&["sh", "-c", "printf 'name? '; read name; echo hello $name; exit 3"]);
    let script = format!(
        "set timeout 30; log_user 0; spawn -noecho {}; expect \"name? \"; send \"me\\r\"; \
         expect \"hello me\"; expect eof; exit [lindex [wait] 3]",
        words.iter().map(|word| format!("{{{word}}}")).collect::<Vec<_>>().join(" ")
    );
    let output = alone(&["expect", "-c", &script]).stdin(Stdio::null()).output().unwrap();
    assert_eq!(text(&output), (String::new(), String::new(), Some(3)));
}

fn under_timeout_it_ends_in_time() {
    let started = Instant::now();
    let output = under(&["timeout", "1"], &["sleep", "12321"]).stdin(Stdio::null()).output();
    assert_eq!(output.unwrap().status.code(), Some(124));
    assert!(started.elapsed() < Duration::from_secs(30));
    let count = || shell("pgrep -cx -f 'sleep 12321' || true");
    wait_for("the process to end", || count() == "0\n");
    // By force it ends as well, and so does what it started.
    let output = under(&["timeout", "-s", "KILL", "1"], &["sleep", "12321"]).output().unwrap();
    assert_eq!(output.status.signal(), Some(9));
    wait_for("the process to end", || count() == "0\n");
}

fn in_the_background_of_a_shell_it_waits_for_its_turn() {
    let mut inherited = alone(&["bash", "--norc"]);
    inherited.env("PS1", "");
    let mut terminal = Terminal::of(&mut inherited);
    let (_, words) = words(&["sh", "-c", "echo st''arted; read line; echo \"read $line\""]);
    terminal.type_in(&format!("{} &\n", quoted(&words)));
    terminal.expect("started");
    // It does not take what is typed to the shell, nor its terminal's modes.
    terminal.type_in("echo to the sh''ell\n");
    terminal.expect("to the shell");
    terminal.type_in("fg\n");
    // What it shows is the job's line.
    terminal.expect("read line");
    std::thread::sleep(Duration::from_millis(500));
    terminal.type_in("mine\n");
    terminal.expect("read mine\r\n");
    // Until it has ended, what is typed is its own.
    std::thread::sleep(Duration::from_secs(1));
    terminal.type_in("exit 2\n");
    assert_eq!(terminal.status(), Some(2));
}

/// Whatever becomes of the service, the user's terminal is as it was.
fn ends_with_the_terminal_as_it_was(kill: impl FnOnce(&OwnHome)) {
    let home = OwnHome::with_distro("D", "");
    let mut terminal = Terminal::of(home.wslr(["-u", "root"]).command());
    terminal.type_in("echo re''ady\n");
    terminal.expect("ready");
    assert!(terminal.is_raw());
    kill(&home);
    // The shell's end by the hang-up, or that of the connection.
    assert!([Some(129), Some(255)].contains(&terminal.status()));
    assert!(!terminal.is_raw());
}

#[test]
fn b024_the_terminal_is_as_it_was_when_the_service_is_killed() {
    ends_with_the_terminal_as_it_was(|home| {
        let service = status(home)["service"]["process"].as_i64().unwrap();
        let service = nix::unistd::Pid::from_raw(service.try_into().unwrap());
        nix::sys::signal::kill(service, nix::sys::signal::Signal::SIGKILL).unwrap();
    });
}

#[test]
fn b024_the_terminal_is_as_it_was_when_the_distro_is_terminated() {
    ends_with_the_terminal_as_it_was(|home| {
        let done = "The operation completed successfully.\n";
        home.wslr(["--terminate", "D"]).stdout(done).run();
    });
}
