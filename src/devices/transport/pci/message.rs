//! Interrupts by message (MSI-X, PCI Local Bus Specification 3.0, 6.8.2): what is written where,
//! and which of a device's events are which.

use std::fmt;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use crate::devices::Interrupt;
use crate::devices::transport::control::{set_high, set_low};

/// An event without a message (`VIRTIO_MSI_NO_VECTOR`).
pub(super) const NONE: u16 = 0xffff;
/// The size of an entry of the table.
pub(super) const ENTRY: u64 = 16;

/// Writes the value to the address, which makes an interrupt of it.
pub(super) type Send = Box<dyn Fn(u64, u32) + std::marker::Send + Sync>;

/// One of the table's.
#[derive(Clone, Copy, Debug)]
struct Message {
    address: u64,
    value: u32,
    masked: bool,
    pending: bool,
}

/// The table, and who uses what of it.
#[derive(Debug)]
struct State {
    enabled: bool,
    masked: bool,
    messages: Vec<Message>,
    /// Which message an event has: the configuration's, then the queues'.
    events: Vec<u16>,
}

/// A device's messages.
pub(super) struct MessageInterrupt {
    state: Mutex<State>,
    generation: AtomicU8,
    send: OnceLock<Send>,
}

impl MessageInterrupt {
    /// One message for each queue, and one for the configuration.
    pub(super) fn new(queues: usize) -> Self {
        let message = Message { address: 0, value: 0, masked: true, pending: false };
        let state = State {
            enabled: false,
            masked: false,
            messages: vec![message; queues + 1],
            events: vec![NONE; queues + 1],
        };
        Self { state: Mutex::new(state), generation: AtomicU8::new(0), send: OnceLock::new() }
    }

    /// Connects it, once.
    pub(super) fn connect(&self, send: Send) {
        let _ = self.send.set(send);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.state().messages.len()
    }

    /// Counts changes of the configuration.
    pub(super) fn generation(&self) -> u8 {
        self.generation.load(Ordering::SeqCst)
    }

    /// The driver forgets which event has which message.
    pub(super) fn reset(&self) {
        self.state().events.fill(NONE);
    }

    /// The message of the configuration, or of a queue.
    pub(super) fn vector(&self, queue: Option<usize>) -> u16 {
        self.state().events.get(place(queue)).copied().unwrap_or(NONE)
    }

    /// Gives it one; one that there is not is none.
    pub(super) fn set_vector(&self, queue: Option<usize>, vector: u16) {
        let mut state = self.state();
        let vector = if usize::from(vector) < state.messages.len() { vector } else { NONE };
        if let Some(event) = state.events.get_mut(place(queue)) {
            *event = vector;
        }
    }

    /// What the capability says of all of them.
    pub(super) fn control(&self, enabled: bool, masked: bool) {
        let mut state = self.state();
        (state.enabled, state.masked) = (enabled, masked);
        self.send_pending(&mut state);
    }

    /// Reads from the table, in whole words.
    pub(super) fn read_table(&self, offset: u64, data: &mut [u8]) {
        let state = self.state();
        for (offset, word) in (offset..).step_by(4).zip(data.chunks_mut(4)) {
            let message =
                usize::try_from(offset / ENTRY).ok().and_then(|at| state.messages.get(at));
            let value = message.map_or(0, |message| match offset % ENTRY {
                0 => message.address as u32,
                4 => (message.address >> 32) as u32,
                8 => message.value,
                12 => message.masked.into(),
                _ => 0,
            });
            if word.len() == 4 {
                word.copy_from_slice(&value.to_le_bytes());
            }
        }
    }

    /// Writes to the table, in whole words.
    pub(super) fn write_table(&self, offset: u64, data: &[u8]) {
        let mut state = self.state();
        let (words, _) = data.as_chunks::<4>();
        for (offset, word) in (offset..).step_by(4).zip(words) {
            let value = u32::from_le_bytes(*word);
            let at = usize::try_from(offset / ENTRY).unwrap_or(usize::MAX);
            let Some(message) = state.messages.get_mut(at) else { continue };
            match offset % ENTRY {
                0 => set_low(&mut message.address, value),
                4 => set_high(&mut message.address, value),
                8 => message.value = value,
                12 => message.masked = value & 1 != 0,
                _ => {}
            }
        }
        self.send_pending(&mut state);
    }

    /// The bits of those that wait.
    pub(super) fn pending(&self) -> u64 {
        let state = self.state();
        let bits = state
            .messages
            .iter()
            .zip(0..64)
            .map(|(message, bit)| u64::from(message.pending) << bit);
        bits.sum()
    }

    /// Sends what waits and is not held back any more.
    fn send_pending(&self, state: &mut State) {
        let open = state.enabled && !state.masked;
        for message in &mut state.messages {
            if open && !message.masked && std::mem::take(&mut message.pending) {
                self.send(message);
            }
        }
    }

    fn send(&self, message: &Message) {
        if let Some(send) = self.send.get() {
            send(message.address, message.value);
        }
    }

    fn raise(&self, queue: Option<usize>) {
        let mut state = self.state();
        let vector = state.events.get(place(queue)).copied().unwrap_or(NONE);
        if let Some(message) = state.messages.get_mut(usize::from(vector)) {
            message.pending = true;
            self.send_pending(&mut state);
        }
    }
}

/// The place of the configuration, or of a queue, among a device's events.
fn place(queue: Option<usize>) -> usize {
    queue.map_or(0, |queue| queue.saturating_add(1))
}

impl Interrupt for MessageInterrupt {
    fn configuration_changed(&self) {
        self.generation.fetch_add(1, Ordering::SeqCst);
        self.raise(None);
    }

    fn queue_used(&self, queue: u16) {
        self.raise(Some(queue.into()));
    }
}

impl fmt::Debug for MessageInterrupt {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("MessageInterrupt")
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}
