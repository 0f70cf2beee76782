//! The device with a driver's queues on one side and a link that plays back on the other.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use vmm_sys_util::epoll::{Epoll, EventSet};

use super::device::Connect;
use super::{Deliver, Link, NetDevice, Offloads};
use crate::devices::VirtioDevice;
use crate::devices::testing::Driver;

/// Gives every frame back, and keeps count of those it was given.
#[derive(Debug)]
struct Mirror {
    epoll: Epoll,
    frames: VecDeque<Vec<u8>>,
    taken: Seen<usize>,
}

impl Link for Mirror {
    fn epoll(&self) -> &Epoll {
        &self.epoll
    }

    fn event(&mut self, _id: u64, _events: EventSet) {}

    fn deadline(&self) -> Option<Instant> {
        None
    }

    fn expire(&mut self, _now: Instant) {}

    fn takes(&self) -> bool {
        self.frames.len() < 4
    }

    fn take(&mut self, frame: &[u8]) {
        self.taken.lock().unwrap().push(frame.len());
        self.frames.push_back(frame.to_vec());
    }

    fn has_frames(&self) -> bool {
        !self.frames.is_empty()
    }

    fn give(&mut self, deliver: &mut dyn Deliver) {
        if let Some(frame) = self.frames.front() {
            let (head, rest) = frame.split_at(frame.len().min(20));
            if deliver.pieces(&[IoSlice::new(head), IoSlice::new(rest)]) {
                self.frames.pop_front();
            }
        }
    }
}

/// What a link has seen, in order.
type Seen<T> = Arc<Mutex<Vec<T>>>;

/// The device, the lengths of the frames it took, and what its links were made with.
fn device() -> (NetDevice, Seen<usize>, Seen<Offloads>) {
    let (taken, connected) =
        (Arc::<Mutex<Vec<usize>>>::default(), Arc::<Mutex<Vec<Offloads>>>::default());
    let connect: Connect = Box::new({
        let (taken, connected) = (Arc::clone(&taken), Arc::clone(&connected));
        move |offloads| -> io::Result<Box<dyn Link>> {
            connected.lock().unwrap().push(offloads);
            let (epoll, taken) = (Epoll::new()?, Arc::clone(&taken));
            Ok(Box::new(Mirror { epoll, frames: VecDeque::new(), taken }))
        }
    });
    (NetDevice::new([2, 0, 0, 0, 0, 1], 1500, connect), taken, connected)
}

fn frame(length: usize) -> Vec<u8> {
    (0..length).map(|number| (number % 253) as u8).collect()
}

#[test]
fn the_configuration_tells_address_link_and_largest_packet() {
    let (device, ..) = device();
    let mut bytes = [0xff; 14];
    device.read_configuration(0, &mut bytes);
    assert_eq!(bytes, [2, 0, 0, 0, 0, 1, 1, 0, 0, 0, 0xdc, 5, 0, 0]);
    device.read_configuration(u64::MAX, &mut bytes);
    assert_eq!(bytes, [0; 14]);
}

#[test]
fn frames_come_and_go_whole_in_as_many_buffers_as_they_need() {
    let (mut device, taken, connected) = device();
    let mut driver = Driver::new(&mut device);
    let all = Offloads { checksum: true, segments4: true, segments6: true };
    assert_eq!(*connected.lock().unwrap(), [all]);
    for length in [60, 1514 + 12, 60_000] {
        let buffers: Vec<_> = (0..40).map(|_| driver.writable(1600)).collect();
        for buffer in &buffers {
            driver.queues[0].add(&[*buffer]);
        }
        driver.queues[0].notify();
        let sent = frame(length);
        let (front, back) = sent.split_at(30);
        let parts = [driver.readable(front), driver.readable(back)];
        let head = driver.queues[1].add(&parts);
        driver.queues[1].notify();
        assert_eq!(driver.queues[1].wait_used(), (head, 0));
        let count = length.div_ceil(1600);
        let mut back = Vec::new();
        for buffer in buffers.iter().take(count) {
            let (_, written) = driver.queues[0].wait_used();
            back.extend(driver.read(buffer.address, written as usize));
        }
        // In place of what the link wrote: the number of buffers.
        assert_eq!(back[10..12], (count as u16).to_le_bytes());
        assert!(back[..10] == sent[..10] && back[12..] == sent[12..], "{length}");
        // The rest of the buffers, by a frame for each.
        for _ in count..buffers.len() {
            let part = driver.readable(&frame(20));
            driver.queues[1].add(&[part]);
            driver.queues[1].notify();
            driver.queues[1].wait_used();
            assert_eq!(driver.queues[0].wait_used().1, 20);
        }
        driver.release_all();
    }
    assert_eq!(taken.lock().unwrap().iter().filter(|length| **length == 60_000).count(), 1);
    device.reset();
}

#[test]
fn a_guest_without_buffers_holds_its_own_frames_back_and_loses_none() {
    let (mut device, taken, _) = device();
    let mut driver = Driver::new(&mut device);
    for number in 0..20 {
        let part = driver.readable(&frame(100 + number));
        driver.queues[1].add(&[part]);
    }
    driver.queues[1].notify();
    for _ in 0..4 {
        driver.queues[1].wait_used();
    }
    std::thread::sleep(std::time::Duration::from_millis(100));
    assert_eq!(taken.lock().unwrap().len(), 4);
    for number in 0..20 {
        let buffer = driver.writable(1600);
        driver.queues[0].add(&[buffer]);
        driver.queues[0].notify();
        assert_eq!(driver.queues[0].wait_used().1, 100 + number);
    }
    device.reset();
}

#[test]
fn frames_that_cannot_be_are_dropped() {
    let (mut device, taken, _) = device();
    let mut driver = Driver::new(&mut device);
    let long = driver.readable(&vec![1; 70_000]);
    let outside = crate::devices::testing::Buffer { address: 1 << 40, length: 9, writable: false };
    for part in [long, outside] {
        let head = driver.queues[1].add(&[part]);
        driver.queues[1].notify();
        assert_eq!(driver.queues[1].wait_used(), (head, 0));
    }
    assert!(taken.lock().unwrap().is_empty());
    device.reset();
}
