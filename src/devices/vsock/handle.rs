//! The handle through which the service uses the device.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::sys::socket::{SockType, getsockopt, sockopt};
use vmm_sys_util::eventfd::EventFd;

use super::VsockError;
use super::state::VsockState;

/// How a connection ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Ended {
    /// The guest closed it, or both sides did; all the guest sent has been delivered.
    Closed,
    /// The device was reset, or an error made the connection unusable.
    Failed,
    /// Nobody listens on the guest's port.
    Refused,
    /// The guest did not answer.
    TimedOut,
}

/// Called once, on the device's thread, when the connection is gone.
pub(super) type OnEnd = Box<dyn FnOnce(Ended) + Send>;

/// Called on the device's thread with the host's end of a connection from the guest.
pub(super) type Listener = Arc<dyn Fn(UnixStream) + Send + Sync>;

/// What the device's thread is asked to do.
pub(super) enum Command {
    Connect { port: u32, socket: OwnedFd, prefix: Vec<u8>, on_end: OnEnd },
    ResetTransport,
}

#[derive(Default)]
struct Inner {
    running: bool,
    reset_pending: bool,
    commands: VecDeque<Command>,
    listeners: BTreeMap<u32, Listener>,
}

struct Shared {
    inner: Mutex<Inner>,
    wake: EventFd,
}

/// The connections of one device.
#[derive(Clone)]
pub struct Vsock {
    shared: Arc<Shared>,
}

impl Vsock {
    /// A device's connections, none so far.
    ///
    /// # Errors
    /// [`VsockError::Resources`].
    pub fn new() -> Result<Self, VsockError> {
        let wake =
            EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC).map_err(VsockError::Resources)?;
        Ok(Self { shared: Arc::new(Shared { inner: Mutex::default(), wake }) })
    }

    /// Calls `accept` with the host's end of every connection that the guest opens to
    /// `port`. It is called on the device's thread, so it must not block; dropping the
    /// stream closes the connection. Listeners outlive a reset of the device.
    ///
    /// # Errors
    /// [`VsockError::PortTaken`].
    pub fn listen(
        &self,
        port: u32,
        accept: impl Fn(UnixStream) + Send + Sync + 'static,
    ) -> Result<(), VsockError> {
        let mut inner = self.lock();
        if inner.listeners.contains_key(&port) {
            return Err(VsockError::PortTaken { port });
        }
        inner.listeners.insert(port, Arc::new(accept));
        Ok(())
    }

    /// Stops listening; open connections stay.
    pub fn stop_listening(&self, port: u32) {
        self.lock().listeners.remove(&port);
    }

    /// Bridges `socket` to a new connection to the guest's `port`, on which `prefix` goes
    /// first. What the socket's peer writes goes to the guest and the other way round;
    /// each direction ends by itself. `on_end` is called once, on the device's thread, so
    /// it must not block. A guest that refuses shows also as the end of the socket.
    ///
    /// # Errors
    /// [`VsockError::NotRunning`] and [`VsockError::NotAStream`]; the socket is closed
    /// and `on_end` not called.
    pub fn connect(
        &self,
        port: u32,
        socket: OwnedFd,
        prefix: Vec<u8>,
        on_end: impl FnOnce(Ended) + Send + 'static,
    ) -> Result<(), VsockError> {
        match getsockopt(&socket.as_fd(), sockopt::SockType) {
            Ok(SockType::Stream) => {}
            Ok(_) => return Err(VsockError::NotAStream(nix::errno::Errno::EPROTOTYPE.into())),
            Err(error) => return Err(VsockError::NotAStream(error.into())),
        }
        let on_end = Box::new(on_end);
        self.command(Command::Connect { port, socket, prefix, on_end })
    }

    /// Ends all connections and tells the guest that the transport was reset, as after a
    /// snapshot was restored.
    ///
    /// # Errors
    /// [`VsockError::NotRunning`].
    pub fn reset_transport(&self) -> Result<(), VsockError> {
        self.command(Command::ResetTransport)
    }

    /// What a snapshot would hold.
    #[must_use]
    pub fn state(&self) -> VsockState {
        let inner = self.lock();
        VsockState {
            guest_cid: super::GUEST_CID,
            listening: inner.listeners.keys().copied().collect(),
            reset_pending: inner.reset_pending,
        }
    }

    fn command(&self, command: Command) -> Result<(), VsockError> {
        {
            let mut inner = self.lock();
            if !inner.running {
                return Err(VsockError::NotRunning);
            }
            inner.commands.push_back(command);
        }
        // It can only fail when it was written before, and then it is set.
        let _ = self.shared.wake.write(1);
        Ok(())
    }

    /// The event that says there are commands.
    pub(super) fn wake(&self) -> &EventFd {
        &self.shared.wake
    }

    /// Takes the commands given so far.
    pub(super) fn take_commands(&self) -> VecDeque<Command> {
        std::mem::take(&mut self.lock().commands)
    }

    /// From now on commands are taken, or refused; those left are returned.
    pub(super) fn set_running(&self, running: bool) -> VecDeque<Command> {
        let mut inner = self.lock();
        inner.running = running;
        std::mem::take(&mut inner.commands)
    }

    /// Notes whether the guest has yet to be told of a transport reset.
    pub(super) fn set_reset_pending(&self, pending: bool) {
        self.lock().reset_pending = pending;
    }

    /// Who listens on a port.
    pub(super) fn listener(&self, port: u32) -> Option<Listener> {
        self.lock().listeners.get(&port).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.shared.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Vsock {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = self.lock();
        formatter
            .debug_struct("Vsock")
            .field("running", &inner.running)
            .field("commands", &inner.commands.len())
            .field("listening", &inner.listeners.keys())
            .finish()
    }
}
