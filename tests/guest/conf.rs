//! What `/etc/wsl.conf` does to a distro.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use wslr::protocol::guest::Request as Ask;
use wslr::protocol::session::User;

use super::harness::Distro;
use super::session::{PATIENCE, Request};

/// The output of a line run as the distro's default user, whose number is 0.
fn as_default(distro: &Distro, line: &str) -> String {
    let mut request = Request::words(&["sh", "-c", line]);
    request.user = User::Default(0);
    distro.session(request).finish(b"").text()
}

#[test]
fn b138_wrong_lines_are_warnings_and_the_rest_counts() {
    let distro = Distro::with_conf("[network]\nhostname=Own_Name\n[foo]\na=b\n[boot\n");
    assert_eq!(
        distro.warnings,
        ["Unknown key 'foo.a' in /etc/wsl.conf:4", "Expected ']' in /etc/wsl.conf:5"]
    );
    assert_eq!(distro.run("hostname; cat /etc/hostname").text(), "OwnName\nOwnName\n");
}

#[test]
fn b140_b142_b143_names_and_hosts_are_written_where_they_are_wanted() {
    let distro = Distro::with_conf("[network]\nhostname=host.domain\n");
    let text = distro.run("hostname; cat /etc/hostname; echo $NAME; cat /etc/hosts").text();
    assert!(text.starts_with("host.domain\nhost.domain\nhost.domain\n# "), "{text}");
    assert!(text.contains("\n127.0.1.1\thost.domain\thost\n"), "{text}");
    let distro = Distro::try_start_with(Path::new("/"), |root| {
        let conf = "[network]\ngenerateHosts=false\ngenerateResolvConf=false\n";
        fs::write(root.join("etc/wsl.conf"), conf).unwrap();
        let _ = fs::remove_file(root.join("etc/hosts"));
        let _ = fs::remove_file(root.join("etc/resolv.conf"));
        std::os::unix::fs::symlink("/mnt/wsl/resolv.conf", root.join("etc/resolv.conf")).unwrap();
    });
    let distro = distro.unwrap();
    assert_eq!(distro.run("test -e /etc/hosts").code(), 1);
    assert_eq!(distro.run("test -L /etc/resolv.conf").code(), 1, "our own link goes");
    let distro = Distro::try_start_with(Path::new("/"), |root| {
        fs::write(root.join("etc/wsl.conf"), "[network]\ngenerateResolvConf=false\n").unwrap();
        let _ = fs::remove_file(root.join("etc/resolv.conf"));
        fs::write(root.join("etc/resolv.conf"), "nameserver 192.0.2.1\n").unwrap();
    });
    let text = distro.unwrap().run("cat /etc/resolv.conf").text();
    assert_eq!(text, "nameserver 192.0.2.1\n", "another's stays");
}

#[test]
fn b150_the_default_user_is_the_one_of_the_file_where_it_exists() {
    let distro = Distro::with_conf("[user]\ndefault=daemon\n");
    assert_eq!(as_default(&distro, "id -un"), "daemon\n");
    assert_eq!(distro.run("id -un").text(), "root\n", "asked for by number");
    let distro = Distro::with_conf("[user]\ndefault=nosuchuser\n");
    assert_eq!(as_default(&distro, "id -un"), "root\n");
}

#[test]
fn b150_the_boot_command_runs_once_as_root_and_is_not_waited_for() {
    let line = "(id -un; echo $HOME) >> /booted; sleep 60";
    let distro = Distro::with_conf(&format!("[boot]\ncommand=\"{line}\"\n"));
    let deadline = Instant::now() + PATIENCE;
    while distro.run("cat /booted").stdout != b"root\n/root\n" {
        assert!(Instant::now() < deadline, "the command did not run");
        thread::sleep(Duration::from_millis(20));
    }
    assert!(distro.stop() < Duration::from_secs(2), "and does not hold the stop up");
}

#[test]
fn the_mask_of_the_file_is_that_of_sessions() {
    assert_eq!(Distro::with_conf("[filesystem]\numask=027\n").run("umask").text(), "0027\n");
    assert_eq!(Distro::start().run("umask").text(), "0022\n");
}

#[test]
fn b232_the_time_zone_is_the_hosts_where_it_is_wanted_and_known() {
    let zone = |conf: &str, is_known: bool| {
        let distro = Distro::try_start_with(Path::new("/"), |root| {
            fs::write(root.join("etc/wsl.conf"), conf).unwrap();
            let _ = fs::remove_file(root.join("etc/localtime"));
            let directory = root.join("usr/share/zoneinfo/Europe");
            let _ = fs::remove_dir_all(&directory);
            if is_known {
                fs::create_dir_all(&directory).unwrap();
                fs::write(directory.join("Berlin"), "x").unwrap();
            }
        });
        let distro = distro.unwrap();
        assert_eq!(distro.warnings, Vec::<String>::new());
        distro.run("readlink /etc/localtime").stdout
    };
    assert_eq!(zone("", true), b"/usr/share/zoneinfo/Europe/Berlin\n");
    assert_eq!(zone("", false), b"");
    assert_eq!(zone("[time]\nuseWindowsTimezone=false\n", true), b"");
}

#[test]
fn b232_a_running_distro_follows_the_hosts_time_zone_where_it_is_wanted() {
    for (conf, expected) in [("", "Asia/Tokyo"), ("[time]\nuseWindowsTimezone=false\n", "")] {
        let distro = Distro::try_start_with(Path::new("/"), |root| {
            fs::write(root.join("etc/wsl.conf"), conf).unwrap();
            let _ = fs::remove_file(root.join("etc/localtime"));
            fs::write(root.join("etc/timezone"), "Etc/UTC\n").unwrap();
            let zones = root.join("usr/share/zoneinfo");
            let _ = fs::remove_dir_all(&zones);
            fs::create_dir_all(zones.join("Asia")).unwrap();
            fs::write(zones.join("Asia/Tokyo"), "x").unwrap();
        });
        let mut distro = distro.unwrap();
        for zone in ["../../etc/passwd", "Asia/Tokyo", "No/Where"] {
            distro.ask(Ask::SetTimeZone { zone: zone.into() }).unwrap();
        }
        // Sessions begin after what was ordered before them; writing takes a moment.
        let line = "for i in $(seq 50); do test -L /etc/localtime && break; sleep 0.1; done; \
                    readlink /etc/localtime; cat /etc/timezone";
        let line = if expected.is_empty() { "sleep 0.5; readlink /etc/localtime" } else { line };
        let text = distro.run(line).stdout;
        let expected = match expected {
            "" => String::new(),
            zone => format!("/usr/share/zoneinfo/{zone}\n{zone}\n"),
        };
        assert_eq!(String::from_utf8_lossy(&text), expected);
    }
}

#[test]
fn a_file_that_cannot_be_read_is_a_warning() {
    let distro = Distro::try_start_with(Path::new("/"), |root| {
        let _ = fs::remove_file(root.join("etc/wsl.conf"));
        fs::create_dir(root.join("etc/wsl.conf")).unwrap();
    });
    let distro = distro.unwrap();
    let warnings = &distro.warnings;
    assert!(warnings[0].starts_with("Failed to open config file /etc/wsl.conf, "), "{warnings:?}");
}
