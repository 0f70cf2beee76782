//! Plays the guest's driver on real virtqueues, for the devices' tests.

use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::eventfd::EventFd;

use super::{Activation, ActiveQueue, GuestMemory, Interrupt, VirtioDevice};

/// How long a test waits for a device before it fails.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Counts interrupts and lets a test wait for them.
#[derive(Debug, Default)]
pub struct Interrupts {
    count: Mutex<u64>,
    raised: Condvar,
}

impl Interrupt for Interrupts {
    fn configuration_changed(&self) {
        self.queue_used(u16::MAX);
    }

    fn queue_used(&self, _queue: u16) {
        *self.count.lock().unwrap() += 1;
        self.raised.notify_all();
    }
}

impl Interrupts {
    /// Waits until `ready` holds, looking again at every interrupt.
    pub fn wait<T>(&self, mut ready: impl FnMut() -> Option<T>) -> T {
        let end = Instant::now() + PATIENCE;
        let mut count = self.count.lock().unwrap();
        loop {
            if let Some(value) = ready() {
                return value;
            }
            assert!(Instant::now() < end, "the device did not answer");
            count = self.raised.wait_timeout(count, Duration::from_millis(200)).unwrap().0;
        }
    }
}

/// The driver's side of one queue.
#[derive(Debug)]
pub struct DriverQueue {
    memory: GuestMemory,
    interrupts: Arc<Interrupts>,
    notify: EventFd,
    size: u16,
    base: u64,
    free: Vec<u16>,
    chains: Vec<Vec<u16>>,
    available: u16,
    seen: u16,
}

/// A buffer of a chain.
#[derive(Clone, Copy, Debug)]
pub struct Buffer {
    /// Where.
    pub address: u64,
    /// How long.
    pub length: u32,
    /// Whether the device writes it.
    pub writable: bool,
}

impl DriverQueue {
    fn available_ring(&self) -> u64 {
        self.base + 16 * u64::from(self.size)
    }

    fn used_ring(&self) -> u64 {
        (self.available_ring() + 6 + 2 * u64::from(self.size)).next_multiple_of(4)
    }

    /// Makes a chain available without notifying.
    pub fn add(&mut self, buffers: &[Buffer]) -> u16 {
        let indexes: Vec<u16> = buffers.iter().map(|_| self.free.pop().unwrap()).collect();
        for (position, buffer) in buffers.iter().enumerate() {
            let next = indexes.get(position + 1).copied();
            let flags = u16::from(next.is_some()) | if buffer.writable { 2 } else { 0 };
            let at = GuestAddress(self.base + 16 * u64::from(indexes[position]));
            self.memory.write_obj(buffer.address, at).unwrap();
            self.memory.write_obj(buffer.length, GuestAddress(at.0 + 8)).unwrap();
            self.memory.write_obj(flags, GuestAddress(at.0 + 12)).unwrap();
            self.memory.write_obj(next.unwrap_or(0), GuestAddress(at.0 + 14)).unwrap();
        }
        let head = indexes[0];
        self.chains[usize::from(head)] = indexes;
        let slot = self.available_ring() + 4 + 2 * u64::from(self.available % self.size);
        self.memory.write_obj(head, GuestAddress(slot)).unwrap();
        self.available = self.available.wrapping_add(1);
        self.memory
            .store(
                self.available,
                GuestAddress(self.available_ring() + 2),
                std::sync::atomic::Ordering::Release,
            )
            .unwrap();
        head
    }

    /// Notifies the device.
    pub fn notify(&self) {
        self.notify.write(1).unwrap();
    }

    /// The next used chain's head and written length, if there is one.
    pub fn used(&mut self) -> Option<(u16, u32)> {
        let index: u16 = self
            .memory
            .load(GuestAddress(self.used_ring() + 2), std::sync::atomic::Ordering::Acquire)
            .unwrap();
        if index == self.seen {
            return None;
        }
        let at = self.used_ring() + 4 + 8 * u64::from(self.seen % self.size);
        let head: u32 = self.memory.read_obj(GuestAddress(at)).unwrap();
        let length: u32 = self.memory.read_obj(GuestAddress(at + 4)).unwrap();
        self.seen = self.seen.wrapping_add(1);
        // Tell the device that this side wants an interrupt for the next one.
        let used_event = self.available_ring() + 4 + 2 * u64::from(self.size);
        self.memory.write_obj(self.seen, GuestAddress(used_event)).unwrap();
        let head = head as u16;
        self.free.append(&mut self.chains[usize::from(head)]);
        Some((head, length))
    }

    /// Waits for the next used chain.
    pub fn wait_used(&mut self) -> (u16, u32) {
        let interrupts = Arc::clone(&self.interrupts);
        interrupts.wait(|| self.used())
    }

    /// Descriptors that are not in use.
    pub fn free(&self) -> usize {
        self.free.len()
    }

    /// Where the available ring's index lies, for tests that break it.
    pub fn available_index_address(&self) -> GuestAddress {
        GuestAddress(self.available_ring() + 2)
    }
}

/// A driver with all queues of a device, and guest memory to work in.
#[derive(Debug)]
pub struct Driver {
    /// Guest memory; the first megabyte holds the rings.
    pub memory: GuestMemory,
    /// What the device raised.
    pub interrupts: Arc<Interrupts>,
    /// The queues, in order.
    pub queues: Vec<DriverQueue>,
    next: u64,
}

/// The size of the test guest's memory in bytes.
pub const MEMORY: usize = 64 << 20;

impl Driver {
    /// Sets all queues up and activates the device with all the features it offers.
    pub fn new(device: &mut dyn VirtioDevice) -> Self {
        let memory = Arc::new(GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY)]).unwrap());
        let interrupts = Arc::new(Interrupts::default());
        let mut queues = Vec::new();
        let mut active = Vec::new();
        for (index, size) in device.queue_sizes().to_vec().into_iter().enumerate() {
            let notify = EventFd::new(libc::EFD_NONBLOCK).unwrap();
            let queue = DriverQueue {
                memory: Arc::clone(&memory),
                interrupts: Arc::clone(&interrupts),
                notify: notify.try_clone().unwrap(),
                size,
                base: 0x10000 * (index as u64 + 1),
                free: (0..size).rev().collect(),
                chains: vec![Vec::new(); usize::from(size)],
                available: 0,
                seen: 0,
            };
            let mut real = Queue::new(size).unwrap();
            real.try_set_desc_table_address(GuestAddress(queue.base)).unwrap();
            real.try_set_avail_ring_address(GuestAddress(queue.available_ring())).unwrap();
            real.try_set_used_ring_address(GuestAddress(queue.used_ring())).unwrap();
            real.set_ready(true);
            queues.push(queue);
            active.push(ActiveQueue { queue: real, notified: notify });
        }
        device
            .activate(Activation {
                memory: Arc::clone(&memory),
                queues: active,
                interrupt: Arc::clone(&interrupts) as Arc<dyn Interrupt>,
                features: device.features(),
            })
            .unwrap();
        Self { memory, interrupts, queues, next: 0x10_0000 }
    }

    /// Unused guest memory of that length.
    pub fn allocate(&mut self, length: usize) -> u64 {
        let address = self.next;
        self.next += (length as u64).next_multiple_of(64);
        assert!(self.next <= MEMORY as u64, "test guest out of memory");
        address
    }

    /// Guest memory holding `bytes`, as a buffer the device reads.
    pub fn readable(&mut self, bytes: &[u8]) -> Buffer {
        let address = self.allocate(bytes.len());
        self.write(address, bytes);
        Buffer { address, length: bytes.len() as u32, writable: false }
    }

    /// Guest memory as a buffer the device writes.
    pub fn writable(&mut self, length: usize) -> Buffer {
        Buffer { address: self.allocate(length), length: length as u32, writable: true }
    }

    /// Reads guest memory.
    pub fn read(&self, address: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.memory.read_slice(&mut bytes, GuestAddress(address)).unwrap();
        bytes
    }

    /// Writes guest memory.
    pub fn write(&self, address: u64, bytes: &[u8]) {
        self.memory.write_slice(bytes, GuestAddress(address)).unwrap();
    }

    /// Forgets all memory handed out by [`Driver::allocate`].
    pub fn release_all(&mut self) {
        self.next = 0x10_0000;
    }
}
