//! The thread that moves the frames and serves the link.

use std::io;
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use vmm_sys_util::epoll::{ControlOperation, EpollEvent, EventSet};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::room::Room;
use super::sent::Sent;
use super::{FIRST_ID, Link};
use crate::devices::ring::Ring;

/// What `epoll` reports for the worker's own events.
const STOP: u64 = 0;
const RECEIVE: u64 = 1;
const TRANSMIT: u64 = 2;

/// The longest frame that is taken, with what precedes it: 64 KiB and the headers.
const MAXIMUM_FRAME: usize = 12 + 14 + 65_535;

/// How much is done for one queue before the other gets its turn.
const BATCH: usize = 64;

/// So many frames are given before the guest is told of them: it goes to work while more come.
const TOLD: usize = 2;

/// A queue with its notification.
pub(super) type Served = (Ring, EventFd);

/// The running thread; dropping it ends it.
#[derive(Debug)]
pub(super) struct Worker {
    stop: EventFd,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    /// Starts the thread.
    pub(super) fn start(
        link: Box<dyn Link>,
        receive: Served,
        transmit: Served,
        mergeable: bool,
    ) -> io::Result<Self> {
        let stop = EventFd::new(EFD_NONBLOCK)?;
        for (number, event) in [(STOP, &stop), (RECEIVE, &receive.1), (TRANSMIT, &transmit.1)] {
            let interest = EpollEvent::new(EventSet::IN, number);
            link.epoll().ctl(ControlOperation::Add, event.as_raw_fd(), interest)?;
        }
        let mut serving = Serving {
            link,
            room: Room::new(receive.0, mergeable),
            transmit: transmit.0,
            notified: [receive.1, transmit.1],
            frame: vec![0; MAXIMUM_FRAME],
            sent: Sent::default(),
        };
        let thread = std::thread::Builder::new().name("net".into()).spawn(move || serving.run())?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // It can only fail when it was written before, and then it is set.
        let _ = self.stop.write(1);
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has ended, which is all that counts here.
            let _ = thread.join();
        }
    }
}

/// What the thread works on.
struct Serving {
    link: Box<dyn Link>,
    room: Room,
    transmit: Ring,
    notified: [EventFd; 2],
    /// Room for a frame of the guest: a copy, so that the guest cannot change it any more.
    frame: Vec<u8>,
    /// Frames of the guest that it does not know to be gone.
    sent: Sent,
}

impl Serving {
    fn run(&mut self) {
        let mut more = true;
        while self.wait(more) {
            let now = Instant::now();
            self.link.expire(now);
            more = self.take_frames(now);
            if self.sent.is_due(now) {
                self.transmit.signal();
                self.sent.told();
            }
            more |= self.give_frames(now);
            // The guest's own frames were held back for want of room for answers.
            more |= self.link.takes() && self.transmit.enable_notification();
        }
    }

    /// Waits for something to do; false means stop.
    fn wait(&mut self, more: bool) -> bool {
        let deadlines = self.link.deadline().into_iter().chain(self.sent.deadline());
        let timeout = match deadlines.min() {
            _ if more => 0,
            None => -1,
            Some(deadline) => {
                let rest = deadline.saturating_duration_since(Instant::now());
                i32::try_from(rest.as_millis()).unwrap_or(i32::MAX).saturating_add(1)
            }
        };
        let mut ready = [EpollEvent::default(); 128];
        let count = match self.link.epoll().wait(timeout, &mut ready) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            Err(_) => return false,
        };
        let [receive, transmit] = &self.notified;
        for report in ready.iter().take(count) {
            // Reading an event only makes it silent; there is nothing else to learn.
            let _ = match report.data() {
                STOP => return false,
                RECEIVE => receive.read(),
                TRANSMIT => transmit.read(),
                id => {
                    debug_assert!(id >= FIRST_ID);
                    self.link.event(id, report.event_set());
                    Ok(0)
                }
            };
        }
        true
    }

    /// Takes the guest's frames; true where there are more.
    fn take_frames(&mut self, now: Instant) -> bool {
        let memory = Arc::clone(self.transmit.memory());
        let mut more = false;
        self.transmit.disable_notification();
        for round in 0.. {
            if round == BATCH {
                more = true;
                break;
            }
            if !self.link.takes() {
                break;
            }
            let Some(chain) = self.transmit.pop() else {
                if self.transmit.enable_notification() {
                    continue;
                }
                if !self.transmit.is_told() {
                    self.sent.owe(now);
                }
                break;
            };
            let mut length = 0;
            if let Ok(mut content) = chain.reader(&memory) {
                length = content.length();
                if let Some(frame) = self.frame.get_mut(..length) {
                    content.copy_to(frame);
                    self.link.take(frame);
                }
            }
            self.transmit.add_used(chain.head, 0);
            self.sent.add(length, now);
        }
        more
    }

    /// Gives the guest what is there for it; true where there is more of both.
    fn give_frames(&mut self, now: Instant) -> bool {
        let mut more = false;
        for round in 0.. {
            if !self.link.has_frames() {
                break;
            }
            if round == BATCH {
                more = true;
                break;
            }
            self.link.give(&mut self.room);
            if self.room.is_full() {
                break;
            }
            if round % TOLD == TOLD - 1 {
                self.tell_given(now);
            }
        }
        self.tell_given(now);
        more
    }

    /// Tells the guest of frames for it.
    fn tell_given(&mut self, now: Instant) {
        if self.room.is_used() {
            self.room.tell();
            self.sent.others_told(now);
        }
    }
}
