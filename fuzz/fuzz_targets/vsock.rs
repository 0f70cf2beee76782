//! Any packets from the guest, while the host listens and connects: all are taken.

#![no_main]

use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use libfuzzer_sys::fuzz_target;
use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};
use wslr::devices::vsock::{Vsock, VsockDevice};
use wslr::devices::{Activation, ActiveQueue, Interrupt, VirtioDevice};

#[derive(Debug)]
struct Silent;

impl Interrupt for Silent {
    fn configuration_changed(&self) {}
    fn queue_used(&self, _queue: u16) {}
}

/// Header and up to this many bytes of data.
const PACKET: usize = 44 + 84;
const PACKETS: usize = 64;

/// The parts of queue number `queue`: descriptors, available ring, used ring.
fn rings(queue: u64) -> (u64, u64, u64) {
    let base = 0x1_0000 * (queue + 1);
    (base, base + 0x2000, base + 0x4000)
}

fuzz_target!(|data: &[u8]| {
    let ranges = [(GuestAddress(0), 1 << 20)];
    let Ok(memory) = GuestMemoryMmap::<()>::from_ranges(&ranges) else { return };
    let memory = Arc::new(memory);
    let Ok(vsock) = Vsock::new() else { return };
    let accepted = Arc::new(Mutex::new(Vec::new()));
    let keep = Arc::clone(&accepted);
    let _ = vsock.listen(2, move |stream| keep.lock().expect("poisoned").push(stream));
    let mut device = VsockDevice::new(vsock.clone());
    let mut queues = Vec::new();
    let mut events = Vec::new();
    for (number, size) in device.queue_sizes().to_vec().into_iter().enumerate() {
        let (Ok(mut queue), Ok(notified)) = (Queue::new(size), EventFd::new(EFD_NONBLOCK)) else {
            return;
        };
        let (descriptors, available, used) = rings(number as u64);
        let _ = queue.try_set_desc_table_address(GuestAddress(descriptors));
        let _ = queue.try_set_avail_ring_address(GuestAddress(available));
        let _ = queue.try_set_used_ring_address(GuestAddress(used));
        queue.set_ready(true);
        events.extend(notified.try_clone());
        queues.push(ActiveQueue { queue, notified });
    }
    // Buffer `index` of a queue is its descriptor `index` and nothing else.
    let offer = |queue: u64, index: u16, address: u64, length: u32, flags: u16| {
        let (descriptors, available, _) = rings(queue);
        let at = descriptors + 16 * u64::from(index);
        let _ = memory.write_obj(address, GuestAddress(at));
        let _ = memory.write_obj(length, GuestAddress(at + 8));
        let _ = memory.write_obj(flags, GuestAddress(at + 12));
        let _ = memory.write_obj(index, GuestAddress(available + 4 + 2 * u64::from(index)));
        let next = GuestAddress(available + 2);
        let _ = memory.store(index.wrapping_add(1), next, Ordering::Release);
    };
    for index in 0..128 {
        offer(0, index, 0x8_0000 + 512 * u64::from(index), 512, 2);
    }
    let features = device.features();
    let interrupt = Arc::new(Silent);
    let activation = Activation { memory: Arc::clone(&memory), queues, interrupt, features };
    if device.activate(activation).is_err() {
        return;
    }
    let mut bridged = Vec::new();
    for _ in 0..data.first().copied().unwrap_or(0) % 4 {
        if let Ok((ours, theirs)) = UnixStream::pair() {
            let _ = vsock.connect(1, theirs.into(), b"prefix".to_vec(), drop);
            bridged.push(ours);
        }
    }
    let mut count = 0;
    for (index, packet) in data.chunks(PACKET).take(PACKETS).enumerate() {
        let address = 0x4_0000 + 256 * index as u64;
        let _ = memory.write_slice(packet, GuestAddress(address));
        // The addresses are hardly ever found by chance.
        let _ = memory.write_obj(3_u64, GuestAddress(address));
        let _ = memory.write_obj(2_u64, GuestAddress(address + 8));
        offer(1, index as u16, address, packet.len().max(16) as u32, 0);
        count += 1;
    }
    for event in &events {
        let _ = event.write(1);
    }
    let (_, _, used) = rings(1);
    let end = Instant::now() + Duration::from_secs(10);
    while memory.load::<u16>(GuestAddress(used + 2), Ordering::Acquire).ok() != Some(count) {
        assert!(Instant::now() < end, "the device does not take packets");
        std::thread::yield_now();
    }
    device.reset();
});
