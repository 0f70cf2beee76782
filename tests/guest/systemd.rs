//! A Debian whose first process is its own systemd.
//!
//! Needs root and a cgroup hierarchy of version 2 that root can write to.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use wslr::protocol::session::{StreamKind, User};

use super::harness::Distro;
use super::session::{Finished, PATIENCE, Request, Screen};

const CONF: &str = "[boot]\nsystemd=true\ninitTimeout=60000\n";

fn as_user(distro: &Distro, user: &str, line: &str) -> Finished {
    let mut request = Request::words(&["sh", "-c", line]);
    request.user = User::Name(user.into());
    distro.session(request).finish(b"")
}

/// The output of a line that tells the user nothing else.
fn text(distro: &Distro, line: &str) -> String {
    let finished = distro.run(line);
    assert_eq!(finished.warnings, Vec::<String>::new());
    finished.text()
}

#[test]
fn b162_without_systemd_the_first_process_is_not_systemd() {
    let distro = Distro::start();
    assert_eq!(distro.run("cat /proc/1/comm").text(), "init\n");
    assert_eq!(distro.run("test -e /run/systemd").code(), 1);
}

#[test]
fn a_distro_that_cannot_have_systemd_starts_without_and_says_why() {
    // Its own cgroup is not below a hierarchy of version 2 that it could write to.
    let distro = Distro::try_start_with(std::path::Path::new("/"), |root| {
        fs::write(root.join("etc/wsl.conf"), "[boot]\nsystemd=true\n").unwrap();
        let _ = fs::remove_file(root.join("usr/sbin/init"));
    });
    let distro = distro.unwrap();
    let wanted = "the distribution starts without systemd: '/sbin/init' cannot be executed: ";
    assert!(distro.warnings[0].starts_with(wanted), "{:?}", distro.warnings);
    assert_eq!(distro.run("cat /proc/1/comm").text(), "init\n");
}

#[test]
fn b163_b164_systemd_is_up_when_the_first_command_runs() {
    let distro = Distro::with_systemd(CONF);
    assert_eq!(distro.warnings, Vec::<String>::new());
    let line = "systemctl is-system-running; systemctl --failed --no-legend; cat /proc/1/comm";
    assert_eq!(text(&distro, line), "running\nsystemd\n");
    for unit in ["systemd-networkd-wait-online", "NetworkManager-wait-online", "console-getty"] {
        let line = format!("systemctl show -p LoadState {unit}.service");
        assert_eq!(text(&distro, &line), "LoadState=masked\n");
    }
    assert_eq!(text(&distro, "tr '\\0' '\\n' </proc/1/environ | grep ^container="), {
        "container=wsl\n"
    });
    assert_eq!(text(&distro, "systemd-detect-virt --container"), "wsl\n");
    assert!(
        text(&distro, "journalctl -b --no-pager | grep -c .").trim().parse::<u32>().unwrap() > 5
    );
}

#[test]
fn b165_a_user_has_a_session_of_systemd() {
    let distro = Distro::with_systemd(CONF);
    assert_eq!(distro.run("useradd -m -u 4321 alice").code(), 0);
    let line = "echo $XDG_RUNTIME_DIR; touch $XDG_RUNTIME_DIR/x; echo $DISPLAY; \
                systemctl is-active user@4321.service; systemctl --user is-system-running; \
                loginctl show-session $XDG_SESSION_ID -p Name -p Class -p Active; \
                systemd-run --user --quiet --wait --pipe echo ran; \
                grep -o 'user-4321.slice/session-.*scope' /proc/self/cgroup";
    let finished = as_user(&distro, "alice", line);
    assert_eq!(finished.warnings, Vec::<String>::new());
    let expected = "/run/user/4321\n\nactive\nrunning\nName=alice\nClass=user\nActive=yes\nran\n\
                    user-4321.slice/session-";
    assert!(finished.text().starts_with(expected), "{}", finished.text());
    // All of a user's commands are in one session, and another user has another.
    let count = "loginctl list-sessions --no-legend | grep alice | grep -c user";
    assert_eq!(as_user(&distro, "alice", count).text(), "1\n");
    assert_eq!(text(&distro, "echo $XDG_RUNTIME_DIR"), "/run/user/0\n");
    // Who ends it gets a new one.
    assert_eq!(distro.run("loginctl terminate-user alice").code(), 0);
    let deadline = Instant::now() + PATIENCE;
    while as_user(&distro, "alice", "test -n \"$XDG_SESSION_ID\" && systemctl --user status").code()
        != 0
    {
        assert!(Instant::now() < deadline, "there is no new session");
        thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn services_and_timers_live_beyond_the_command_that_starts_them() {
    let mut distro = Distro::with_systemd(CONF);
    text(&distro, "true");
    // What every system runs is no use of it.
    assert_eq!(distro.uses(), Vec::<String>::new());
    text(&distro, "systemd-run --quiet --unit=stays sleep 1000");
    assert_eq!(distro.uses(), ["the unit stays.service"]);
    text(
        &distro,
        "systemd-run --quiet --on-active=100ms --timer-property=AccuracySec=1ms \
                   --unit=late touch /run/late",
    );
    let deadline = Instant::now() + PATIENCE;
    while distro.run("test -e /run/late").code() != 0 {
        assert!(Instant::now() < deadline, "the timer did not fire");
        thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(text(&distro, "systemctl is-active stays"), "active\n");
}

#[test]
fn a_shell_on_a_terminal_has_a_session_too() {
    let distro = Distro::with_systemd(CONF);
    let request = Request::words(&["bash", "--norc"]).on_terminal(80, 24);
    let mut running = distro.session(request);
    let mut screen = Screen::new(running.take(StreamKind::Terminal));
    screen.type_in("loginctl show-session \"$XDG_SESSION_ID\" -p State; echo en''d\n");
    let shown = screen.expect("\nend");
    assert!(shown.contains("State=active"), "{shown:?}");
    screen.type_in("exit 3\n");
    assert_eq!(running.exited().code(), 3);
    running.wait_idle();
}

#[test]
fn b171_a_stop_is_an_orderly_power_off() {
    let distro = Distro::with_systemd(CONF);
    text(
        &distro,
        "systemd-run --quiet --unit=says -p ExecStop='/bin/sh -c \"echo stopped >/stopped\"' \
         sleep 1000",
    );
    let line = "trap '' HUP TERM; sleep 1000 & wait; sleep 1000";
    let _stubborn = distro.session(Request::words(&["sh", "-c", line]).on_terminal(80, 24));
    let root = distro.root.clone();
    let (_, said) = distro.stop_keeping(|| fs::read_to_string(root.join("stopped")));
    assert_eq!(said.unwrap(), "stopped\n");
}

#[test]
fn power_off_and_reboot_inside_end_the_distro() {
    for verb in ["poweroff", "reboot"] {
        let mut distro = Distro::with_systemd(CONF);
        text(&distro, "true");
        let _running = distro.session(Request::words(&["systemctl", verb]));
        distro.wait_end();
    }
}

#[test]
fn b166_a_time_of_zero_does_not_wait_and_too_short_a_time_warns() {
    let distro = Distro::with_systemd("[boot]\nsystemd=true\ninitTimeout=0\n");
    assert_eq!(text(&distro, "echo ran"), "ran\n");
    let deadline = Instant::now() + PATIENCE;
    while distro.run("systemctl is-system-running").stdout != b"running\n" {
        assert!(Instant::now() < deadline, "systemd does not come up");
        thread::sleep(Duration::from_millis(100));
    }
    let distro = Distro::with_systemd("[boot]\nsystemd=true\ninitTimeout=1\n");
    let finished = distro.run("echo ran");
    assert_eq!((finished.warnings.len(), finished.text().as_str()), (1, "ran\n"));
    let wanted = "systemd did not come up within 1 ms ([boot] initTimeout); ";
    assert!(finished.warnings[0].starts_with(wanted), "{:?}", finished.warnings);
    assert_eq!(distro.run("true").warnings, Vec::<String>::new());
}

#[test]
fn an_init_that_cannot_be_executed_leaves_a_distro_without_systemd() {
    let distro = Distro::with_systemd_and(CONF, |root| {
        fs::remove_file(root.join("usr/sbin/init")).unwrap();
        fs::write(root.join("usr/sbin/init"), "no program").unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(root.join("usr/sbin/init"), mode).unwrap();
    });
    let finished = distro.run("cat /proc/1/comm");
    assert_eq!(finished.text(), "init\n");
    let wanted = "the distribution starts without systemd: '/sbin/init' cannot be executed: ";
    assert!(finished.warnings[0].starts_with(wanted), "{:?}", finished.warnings);
    assert!(distro.stop() < Duration::from_secs(3));
}

#[test]
fn a_new_distro_is_configured_before_its_systemd_starts() {
    let distro = Distro::with_systemd_and(CONF, |root| {
        fs::create_dir_all(root.join("usr/lib/wslr")).unwrap();
        fs::write(root.join("usr/lib/wslr/configure"), "").unwrap();
    });
    let line = "cat /proc/1/comm; sleep 0.2; rm /usr/lib/wslr/configure";
    assert_eq!(text(&distro, line), "init\n");
    assert_eq!(text(&distro, "cat /proc/1/comm"), "systemd\n");
}

#[test]
fn b172_a_user_session_that_cannot_start_is_a_warning_and_the_command_runs() {
    let distro = Distro::with_systemd_and(CONF, |root| {
        fs::remove_file(root.join("usr/lib/systemd/systemd-logind")).unwrap();
    });
    let finished = distro.run("echo ran");
    assert_eq!(finished.text(), "ran\n");
    assert!(finished.warnings[0].contains("'journalctl -b' tells more"), "{:?}", finished.warnings);
    assert_eq!(distro.run("true").warnings, Vec::<String>::new(), "once is enough");
}

#[test]
fn b167_killing_the_init_of_the_tool_ends_the_distro() {
    let mut distro = Distro::with_systemd(CONF);
    assert_eq!(text(&distro, "cat /proc/2/comm"), "init\n");
    let start = Instant::now();
    let _running = distro.session(Request::words(&["kill", "-9", "2"]));
    distro.wait_end();
    assert!(start.elapsed() < Duration::from_secs(30));
}
