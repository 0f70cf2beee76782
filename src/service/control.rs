//! The control channel to the guest's init: requests, their answers, and events.
//!
//! A guest that does not answer, or does not even read, costs its caller the time it was
//! given and nothing else.

use std::collections::HashMap;
use std::os::unix::net::UnixStream;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use super::lock;
use crate::error::Diagnose;
use crate::protocol::frame::{self, FrameError};
use crate::protocol::guest::{Envelope, Event, GuestError, Request, VERSION};

/// How long a request may take to leave the host. The guest's init always reads.
const WRITE_LIMIT: Duration = Duration::from_secs(10);

/// The longest kernel release (`utsname`, without its NUL).
const RELEASE_LIMIT: usize = 64;

/// Why a request to the guest failed.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The guest could not do it.
    #[error(transparent)]
    Guest(#[from] GuestError),
    /// The channel is gone.
    #[error("the machine's control channel is lost")]
    Lost(#[source] FrameError),
    /// No answer came.
    #[error("the machine did not {action} within {limit:?}")]
    Timeout {
        /// What was asked.
        action: &'static str,
        /// How long it was given.
        limit: Duration,
    },
    /// The guest's init is not of this build.
    #[error("the guest speaks protocol {theirs}, not {VERSION}")]
    Version {
        /// Its protocol.
        theirs: u32,
    },
}

impl Diagnose for ControlError {
    fn code(&self) -> &'static str {
        match self {
            Self::Guest(GuestError::DiskCorrupted { .. }) => "WSL_E_DISK_CORRUPTED",
            Self::Guest(GuestError::DiskMissing { .. }) => "AttachDisk/ERROR_FILE_NOT_FOUND",
            Self::Guest(GuestError::NotALinuxDistro) => "WSL_E_NOT_A_LINUX_DISTRO",
            Self::Guest(GuestError::NotRunning | GuestError::System { .. }) => "E_FAIL",
            Self::Lost(_) => "WSL_E_VM_CRASHED",
            Self::Timeout { .. } => "HCS_E_CONNECTION_TIMEOUT",
            Self::Version { .. } => "E_UNEXPECTED",
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Guest(GuestError::DiskCorrupted { .. }) => {
                Some("run e2fsck on the distribution's disk".to_owned())
            }
            Self::Timeout { action: "start the distribution", .. } => {
                Some("distributionStartTimeout in .wslconfig gives it more time".to_owned())
            }
            Self::Timeout { .. } => Some("'wslr --shutdown' ends it".to_owned()),
            _ => None,
        }
    }
}

type Answers = HashMap<u64, SyncSender<Result<Vec<String>, GuestError>>>;

/// The service's end of the channel.
#[derive(Debug)]
pub struct Control {
    stream: Mutex<UnixStream>,
    /// `None` once the channel has ended.
    answers: Mutex<Option<Answers>>,
    next: AtomicU64,
}

impl Control {
    /// Greets a guest that has just connected. Gives the channel, the stream on which
    /// [`Control::serve`] must run, and the guest's kernel release.
    ///
    /// # Errors
    /// Where the guest says nothing within `limit`, or is of another build.
    pub fn open(
        mut stream: UnixStream,
        limit: Duration,
    ) -> Result<(Self, UnixStream, String), ControlError> {
        let lost = |error| ControlError::Lost(FrameError::Stream(error));
        stream.set_read_timeout(Some(limit)).map_err(lost)?;
        let kernel = match frame::read::<Event>(&mut stream).map_err(ControlError::Lost)? {
            Event::Hello { version: VERSION, kernel } => {
                kernel.chars().filter(char::is_ascii_graphic).take(RELEASE_LIMIT).collect()
            }
            Event::Hello { version, .. } => return Err(ControlError::Version { theirs: version }),
            _ => return Err(ControlError::Version { theirs: 0 }),
        };
        stream.set_read_timeout(None).map_err(lost)?;
        stream.set_write_timeout(Some(WRITE_LIMIT)).map_err(lost)?;
        let reader = stream.try_clone().map_err(lost)?;
        let control = Self {
            stream: Mutex::new(stream),
            answers: Mutex::new(Some(HashMap::new())),
            next: AtomicU64::new(1),
        };
        Ok((control, reader, kernel))
    }

    /// Asks the guest and waits for its answer: warnings for the user.
    ///
    /// # Errors
    /// Where the guest refuses, is gone, or does not answer within `limit`.
    pub fn request(&self, request: Request, limit: Duration) -> Result<Vec<String>, ControlError> {
        let action = action(&request);
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = sync_channel(1);
        match &mut *lock(&self.answers) {
            Some(answers) => answers.insert(id, sender),
            None => return Err(ControlError::Lost(FrameError::Closed)),
        };
        self.send(&Envelope { id, request })?;
        match receiver.recv_timeout(limit) {
            Ok(result) => Ok(result?),
            Err(RecvTimeoutError::Disconnected) => Err(ControlError::Lost(FrameError::Closed)),
            Err(RecvTimeoutError::Timeout) => {
                if let Some(answers) = &mut *lock(&self.answers) {
                    answers.remove(&id);
                }
                Err(ControlError::Timeout { action, limit })
            }
        }
    }

    /// Asks the guest to power off; there is no answer but the machine's end.
    ///
    /// # Errors
    /// Where the request cannot be sent.
    pub fn power_off(&self) -> Result<(), ControlError> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        self.send(&Envelope { id, request: Request::PowerOff })
    }

    /// Distributes answers and reports everything else, until the channel ends.
    pub fn serve(&self, mut reader: UnixStream, report: impl Fn(Event)) -> FrameError {
        let end = loop {
            match frame::read::<Event>(&mut reader) {
                Ok(Event::Reply { id, result }) => {
                    let waiting = lock(&self.answers).as_mut().and_then(|all| all.remove(&id));
                    if let Some(sender) = waiting {
                        // A caller that gave up has dropped its receiver.
                        let _ = sender.try_send(result);
                    }
                }
                Ok(Event::Hello { .. }) => {}
                Ok(event) => report(event),
                Err(error) => break error,
            }
        };
        lock(&self.answers).take();
        end
    }

    fn send(&self, envelope: &Envelope) -> Result<(), ControlError> {
        let mut stream = lock(&self.stream);
        frame::write(&mut *stream, envelope).map_err(|error| {
            // A frame cut short cannot be continued.
            let _ = stream.shutdown(std::net::Shutdown::Both);
            ControlError::Lost(error)
        })
    }
}

fn action(request: &Request) -> &'static str {
    match request {
        Request::Configure(_) => "take its configuration",
        Request::GrowDistro { .. } => "grow the disk",
        Request::MountDisk(_) => "mount the disk",
        Request::UnmountDisk { .. } => "unmount the disk",
        Request::Look { .. } => "look what the distribution is used for",
        Request::PowerOff => "power off",
        Request::ReclaimMemory { .. } => "give memory back",
        Request::SetHostPorts(_) => "take the host's ports",
        Request::SetSearch { .. } => "take the suffixes for names",
        Request::SetTimeZone { .. } => "take the time zone",
        Request::SetTime { .. } => "set its clock",
        Request::StartDistro(_) => "start the distribution",
        Request::StopDistro { .. } => "stop the distribution",
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn open() -> (Control, UnixStream, UnixStream) {
        let (host, mut guest) = UnixStream::pair().unwrap();
        frame::write(&mut guest, &Event::Hello { version: VERSION, kernel: "6.12".to_owned() })
            .unwrap();
        let (control, reader, kernel) = Control::open(host, Duration::from_secs(5)).unwrap();
        assert_eq!(kernel, "6.12");
        (control, reader, guest)
    }

    #[test]
    fn answers_find_their_requests_in_any_order() {
        let (control, reader, mut guest) = open();
        std::thread::scope(|scope| {
            scope.spawn(|| control.serve(reader, |_| {}));
            let asked = [1, 2].map(|number| {
                let control = &control;
                scope.spawn(move || {
                    let distro = Uuid::from_u128(number);
                    let request = Request::StopDistro { distro };
                    let answer = control.request(request, Duration::from_secs(5));
                    assert_eq!(answer.unwrap(), [distro.to_string()]);
                })
            });
            let requests: [Envelope; 2] = std::array::from_fn(|_| frame::read(&mut guest).unwrap());
            for Envelope { id, request } in requests.into_iter().rev() {
                let Request::StopDistro { distro } = request else { panic!("{request:?}") };
                let result = Ok(vec![distro.to_string()]);
                frame::write(&mut guest, &Event::Reply { id, result }).unwrap();
            }
            for one in asked {
                one.join().unwrap();
            }
            drop(guest);
        });
    }

    #[test]
    fn a_silent_guest_costs_only_the_time_given() {
        let (control, _reader, _guest) = open();
        let request = Request::StopDistro { distro: Uuid::nil() };
        let result = control.request(request, Duration::from_millis(20));
        assert!(matches!(result, Err(ControlError::Timeout { .. })));
    }

    #[test]
    fn the_end_of_the_channel_fails_every_waiting_request() {
        let (control, reader, guest) = open();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| {
                let request = Request::StopDistro { distro: Uuid::nil() };
                control.request(request, Duration::from_secs(60))
            });
            scope.spawn(|| control.serve(reader, |_| {}));
            drop(guest);
            assert!(matches!(waiting.join().unwrap(), Err(ControlError::Lost(_))));
        });
        assert!(matches!(
            control.request(Request::PowerOff, Duration::from_secs(60)),
            Err(ControlError::Lost(_))
        ));
    }
}
