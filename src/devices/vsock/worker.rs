//! The thread that moves all bytes.

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};
use zerocopy::{FromZeros as _, IntoBytes as _};

use super::connection::Fetched;
use super::handle::{Command, Ended, Vsock};
use super::packet::{HEADER, Header, Operation};
use super::switch::{FIRST_ID, Next, Switch};
use crate::devices::buffers::Buffers;
use crate::devices::ring::{Chain, Ring};

/// What `epoll` reports for the worker's own events.
const STOP: u64 = 0;
const WAKE: u64 = 1;
const RECEIVE: u64 = 2;
const TRANSMIT: u64 = 3;
const EVENT: u64 = 4;

/// The most bytes of one connection at a turn, and the most guest buffers for them.
const TURN: usize = 64 << 10;
const TURN_CHAINS: usize = 64;

/// How much is done for one queue before the others get their turn.
const BATCH: usize = 256;

/// The event that tells of a transport reset (virtio 1.2, 5.10.6.7).
const EVENT_TRANSPORT_RESET: u32 = 0;

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
        handle: &Vsock,
        receive: Served,
        transmit: Served,
        event: Served,
    ) -> io::Result<Self> {
        let stop = EventFd::new(EFD_NONBLOCK)?;
        let epoll = Epoll::new()?;
        for (number, event) in [
            (STOP, &stop),
            (WAKE, handle.wake()),
            (RECEIVE, &receive.1),
            (TRANSMIT, &transmit.1),
            (EVENT, &event.1),
        ] {
            let interest = EpollEvent::new(EventSet::IN, number);
            epoll.ctl(ControlOperation::Add, event.as_raw_fd(), interest)?;
        }
        let mut serving = Serving {
            handle: handle.clone(),
            switch: Switch::new(handle.clone(), epoll),
            receive: receive.0,
            transmit: transmit.0,
            event: event.0,
            notified: [receive.1, transmit.1, event.1],
            spare: VecDeque::new(),
            reset_pending: false,
        };
        refuse(handle.set_running(true));
        let thread = std::thread::Builder::new().name("vsock".into()).spawn(move || serving.run());
        match thread {
            Ok(thread) => Ok(Self { stop, thread: Some(thread) }),
            Err(error) => {
                refuse(handle.set_running(false));
                Err(error)
            }
        }
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

/// Lets commands that nobody will carry out fail.
fn refuse(commands: VecDeque<Command>) {
    for command in commands {
        match command {
            Command::Connect { socket, on_end, .. } => {
                drop(socket);
                on_end(Ended::Failed);
            }
            Command::ResetTransport => {}
        }
    }
}

/// What the thread works on.
struct Serving {
    handle: Vsock,
    switch: Switch,
    receive: Ring,
    transmit: Ring,
    event: Ring,
    notified: [EventFd; 3],
    /// Guest buffers that were taken from the receive queue and not used yet.
    spare: VecDeque<Chain>,
    reset_pending: bool,
}

impl Serving {
    fn run(&mut self) {
        let mut more = true;
        while self.wait(more) {
            for command in self.handle.take_commands() {
                self.carry_out(command);
            }
            self.switch.expire(Instant::now());
            self.tell_reset();
            more = self.take_packets();
            more |= self.give_packets();
            // The guest's own packets were held back for want of room for replies.
            more |= self.held_back_and_free();
        }
        self.switch.clear();
        refuse(self.handle.set_running(false));
    }

    /// Waits for something to do; false means stop.
    fn wait(&mut self, more: bool) -> bool {
        let timeout = match self.switch.next_deadline() {
            _ if more => 0,
            None => -1,
            Some(deadline) => {
                let rest = deadline.saturating_duration_since(Instant::now());
                i32::try_from(rest.as_millis()).unwrap_or(i32::MAX).saturating_add(1)
            }
        };
        let mut ready = [EpollEvent::default(); 128];
        let count = match self.switch.epoll().wait(timeout, &mut ready) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            Err(_) => return false,
        };
        let [receive, transmit, event] = &self.notified;
        for report in ready.iter().take(count) {
            // Reading an event only makes it silent; there is nothing else to learn.
            let _ = match report.data() {
                STOP => return false,
                WAKE => self.handle.wake().read(),
                RECEIVE => receive.read(),
                TRANSMIT => transmit.read(),
                EVENT => event.read(),
                id => {
                    debug_assert!(id >= FIRST_ID);
                    self.switch.socket_event(id, report.event_set());
                    Ok(0)
                }
            };
        }
        true
    }

    fn carry_out(&mut self, command: Command) {
        match command {
            Command::Connect { port, socket, prefix, on_end } => {
                self.switch.connect(port, socket, prefix, on_end);
            }
            Command::ResetTransport => {
                self.switch.clear();
                self.reset_pending = true;
                self.handle.set_reset_pending(true);
            }
        }
    }

    /// Tells the guest of a transport reset.
    fn tell_reset(&mut self) {
        let memory = Arc::clone(self.event.memory());
        while self.reset_pending {
            let Some(chain) = self.event.pop() else {
                if self.event.enable_notification() {
                    continue;
                }
                return;
            };
            let event = EVENT_TRANSPORT_RESET.to_le_bytes();
            let written = chain.writer(&memory).map_or(0, |mut buffer| buffer.copy_from(&event));
            self.reset_pending = written < event.len();
            self.handle.set_reset_pending(self.reset_pending);
            self.event.add_used(chain.head, written as u32);
            self.event.signal();
        }
    }

    /// Takes the guest's packets; true where there are more.
    fn take_packets(&mut self) -> bool {
        let memory = Arc::clone(self.transmit.memory());
        let mut used = false;
        let mut more = false;
        self.transmit.disable_notification();
        for round in 0.. {
            if round == BATCH {
                more = true;
                break;
            }
            if !self.switch.takes_packets() {
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
            if let Ok(mut packet) = chain.reader(&memory) {
                let mut header = Header::new_zeroed();
                if packet.copy_to(header.as_mut_bytes()) == HEADER {
                    self.switch.packet(&header, packet);
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

    /// Whether packets of the guest wait that can be taken now.
    fn held_back_and_free(&mut self) -> bool {
        self.switch.takes_packets() && self.transmit.enable_notification()
    }

    /// Gives the guest what is there for it; true where there is more of both.
    fn give_packets(&mut self) -> bool {
        let memory = Arc::clone(self.receive.memory());
        let mut used = false;
        let mut more = false;
        for round in 0.. {
            if !self.switch.has_packets() {
                break;
            }
            if round == BATCH {
                more = true;
                break;
            }
            let Some(chain) = self.room() else { break };
            match self.switch.next() {
                None => {
                    self.spare.push_front(chain);
                    break;
                }
                Some(Next::Header(header)) => {
                    let written = chain
                        .writer(&memory)
                        .map_or(0, |mut buffer| buffer.copy_from(header.as_bytes()));
                    self.receive.add_used(chain.head, written as u32);
                    used = true;
                }
                Some(Next::Data(id)) => used |= self.data(id, chain),
            }
        }
        if used {
            self.receive.signal();
        }
        more
    }

    /// A buffer of the guest that takes at least a header and a byte.
    fn room(&mut self) -> Option<Chain> {
        if let Some(chain) = self.spare.pop_front() {
            return Some(chain);
        }
        for _ in 0..BATCH {
            match self.receive.pop() {
                Some(chain) if space(&chain) > HEADER => return Some(chain),
                Some(chain) => {
                    self.receive.add_used(chain.head, 0);
                    self.receive.signal();
                }
                None if self.receive.enable_notification() => {}
                None => return None,
            }
        }
        None
    }

    /// Moves data of one connection into as many guest buffers as it fills, with one
    /// system call; true where there was any.
    fn data(&mut self, id: u64, first: Chain) -> bool {
        let memory = Arc::clone(self.receive.memory());
        let credit = self.switch.connection(id).map_or(0, |connection| connection.credit());
        let limit = credit.min(TURN);
        let mut chains = Vec::new();
        let mut room = Buffers::default();
        let mut next = Some(first);
        while let Some(chain) = next {
            if let Ok(mut buffer) = chain.writer(&memory) {
                buffer.take(HEADER);
                room.append(buffer.take(limit.saturating_sub(room.length())));
            }
            chains.push(chain);
            let enough = room.length() >= limit || chains.len() >= TURN_CHAINS;
            next = if enough { None } else { self.room() };
        }
        let Some(connection) = self.switch.connection(id) else { return false };
        let mut left = match connection.fetch(&mut room) {
            Fetched::Bytes(count) => count,
            Fetched::Nothing => 0,
        };
        let any = left > 0;
        let mut chains = VecDeque::from(chains);
        while left > 0 {
            let Some(chain) = chains.pop_front() else { break };
            let length = left.min(space(&chain).saturating_sub(HEADER));
            let header =
                Header { length: (length as u32).into(), ..connection.header(Operation::Data) };
            let written = chain
                .writer(&memory)
                .map_or(0, |mut buffer| buffer.copy_from(header.as_bytes()) + length);
            self.receive.add_used(chain.head, written as u32);
            left -= length;
        }
        while let Some(chain) = chains.pop_back() {
            self.spare.push_front(chain);
        }
        self.switch.had_turn(id);
        any
    }
}

/// The bytes the device may write into a chain.
fn space(chain: &Chain) -> usize {
    chain.writable.iter().fold(0, |sum, segment| sum.saturating_add(segment.length as usize))
}
