//! When a distro runs, and when it stops.

use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::fixture::{OwnHome, install, running, status};
use crate::support::wait_for;

crate::as_root_and_as_user! {
    b007_a_daemon_keeps_its_distro_running
    an_idle_distro_stops_and_the_service_leaves
    b029_warnings_of_a_start_can_be_silenced
    b035_states_follow_commands
    a_terminated_distro_starts_again
    shutdown_ends_everything
    b039_a_running_distro_is_unregistered
    b089_b125_b139_a_start_reads_the_distros_files_but_in_safe_mode
    a_service_keeps_its_distro_running_and_is_named
    a_shutdown_by_force_ends_a_service_that_does_not_answer
}

const DONE: &str = "The operation completed successfully.\n";

/// Idle distros and machines stop after a second.
const IMPATIENT: &str = "[general]\ninstanceIdleTimeout=1000\n[wsl2]\nvmIdleTimeout=1000\n";

fn b007_a_daemon_keeps_its_distro_running() {
    let home = OwnHome::with_distro("D", IMPATIENT);
    let started = Instant::now();
    let line = "touch /dev/shm/x; setsid sleep 30 >/dev/null 2>&1 </dev/null &";
    home.wslr(["--", line]).run();
    assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
    std::thread::sleep(Duration::from_secs(4));
    assert_eq!(running(&home), "D\n");
    home.wslr(["ls", "/dev/shm/x"]).stdout("/dev/shm/x\n").run();
    home.wslr(["pkill sleep"]).run();
    wait_for("the distro to stop", || running(&home).is_empty());
    home.wslr(["ls", "/dev/shm"]).run();
}

fn an_idle_distro_stops_and_the_service_leaves() {
    let home = OwnHome::with_distro("D", IMPATIENT);
    home.wslr(["true"]).run();
    assert_eq!(running(&home), "D\n");
    wait_for("the distro to stop", || running(&home).is_empty());
    // Asking keeps it.
    let left = || {
        std::thread::sleep(Duration::from_secs(4));
        status(&home)["service"].is_null()
    };
    assert!(left() || left(), "the service does not leave");
    home.wslr(["echo", "again"]).stdout("again\n").run();
}

fn b029_warnings_of_a_start_can_be_silenced() {
    let home = OwnHome::with_distro("D", IMPATIENT);
    home.write(".wslconfig", "[wsl2]\nfoo=1\n");
    let warning = "wslr: warning: Unknown key 'wsl2.foo' in [HOME]/.wslconfig:2\n";
    home.wslr(["echo", "a"]).stdout("a\n").stderr(warning).run();
    home.wslr(["echo", "b"]).stdout("b\n").run();
    home.wslr(["--shutdown"]).run();
    home.wslr(["echo", "c"]).env("WSL_DISABLE_WARNINGS", "1").stdout("c\n").run();
}

fn b035_states_follow_commands() {
    let home = OwnHome::with_distro("D", "");
    let row = |state: &str| format!("  NAME    STATE           VERSION\n* D       {state:16}1\n");
    home.wslr(["-l", "-v"]).stdout(row("Stopped")).run();
    let mut test = home.wslr(["sleep", "1000"]);
    let mut child = test.command().stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    wait_for("the distro to run", || running(&home) == "D\n");
    home.wslr(["-l", "-v"]).stdout(row("Running")).run();
    home.wslr(["--list", "--running"])
        .stdout("Windows Subsystem for Linux Distributions:\nD (Default)\n")
        .run();
    home.wslr(["--terminate", "d"]).stdout(DONE).run();
    assert!(!child.wait().unwrap().success());
    home.wslr(["-l", "-v"]).stdout(row("Stopped")).run();
    home.wslr(["--list", "--running"])
        .fails("There are no running distributions.", None, None)
        .run();
    home.wslr(["--terminate", "D"]).stdout(DONE).run();
}

fn a_terminated_distro_starts_again() {
    let home = OwnHome::with_distro("D", "");
    install(&home, "E");
    home.wslr(["-d", "E", "touch", "/run/mark"]).run();
    home.wslr(["echo kept >/root/kept; touch /run/gone; exec sync"]).run();
    home.wslr(["--terminate", "D"]).stdout(DONE).run();
    assert_eq!(running(&home), "E\n");
    home.wslr(["cat /root/kept; ls /run/gone"])
        .stdout("kept\n")
        .stderr("[..]No such file or directory\n")
        .status(2)
        .run();
    home.wslr(["-d", "E", "ls", "/run/mark"]).stdout("/run/mark\n").run();
    home.wslr(["-d", "E", "ls", "/root"]).run();
}

fn shutdown_ends_everything() {
    let home = OwnHome::with_distro("D", "");
    let mut test = home.wslr(["sleep", "54321"]);
    let mut child = test.command().stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    wait_for("the distro to run", || running(&home) == "D\n");
    for options in [["--shutdown"].as_slice(), &["--shutdown", "--force"]] {
        home.wslr(options).run();
        assert_eq!(running(&home), "");
        wait_for("the service to leave", || status(&home)["service"].is_null());
    }
    assert!(!child.wait().unwrap().success());
}

fn b039_a_running_distro_is_unregistered() {
    let home = OwnHome::with_distro("D", "");
    install(&home, "E");
    home.wslr(["-d", "D", "true"]).run();
    home.wslr(["--unregister", "D"]).stdout(DONE).run();
    home.wslr(["-l"]).stdout("Windows Subsystem for Linux Distributions:\nE (Default)\n").run();
    home.wslr(["--unregister", "e"]).stdout(DONE).run();
    assert!(home.tree(".local/share/wslr/distros").is_empty());
    home.wslr(["true"])
        .fails(
            "There is no default distribution: none is installed.",
            Some(
                "'wslr --list --online' shows what can be installed, \
                 'wslr --install NAME' installs it",
            ),
            None,
        )
        .run();
}

fn b089_b125_b139_a_start_reads_the_distros_files_but_in_safe_mode() {
    let home = OwnHome::with_distro("D", "");
    let restart = || _ = home.wslr(["--terminate", "D"]).stdout(DONE).run();
    let release = || {
        let listing = home.wslr(["--list", "--json"]).command().output().unwrap();
        let rows: serde_json::Value = serde_json::from_slice(&listing.stdout).unwrap();
        let word = |key: &str| rows[0][key].as_str().unwrap().to_owned();
        (word("flavor"), word("osVersion"))
    };
    assert_eq!(release(), ("debian".into(), "13".into()));
    for (content, wanted) in [
        ("ID=other\nVERSION_ID=\"2-5_.,\"\n", ("other", "2-5_.,")),
        // What is not valid keeps what was there.
        ("ID=bad!\nVERSION_ID=3\n", ("other", "3")),
        ("ID='new'\nVERSION_ID=a|b\n", ("new", "3")),
    ] {
        home.wslr(["cat >/etc/os-release"]).stdin(content).run();
        restart();
        home.wslr(["true"]).run();
        let wanted = (wanted.0.to_owned(), wanted.1.to_owned());
        wait_for("the record", || release() == wanted);
    }
    home.wslr(["rm /etc/os-release; rm -f /usr/lib/os-release"]).run();
    restart();

    let conf = "[boot]\ncommand=touch /run/booted\n[user]\ndefault=games\n";
    home.wslr(["cat >/etc/wsl.conf"]).stdin(conf).run();
    home.wslr(["id -un; ls /run/booted 2>&1"]).stdout("root\nls: [..]\n").status(2).run();
    restart();
    let line = "id -un; until ls /run/booted 2>/dev/null; do sleep 0.1; done";
    home.wslr(["--", "sh", "-c", line]).stdout("games\n/run/booted\n").run();
    assert_eq!(release(), ("new".into(), "3".into()));

    home.write(".wslconfig", "[wsl2]\nsafeMode=true\n");
    home.wslr(["--shutdown"]).run();
    home.wslr(["id -un; sleep 0.5; test -e /run/booted"])
        .stdout("root\n")
        .stderr("wslr: warning: SAFE MODE ENABLED: [..]\n")
        .status(1)
        .run();
}

/// What `--status` says of the distros that run.
fn reasons(home: &OwnHome) -> String {
    let output = home.wslr(["--status"]).command().output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().filter(|line| line.starts_with("Running: ")).collect()
}

fn a_service_keeps_its_distro_running_and_is_named() {
    let home = OwnHome::with_distro("D", IMPATIENT);
    // Of no session: what the distro starts by itself.
    let server = "perl -MSocket -e 'socket(S, PF_INET, SOCK_STREAM, 0); \
                  bind(S, sockaddr_in(0, INADDR_LOOPBACK)); listen(S, 1); \
                  print((sockaddr_in(getsockname(S)))[0]); $| = 1; print; sleep 1000' >/run/port";
    let conf = format!("[boot]\ncommand = \"{}\"\n", server.replace('"', "\\\""));
    home.wslr(["cat >/etc/wsl.conf"]).stdin(conf).run();
    home.wslr(["--terminate", "D"]).stdout(DONE).run();
    let line = "until grep -qs . /run/port; do sleep 0.1; done; cat /run/port";
    let port = String::from_utf8(home.wslr([line]).stdout("[..]").run().stdout).unwrap();
    let wanted = format!("perl listens on TCP port {port}");
    wait_for("the session to end", || reasons(&home) == format!("Running: D ({wanted})"));
    std::thread::sleep(Duration::from_secs(4));
    assert_eq!(running(&home), "D\n");
    let listing = home.wslr(["-l", "-v", "--json"]).command().output().unwrap();
    let listing: serde_json::Value = serde_json::from_slice(&listing.stdout).unwrap();
    assert_eq!(listing[0]["uses"], serde_json::json!([wanted]));
    assert_eq!(listing[0]["sessions"], 0);
    home.wslr(["pkill perl"]).run();
    wait_for("the distro to stop", || running(&home).is_empty());
    // A setting turns it off.
    let setting = format!("{IMPATIENT}[wslr]\nservicesKeepRunning=false\n");
    home.write(".wslconfig", setting);
    wait_for("the service to leave", || {
        std::thread::sleep(Duration::from_secs(3));
        status(&home)["service"].is_null()
    });
    home.wslr([line]).stdout("[..]").run();
    wait_for("the distro to stop", || running(&home).is_empty());
}

fn a_shutdown_by_force_ends_a_service_that_does_not_answer() {
    let home = OwnHome::with_distro("D", "");
    home.wslr(["true"]).run();
    let service = status(&home)["service"]["process"].as_i64().unwrap();
    let service = nix::unistd::Pid::from_raw(service.try_into().unwrap());
    nix::sys::signal::kill(service, nix::sys::signal::Signal::SIGSTOP).unwrap();
    let started = Instant::now();
    home.wslr(["--shutdown", "--force"]).run();
    println!("a shutdown by force took {:?}", started.elapsed());
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    wait_for("the service's end", || nix::sys::signal::kill(service, None).is_err());
    home.wslr(["echo", "again"]).stdout("again\n").run();
}
