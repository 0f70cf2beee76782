//! One virtqueue as a device's worker uses it.
//!
//! Wraps `virtio_queue::Queue` so that a driver that breaks the rules costs only its own
//! device: a chain that is not wholly guest memory is given back at once and empty, a
//! ring that cannot be read is never touched again (reading on would spin for ever).

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;
use virtio_queue::{DescriptorChain, Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes as _, GuestAddress, GuestMemoryMmap};

use super::buffers::{Buffers, NotGuestMemory, Segment};
use super::{GuestMemory, Interrupt};

/// The most descriptors of one chain. Drivers stay below the queue's size (virtio 1.2,
/// 2.7.5.3.1); this bounds what an indirect table can make the device allocate.
const MAXIMUM_SEGMENTS: usize = 1024;

/// The layout of the rings (virtio 1.2, 2.7.6 and 2.7.8): where their entries begin, and the
/// size of one.
const AVAILABLE_ENTRIES: u64 = 4;
const AVAILABLE_ENTRY: u64 = 2;
const USED_ENTRIES: u64 = 4;
const USED_ENTRY: u64 = 8;

/// Buffers that the driver made available, to be given back with [`Ring::add_used`].
#[derive(Clone, Debug)]
pub struct Chain {
    /// Its number, for giving it back.
    pub head: u16,
    /// What the device reads.
    pub readable: Vec<Segment>,
    /// What the device writes.
    pub writable: Vec<Segment>,
}

impl Chain {
    /// The memory the device reads.
    ///
    /// # Errors
    /// None for a chain that [`Ring::pop`] returned for the same memory.
    pub fn reader<'m>(&self, memory: &'m GuestMemory) -> Result<Buffers<'m>, NotGuestMemory> {
        Buffers::new(memory, &self.readable)
    }

    /// The memory the device writes.
    ///
    /// # Errors
    /// None for a chain that [`Ring::pop`] returned for the same memory.
    pub fn writer<'m>(&self, memory: &'m GuestMemory) -> Result<Buffers<'m>, NotGuestMemory> {
        Buffers::new(memory, &self.writable)
    }
}

/// A virtqueue being served.
pub struct Ring {
    queue: Queue,
    memory: GuestMemory,
    interrupt: Arc<dyn Interrupt>,
    index: u16,
    broken: bool,
    /// Where the used ring was when the driver was last told.
    signalled: u16,
    /// Whether chains were given back together since then.
    together: bool,
}

impl Ring {
    /// Takes over queue `index`. One that the driver did not make ready, or placed
    /// outside its memory, stays empty.
    #[must_use]
    pub fn new(
        index: u16,
        mut queue: Queue,
        memory: GuestMemory,
        interrupt: Arc<dyn Interrupt>,
        features: u64,
    ) -> Self {
        queue.set_event_idx(features & (1 << VIRTIO_RING_F_EVENT_IDX) != 0);
        let broken = !queue.is_valid(memory.as_ref());
        let signalled = queue.next_used();
        Self { queue, memory, interrupt, index, broken, signalled, together: false }
    }

    /// The guest's memory.
    #[must_use]
    pub fn memory(&self) -> &GuestMemory {
        &self.memory
    }

    /// Whether the driver broke the ring, or never made it ready.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.broken
    }

    /// The most chains that the driver can have made available.
    #[must_use]
    pub fn size(&self) -> u16 {
        self.queue.size()
    }

    /// The next chain.
    pub fn pop(&mut self) -> Option<Chain> {
        let mut first = None;
        self.pop_until(|chain| {
            first = Some(chain);
            true
        });
        first
    }

    /// Takes chains until that is `enough`, or there is none left.
    pub fn pop_until(&mut self, mut enough: impl FnMut(Chain) -> bool) {
        if self.broken {
            return;
        }
        let memory = Arc::clone(&self.memory);
        let mut refused = Vec::new();
        match self.queue.iter(memory.as_ref()) {
            Ok(available) => {
                // As many as there can be: the driver may go on for ever.
                for descriptors in available {
                    match chain_of(descriptors, &memory) {
                        Ok(chain) => {
                            if enough(chain) {
                                break;
                            }
                        }
                        Err(head) => refused.push(head),
                    }
                }
            }
            Err(_) => self.broken = true,
        }
        for head in refused {
            self.add_used(head, 0);
        }
    }

    /// Gives a chain back, `length` bytes of it written.
    pub fn add_used(&mut self, head: u16, length: u32) {
        if !self.broken && self.queue.add_used(self.memory.as_ref(), head, length).is_err() {
            self.broken = true;
        }
    }

    /// Gives chains back so that the driver sees all of them or none: what they hold
    /// belongs together.
    pub fn add_used_together(&mut self, chains: &[(u16, u32)]) {
        let Some(((head, length), others)) = chains.split_last() else { return };
        let first = self.queue.next_used();
        let position = first % self.queue.size();
        // Up to the end of the ring, and from its beginning on.
        let (front, back) =
            others.split_at(others.len().min((self.queue.size() - position).into()));
        for (position, chains) in [(position, front), (0, back)] {
            let entries: Vec<u8> = chains
                .iter()
                .flat_map(|(head, length)| {
                    (u64::from(*head) | u64::from(*length) << 32).to_le_bytes()
                })
                .collect();
            let offset = USED_ENTRIES + USED_ENTRY * u64::from(position);
            let written = self.queue.used_ring().checked_add(offset).is_some_and(|address| {
                self.memory.write_slice(&entries, GuestAddress(address)).is_ok()
            });
            self.broken |= !written;
        }
        // A queue has less than 65,536 chains.
        self.queue.set_next_used(first.wrapping_add(others.len() as u16));
        self.together |= !others.is_empty();
        // This makes all of them known.
        self.add_used(*head, *length);
    }

    /// Whether the driver was told of all that it was given back.
    #[must_use]
    pub fn is_told(&self) -> bool {
        self.broken || self.signalled == self.queue.next_used()
    }

    /// Tells the driver of used chains, where it wants to know.
    pub fn signal(&mut self) {
        if self.broken {
            return;
        }
        let old = std::mem::replace(&mut self.signalled, self.queue.next_used());
        let mut wanted = self.queue.needs_notification(self.memory.as_ref()).unwrap_or(false);
        if std::mem::take(&mut self.together) && self.queue.event_idx_enabled() {
            // The queue knows only of those it was given one by one.
            let place = AVAILABLE_ENTRIES + AVAILABLE_ENTRY * u64::from(self.queue.size());
            let event = self.queue.avail_ring().checked_add(place).and_then(|address| {
                self.memory.load::<u16>(GuestAddress(address), Ordering::Relaxed).ok()
            });
            let new = self.signalled;
            wanted |= event.is_some_and(|event| {
                new.wrapping_sub(u16::from_le(event)).wrapping_sub(1) < new.wrapping_sub(old)
            });
        }
        if wanted {
            self.interrupt.queue_used(self.index);
        }
    }

    /// Asks the driver not to notify.
    pub fn disable_notification(&mut self) {
        if !self.broken && self.queue.disable_notification(self.memory.as_ref()).is_err() {
            self.broken = true;
        }
    }

    /// Asks the driver to notify of its next chain; true where there is one already.
    pub fn enable_notification(&mut self) -> bool {
        if self.broken {
            return false;
        }
        match self.queue.enable_notification(self.memory.as_ref()) {
            Ok(false) => false,
            Ok(true) if self.queue.iter(self.memory.as_ref()).is_ok() => true,
            Ok(true) | Err(_) => {
                self.broken = true;
                false
            }
        }
    }
}

/// The parts of a chain, or its number where it is not wholly guest memory or too long.
fn chain_of(
    descriptors: DescriptorChain<&GuestMemoryMmap>,
    memory: &GuestMemoryMmap,
) -> Result<Chain, u16> {
    let head = descriptors.head_index();
    let mut chain = Chain { head, readable: Vec::new(), writable: Vec::new() };
    for descriptor in descriptors.take(MAXIMUM_SEGMENTS + 1) {
        let segment = Segment { address: descriptor.addr(), length: descriptor.len() };
        if !segment.is_in(memory) {
            return Err(head);
        }
        if descriptor.is_write_only() {
            chain.writable.push(segment);
        } else {
            chain.readable.push(segment);
        }
    }
    let segments = chain.readable.len() + chain.writable.len();
    if (1..=MAXIMUM_SEGMENTS).contains(&segments) { Ok(chain) } else { Err(head) }
}

impl fmt::Debug for Ring {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Ring")
            .field("index", &self.index)
            .field("queue", &self.queue)
            .field("broken", &self.broken)
            .finish_non_exhaustive()
    }
}
