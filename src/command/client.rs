//! The connection of a command to the service, and the service's start where there is none.
//!
//! A command never talks to a service of another build: one that is idle leaves and is
//! replaced, one that is busy is an error. Stopping things works whatever the service does,
//! because in the end its process is killed.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{ControlMessage, MsgFlags, UnixAddr, getsockopt, sendmsg, sockopt};
use nix::unistd::{Pid, Uid};
use uuid::Uuid;

use crate::config::paths::Paths;
use crate::config::wslconfig::WslConfig;
use crate::error::{Diagnose, Failure, io_code};
use crate::protocol::client::{Answer, Hello, Mount, Mounted, Request, Status, Welcome};
use crate::protocol::frame::{self, FrameError};
use crate::service::daemon::private_directory;
use crate::service::{build, user_disks};

/// How long the service may take to greet. It does so before anything else.
const GREETING_LIMIT: Duration = Duration::from_secs(10);

/// How long a service that was asked to leave may take beyond its guest's own time.
const LEAVE_LIMIT: Duration = Duration::from_secs(5);

/// How long all of a shutdown may take where the guest is not asked, before the service is
/// killed: within a second everything is over.
const FORCED_LIMIT: Duration = Duration::from_millis(700);

/// How long the end of a killed process may take to be seen.
const KILL_LIMIT: Duration = Duration::from_secs(1);

/// The part of the guest's time after which a service is killed that should have ended the
/// machine before: what is left is for its end.
const SHUTDOWN_PART: f32 = 0.93;

/// How often a start is tried where services keep leaving.
const ATTEMPTS: usize = 5;

/// Why the service cannot be reached.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// A service of another build is in use.
    #[error("another version of wslr ({theirs}) is running distributions")]
    AnotherBuild {
        /// Its identity.
        theirs: String,
    },
    /// The socket belongs to somebody else.
    #[error("the service's socket '{path}' belongs to user {uid}")]
    AnotherUser {
        /// The socket.
        path: PathBuf,
        /// The user.
        uid: u32,
    },
    /// The service ended or fell silent.
    #[error("the service ended unexpectedly; its log is '{log}'")]
    Lost {
        /// Its log.
        log: PathBuf,
        /// Why.
        source: FrameError,
    },
    /// The service cannot be started.
    #[error("cannot start the service: {action}")]
    Start {
        /// What failed.
        action: &'static str,
        /// Why.
        source: io::Error,
    },
    /// More than a request can hold.
    #[error("the command line and its environment are too long")]
    TooLong,
    /// An answer that does not fit the request.
    #[error("the service gave an unexpected answer")]
    Unexpected,
}

impl Diagnose for ClientError {
    fn code(&self) -> &'static str {
        match self {
            Self::AnotherBuild { .. } => "ERROR_REVISION_MISMATCH",
            Self::AnotherUser { .. } => "E_ACCESSDENIED",
            Self::Lost { .. } => "E_FAIL",
            Self::Start { source, .. } => io_code(source),
            Self::TooLong => "ERROR_BAD_LENGTH",
            Self::Unexpected => "E_UNEXPECTED",
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::AnotherBuild { .. } => {
                Some("'wslr --shutdown' stops them; then this version starts its own".to_owned())
            }
            _ => None,
        }
    }
}

impl ClientError {
    /// Why a request could not be sent.
    #[must_use]
    pub fn sending(paths: &Paths, error: FrameError) -> Self {
        match error {
            FrameError::TooLong { .. } => Self::TooLong,
            source => Self::Lost { log: log(paths), source },
        }
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        Self::new("Wsl/Service", &error)
    }
}

/// What answers on the socket.
enum Greeted {
    /// A service of this build.
    Ready(UnixStream),
    /// A service of another build; it stays if it is busy.
    Another(UnixStream, Welcome),
    /// A service that is leaving or does not answer.
    Leaving(UnixStream),
    /// None.
    Nobody,
}

/// A connection to the service, which is started where none runs.
///
/// # Errors
/// Where it cannot be started, or one of another build is busy.
pub fn connect(paths: &Paths) -> Result<UnixStream, Failure> {
    for _ in 0..ATTEMPTS {
        match greet(paths, GREETING_LIMIT)? {
            Greeted::Ready(stream) => return Ok(stream),
            Greeted::Another(_, Welcome { build, busy: true }) => {
                return Err(ClientError::AnotherBuild { theirs: build }.into());
            }
            Greeted::Another(stream, _) | Greeted::Leaving(stream) => {
                wait_for_end(&stream, leave_limit(paths));
            }
            Greeted::Nobody => {}
        }
        start(paths)?;
    }
    let source = io::ErrorKind::TimedOut.into();
    Err(ClientError::Start { action: "it leaves again and again", source }.into())
}

/// What runs, and with `uses` what for; nothing where there is no service. Never starts one.
///
/// # Errors
/// Where the service answers badly.
pub fn status(paths: &Paths, uses: bool) -> Result<Option<Status>, Failure> {
    let Greeted::Ready(stream) = greet(paths, GREETING_LIMIT)? else { return Ok(None) };
    match ask(paths, stream, &Request::Status { uses })? {
        Answer::Status(status) => Ok(Some(status)),
        _ => Err(ClientError::Unexpected.into()),
    }
}

/// Ends one distro; done at once where it does not run.
///
/// # Errors
/// Where the service answers badly, or one of another build is busy.
pub fn terminate(paths: &Paths, distro: Uuid) -> Result<(), Failure> {
    match greet(paths, GREETING_LIMIT)? {
        Greeted::Ready(stream) => match ask(paths, stream, &Request::Terminate { distro })? {
            Answer::Done => Ok(()),
            _ => Err(ClientError::Unexpected.into()),
        },
        Greeted::Another(_, Welcome { build, busy: true }) => {
            Err(ClientError::AnotherBuild { theirs: build }.into())
        }
        Greeted::Another(stream, _) | Greeted::Leaving(stream) => {
            wait_for_end(&stream, leave_limit(paths));
            Ok(())
        }
        Greeted::Nobody => Ok(()),
    }
}

/// Attaches a disk of the user's to the virtual machine.
///
/// # Errors
/// Where it cannot be attached, or a mount of that name not be made.
pub fn mount(paths: &Paths, mount: Mount) -> Result<Mounted, Failure> {
    match ask(paths, connect(paths)?, &Request::Mount(mount))? {
        Answer::Mounted(mounted) => Ok(mounted),
        _ => Err(ClientError::Unexpected.into()),
    }
}

/// Lets go of a disk of the user's, or of all; done at once where there is none.
///
/// # Errors
/// Where that disk is not attached, or it is in use in a distro.
pub fn unmount(paths: &Paths, path: Option<PathBuf>) -> Result<(), Failure> {
    if path.is_none() && !paths.mounts().exists() {
        return Ok(());
    }
    match ask(paths, connect(paths)?, &Request::Unmount { path })? {
        Answer::Done => Ok(()),
        _ => Err(ClientError::Unexpected.into()),
    }
}

/// Makes a running distro's disk longer.
///
/// # Errors
/// Where it cannot.
pub fn grow(paths: &Paths, distro: Uuid, size: u64) -> Result<(), Failure> {
    match ask(paths, connect(paths)?, &Request::Grow { distro, size })? {
        Answer::Done => Ok(()),
        _ => Err(ClientError::Unexpected.into()),
    }
}

/// Ends the virtual machine with all distros, and the service; kills it where it does not
/// obey.
///
/// # Errors
/// Where the socket is somebody else's.
pub fn shutdown(paths: &Paths, force: bool) -> Result<(), Failure> {
    // Whatever becomes of the service (B112).
    user_disks::forget(&paths.mounts());
    let limit = match force {
        true => FORCED_LIMIT,
        false => WslConfig::load(paths).stop_limit().mul_f32(SHUTDOWN_PART),
    };
    let deadline = Instant::now() + limit;
    let stream = match greet(paths, limit.min(GREETING_LIMIT))? {
        Greeted::Nobody => return Ok(()),
        Greeted::Ready(mut stream) => {
            // One that cannot even take the request is killed below.
            let _ = frame::write(&mut stream, &Request::Shutdown { force });
            stream
        }
        Greeted::Another(stream, welcome) => {
            if welcome.busy
                && let Some(process) = process(&stream)
            {
                let _ = kill(process, Signal::SIGTERM);
            }
            stream
        }
        Greeted::Leaving(stream) => stream,
    };
    let Some(process) = process(&stream) else { return Ok(()) };
    let left = deadline.saturating_duration_since(Instant::now());
    if !wait_for_end(&stream, left) && kill(process, None) != Err(Errno::ESRCH) {
        let _ = kill(process, Signal::SIGKILL);
        wait_for_end(&stream, KILL_LIMIT);
    }
    Ok(())
}

/// Sends a request, with the service's ends of the streams on its first byte.
///
/// # Errors
/// Where the service is gone.
pub fn send(
    connection: &UnixStream,
    request: &Request,
    streams: &[OwnedFd],
) -> Result<(), FrameError> {
    let bytes = frame::encode(request)?;
    let descriptors: Vec<_> = streams.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&descriptors)];
    let sent = sendmsg::<UnixAddr>(
        connection.as_raw_fd(),
        &[io::IoSlice::new(&bytes)],
        if descriptors.is_empty() { &[] } else { &rights },
        MsgFlags::MSG_NOSIGNAL,
        None,
    )
    .map_err(|error| FrameError::Stream(error.into()))?;
    let mut connection = connection;
    connection.write_all(bytes.get(sent..).unwrap_or_default()).map_err(FrameError::Stream)
}

/// Sends a request and reads its only answer.
fn ask(paths: &Paths, mut stream: UnixStream, request: &Request) -> Result<Answer, Failure> {
    let lost = |source| Failure::from(ClientError::Lost { log: log(paths), source });
    frame::write(&mut stream, request).map_err(lost)?;
    match frame::read::<Answer>(&mut stream).map_err(lost)? {
        Answer::Failed(failure) => Err(failure),
        answer => Ok(answer),
    }
}

fn leave_limit(paths: &Paths) -> Duration {
    WslConfig::load(paths).stop_limit().saturating_add(LEAVE_LIMIT)
}

/// The service's log.
#[must_use]
pub fn log(paths: &Paths) -> PathBuf {
    paths.logs().join("service.log")
}

fn greet(paths: &Paths, limit: Duration) -> Result<Greeted, Failure> {
    let path = paths.socket();
    let mut stream = match UnixStream::connect(&path) {
        Ok(stream) => stream,
        // A socket without a process behind it, or none.
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound
                    | io::ErrorKind::ConnectionRefused
                    | io::ErrorKind::NotADirectory
            ) =>
        {
            return Ok(Greeted::Nobody);
        }
        Err(source) => {
            return Err(ClientError::Start { action: "its socket is unusable", source }.into());
        }
    };
    let failed = |source| ClientError::Start { action: "its socket is unusable", source };
    let peer = getsockopt(&stream, sockopt::PeerCredentials)
        .map_err(|error| failed(io::Error::from(error)))?;
    if peer.uid() != Uid::effective().as_raw() {
        return Err(ClientError::AnotherUser { path, uid: peer.uid() }.into());
    }
    stream.set_read_timeout(Some(limit)).map_err(failed)?;
    let hello = Hello { build: build::id().to_owned() };
    let welcome =
        frame::write(&mut stream, &hello).and_then(|()| frame::read::<Welcome>(&mut stream));
    stream.set_read_timeout(None).map_err(failed)?;
    Ok(match welcome {
        Ok(welcome) if welcome.build == hello.build => Greeted::Ready(stream),
        Ok(welcome) => Greeted::Another(stream, welcome),
        Err(_) => Greeted::Leaving(stream),
    })
}

/// Starts a service and waits until it answers. Only one command at a time does so.
fn start(paths: &Paths) -> Result<(), Failure> {
    private_directory(&paths.runtime).map_err(|error| Failure::new("Wsl/Service", &error))?;
    let failed = |action| move |source| Failure::from(ClientError::Start { action, source });
    let turn = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(paths.runtime.join("start.lock"))
        .map_err(failed("its lock cannot be made"))?;
    turn.lock().map_err(failed("its lock cannot be taken"))?;
    // Somebody else may have started it while this one waited.
    if let Greeted::Ready(_) = greet(paths, GREETING_LIMIT)? {
        return Ok(());
    }
    let (mut ready, pipe) = io::pipe().map_err(failed("no pipe can be made"))?;
    let mut child = Command::new("/proc/self/exe")
        .arg0("wslr")
        .arg(crate::service::ARGUMENT)
        .stdin(Stdio::null())
        .stdout(pipe)
        .stderr(Stdio::null())
        .spawn()
        .map_err(failed("the executable cannot be run"))?;
    match frame::read::<Result<(), Failure>>(&mut ready) {
        Ok(result) => result,
        Err(_) => {
            let status = child.wait().map(|status| status.to_string()).unwrap_or_default();
            let source = io::Error::other(status);
            Err(ClientError::Start { action: "it ended at once", source }.into())
        }
    }
}

/// The service's process.
fn process(stream: &UnixStream) -> Option<Pid> {
    let pid = getsockopt(stream, sockopt::PeerCredentials).ok()?.pid();
    (pid > 1).then(|| Pid::from_raw(pid))
}

/// Waits until the other end is closed, which is when its process has ended. False where
/// it takes longer.
fn wait_for_end(stream: &UnixStream, limit: Duration) -> bool {
    use std::io::Read;
    let deadline = Instant::now() + limit;
    let mut stream = stream;
    let mut buffer = [0; 256];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() || stream.set_read_timeout(Some(left)).is_err() {
            return false;
        }
        match stream.read(&mut buffer) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::Interrupted
                        | io::ErrorKind::WouldBlock
                        | io::ErrorKind::TimedOut
                ) => {}
            Err(_) => return true,
        }
    }
}
