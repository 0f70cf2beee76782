//! The thread that moves the frames and serves the link.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use vmm_sys_util::epoll::{ControlOperation, EpollEvent, EventSet};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::{FIRST_ID, Link};
use crate::devices::buffers::Buffers;
use crate::devices::ring::{Chain, Ring};

/// What `epoll` reports for the worker's own events.
const STOP: u64 = 0;
const RECEIVE: u64 = 1;
const TRANSMIT: u64 = 2;

/// The longest frame that is taken, with what precedes it: 64 KiB and the headers.
const MAXIMUM_FRAME: usize = 12 + 14 + 65_535;

/// How much is done for one queue before the other gets its turn.
const BATCH: usize = 64;

/// Where the number of buffers stands in what precedes a frame.
const BUFFERS: std::ops::Range<usize> = 10..12;

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
            room: Room { ring: receive.0, spare: VecDeque::new(), mergeable, used: false },
            transmit: transmit.0,
            notified: [receive.1, transmit.1],
            frame: vec![0; MAXIMUM_FRAME],
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
}

impl Serving {
    fn run(&mut self) {
        let mut more = true;
        while self.wait(more) {
            self.link.expire(Instant::now());
            more = self.take_frames();
            more |= self.give_frames();
            // The guest's own frames were held back for want of room for answers.
            more |= self.link.takes() && self.transmit.enable_notification();
        }
    }

    /// Waits for something to do; false means stop.
    fn wait(&mut self, more: bool) -> bool {
        let timeout = match self.link.deadline() {
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
    fn take_frames(&mut self) -> bool {
        let memory = Arc::clone(self.transmit.memory());
        let mut used = false;
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
                // Chains that `pop` refused were given back.
                used = true;
                break;
            };
            if let Ok(mut content) = chain.reader(&memory) {
                let length = content.length();
                if let Some(frame) = self.frame.get_mut(..length) {
                    content.copy_to(frame);
                    self.link.take(frame);
                }
            }
            self.transmit.add_used(chain.head, 0);
            used = true;
        }
        if used {
            self.transmit.signal();
        }
        more
    }

    /// Gives the guest what is there for it; true where there is more of both.
    fn give_frames(&mut self) -> bool {
        let mut more = false;
        for round in 0.. {
            if !self.link.has_frames() {
                break;
            }
            if round == BATCH {
                more = true;
                break;
            }
            let mut full = false;
            self.link.give(&mut |pieces| {
                full = !self.room.put(pieces);
                !full
            });
            if full {
                break;
            }
        }
        if std::mem::take(&mut self.room.used) {
            self.room.ring.signal();
        }
        more
    }
}

/// The guest's buffers for frames.
struct Room {
    ring: Ring,
    /// Buffers that were taken from the queue and not used yet.
    spare: VecDeque<Chain>,
    /// Whether a frame may take several of them.
    mergeable: bool,
    /// Whether there is something to tell the driver.
    used: bool,
}

impl Room {
    /// Puts a frame into the guest's buffers; false where there are too few now. One that
    /// cannot ever fit is dropped.
    fn put(&mut self, pieces: &[IoSlice<'_>]) -> bool {
        let length: usize = pieces.iter().map(|piece| piece.len()).sum();
        let Some(count) = self.gather(length) else { return false };
        if count == 0 {
            return true;
        }
        let memory = Arc::clone(self.ring.memory());
        let chains: Vec<Chain> = self.spare.drain(..count).collect();
        let mut used = Vec::with_capacity(chains.len());
        let mut rest = length;
        let mut buffers = Buffers::default();
        for chain in &chains {
            let Ok(more) = chain.writer(&memory) else { continue };
            let filled = more.length().min(rest);
            rest -= filled;
            buffers.append(more);
            // A frame is shorter than 4 GiB.
            used.push((chain.head, filled as u32));
        }
        // No queue has more buffers than that.
        let number = (chains.len() as u16).to_le_bytes();
        for (position, piece) in pieces.iter().enumerate() {
            let mut piece: &[u8] = piece;
            // The number of buffers stands in what precedes the frame, in its first piece.
            if position == 0
                && let Some((before, rest)) = piece.split_at_checked(BUFFERS.end)
                && let Some(before) = before.get(..BUFFERS.start)
            {
                buffers.copy_from(before);
                buffers.copy_from(&number);
                piece = rest;
            }
            buffers.copy_from(piece);
        }
        self.ring.add_used_together(&used);
        self.used = true;
        true
    }

    /// Has so many spare buffers at hand that `length` bytes fit and tells how many, or
    /// none where the driver offers too few; 0 where they can never fit.
    fn gather(&mut self, length: usize) -> Option<usize> {
        let mut space = 0;
        for count in 1.. {
            if self.spare.len() < count {
                let chain = self.next_chain()?;
                self.spare.push_back(chain);
            }
            let chain = self.spare.get(count - 1)?;
            space += chain.writable.iter().map(|part| part.length as usize).sum::<usize>();
            if space >= length {
                return Some(count);
            }
            if !self.mergeable {
                return Some(0);
            }
        }
        None
    }

    fn next_chain(&mut self) -> Option<Chain> {
        self.ring.disable_notification();
        loop {
            if let Some(chain) = self.ring.pop() {
                return Some(chain);
            }
            self.used = true;
            if !self.ring.enable_notification() {
                return None;
            }
        }
    }
}
