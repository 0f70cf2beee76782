//! The service's socket: who may speak, and what each request leads to.

use std::io::{self, IoSliceMut, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, SockaddrStorage, getsockopt, recvmsg, sockopt,
};
use nix::unistd::Uid;

use super::error::ServiceError;
use super::supervisor::{Connected, Supervisor};
use super::{build, distro, log, session, user_disks};
use crate::error::Failure;
use crate::protocol::client::{Answer, Hello, Request, Welcome};
use crate::protocol::frame;

/// The most descriptors one request passes: a terminal and three pipes.
const MAXIMUM_STREAMS: usize = 4;

/// How long a client may take to say what it wants.
const REQUEST_LIMIT: Duration = Duration::from_secs(10);

/// How long a client may take to read an answer before it counts as gone.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);

/// Answers every connection in a thread of its own, for as long as the process lives.
pub fn serve(listener: &UnixListener, supervisor: &Arc<Supervisor>) {
    loop {
        let stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) => {
                log(format_args!("cannot accept a connection: {error}"));
                // Descriptors may have run out: one has to be given back first.
                std::thread::sleep(Duration::from_millis(100));
                continue;
            }
        };
        // A closed connection without a greeting makes the client start another service.
        let Some(connected) = supervisor.connect() else { continue };
        let supervisor = Arc::clone(supervisor);
        if let Err(failure) = super::spawn("client", move || answer(&supervisor, stream, connected))
        {
            log(format_args!("{failure}"));
        }
    }
}

fn answer(supervisor: &Arc<Supervisor>, mut stream: UnixStream, mut connected: Connected) {
    match peer(&stream) {
        Ok(uid) if uid == Uid::effective() || uid.is_root() => {}
        Ok(uid) => return log(format_args!("refused user {uid}")),
        Err(error) => return log(format_args!("cannot tell who connects: {error}")),
    }
    let timeouts = stream
        .set_read_timeout(Some(REQUEST_LIMIT))
        .and_then(|()| stream.set_write_timeout(Some(ANSWER_LIMIT)));
    let Ok(()) = timeouts else { return };
    let Ok(hello) = frame::read::<Hello>(&mut stream) else { return };
    let same = hello.build == build::id();
    let leaving = !same && supervisor.begin_leave_if_idle();
    let welcome = Welcome { build: build::id().to_owned(), busy: !leaving };
    let _ = frame::write(&mut stream, &welcome);
    let Ok(held) = stream.try_clone() else { return };
    if leaving {
        supervisor.shutdown(false, 1);
        supervisor.leave();
        // The client waits for the end of this connection, which is the process's.
        std::mem::forget(held);
        return;
    }
    drop(held);
    if !same {
        return;
    }
    let mut receiver = Receiver { stream: &stream, streams: Vec::new() };
    let request = match frame::read::<Request>(&mut receiver) {
        Ok(request) => request,
        Err(error) => {
            let failure = Failure::new("Wsl/Service", &ServiceError::Malformed(error));
            let _ = frame::write(&mut stream, &Answer::Failed(failure));
            return;
        }
    };
    let streams = receiver.streams;
    let last = match request {
        Request::Run(run) => {
            let _ = stream.set_read_timeout(None);
            // The claim on the distro is what counts from here on.
            session::run(supervisor, stream, run, streams);
            drop(connected);
            return;
        }
        Request::Grow { distro, size } => match distro::grow(supervisor, distro, size) {
            Ok(()) => Answer::Done,
            Err(failure) => Answer::Failed(failure),
        },
        Request::Mount(mount) => match user_disks::mount(supervisor, &mount) {
            Ok(mounted) => Answer::Mounted(mounted),
            Err(failure) => Answer::Failed(failure),
        },
        Request::Unmount { path } => match user_disks::unmount(supervisor, path.as_deref()) {
            Ok(()) => Answer::Done,
            Err(failure) => Answer::Failed(failure),
        },
        Request::Status { uses } => {
            connected.observes();
            Answer::Status(supervisor.status(uses))
        }
        Request::Terminate { distro } => match supervisor.terminate(distro) {
            Ok(()) => Answer::Done,
            Err(failure) => Answer::Failed(failure),
        },
        Request::Shutdown { force } => {
            user_disks::forget(&supervisor.paths.mounts());
            supervisor.shutdown(force, 1);
            let _ = frame::write(&mut stream, &Answer::Done);
            supervisor.leave();
            std::mem::forget(stream);
            return;
        }
    };
    let _ = frame::write(&mut stream, &last);
}

/// The user at the other end.
fn peer(stream: &UnixStream) -> nix::Result<Uid> {
    getsockopt(stream, sockopt::PeerCredentials).map(|credentials| Uid::from_raw(credentials.uid()))
}

/// A reader that keeps the descriptors that come with the bytes.
struct Receiver<'a> {
    stream: &'a UnixStream,
    streams: Vec<OwnedFd>,
}

impl Read for Receiver<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        use std::os::fd::FromRawFd;
        let mut space = nix::cmsg_space!([std::os::fd::RawFd; MAXIMUM_STREAMS]);
        let mut slices = [IoSliceMut::new(buffer)];
        let message = recvmsg::<SockaddrStorage>(
            self.stream.as_raw_fd(),
            &mut slices,
            Some(&mut space),
            MsgFlags::MSG_CMSG_CLOEXEC,
        )?;
        for control in message.cmsgs()? {
            if let ControlMessageOwned::ScmRights(descriptors) = control {
                self.streams.extend(descriptors.into_iter().map(|descriptor| {
                    // SAFETY: the kernel has just made this descriptor for this process, and
                    // nothing else knows of it.
                    unsafe { OwnedFd::from_raw_fd(descriptor) }
                }));
            }
        }
        Ok(message.bytes)
    }
}
