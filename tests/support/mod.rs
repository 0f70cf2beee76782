//! What the black-box tests share: a temporary home, one builder that runs the executable
//! and compares what it does exactly, and a loopback server.

#![allow(dead_code, reason = "each test program uses its own part")]
#![allow(clippy::panic, clippy::unwrap_used, reason = "these are tests")]

pub mod debian;
pub mod nasty;
pub mod server;
pub mod tar;
pub mod tree;
pub mod users;

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// Asks until it is so, for at most a minute.
#[track_caller]
pub fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !is_so() {
        assert!(Instant::now() < end, "waited for {what} in vain");
        thread::sleep(Duration::from_millis(20));
    }
}

/// A home of its own, with nothing in it and no way to the network. New distros there are
/// version 2 where a test says nothing else, whatever the machine can run.
pub struct Home {
    directory: TempDir,
    environment: Vec<(OsString, OsString)>,
    executable: PathBuf,
    owner: Option<(u32, u32)>,
}

impl Home {
    /// An empty home.
    pub fn new() -> Self {
        let home = Self {
            directory: tempfile::tempdir().unwrap(),
            environment: Vec::new(),
            executable: env!("CARGO_BIN_EXE_wslr").into(),
            owner: None,
        };
        fs::create_dir(home.path("run")).unwrap();
        home
    }

    /// The same home for another user, as whom all runs in it. Only root can make one.
    pub fn owned_by(mut self, uid: u32, gid: u32) -> Self {
        // The user may not be able to reach the place where it was built.
        let executable = self.path("wslr");
        fs::hard_link(&self.executable, &executable)
            .or_else(|_| fs::copy(&self.executable, &executable).map(drop))
            .unwrap();
        for path in [self.path(""), self.path("run")] {
            std::os::unix::fs::chown(path, Some(uid), Some(gid)).unwrap();
        }
        self.executable = executable;
        self.owner = Some((uid, gid));
        self
    }

    /// The same home with a variable in the environment of all that runs in it.
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.environment.push((name.into(), value.as_ref().to_owned()));
        self
    }

    /// A path below the home.
    pub fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        self.directory.path().join(path)
    }

    /// A path in the data directory.
    pub fn data(&self, path: impl AsRef<Path>) -> PathBuf {
        self.path(".local/share/wslr").join(path)
    }

    /// Writes a file below the home.
    pub fn write(&self, path: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        if let Some((uid, gid)) = self.owner {
            std::os::unix::fs::chown(&path, Some(uid), Some(gid)).unwrap();
        }
        path
    }

    /// The names of all that lies below a directory, sorted; none where it does not exist.
    pub fn tree(&self, path: impl AsRef<Path>) -> Vec<String> {
        fn walk(root: &Path, directory: &Path, names: &mut Vec<String>) {
            for entry in fs::read_dir(directory).into_iter().flatten() {
                let path = entry.unwrap().path();
                names.push(path.strip_prefix(root).unwrap().to_str().unwrap().to_owned());
                if path.is_dir() {
                    walk(root, &path, names);
                }
            }
        }
        let root = self.path(path);
        let mut names = Vec::new();
        walk(&root, &root, &mut names);
        names.sort();
        names
    }

    /// The owner's user id, where that is another user's.
    pub fn owner(&self) -> Option<u32> {
        self.owner.map(|(uid, _)| uid)
    }

    /// Has a command run as the home's owner.
    pub fn as_owner(&self, command: &mut Command) {
        if let Some((uid, gid)) = self.owner {
            command.uid(uid).gid(gid);
        }
    }

    /// The executable with these words.
    pub fn wslr<W: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = W>) -> Test<'_> {
        let mut command = Command::new(&self.executable);
        self.as_owner(&mut command);
        command
            .args(words)
            .env_clear()
            .env("HOME", self.path(""))
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("XDG_RUNTIME_DIR", self.path("run"))
            .env("WSLR_VERSIONS", "1,2")
            // Nothing listens there: what is not expected to reach the network fails at once.
            .env("WSLR_DEBIAN_MIRROR", "http://127.0.0.1:9/debian")
            .env("WSLR_UBUNTU_MIRROR", "http://127.0.0.1:9/ubuntu")
            .env("https_proxy", "http://127.0.0.1:9")
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .current_dir(self.path(""));
        Test {
            home: self,
            command,
            stdin: Vec::new(),
            stdout: String::new(),
            stderr: String::new(),
            status: 0,
        }
    }
}

/// One run and what it must do. Without expectations: status 0 and no output.
///
/// In expected text `[HOME]` is the home's path and `[..]` anything up to what follows it
/// in the same line.
pub struct Test<'a> {
    home: &'a Home,
    command: Command,
    stdin: Vec<u8>,
    stdout: String,
    stderr: String,
    status: i32,
}

impl<'a> Test<'a> {
    /// A variable in its environment.
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// What it reads.
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = bytes.into();
        self
    }

    /// What it must write to standard output.
    pub fn stdout(mut self, text: impl Into<String>) -> Self {
        self.stdout = text.into();
        self
    }

    /// What it must write to standard error.
    pub fn stderr(mut self, text: impl Into<String>) -> Self {
        self.stderr = text.into();
        self
    }

    /// What it must exit with.
    pub fn status(mut self, status: i32) -> Self {
        self.status = status;
        self
    }

    /// A failure of the tool: a message, a hint, and a code path, each optional but the
    /// first, and status 255.
    pub fn fails(self, message: &str, hint: Option<&str>, code: Option<&str>) -> Self {
        let mut text = format!("wslr: {message}\n");
        if let Some(hint) = hint {
            text += &format!("hint: {hint}\n");
        }
        if let Some(code) = code {
            text += &format!("Error code: {code}\n");
        }
        self.stderr(text).status(255)
    }

    /// Runs it and compares.
    #[track_caller]
    pub fn run(mut self) -> Output {
        let mut child = self.spawn_piped();
        let mut stdin = child.stdin.take().unwrap();
        let bytes = std::mem::take(&mut self.stdin);
        // It may end without reading all.
        let writer = thread::spawn(move || _ = stdin.write_all(&bytes));
        let output = child.wait_with_output().unwrap();
        writer.join().unwrap();
        let shown = format!(
            "{:?}\n--- stdout\n{}--- stderr\n{}--- {}",
            self.command,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
            output.status
        );
        for (name, expected, actual) in
            [("stdout", &self.stdout, &output.stdout), ("stderr", &self.stderr, &output.stderr)]
        {
            let root = self.home.path("");
            let expected = expected.replace("[HOME]", root.to_str().unwrap().trim_end_matches('/'));
            let actual = String::from_utf8_lossy(actual);
            assert!(matches(&expected, &actual), "{name} is not\n{expected}---\nin {shown}");
        }
        assert_eq!(output.status.code(), Some(self.status), "status of {shown}");
        output
    }

    /// Starts it; nobody reads what it writes.
    pub fn spawn(mut self) -> Child {
        self.command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        self.command.spawn().unwrap()
    }

    fn spawn_piped(&mut self) -> Child {
        self.command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        self.command.spawn().unwrap()
    }

    /// The command alone.
    pub fn into_command(self) -> Command {
        self.command
    }

    /// The command itself, for tests that need more than this builder.
    pub fn command(&mut self) -> &mut Command {
        &mut self.command
    }
}

fn matches(expected: &str, actual: &str) -> bool {
    let expected: Vec<&str> = expected.split_inclusive('\n').collect();
    let actual: Vec<&str> = actual.split_inclusive('\n').collect();
    expected.len() == actual.len()
        && expected.iter().zip(actual).all(|(expected, actual)| line_matches(expected, actual))
}

fn line_matches(expected: &str, actual: &str) -> bool {
    let mut parts = expected.split("[..]");
    let Some(mut rest) = parts.next().and_then(|start| actual.strip_prefix(start)) else {
        return false;
    };
    let mut parts = parts.peekable();
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        let Some(position) = rest.find(part) else { return false };
        rest = &rest[position + part.len()..];
    }
    rest.is_empty()
}
