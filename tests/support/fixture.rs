//! The home that the tests of a program share: two distros made from a configured Debian
//! (`WSLR_TEST_DISTRO`), and a prepared kernel (`WSLR_TEST_DATA`).

#![allow(dead_code, reason = "each test program uses its own part")]

use std::env;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use crate::support::{Home, wait_for};

/// The distro most tests use, which is the default one.
pub const ALPHA: &str = "Alpha";

/// Another one.
pub const BETA: &str = "Beta";

/// Limits that a software processor can meet, and little memory.
pub const CONFIGURATION: &str = "\
[general]
instanceIdleTimeout=600000
[wsl2]
processors=1
memory=768MB
swap=0
kernelBootTimeout=300000
distributionStartTimeout=300000
";

/// The limit of an orderly end (B158).
pub const ORDERLY: Duration = Duration::from_secs(10);

static HOME: OnceLock<Home> = OnceLock::new();

/// The home, with both distros installed.
pub fn home() -> &'static Home {
    HOME.get_or_init(|| {
        let given = |name: &str| PathBuf::from(env::var_os(name).expect(name));
        let home = Home::new();
        fs::create_dir_all(home.data("")).unwrap();
        symlink(given("WSLR_TEST_DATA").join("kernels"), home.data("kernels")).unwrap();
        home.write(".wslconfig", CONFIGURATION);
        let archive = given("WSLR_TEST_DISTRO");
        for name in [ALPHA, BETA] {
            let started = Instant::now();
            // The usual 1 TB would take e2fsck minutes here.
            let mut install = home.wslr(["--install", "--no-launch", "--vhd-size", "16GB"]);
            install.command().args(["--name", name, "--from-file"]);
            let output = install.command().arg(&archive).output().unwrap();
            assert!(output.status.success(), "{output:?}");
            println!("{name} installed in {:?}", started.elapsed());
        }
        run_tool("e2fsck", &["-fn", find_disk(&home, ALPHA).to_str().unwrap()], &[0]);
        home
    })
}

/// Adds settings of `[wsl2]` to the usual ones.
pub fn configure(more: &str) {
    home().write(".wslconfig", format!("{CONFIGURATION}{more}"));
}

/// The same, and ends the machine, whose next start has them.
pub fn restart_with(more: &str) {
    configure(more);
    home().wslr(["--shutdown"]).run();
}

/// Runs words in a distro, without input.
pub fn in_distro(distro: &str, words: &[&str]) -> Output {
    let mut test = home().wslr(["-d", distro, "--"]);
    test.command().args(words).stdin(std::process::Stdio::null()).output().unwrap()
}

/// The output of a shell line as root, which must succeed.
pub fn shell(distro: &str, line: &str) -> String {
    let started = Instant::now();
    let output = in_distro(distro, &["sh", "-c", line]);
    assert!(output.status.success(), "{line}: {output:?}");
    println!("{distro}: {line}: {:?}", started.elapsed());
    String::from_utf8(output.stdout).unwrap()
}

/// A distro's disk file.
pub fn disk(distro: &str) -> PathBuf {
    find_disk(home(), distro)
}

fn find_disk(home: &Home, distro: &str) -> PathBuf {
    let listing = home.wslr(["--list", "--json"]).command().output().unwrap();
    let rows: serde_json::Value = serde_json::from_slice(&listing.stdout).unwrap();
    let rows = rows.as_array().unwrap();
    let row = rows.iter().find(|row| row["name"] == distro).unwrap();
    Path::new(row["basePath"].as_str().unwrap()).join("ext4.img")
}

/// The processes of the service.
pub fn service() -> Vec<String> {
    let executable = fs::canonicalize(env!("CARGO_BIN_EXE_wslr")).unwrap();
    let processes = fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().file_name());
    processes
        .filter_map(|name| name.into_string().ok())
        .filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()))
        .filter(|name| {
            let runs = fs::read_link(format!("/proc/{name}/exe")).ok();
            let arguments = fs::read(format!("/proc/{name}/cmdline")).unwrap_or_default();
            runs.as_deref() == Some(&executable)
                && String::from_utf8_lossy(&arguments).contains("service")
        })
        .collect()
}

/// Whether the service runs.
pub fn service_runs() -> bool {
    !service().is_empty()
}

/// `kill -9`, and waits until it is gone.
pub fn kill_service() {
    let processes = service();
    assert!(!processes.is_empty(), "the service does not run");
    for process in processes {
        run_tool("kill", &["-9", &process], &[0]);
    }
    wait_for("the service to die", || !service_runs());
}

/// Runs a program of the machine that must end with one of the statuses.
pub fn run_tool(program: &str, arguments: &[&str], statuses: &[i32]) -> Output {
    let path = "/usr/sbin:/usr/bin:/sbin:/bin";
    let started = Instant::now();
    let output = Command::new(program).args(arguments).env("PATH", path).output().unwrap();
    println!("{program}: {:?}", started.elapsed());
    let status = output.status.code().unwrap_or(-1);
    assert!(statuses.contains(&status), "{program} {arguments:?}: {output:?}");
    output
}

/// After a shutdown nothing runs, the disks are clean, and nothing is left of the distros.
pub fn end() {
    shell(ALPHA, "echo last >/root/last");
    shell(BETA, "true");
    home().wslr(["--shutdown"]).run();
    let running = home().wslr(["--list", "--running", "--quiet"]).command().output().unwrap();
    assert!(running.stdout.is_empty(), "{running:?}");
    wait_for("the service to leave", || !service_runs());
    for distro in [ALPHA, BETA] {
        run_tool("e2fsck", &["-fn", disk(distro).to_str().unwrap()], &[0]);
    }
    thread::sleep(Duration::from_millis(100));
    for distro in [ALPHA, BETA] {
        home().wslr(["--unregister", distro]).command().output().unwrap();
    }
    assert!(home().tree(".local/share/wslr/distros").is_empty());
}
