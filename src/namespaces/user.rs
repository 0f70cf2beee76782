//! Which ids of this host the users of a version 1 distro are.
//!
//! Root's distros need no mapping: owners are what they are. An ordinary user's live in a
//! user namespace whose root is that user; the other ids come from the user's range in
//! `/etc/subuid` and `/etc/subgid`, which only the set-user-ID programs `newuidmap` and
//! `newgidmap` may map. Without a range there is one id only.
//!
//! [`Mapping::command`] gives a command that runs as root of such a namespace. It is this
//! executable, twice: the process makes the namespace, a fork of it that stays outside
//! writes the maps, and then it executes itself as what was asked for. So the caller may
//! have threads, and nothing but arguments has to reach the new process.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio, exit};

use nix::sched::{CloneFlags, unshare};
use nix::unistd::{Gid, Pid, Uid, pipe, setresgid, setresuid};

use crate::error::Diagnose;
use crate::guest::sys::{self, Forked};

/// `argv[0]` of the process that makes a user namespace.
pub const ARGUMENT: &str = "wslr-namespace";

/// The status it ends with where it cannot make one; the reason is on standard error.
pub const FAILED: i32 = 125;

/// What a process that only tries a mapping runs as.
const TRIAL: &str = "-";

/// Ids of this host in a row.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Range {
    /// The first.
    pub start: u32,
    /// How many.
    pub count: u32,
}

/// The ids of this host that a distro's ids are.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Mapping {
    /// Themselves: there is no user namespace.
    Own,
    /// 0 is this user; 1 and up are the ids of these ranges, one after the other.
    Range {
        /// Of users.
        users: Vec<Range>,
        /// Of groups.
        groups: Vec<Range>,
    },
    /// 0 is this user, and there are no others.
    Single {
        /// Why there is no range, for [`Mapping::warning`].
        reason: String,
    },
}

/// Why no process can run with a mapping.
#[derive(Debug, thiserror::Error)]
pub enum UserError {
    /// The process cannot be started.
    #[error("cannot run the executable")]
    Execute(#[source] io::Error),
    /// The kernel or `newuidmap` refuses.
    #[error("{reason}")]
    Refused {
        /// What the process said.
        reason: String,
    },
}

impl Diagnose for UserError {
    fn code(&self) -> &'static str {
        "E_ACCESSDENIED"
    }

    fn hint(&self) -> Option<String> {
        Some(
            "user namespaces must be allowed: see the settings user.max_user_namespaces, \
             kernel.unprivileged_userns_clone and kernel.apparmor_restrict_unprivileged_userns"
                .to_owned(),
        )
    }
}

impl Mapping {
    /// The mapping of this process's user. Cheap: files are read, nothing is tried.
    #[must_use]
    pub fn of_this_user() -> Self {
        let uid = Uid::effective();
        if uid.is_root() {
            return Self::Own;
        }
        let name = login_name(uid.as_raw());
        let ranges = |file: &str| {
            let text = fs::read(file).unwrap_or_default();
            match ranges(&text, name.as_deref(), uid.as_raw()) {
                ranges if ranges.is_empty() => {
                    let who = name.as_deref().unwrap_or_default();
                    let who = String::from_utf8_lossy(who);
                    Err(format!("{file} has no range for user {who} ({uid})"))
                }
                ranges => Ok(ranges),
            }
        };
        let found = ranges("/etc/subuid").and_then(|users| {
            let groups = ranges("/etc/subgid")?;
            for program in [NEWUIDMAP, NEWGIDMAP] {
                find_program(program).ok_or(format!("the program {program} is not installed"))?;
            }
            Ok(Self::Range { users, groups })
        });
        found.unwrap_or_else(|reason| Self::Single { reason })
    }

    /// What the user is to be told of it, once: what will not work, and the remedy.
    #[must_use]
    pub fn warning(&self) -> Option<String> {
        let Self::Single { reason } = self else { return None };
        Some(format!(
            "{reason}: the distribution has one user only, its root, and programs that need \
             others (services, 'su', databases) do not work in it; the package uidmap and \
             'usermod --add-subuids 100000-165535 --add-subgids 100000-165535' for your user, \
             then a new installation, give it more"
        ))
    }

    /// Whether the distro has its own user namespace.
    #[must_use]
    pub fn is_namespace(&self) -> bool {
        *self != Self::Own
    }

    /// A command that runs an executable, normally wslr's own (`/proc/self/exe`), as root
    /// of a new user namespace with this mapping, or as this process's user where the
    /// mapping is [`Mapping::Own`]. The executable must be wslr; it is run with `name` as
    /// `argv[0]`, and the arguments that the caller adds. The process that the caller
    /// spawns is the one that runs in the end.
    ///
    /// Where the namespace cannot be made, the process says why on its standard error, one
    /// line, and ends with [`FAILED`].
    #[must_use]
    pub fn command(&self, executable: &Path, name: &str) -> Command {
        let mut command = Command::new(executable);
        match self.encode() {
            None => command.arg0(name),
            Some(maps) => command.arg0(ARGUMENT).arg(maps).arg(name),
        };
        command
    }

    /// Tries whether a process can run with this mapping.
    ///
    /// # Errors
    /// Where it cannot.
    pub fn check(&self, executable: &Path) -> Result<(), UserError> {
        if !self.is_namespace() {
            return Ok(());
        }
        let output = self
            .command(executable, TRIAL)
            .stdin(Stdio::null())
            .output()
            .map_err(UserError::Execute)?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let reason = match said.trim() {
            "" => output.status.to_string(),
            said => said.trim_start_matches("wslr: ").to_owned(),
        };
        Err(UserError::Refused { reason })
    }

    /// As an argument: `USERS GROUPS`, each `START+COUNT,...`.
    fn encode(&self) -> Option<String> {
        let list = |ranges: &[Range]| {
            let ranges = ranges.iter().map(|range| format!("{}+{}", range.start, range.count));
            ranges.collect::<Vec<_>>().join(",")
        };
        match self {
            Self::Own => None,
            Self::Single { .. } => Some(String::new()),
            Self::Range { users, groups } => Some(format!("{} {}", list(users), list(groups))),
        }
    }

    fn decode(text: &str) -> Option<Self> {
        let list = |text: &str| -> Option<Vec<Range>> {
            let parse = |range: &str| {
                let (start, count) = range.split_once('+')?;
                Some(Range { start: start.parse().ok()?, count: count.parse().ok()? })
            };
            text.split(',').map(parse).collect()
        };
        if text.is_empty() {
            return Some(Self::Single { reason: String::new() });
        }
        let (users, groups) = text.split_once(' ')?;
        Some(Self::Range { users: list(users)?, groups: list(groups)? })
    }
}

const NEWUIDMAP: &str = "newuidmap";
const NEWGIDMAP: &str = "newgidmap";

/// The name of a user in `/etc/passwd`, else what the environment says. The C library is
/// not asked: its name services do not work in a static executable. `newuidmap` trusts
/// none of this.
pub(crate) fn login_name(uid: u32) -> Option<Vec<u8>> {
    let passwd = fs::read("/etc/passwd").unwrap_or_default();
    let found = passwd.split(|byte| *byte == b'\n').find_map(|line| {
        let mut fields = line.split(|byte| *byte == b':');
        let name = fields.next()?;
        (number(fields.nth(1)?)? == uid).then(|| name.to_vec())
    });
    let from_environment = || std::env::var_os("USER").map(OsString::into_vec);
    found.or_else(from_environment).filter(|name| !name.is_empty())
}

/// The ranges of a user in a file of the form of subuid(5), by name or number, without
/// those that the kernel could not map.
fn ranges(file: &[u8], name: Option<&[u8]>, uid: u32) -> Vec<Range> {
    let mut found = Vec::new();
    for line in file.split(|byte| *byte == b'\n') {
        let mut fields = line.trim_ascii().split(|byte| *byte == b':');
        let (Some(who), Some(start), Some(count)) = (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        if Some(who) != name && number(who) != Some(uid) {
            continue;
        }
        if let (Some(start), Some(count @ 1..)) = (number(start), number(count))
            && start.checked_add(count).is_some()
        {
            let range = Range { start, count };
            if !found.contains(&range) {
                found.push(range);
            }
        }
    }
    // The kernel takes 340 lines in a map, one of which is the user's own.
    found.truncate(339);
    found
}

fn number(digits: &[u8]) -> Option<u32> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// A program of the search path, or of the usual directories that it may not have.
fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual = OsStr::new("/usr/bin:/usr/sbin:/bin:/sbin");
    std::env::split_paths(&path).chain(std::env::split_paths(usual)).find_map(|directory| {
        let path = directory.join(name);
        let metadata = fs::metadata(&path).ok()?;
        (metadata.is_file() && metadata.permissions().mode() & 0o111 != 0).then_some(path)
    })
}

/// The process that [`Mapping::command`] starts: the maps, the name, its arguments.
pub(super) fn run(words: Vec<OsString>) -> ! {
    let mut words = words.into_iter();
    let mapping = words.next().and_then(|maps| Mapping::decode(maps.to_str()?));
    let (Some(mapping), Some(name)) = (mapping, words.next()) else {
        fail("this process is started by wslr only");
    };
    if let Err(error) = enter(&mapping) {
        fail(&error);
    }
    if name == TRIAL {
        exit(0);
    }
    let error = Command::new("/proc/self/exe").arg0(name).args(words).exec();
    fail(&format!("cannot execute itself: {error}"))
}

fn fail(reason: &str) -> ! {
    eprintln!("wslr: {reason}");
    exit(FAILED)
}

/// Makes this single-threaded process root of a new user namespace.
fn enter(mapping: &Mapping) -> Result<(), String> {
    let failed = |error: nix::Error| format!("cannot make a user namespace: {error}");
    let (uid, gid) = (Uid::effective(), Gid::effective());
    let process = Pid::this();
    let (made, makes) = pipe().map_err(failed)?;
    let (told, tells) = pipe().map_err(failed)?;
    let forked = sys::fork().map_err(|error| format!("cannot fork: {error}"))?;
    if forked == Forked::Child {
        drop((makes, told));
        // An end without a byte: there is no namespace to map.
        if fs::File::from(made).read(&mut [0]).is_ok_and(|count| count == 1) {
            let result = write_maps(mapping, process, uid, gid);
            let text = result.err().unwrap_or_else(|| "ok".to_owned());
            let _ = fs::File::from(tells).write_all(text.as_bytes());
        }
        exit(0);
    }
    drop((made, tells));
    unshare(CloneFlags::CLONE_NEWUSER).map_err(failed)?;
    fs::File::from(makes)
        .write_all(b"!")
        .map_err(|error| format!("cannot make a user namespace: {error}"))?;
    let mut answer = String::new();
    let _ = fs::File::from(told).read_to_string(&mut answer);
    if let Forked::Parent(helper) = forked {
        let _ = nix::sys::wait::waitpid(helper, None);
    }
    match answer.as_str() {
        "ok" => {}
        "" => return Err("cannot map users: the helper process ended".to_owned()),
        reason => return Err(reason.to_owned()),
    }
    let root = || {
        setresgid(Gid::from_raw(0), Gid::from_raw(0), Gid::from_raw(0))?;
        setresuid(Uid::from_raw(0), Uid::from_raw(0), Uid::from_raw(0))
    };
    root().map_err(|error| format!("cannot become root of the user namespace: {error}"))
}

/// Writes the maps of a process's new user namespace, from outside of it.
fn write_maps(mapping: &Mapping, process: Pid, uid: Uid, gid: Gid) -> Result<(), String> {
    let proc = Path::new("/proc").join(process.to_string());
    let write = |name: &str, content: &str| {
        fs::write(proc.join(name), content)
            .map_err(|error| format!("cannot write '{}': {error}", proc.join(name).display()))
    };
    match mapping {
        Mapping::Own => Ok(()),
        Mapping::Single { .. } => {
            // Without privilege groups can be mapped only where none can be dropped.
            write("setgroups", "deny")?;
            write("uid_map", &format!("0 {uid} 1"))?;
            write("gid_map", &format!("0 {gid} 1"))
        }
        Mapping::Range { users, groups } => {
            map_by(NEWUIDMAP, process, uid.as_raw(), users)?;
            map_by(NEWGIDMAP, process, gid.as_raw(), groups)
        }
    }
}

/// Lets a set-user-ID program write a map.
fn map_by(program: &str, process: Pid, own: u32, ranges: &[Range]) -> Result<(), String> {
    let path = find_program(program).ok_or(format!("the program {program} is not installed"))?;
    let mut command = Command::new(&path);
    command.arg(process.to_string()).args(["0", &own.to_string(), "1"]);
    let mut next = 1_u32;
    for range in ranges {
        let count = range.count.min(u32::MAX - next);
        command.args([next.to_string(), range.start.to_string(), count.to_string()]);
        next = next.saturating_add(count);
    }
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("cannot run '{}': {error}", path.display()))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.trim().replace('\n', " ");
    Err(if said.is_empty() { format!("{program}: {}", output.status) } else { said })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_found_by_name_and_by_number() {
        let file = b"# note\nalice:100000:65536\nbob:1:2\n1000:300000:10\nalice:broken:1\n\
            alice:4294967295:2\nalice:5:0\nalice:100000:65536\n";
        let found = ranges(file, Some(b"alice"), 1000);
        assert_eq!(
            found,
            [Range { start: 100_000, count: 65536 }, Range { start: 300_000, count: 10 }]
        );
        assert_eq!(ranges(file, None, 7), []);
    }

    #[test]
    fn a_mapping_survives_being_an_argument() {
        let range = |start| vec![Range { start, count: 65536 }, Range { start: 7, count: 1 }];
        let mapping = Mapping::Range { users: range(100_000), groups: range(200_000) };
        assert_eq!(Mapping::decode(&mapping.encode().unwrap()), Some(mapping));
        let single = Mapping::Single { reason: String::new() };
        assert_eq!(Mapping::decode(&single.encode().unwrap()), Some(single));
        for nonsense in ["x", "1+2", "1+2 ", "1+2 3", "1+x 3+4"] {
            assert_eq!(Mapping::decode(nonsense), None);
        }
    }

    #[test]
    fn only_a_single_user_is_warned() {
        assert_eq!(Mapping::Own.warning(), None);
        let warning = Mapping::Single { reason: "no range".to_owned() }.warning().unwrap();
        assert!(warning.starts_with("no range: "));
    }
}
