//! The login session of each user of a distro with systemd (B165).
//!
//! One per user, from the first command to the distro's end, as `wsl` has it: a process
//! of this program, the *keeper*, is registered with systemd's logind as the leader of a
//! session. That starts the user's own systemd, makes `/run/user/<uid>`, and gives the
//! session a scope, which the user's commands then join. No PAM and no shell are needed.
//!
//! The distro's init keeps the keepers ([`Logins`]); a relay asks it for a user's login on
//! a socket of its own ([`ask`]), and may be kept waiting without holding anybody else up.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::exit;
use std::time::Duration;

use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::{Pid, pipe2};
use serde::{Deserialize, Serialize};

use super::bus::{Argument, Bus, BusError, Method, SOCKET};
use crate::config::wslconf::WslConf;
use crate::guest::cgroup;
use crate::guest::distro::link;
use crate::guest::sys::{self, Forked};
use crate::protocol::frame;

/// How long logind may take at least: the user's own systemd has to come up.
const LIMIT: Duration = Duration::from_secs(25);

/// How long logind may take in a distro whose systemd may take this long.
fn limit(conf: &WslConf) -> Duration {
    conf.boot.init_timeout.max(LIMIT)
}

/// A user's login session.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Login {
    /// Its name for logind (`XDG_SESSION_ID`).
    pub session: String,
    /// The user's runtime directory (`XDG_RUNTIME_DIR`).
    pub runtime: PathBuf,
    /// The cgroup of its scope.
    pub group: PathBuf,
}

/// What a relay is told.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
enum Answer {
    Login(Login),
    /// There is none; for the user, why.
    None(Option<String>),
}

/// The logins of a distro.
#[derive(Debug)]
pub struct Logins {
    limit: Duration,
    keepers: HashMap<u32, Keeper>,
    /// The sockets of relays that have not asked.
    silent: Vec<OwnedFd>,
}

#[derive(Debug)]
struct Keeper {
    pid: Pid,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    /// The keeper's word is to come; who waits for it.
    Starting(File, Vec<OwnedFd>),
    Known(Answer),
}

impl Logins {
    /// None yet, in a distro with this configuration.
    #[must_use]
    pub fn new(conf: &WslConf) -> Self {
        Self { limit: limit(conf), keepers: HashMap::new(), silent: Vec::new() }
    }

    /// The socket for a new relay.
    ///
    /// # Errors
    /// The system's.
    pub fn channel(&mut self) -> io::Result<OwnedFd> {
        let (ours, theirs) = link::pair()?;
        self.silent.push(ours);
        Ok(theirs)
    }

    /// What to poll for.
    pub fn interests(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let starting = self.keepers.values().filter_map(|keeper| match &keeper.stage {
            Stage::Starting(word, _) => Some(word.as_fd()),
            Stage::Known(_) => None,
        });
        self.silent.iter().map(AsFd::as_fd).chain(starting)
    }

    /// Takes questions and the words of keepers, and answers what can be answered.
    pub fn advance(&mut self) {
        for socket in std::mem::take(&mut self.silent) {
            match link::receive::<u32>(&socket) {
                Ok(Some((uid, _))) => self.asked(uid, socket),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.silent.push(socket),
                Ok(None) | Err(_) => {}
            }
        }
        for keeper in self.keepers.values_mut() {
            let Stage::Starting(word, waiting) = &mut keeper.stage else { continue };
            let mut bytes = Vec::new();
            match word.read_to_end(&mut bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && bytes.is_empty() => {}
                _ => {
                    let answer = frame::read(&mut bytes.as_slice()).unwrap_or(Answer::None(None));
                    for socket in waiting.drain(..) {
                        let _ = link::send(&socket, &answer, &[]);
                    }
                    keeper.stage = Stage::Known(match answer {
                        // One warning is enough.
                        Answer::None(_) => Answer::None(None),
                        login @ Answer::Login(_) => login,
                    });
                }
            }
        }
    }

    fn asked(&mut self, uid: u32, socket: OwnedFd) {
        match self.keepers.get_mut(&uid).map(|keeper| &mut keeper.stage) {
            Some(Stage::Starting(_, waiting)) => waiting.push(socket),
            Some(Stage::Known(answer)) => _ = link::send(&socket, answer, &[]),
            None => match start(uid, self.limit) {
                Ok((pid, word)) => {
                    let stage = Stage::Starting(word, vec![socket]);
                    self.keepers.insert(uid, Keeper { pid, stage });
                }
                Err(warning) => _ = link::send(&socket, &Answer::None(warning), &[]),
            },
        }
    }

    /// A child has ended: a keeper's session is over, and the next command gets a new one.
    /// A keeper that had none stays known for it.
    pub fn ended(&mut self, pid: Pid) {
        self.keepers.retain(|_, keeper| {
            keeper.pid != pid || !matches!(keeper.stage, Stage::Known(Answer::Login(_)))
        });
    }
}

/// Forks a keeper; an error is for the user. A distro without a bus has no logins, and
/// misses none.
fn start(uid: u32, limit: Duration) -> Result<(Pid, File), Option<String>> {
    if fs::symlink_metadata(SOCKET).is_err() {
        return Err(None);
    }
    let told = |error: io::Error| Some(warning(uid, &error));
    let (read, write) =
        pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).map_err(|error| told(error.into()))?;
    match sys::fork().map_err(told)? {
        Forked::Parent(pid) => Ok((pid, File::from(read))),
        Forked::Child => {
            sys::reset_signals();
            sys::close_all_except(&[write.as_raw_fd()]);
            let _ = nix::sys::prctl::set_name(c"login");
            keep(uid, limit, File::from(write))
        }
    }
}

fn warning(uid: u32, error: &dyn std::fmt::Display) -> String {
    format!(
        "cannot start the systemd user session of user {uid}: {error}; 'journalctl -b' tells more"
    )
}

/// The keeper: opens the session, tells, and stays.
fn keep(uid: u32, limit: Duration, mut word: File) -> ! {
    let opened = open(uid, limit);
    let answer = match &opened {
        Ok((login, _)) => Answer::Login(login.clone()),
        Err(error) => Answer::None(Some(warning(uid, error))),
    };
    let _ = frame::write(&mut word, &answer);
    drop(word);
    if opened.is_err() {
        exit(1);
    }
    loop {
        nix::unistd::pause();
    }
}

/// Opens a session of which this process is the leader; it lasts while the descriptors do.
fn open(uid: u32, limit: Duration) -> Result<(Login, Vec<OwnedFd>), BusError> {
    let method = Method {
        destination: "org.freedesktop.login1",
        path: "/org/freedesktop/login1",
        interface: "org.freedesktop.login1.Manager",
        member: "CreateSession",
    };
    let mut bus = Bus::connect(limit)?;
    let reply = bus.call(
        method,
        &[
            Argument::Number(uid),
            Argument::Number(std::process::id()),
            Argument::Text("wslr"),
            Argument::Text("tty"),
            Argument::Text("user"),
            // Desktop and seat; no virtual terminal, terminal or display.
            Argument::Text(""),
            Argument::Text(""),
            Argument::Number(0),
            Argument::Text(""),
            Argument::Text(""),
            // Not from another machine: no user and no host there.
            Argument::Boolean(false),
            Argument::Text(""),
            Argument::Text(""),
            Argument::NoProperties,
        ],
    )?;
    let session = reply.text.ok_or(BusError::Protocol)?;
    // logind has moved this process into the session's scope.
    let group = cgroup::of_this_process()?;
    let runtime = Path::new("/run/user").join(uid.to_string());
    Ok((Login { session, runtime, group }, reply.descriptors))
}

/// Asks the distro's init for a user's login; gives what the user is told where there is
/// none.
///
/// # Errors
/// The warning.
pub fn ask(socket: &OwnedFd, uid: u32, conf: &WslConf) -> Result<Option<Login>, String> {
    let failed = |error: io::Error| warning(uid, &error);
    link::send(socket, &uid, &[]).map_err(failed)?;
    let limit =
        PollTimeout::try_from(limit(conf) + Duration::from_secs(1)).unwrap_or(PollTimeout::MAX);
    let mut polled = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
    poll(&mut polled, limit).map_err(|error| failed(error.into()))?;
    match link::receive(socket).map_err(failed)? {
        Some((Answer::Login(login), _)) => Ok(Some(login)),
        Some((Answer::None(Some(warning)), _)) => Err(warning),
        Some((Answer::None(None), _)) | None => Ok(None),
    }
}
