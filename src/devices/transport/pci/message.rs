//! Interrupts by message (MSI-X, PCI Local Bus Specification 3.0, 6.8.2): what is written where,
//! and which of a device's events are which.

use std::fmt;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use crate::devices::Interrupt;

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
    configuration: u16,
    queues: Vec<u16>,
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
            configuration: NONE,
            queues: vec![NONE; queues],
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
        let mut state = self.state();
        state.configuration = NONE;
        state.queues.fill(NONE);
    }

    /// The message of the configuration, or of a queue.
    pub(super) fn vector(&self, queue: Option<usize>) -> u16 {
        let state = self.state();
        match queue {
            None => state.configuration,
            Some(queue) => state.queues.get(queue).copied().unwrap_or(NONE),
        }
    }

    /// Gives it one; one that there is not is none.
    pub(super) fn set_vector(&self, queue: Option<usize>, vector: u16) {
        let mut state = self.state();
        let vector = if usize::from(vector) < state.messages.len() { vector } else { NONE };
        match queue {
            None => state.configuration = vector,
            Some(queue) => {
                if let Some(place) = state.queues.get_mut(queue) {
                    *place = vector;
                }
            }
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
                0 => super::super::control::set_low(&mut message.address, value),
                4 => super::super::control::set_high(&mut message.address, value),
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

    fn raise(&self, vector: impl FnOnce(&State) -> u16) {
        let mut state = self.state();
        let vector = vector(&state);
        let open = state.enabled && !state.masked;
        if let Some(message) = state.messages.get_mut(usize::from(vector)) {
            if open && !message.masked {
                self.send(message);
            } else {
                message.pending = true;
            }
        }
    }
}

impl Interrupt for MessageInterrupt {
    fn configuration_changed(&self) {
        self.generation.fetch_add(1, Ordering::SeqCst);
        self.raise(|state| state.configuration);
    }

    fn queue_used(&self, queue: u16) {
        self.raise(|state| state.queues.get(usize::from(queue)).copied().unwrap_or(NONE));
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
