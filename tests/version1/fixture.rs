//! The homes that the tests share: one of root and one of an ordinary user, each with the
//! same Debian as its default distro in version 1.
//!
//! A home is made when the first test needs it, and removed when the program has ended,
//! however it ends.

use std::cell::Cell;
use std::io::Write;
use std::ops::Deref;
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::thread;
use std::time::Instant;

use nix::unistd::Uid;

use crate::support::users::{SINGLE, ordinary_user};
use crate::support::{Home, debian};

/// The distro most tests use, which is the default one.
pub const ALPHA: &str = "Alpha";

/// Whose `wslr` a test runs.
#[derive(Clone, Copy, Debug)]
pub enum Whose {
    /// Root's: real owners.
    Root,
    /// An ordinary user's with a range of subordinate ids.
    User,
    /// An ordinary user's without one.
    Single,
}

thread_local! {
    static WHOSE: Cell<Whose> = const { Cell::new(Whose::Root) };
}

/// Runs a test as somebody.
pub fn run_as(whose: Whose, test: fn()) {
    WHOSE.set(whose);
    test();
}

/// The shared home of whom the test runs as, with [`ALPHA`] installed.
pub fn home() -> &'static Home {
    static HOMES: [OnceLock<OwnHome>; 3] = [const { OnceLock::new() }; 3];
    let configuration = "[general]\ninstanceIdleTimeout=600000\n";
    HOMES[WHOSE.get() as usize].get_or_init(|| OwnHome::with_distro(ALPHA, configuration))
}

/// A home for one test.
pub struct OwnHome {
    // It ends before the home does.
    _cleaner: Cleaner,
    home: Home,
}

impl OwnHome {
    /// One with nothing in it.
    pub fn empty() -> Self {
        let home = empty_home();
        Self { _cleaner: Cleaner::new(&home), home }
    }

    /// One with a distro.
    pub fn with_distro(distro: &str, configuration: &str) -> Self {
        let own = Self::empty();
        own.write(".wslconfig", configuration);
        install(&own, distro);
        own
    }
}

impl Deref for OwnHome {
    type Target = Home;

    fn deref(&self) -> &Home {
        &self.home
    }
}

/// A home of whom the test runs as.
fn empty_home() -> Home {
    let (uid, gid) = match (WHOSE.get(), Uid::effective().is_root()) {
        (Whose::Root, true) | (Whose::User, false) => return Home::new(),
        (Whose::Root | Whose::Single, false) => panic!("this test needs root"),
        (Whose::User, true) => ordinary_user(),
        (Whose::Single, true) => SINGLE,
    };
    Home::new().owned_by(uid, gid)
}

/// Installs the Debian under a name, in version 1.
pub fn install(home: &Home, name: &str) {
    let started = Instant::now();
    let mut install = home.wslr(["--install", "--no-launch", "--version", "1", "--name", name]);
    let output =
        install.command().args(["--from-file", "-"]).stdin(debian::archive()).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let said = format!(
        "Installing: -\nDistribution successfully installed. It can be launched via \
         'wslr -d {name}'\n"
    );
    assert_eq!(String::from_utf8_lossy(&output.stdout), said);
    println!("{name} installed in {:?}", started.elapsed());
}

/// Runs words in the default distro, without input.
pub fn in_distro(words: &[&str]) -> Output {
    let mut test = home().wslr(["--"]);
    test.command().args(words).stdin(Stdio::null()).output().unwrap()
}

/// The output of a shell line as root of the default distro, which must succeed.
#[track_caller]
pub fn shell(line: &str) -> String {
    let output = in_distro(&["sh", "-c", line]);
    assert!(output.status.success(), "{line}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Runs a program of the machine that must succeed.
pub fn run_tool(program: &str, arguments: &[&str]) -> Output {
    let path = "/usr/sbin:/usr/bin:/sbin:/bin";
    let output = Command::new(program).args(arguments).env("PATH", path).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {output:?}");
    output
}

/// A process that waits for this program's end, then ends and removes all that a home has.
struct Cleaner(Option<Child>);

impl Cleaner {
    fn new(home: &Home) -> Self {
        let script = "cat >/dev/null
            \"$0\" --shutdown --force
            \"$0\" --list --all --quiet | while read -r name; do \"$0\" --unregister \"$name\"; done
            rm -rf \"$1\"";
        let test = home.wslr([""; 0]);
        let inherited = test.into_command();
        let mut command = Command::new("sh");
        command.args(["-c", script]).arg(inherited.get_program()).arg(home.path("")).env_clear();
        for (name, value) in inherited.get_envs() {
            command.env(name, value.unwrap_or_default());
        }
        home.as_owner(&mut command);
        let child =
            command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        Self(Some(child.unwrap()))
    }
}

impl Drop for Cleaner {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            drop(child.stdin.take());
            let _ = child.wait();
        }
    }
}

/// What `--status --json` says.
pub fn status(home: &Home) -> serde_json::Value {
    let output = home.wslr(["--status", "--json"]).command().output().unwrap();
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The names of the distros that run, one per line.
pub fn running(home: &Home) -> String {
    let output = home.wslr(["--list", "--running", "--quiet"]).command().output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Writes bytes to a child's standard input from a thread.
pub fn feed(child: &mut Child, bytes: Vec<u8>) -> thread::JoinHandle<()> {
    let mut stdin = child.stdin.take().unwrap();
    thread::spawn(move || stdin.write_all(&bytes).unwrap())
}
