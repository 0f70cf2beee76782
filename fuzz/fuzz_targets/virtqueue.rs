//! Any bytes as a virtqueue: chains lie in guest memory and come to an end.

#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use wslr::devices::Interrupt;
use wslr::devices::ring::Ring;

#[derive(Debug)]
struct Silent;

impl Interrupt for Silent {
    fn configuration_changed(&self) {}
    fn queue_used(&self, _queue: u16) {}
}

const SIZE: u16 = 16;

fuzz_target!(|data: &[u8]| {
    let Ok(memory) = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), 0x4000)]) else {
        return;
    };
    let memory = Arc::new(memory);
    let length = data.len().min(0x4000);
    let _ = memory.write_slice(&data[..length], GuestAddress(0));
    let Ok(mut queue) = Queue::new(SIZE) else { return };
    // The rings lie close together at the start, where every input reaches them.
    let _ = queue.try_set_desc_table_address(GuestAddress(0x40));
    let _ = queue.try_set_avail_ring_address(GuestAddress(0x10));
    let _ = queue.try_set_used_ring_address(GuestAddress(0x1000));
    queue.set_ready(true);
    let features = u64::from(data.first().copied().unwrap_or(0)) << 29;
    let mut ring = Ring::new(0, queue, Arc::clone(&memory), Arc::new(Silent), features);
    for _ in 0..4 * SIZE {
        let Some(chain) = ring.pop() else {
            if ring.enable_notification() {
                continue;
            }
            break;
        };
        let mut input = chain.reader(&memory).expect("a chain outside of memory");
        let mut bytes = vec![0; input.length().min(0x1_0000)];
        let copied = input.copy_to(&mut bytes);
        assert_eq!(copied, bytes.len());
        let mut output = chain.writer(&memory).expect("a chain outside of memory");
        output.take(3).copy_from(&bytes);
        output.discard();
        assert!(output.is_empty());
        ring.add_used(chain.head, 3);
        ring.signal();
    }
});
