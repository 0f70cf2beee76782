//! The service as a process: detached from the command that started it, alone, and heard.
//!
//! The command passes a pipe as standard output. What comes out of it is one frame with
//! the result of the start: from `Ok` on the socket answers. A service that dies on the way
//! shows as the end of the pipe.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Uid, dup2_stderr, dup2_stdin, dup2_stdout, setsid};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::error::ServiceError;
use super::machine::Boot;
use super::supervisor::Supervisor;
use super::{log, server};
use crate::config::paths::Paths;
use crate::error::Failure;
use crate::protocol::frame;

/// A log longer than this, in bytes, is begun anew.
const LOG_LIMIT: u64 = 1 << 20;

/// How long the predecessor may take to leave.
const PREDECESSOR_LIMIT: Duration = Duration::from_secs(60);

/// How often the predecessor is looked at.
const PREDECESSOR_PERIOD: Duration = Duration::from_millis(20);

/// Runs the service to its end; gives its exit status.
#[must_use]
pub fn run(boot: impl FnOnce(&Paths) -> Box<dyn Boot>) -> u8 {
    // Started as `/proc/self/exe`, it would be listed as `exe`.
    let _ = nix::sys::prctl::set_name(c"wslr");
    raise_file_limit();
    let paths = Paths::from_environment();
    let mut ready = match detach() {
        Ok(ready) => ready,
        Err(_) => return 255,
    };
    let started = paths.map_err(|error| Failure::new("Wsl/Service", &error)).and_then(|paths| {
        let alone = start(&paths).map_err(|error| Failure::new("Wsl/Service", &error))?;
        Ok((paths, alone))
    });
    let (paths, lock, listener) = match started {
        Ok((paths, Some((lock, listener)))) => (paths, lock, listener),
        Ok((_, None)) => {
            let _ = frame::write(&mut ready, &Ok::<(), Failure>(()));
            return 0;
        }
        Err(failure) => {
            let _ = frame::write(&mut ready, &Err::<(), Failure>(failure));
            return 255;
        }
    };
    log(format_args!("service {} starts, build {}", std::process::id(), super::build::id()));
    let supervisor = Supervisor::new(paths.clone(), boot(&paths));
    let served = obey_signals(&supervisor).and_then(|()| {
        let supervisor = Arc::clone(&supervisor);
        super::spawn("accept", move || server::serve(&listener, &supervisor))
    });
    let status = u8::from(served.is_err());
    let failed = served.is_err();
    let _ = frame::write(&mut ready, &served);
    drop(ready);
    if !failed {
        supervisor.watch();
    }
    // Before the lock goes with the process: nobody else can have made a new one yet.
    let _ = fs::remove_file(paths.socket());
    log(format_args!("service {} leaves", std::process::id()));
    drop(lock);
    status
}

/// Lets the service open as many files as the system allows: every stream of every session
/// is one, and the usual soft limit of 1024 would refuse the guest's and users' connections.
fn raise_file_limit() {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
    {
        // Without it the service works, only for fewer sessions.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

/// Makes the process independent of the command that started it. Gives the pipe to it.
fn detach() -> io::Result<File> {
    let ready = io::stdout().as_fd().try_clone_to_owned()?;
    // SAFETY: nothing in this process owns a descriptor above the standard ones yet but
    // `ready`, which is kept; what the command inherited from its own caller is not ours
    // to hold open.
    close_others(&ready);
    let null = OpenOptions::new().read(true).write(true).open("/dev/null")?;
    dup2_stdin(&null)?;
    dup2_stdout(&null)?;
    dup2_stderr(&null)?;
    // Fails where the process already leads its session, which is as good.
    let _ = setsid();
    umask(Mode::from_bits_truncate(0o077));
    std::env::set_current_dir("/")?;
    Ok(File::from(ready))
}

/// Closes all that was inherited by accident, so that a pipe of the caller's shell does not
/// stay open for as long as the service lives.
fn close_others(keep: &OwnedFd) {
    use std::os::fd::AsRawFd;
    let keep = keep.as_raw_fd().unsigned_abs();
    for (first, last) in [(3, keep.saturating_sub(1)), (keep.saturating_add(1), u32::MAX)] {
        if first <= last {
            // SAFETY: called first of all in the process, by its only thread: no descriptor
            // in these ranges belongs to any object of this process.
            unsafe { nix::libc::syscall(nix::libc::SYS_close_range, first, last, 0) };
        }
    }
}

/// Becomes the one service: `None` where another one answers already.
fn start(paths: &Paths) -> Result<Option<(File, UnixListener)>, ServiceError> {
    let logs = paths.logs();
    private_directory(&logs)?;
    private_directory(&paths.runtime)?;
    let log = logs.join("service.log");
    open_log(&log).map_err(|source| state("write", &log, source))?;
    let Some(lock) = claim(paths)? else { return Ok(None) };
    let socket = paths.socket();
    match fs::remove_file(&socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(state("remove", &socket, error));
        }
        _ => {}
    }
    let listener =
        UnixListener::bind(&socket).map_err(|source| state("listen on", &socket, source))?;
    Ok(Some((lock, listener)))
}

/// Takes the lock that makes a service the only one, waiting for one that is leaving.
fn claim(paths: &Paths) -> Result<Option<File>, ServiceError> {
    let path = paths.runtime.join("service.lock");
    let lock = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&path)
        .map_err(|source| state("open", &path, source))?;
    let deadline = Instant::now() + PREDECESSOR_LIMIT;
    loop {
        match lock.try_lock() {
            Ok(()) => return Ok(Some(lock)),
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => {}
            Err(TryLockError::WouldBlock) => {
                return Err(state("lock", &path, io::ErrorKind::WouldBlock.into()));
            }
            Err(TryLockError::Error(source)) => return Err(state("lock", &path, source)),
        }
        if answers(paths) {
            return Ok(None);
        }
        thread::sleep(PREDECESSOR_PERIOD);
    }
}

/// Whether a service serves on the socket.
fn answers(paths: &Paths) -> bool {
    use crate::protocol::client::{Hello, Welcome};
    UnixStream::connect(paths.socket()).is_ok_and(|mut stream| {
        stream.set_read_timeout(Some(Duration::from_secs(1))).is_ok()
            && frame::write(&mut stream, &Hello { build: super::build::id().to_owned() }).is_ok()
            && frame::read::<Welcome>(&mut stream).is_ok()
    })
}

/// Makes a directory that only its user can enter, or checks that it is that user's.
///
/// # Errors
/// Where it cannot be made or belongs to somebody else.
pub fn private_directory(path: &Path) -> Result<(), ServiceError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|source| state("create", path, source))?;
    let metadata = fs::metadata(path).map_err(|source| state("open", path, source))?;
    if metadata.uid() == Uid::effective().as_raw() && metadata.mode() & 0o022 == 0 {
        return Ok(());
    }
    let source = io::Error::new(
        io::ErrorKind::PermissionDenied,
        "it belongs to another user, or others can write to it",
    );
    Err(state("use", path, source))
}

fn open_log(path: &Path) -> io::Result<()> {
    let begin = fs::metadata(path).is_ok_and(|metadata| metadata.len() > LOG_LIMIT);
    let mut options = OpenOptions::new();
    let options = options.create(true).mode(0o600);
    if begin {
        options.write(true).truncate(true).open(path)?;
    }
    let file = OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
    dup2_stderr(&file)?;
    Ok(())
}

/// Ends in good order when told to; at the second time without asking the guest.
fn obey_signals(supervisor: &Arc<Supervisor>) -> Result<(), Failure> {
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP]).map_err(|source| {
        let error = ServiceError::System { action: "catch signals", source };
        Failure::new("Wsl/Service", &error)
    })?;
    let supervisor = Arc::clone(supervisor);
    super::spawn("signals", move || {
        for (count, signal) in signals.forever().enumerate() {
            log(format_args!("signal {signal}"));
            let supervisor = Arc::clone(&supervisor);
            let _ = super::spawn("shutdown", move || {
                supervisor.shutdown(count > 0, 0);
                supervisor.leave();
            });
        }
    })
}

fn state(action: &'static str, path: &Path, source: io::Error) -> ServiceError {
    ServiceError::State { action, path: path.to_owned(), source }
}
