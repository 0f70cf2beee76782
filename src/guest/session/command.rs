//! Becoming the command: the last steps of the forked child, up to `execve`.

use std::convert::Infallible;
use std::ffi::CString;
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::stat::{Mode, umask};
use nix::unistd::{
    Gid, Uid, chdir, dup2_stderr, dup2_stdin, dup2_stdout, execve, setgid, setgroups, setsid,
    setuid,
};

use super::environment::{self, Environment};
use super::users::Account;
use crate::guest::{cgroup, sys};
use crate::protocol::session::{Directory, Program};

/// The standard descriptors of a command.
#[derive(Debug)]
pub struct Standard {
    /// Descriptor 0.
    pub input: OwnedFd,
    /// Descriptor 1.
    pub output: OwnedFd,
    /// Descriptor 2.
    pub error: OwnedFd,
    /// The terminal that becomes the controlling one.
    pub terminal: Option<OwnedFd>,
}

/// A command ready to be executed.
#[derive(Debug)]
pub struct Command {
    /// What is executed: a path, or a name to look for in `PATH`.
    pub program: CString,
    /// Its arguments, from `argv[0]`.
    pub arguments: Vec<CString>,
    /// In what.
    pub setting: Setting,
}

/// What a command runs in.
#[derive(Debug)]
pub struct Setting {
    /// Its environment.
    pub environment: Environment,
    /// As whom.
    pub account: Account,
    /// Where.
    pub directory: Directory,
    /// The mask of new files' permissions.
    pub umask: u32,
    /// The cgroup of the user's login session.
    pub group: Option<PathBuf>,
}

impl Command {
    /// The command of a request; `None` where it has no words or one with a NUL byte.
    #[must_use]
    pub fn new(program: Program, setting: Setting) -> Option<Self> {
        let shell = setting.account.shell.as_slice();
        let name = shell.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        let login_name = CString::new([b"-", name].concat()).ok()?;
        let name = CString::new(name).ok()?;
        let shell = CString::new(shell).ok()?;
        let (program, arguments) = match program {
            Program::Arguments(words) => {
                let words: Vec<CString> =
                    words.into_iter().map(CString::new).collect::<Result<_, _>>().ok()?;
                (words.first()?.clone(), words)
            }
            Program::Line { line, login } => {
                let name = if login { login_name } else { name };
                (shell, vec![name, c"-c".to_owned(), CString::new(as_script(line)).ok()?])
            }
            Program::Shell | Program::DebugShell => (shell, vec![login_name]),
        };
        Some(Self { program, arguments, setting })
    }

    /// Turns this process, a fresh child, into the command.
    ///
    /// # Errors
    /// The system's, with what was being done where it was not yet the execution.
    pub fn execute(self, standard: &Standard) -> Result<Infallible, (Option<&'static str>, Errno)> {
        connect(standard).map_err(|error| (Some("connecting the streams"), error))?;
        self.become_user().map_err(|error| (Some("becoming the user"), error))?;
        self.change_directory();
        sys::reset_signals();
        let strings = environment::to_strings(&self.setting.environment);
        Err((None, self.execute_found(&strings)))
    }

    fn become_user(&self) -> Result<(), Errno> {
        let Setting { account, umask: mask, group, .. } = &self.setting;
        // A session that has just ended does not keep a command from running.
        let _ = group.as_ref().map(|group| cgroup::join(group));
        umask(Mode::from_bits_truncate(*mask));
        // What the machine's own processes are spared, a command is not.
        let _ = fs::write("/proc/self/oom_score_adj", "0");
        let groups: Vec<Gid> = account.groups.iter().copied().map(Gid::from_raw).collect();
        match setgroups(&groups) {
            // In a user namespace of one user there are no groups to be had or left.
            Err(Errno::EPERM) if account.uid == 0 && sys::is_single_user() => {}
            result => result?,
        }
        setgid(Gid::from_raw(account.gid))?;
        setuid(Uid::from_raw(account.uid))
    }

    /// Goes where the session starts, or as near as it can (B004).
    fn change_directory(&self) {
        let home = self.setting.account.home.as_slice();
        let entered = match &self.setting.directory {
            Directory::Home => false,
            Directory::Path(path) => {
                let path = match path.strip_prefix(b"~") {
                    Some(rest) if rest.is_empty() || rest.starts_with(b"/") => {
                        [home, rest].concat()
                    }
                    _ => path.clone(),
                };
                chdir(path.as_slice()).is_ok()
            }
        };
        if !entered && chdir(home).is_err() {
            let _ = chdir("/");
        }
    }

    /// Executes the program where `PATH` finds it; gives why it cannot be.
    fn execute_found(&self, environment: &[CString]) -> Errno {
        let program = self.program.as_bytes();
        if program.contains(&b'/') {
            return self.execute_path(&self.program, environment);
        }
        if program.is_empty() {
            return Errno::ENOENT;
        }
        let path =
            self.setting.environment.get(b"PATH".as_slice()).map_or(b"".as_slice(), Vec::as_slice);
        let mut failure = Errno::ENOENT;
        for directory in path.split(|byte| *byte == b':') {
            let directory = if directory.is_empty() { b"." } else { directory };
            let Ok(candidate) = CString::new([directory, b"/", program].concat()) else {
                continue;
            };
            match self.execute_path(&candidate, environment) {
                Errno::ENOENT | Errno::ENOTDIR => {}
                // Another directory may hold one that can be executed.
                Errno::EACCES => failure = Errno::EACCES,
                error => return error,
            }
        }
        failure
    }

    /// Executes a file; one without a known format is a script of the system's shell, as
    /// in execvp(3).
    fn execute_path(&self, path: &CString, environment: &[CString]) -> Errno {
        match execve(path, &self.arguments, environment) {
            Err(Errno::ENOEXEC) => {
                let mut arguments = vec![c"sh".to_owned(), path.clone()];
                arguments.extend(self.arguments.iter().skip(1).cloned());
                match execve(c"/bin/sh", &arguments, environment) {
                    Ok(never) => match never {},
                    Err(_) => Errno::ENOEXEC,
                }
            }
            Err(Errno::EACCES) if Path::new(&as_os(path)).is_dir() => Errno::EISDIR,
            Err(error) => error,
            Ok(never) => match never {},
        }
    }
}

/// A session of its own on the standard descriptors.
fn connect(standard: &Standard) -> Result<(), Errno> {
    setsid()?;
    if let Some(terminal) = &standard.terminal {
        sys::set_controlling_terminal(terminal).map_err(to_errno)?;
    }
    dup2_stdin(standard.input.as_fd())?;
    dup2_stdout(standard.output.as_fd())?;
    dup2_stderr(standard.error.as_fd())
}

fn as_os(path: &CString) -> std::ffi::OsString {
    use std::os::unix::ffi::OsStringExt;
    std::ffi::OsString::from_vec(path.as_bytes().to_vec())
}

fn to_errno(error: std::io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO))
}
/// A line as the word after a shell's `-c`: one that starts with a dash would be taken for
/// an option (B015), and no shell minds a space.
fn as_script(mut line: Vec<u8>) -> Vec<u8> {
    if line.starts_with(b"-") {
        line.insert(0, b' ');
    }
    line
}
