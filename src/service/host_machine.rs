//! The process that runs version 1 distros as the service's [`Machine`].
//!
//! A thread of its own starts the process and lives as long as it: the kernel ends the
//! process with the thread that started it.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;

use super::machine::{Machine, MachineError, Resources, Storage};
use super::{lock, log};
use crate::config::paths::Paths;
use crate::error::Failure;
use crate::guest::host::{self, Spawned};
use crate::namespaces::user::Mapping;
use crate::protocol::frame;
use crate::protocol::guest::Root;
use crate::protocol::session::{Session, StreamKind};
use crate::vmm::exit::{Exit, ExitLatch};

/// Starts the process for the user of this one.
///
/// # Errors
/// Where it cannot be started.
pub fn start(paths: &Paths) -> Result<Arc<dyn Machine>, Failure> {
    let shared = paths.runtime.join("shared");
    let failed = |source| {
        let reason = format!("cannot start the process for it: {source}");
        Failure::new("Wsl/Service/CreateInstance", &MachineError::Connect { reason })
    };
    super::daemon::private_directory(&shared)
        .map_err(|error| Failure::new("Wsl/Service", &error))?;
    let process = Arc::new(Process::default());
    let (sender, receiver) = sync_channel(1);
    let watched = Arc::clone(&process);
    super::spawn("host-machine", move || watch(&watched, &shared, &sender))?;
    let (control, sessions) = match receiver.recv() {
        Ok(Ok(ends)) => ends,
        Ok(Err(error)) => return Err(failed(error)),
        Err(_) => return Err(failed(io::ErrorKind::BrokenPipe.into())),
    };
    Ok(Arc::new(HostMachine {
        process,
        control: Mutex::new(Some(control)),
        sessions,
        roots: Mutex::default(),
    }))
}

type Ends = (UnixStream, OwnedFd);

/// The life of the process.
#[derive(Debug, Default)]
struct Process {
    exit: ExitLatch,
    /// Its id, while it is certain to be its.
    pid: Mutex<Option<Pid>>,
    /// It was not its own idea to end.
    is_killed: AtomicBool,
}

/// Starts the process and stays with it to its end.
fn watch(process: &Process, shared: &Path, sender: &SyncSender<io::Result<Ends>>) {
    let mapping = Mapping::of_this_user();
    match host::spawn(&mapping, Path::new("/proc/self/exe"), shared) {
        Err(error) => {
            process.exit.set(Exit::Failure { reason: error.to_string() });
            let _ = sender.send(Err(error));
        }
        Ok(Spawned { mut child, control, sessions }) => {
            let id = Pid::from_raw(child.id().cast_signed());
            *lock(&process.pid) = Some(id);
            let _ = sender.send(Ok((control, sessions)));
            let said = listen(&mut child);
            // Seen first, and reaped where nobody can signal it any more.
            while waitid(Id::Pid(id), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT)
                == Err(nix::errno::Errno::EINTR)
            {}
            *lock(&process.pid) = None;
            // Only now: until then it could use a distro's files.
            process.exit.set(match child.wait() {
                _ if process.is_killed.load(Ordering::Relaxed) => Exit::Killed,
                Ok(status) if status.success() => Exit::PowerOff,
                Ok(status) => Exit::Failure { reason: said.unwrap_or(status.to_string()) },
                Err(error) => Exit::Failure { reason: error.to_string() },
            });
        }
    }
}

/// Logs what the process says, to its end; gives the last line.
fn listen(child: &mut Child) -> Option<String> {
    let mut last = None;
    for line in BufReader::new(child.stderr.take()?).lines() {
        let Ok(line) = line else { break };
        log(format_args!("version 1: {line}"));
        last = Some(line.trim_start_matches("wslr: ").to_owned());
    }
    last
}

#[derive(Debug)]
struct HostMachine {
    process: Arc<Process>,
    control: Mutex<Option<UnixStream>>,
    sessions: OwnedFd,
    /// The locked directories of distros.
    roots: Mutex<HashMap<PathBuf, File>>,
}

impl Drop for HostMachine {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Machine for HostMachine {
    fn attach(&self, storage: Storage) -> Result<Root, MachineError> {
        let path = fs::canonicalize(&storage.path)
            .map_err(|error| MachineError::Attach { reason: error.to_string() })?;
        lock(&self.roots).insert(path.clone(), storage.file);
        Ok(Root::Directory { path })
    }

    fn detach(&self, root: &Root) -> Result<(), MachineError> {
        let removed = match root {
            Root::Directory { path } => lock(&self.roots).remove(path),
            Root::Disk { .. } => None,
        };
        removed.map(drop).ok_or_else(|| MachineError::NotAttached { root: root.clone() })
    }

    fn open(
        &self,
        _: u64,
        session: &Session,
        control: UnixStream,
        streams: Vec<(StreamKind, OwnedFd)>,
    ) -> Result<(), MachineError> {
        let failed = |reason| MachineError::Connect { reason };
        let request = postcard::to_stdvec(session).map_err(|error| failed(error.to_string()))?;
        if request.len() > frame::MAXIMUM_LENGTH {
            return Err(failed("the request is too long".to_owned()));
        }
        host::deliver(&self.sessions, session.distro, &request, &control, &streams).map_err(
            |error| match self.process.exit.get() {
                Some(exit) => MachineError::Ended { exit },
                None => failed(error.to_string()),
            },
        )
    }

    fn control(&self, _: Duration) -> Result<UnixStream, MachineError> {
        lock(&self.control).take().ok_or(MachineError::Ended { exit: Exit::Killed })
    }

    fn modules(&self) -> Option<u16> {
        None
    }

    fn kill(&self) {
        if let Some(process) = *lock(&self.process.pid) {
            self.process.is_killed.store(true, Ordering::Relaxed);
            let _ = kill(process, Signal::SIGKILL);
        }
    }

    fn wait(&self) -> Exit {
        self.process.exit.wait()
    }

    fn resources(&self) -> Option<Resources> {
        None
    }

    fn save_log(&self, _: &Path) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}
