//! The adapter as a driver meets it: real queues, real files.

use std::fs::File;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use vm_memory::{Bytes as _, GuestAddress, GuestMemoryMmap};
use zerocopy::{FromBytes as _, IntoBytes as _};

use super::command::{Blocks, Command};
use super::unit::Unit;
use super::wire::{Address, Event, RequestHead, ResponseHead};
use super::*;
use crate::devices::VirtioDevice as _;
use crate::devices::buffers::{Buffers, Segment};
use crate::devices::testing::{Buffer, Driver};

const REQUESTS: usize = 2;

fn disk(length: u64) -> (File, File) {
    let file = tempfile::tempfile().unwrap();
    file.set_len(length).unwrap();
    (file.try_clone().unwrap(), file)
}

struct Guest {
    driver: Driver,
    device: ScsiDevice,
    bus: ScsiBus,
    id: u64,
}

#[derive(Debug)]
struct Reply {
    response: u8,
    status: u8,
    sense: Vec<u8>,
    residual: u32,
    data: Vec<u8>,
    written: u32,
}

impl Reply {
    fn sense_code(&self) -> (u8, u8, u8) {
        assert_eq!(self.status, 2, "{self:?}");
        (self.sense[2], self.sense[12], self.sense[13])
    }
}

struct Pending {
    head: u16,
    response: u64,
    data: u64,
    length: usize,
}

impl Guest {
    fn new() -> Self {
        let bus = ScsiBus::new();
        let mut device = ScsiDevice::new(bus.clone(), 2);
        let driver = Driver::new(&mut device);
        Self { driver, device, bus, id: 0 }
    }

    fn submit(
        &mut self,
        queue: usize,
        lun: [u8; 8],
        cdb: &[u8],
        out: &[u8],
        room: usize,
    ) -> Pending {
        self.id += 1;
        let head = RequestHead { lun, id: self.id.into(), attribute: 0, priority: 0, reference: 0 };
        let mut request = head.as_bytes().to_vec();
        request.extend(cdb);
        request.resize(19 + 32, 0);
        let mut buffers = vec![self.driver.readable(&request)];
        // Data in two pieces, as a driver's pages come.
        for piece in out.chunks(out.len().div_ceil(2).max(1)) {
            buffers.push(self.driver.readable(piece));
        }
        let response = self.driver.writable(12 + 96);
        buffers.push(response);
        let data = self.driver.allocate(room);
        let first = room / 3;
        for (offset, length) in [(0, first), (first, room - first)] {
            if length > 0 {
                let address = data + offset as u64;
                buffers.push(Buffer { address, length: length as u32, writable: true });
            }
        }
        let head = self.driver.queues[queue].add(&buffers);
        self.driver.queues[queue].notify();
        Pending { head, response: response.address, data, length: room }
    }

    fn reply(&self, pending: &Pending, written: u32) -> Reply {
        let bytes = self.driver.read(pending.response, 12 + 96);
        let (head, sense) = ResponseHead::read_from_prefix(&bytes).unwrap();
        let length = head.sense_length.get() as usize;
        Reply {
            response: head.response,
            status: head.status,
            sense: sense[..length].to_vec(),
            residual: head.residual.get(),
            data: self.driver.read(pending.data, pending.length),
            written,
        }
    }

    fn raw(&mut self, lun: [u8; 8], cdb: &[u8], out: &[u8], room: usize) -> Reply {
        let pending = self.submit(REQUESTS, lun, cdb, out, room);
        let (head, written) = self.driver.queues[REQUESTS].wait_used();
        assert_eq!(head, pending.head);
        let reply = self.reply(&pending, written);
        self.driver.release_all();
        reply
    }

    fn command(&mut self, lun: u16, cdb: &[u8], out: &[u8], room: usize) -> Reply {
        self.raw(Address::encode(lun), cdb, out, room)
    }

    fn attach(&mut self, file: File, read_only: bool) -> u16 {
        let lun = self.bus.attach(file, DiskOptions { read_only, ..Default::default() }).unwrap();
        let reply = self.command(lun, &[0], &[], 0);
        assert_eq!(reply.sense_code(), (6, 0x29, 0), "a new unit says so once");
        assert_eq!(self.command(lun, &[0], &[], 0).status, 0);
        lun
    }

    fn offer_events(&mut self, count: usize) -> Vec<u64> {
        (0..count)
            .map(|_| {
                let buffer = Buffer {
                    address: 0x8_0000 + 64 * u64::from(self.driver.queues[1].free() as u16),
                    length: 16,
                    writable: true,
                };
                self.driver.queues[1].add(&[buffer]);
                self.driver.queues[1].notify();
                buffer.address
            })
            .collect()
    }

    fn wait_event(&mut self, address: u64) -> (u32, u16, u32) {
        self.driver.queues[1].wait_used();
        let event = Event::read_from_bytes(&self.driver.read(address, 16)).unwrap();
        (event.event.get(), u16::from_be_bytes([event.lun[2], event.lun[3]]), event.reason.get())
    }

    fn control(&mut self, request: &[u8], room: usize) -> Vec<u8> {
        let request = self.driver.readable(request);
        let response = self.driver.writable(room);
        self.driver.queues[0].add(&[request, response]);
        self.driver.queues[0].notify();
        self.driver.queues[0].wait_used();
        self.driver.read(response.address, room)
    }

    fn manage(&mut self, function: u32, lun: u16, id: u64) -> u8 {
        let mut request = 0_u32.to_le_bytes().to_vec();
        request.extend(function.to_le_bytes());
        request.extend(Address::encode(lun));
        request.extend(id.to_le_bytes());
        self.control(&request, 1)[0]
    }
}

fn read10(block: u32, count: u16) -> Vec<u8> {
    let mut cdb = vec![0x28, 0];
    cdb.extend(block.to_be_bytes());
    cdb.push(0);
    cdb.extend(count.to_be_bytes());
    cdb.push(0);
    cdb
}

fn write10(block: u32, count: u16, flags: u8) -> Vec<u8> {
    let mut cdb = read10(block, count);
    cdb[0] = 0x2a;
    cdb[1] = flags;
    cdb
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|index| (index * 7 + index / 512) as u8 | 1).collect()
}

#[test]
fn what_is_written_is_in_the_file_and_is_read_back() {
    let mut guest = Guest::new();
    let (mine, theirs) = disk(1 << 20);
    let lun = guest.attach(theirs, false);
    let data = pattern(5 * 512);
    for flags in [0, 8] {
        let reply = guest.command(lun, &write10(3, 5, flags), &data, 0);
        assert_eq!((reply.response, reply.status, reply.residual), (0, 0, 0));
    }
    let mut found = vec![0; data.len()];
    mine.read_exact_at(&mut found, 3 * 512).unwrap();
    assert_eq!(found, data);
    let reply = guest.command(lun, &read10(3, 5), &[], data.len());
    assert_eq!((reply.status, reply.residual), (0, 0));
    assert_eq!(reply.written as usize, 108 + data.len());
    assert_eq!(reply.data, data);
    let reply = guest.command(lun, &read10(3, 1), &[], 2048);
    assert_eq!((reply.status, reply.residual), (0, 1536));
    assert_eq!(guest.command(lun, &[0x35], &[], 0).status, 0);
}

#[test]
fn a_disk_tells_its_size_and_that_it_is_thin() {
    let mut guest = Guest::new();
    let lun = guest.attach(disk((1 << 20) + 100).1, false);
    let reply = guest.command(lun, &[0x25], &[], 8);
    assert_eq!(reply.data, [0, 0, 7, 0xff, 0, 0, 2, 0]);
    let mut cdb = [0; 16];
    cdb[..2].copy_from_slice(&[0x9e, 0x10]);
    cdb[13] = 32;
    let reply = guest.command(lun, &cdb, &[], 32);
    assert_eq!(reply.data[..16], [0, 0, 0, 0, 0, 0, 7, 0xff, 0, 0, 2, 0, 0, 3, 0xc0, 0]);
    let reply = guest.command(lun, &[0x12, 0, 0, 0, 36, 0], &[], 96);
    assert_eq!((reply.data[0], reply.residual), (0, 60));
    assert_eq!(reply.data[8..24], *b"wslr    Virtual ");
}

#[test]
fn refusals_carry_the_right_sense_data() {
    let mut guest = Guest::new();
    let lun = guest.attach(disk(1 << 20).1, false);
    let locked = guest.attach(disk(1 << 20).1, true);
    assert_eq!(guest.command(lun, &read10(2047, 2), &[], 1024).sense_code(), (5, 0x21, 0));
    assert_eq!(guest.command(lun, &[0xff], &[], 0).sense_code(), (5, 0x20, 0));
    let reply = guest.command(locked, &write10(0, 1, 0), &[1; 512], 0);
    assert_eq!(reply.sense_code(), (7, 0x27, 0));
    let reply = guest.command(locked, &[0x1a, 0, 8, 0, 64, 0], &[], 64);
    assert_eq!(reply.data[2] & 0x80, 0x80);
    assert_eq!(guest.command(200, &[0], &[], 0).sense_code(), (5, 0x25, 0));
    assert_eq!(guest.command(200, &[0x12, 0, 0, 0, 36, 0], &[], 36).data[0], 0x7f);
    let elsewhere = guest.raw([1, 5, 0, 0, 0, 0, 0, 0], &[0], &[], 0);
    assert_eq!(elsewhere.response, 3);
    let short = guest.command(lun, &read10(0, 2), &[], 512);
    assert_eq!(short.response, 1);
    let wrap = [0x88, 0, 255, 255, 255, 255, 255, 255, 255, 255, 0, 0, 0, 1, 0, 0];
    assert_eq!(guest.command(lun, &wrap, &[], 512).sense_code(), (5, 0x21, 0));
}

#[test]
fn discarding_shrinks_the_file() {
    let mut guest = Guest::new();
    let (mine, theirs) = disk(1 << 20);
    mine.write_all_at(&pattern(1 << 20), 0).unwrap();
    mine.sync_all().unwrap();
    let full = mine.metadata().unwrap().blocks();
    let lun = guest.attach(theirs, false);
    let mut list = vec![0, 38, 0, 32, 0, 0, 0, 0];
    for (start, count) in [(8_u64, 512_u32), (1024, 256)] {
        list.extend(start.to_be_bytes());
        list.extend(count.to_be_bytes());
        list.extend([0; 4]);
    }
    let unmap = [0x42, 0, 0, 0, 0, 0, 0, 0, 40, 0];
    assert_eq!(guest.command(lun, &unmap, &list, 0).status, 0);
    let after = mine.metadata().unwrap().blocks();
    assert!(after <= full - 700, "{full} {after}");
    let reply = guest.command(lun, &read10(8, 512), &[], 512 * 512);
    assert!(reply.data.iter().all(|byte| *byte == 0));
    // WRITE SAME (16) of the rest, without data and with a zero block.
    let mut cdb = [0_u8; 16];
    cdb[..2].copy_from_slice(&[0x93, 0x09]);
    cdb[12..14].copy_from_slice(&[8, 0]);
    assert_eq!(guest.command(lun, &cdb, &[], 0).status, 0);
    assert_eq!(mine.metadata().unwrap().blocks(), 0);
    let same = [0x41, 0, 0, 0, 0, 4, 0, 0, 3, 0];
    let block = pattern(512);
    assert_eq!(guest.command(lun, &same, &block, 0).status, 0);
    let mut found = vec![0; 5 * 512];
    mine.read_exact_at(&mut found, 3 * 512).unwrap();
    assert_eq!(found, [vec![0; 512], block.repeat(3), vec![0; 512]].concat());
    list[10] = 0xff;
    assert_eq!(guest.command(lun, &unmap, &list, 0).sense_code(), (5, 0x21, 0));
    assert_eq!(guest.command(lun, &unmap, &list[..20], 0).response, 1);
    list[3] = 200;
    assert_eq!(guest.command(lun, &unmap, &list, 0).sense_code(), (5, 0x1a, 0));
}

#[test]
fn units_are_listed_and_numbers_are_not_reused_at_once() {
    let mut guest = Guest::new();
    let luns: Vec<u16> = (0..3).map(|_| guest.attach(disk(4096).1, false)).collect();
    assert_eq!(luns, [0, 1, 2]);
    guest.bus.detach(2).unwrap();
    assert_eq!(guest.attach(disk(4096).1, false), 3);
    let mut cdb = [0; 12];
    cdb[0] = 0xa0;
    cdb[8] = 1;
    let reply = guest.command(0, &cdb, &[], 256);
    assert_eq!(reply.data[..4], [0, 0, 0, 24]);
    let listed: Vec<u8> = reply.data[8..32].chunks(8).map(|entry| entry[1]).collect();
    assert_eq!(listed, [0, 1, 3]);
    for _ in 3..255 {
        guest.bus.attach(disk(4096).1, DiskOptions::default()).unwrap();
    }
    let full = guest.bus.attach(disk(4096).1, DiskOptions::default());
    assert!(matches!(full, Err(ScsiError::Full)));
    let small = ScsiBus::new().attach(disk(511).1, DiskOptions::default());
    assert!(matches!(small, Err(ScsiError::TooSmall { length: 511 })));
}

#[test]
fn the_driver_hears_of_disks_that_come_go_and_grow() {
    let mut guest = Guest::new();
    // The first two events come before there is room for them.
    let (mine, theirs) = disk(4096);
    let lun = guest.attach(theirs, false);
    mine.set_len(1 << 20).unwrap();
    guest.bus.measure_again(lun).unwrap();
    let address = guest.offer_events(3);
    assert_eq!(guest.wait_event(address[0]), (1, lun, 1));
    assert_eq!(guest.wait_event(address[1]), (3, lun, 0x092a));
    assert_eq!(guest.command(lun, &[0], &[], 0).sense_code(), (6, 0x2a, 9));
    guest.bus.detach(lun).unwrap();
    assert_eq!(guest.wait_event(address[2]), (1, lun, 2));
    // What the driver says last to a disk that is gone.
    assert_eq!(guest.command(lun, &[0x35], &[], 0).status, 0);
    assert!(matches!(guest.bus.detach(lun), Err(ScsiError::NotAttached { .. })));
}

#[test]
fn lost_events_are_told() {
    let mut guest = Guest::new();
    let (mine, theirs) = disk(4096);
    let lun = guest.attach(theirs, false);
    for round in 0..1100_u64 {
        mine.set_len(8192 + 512 * round).unwrap();
        guest.bus.measure_again(lun).unwrap();
    }
    let address = guest.offer_events(1);
    assert_eq!(guest.wait_event(address[0]).0, 1 | 1 << 31);
}

/// A disk whose writes and flushes wait until they are let go.
#[derive(Debug, Default)]
struct Slow {
    open: Mutex<bool>,
    opened: Condvar,
    busy: Mutex<usize>,
    error: Option<i32>,
}

impl Slow {
    fn wait(&self) -> std::io::Result<()> {
        *self.busy.lock().unwrap() += 1;
        let mut open = self.open.lock().unwrap();
        while !*open {
            open = self.opened.wait(open).unwrap();
        }
        *self.busy.lock().unwrap() -= 1;
        self.error.map_or(Ok(()), |code| Err(std::io::Error::from_raw_os_error(code)))
    }

    fn release(&self) {
        *self.open.lock().unwrap() = true;
        self.opened.notify_all();
    }

    fn wait_busy(&self, count: usize) {
        let end = Instant::now() + Duration::from_secs(10);
        while *self.busy.lock().unwrap() < count {
            assert!(Instant::now() < end);
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Backend for Arc<Slow> {
    fn length(&self) -> std::io::Result<u64> {
        Ok(1 << 20)
    }

    fn read(&self, into: &mut Buffers<'_>, _: u64, _: bool) -> std::io::Result<()> {
        into.zero();
        Ok(())
    }

    fn write(&self, from: &mut Buffers<'_>, _: u64) -> std::io::Result<()> {
        *from = Buffers::default();
        self.wait()
    }

    fn write_bytes(&self, _: &[u8], _: u64) -> std::io::Result<()> {
        self.wait()
    }

    fn flush(&self) -> std::io::Result<()> {
        self.wait()
    }

    fn discard(&self, _: u64, _: u64) -> std::io::Result<()> {
        self.wait()
    }
}

fn attach_slow(guest: &mut Guest, error: Option<i32>) -> (Arc<Slow>, u16) {
    let slow = Arc::new(Slow { error, ..Slow::default() });
    let backend = Box::new(Arc::clone(&slow));
    let lun = guest.bus.attach_backend(backend, DiskOptions::default()).unwrap();
    guest.command(lun, &[0], &[], 0);
    (slow, lun)
}

#[test]
fn a_flush_holds_up_neither_reads_nor_other_flushes() {
    let mut guest = Guest::new();
    let (slow, lun) = attach_slow(&mut guest, None);
    let flushes: Vec<_> =
        (0..3).map(|_| guest.submit(REQUESTS, Address::encode(lun), &[0x35], &[], 0)).collect();
    slow.wait_busy(3);
    let read = guest.submit(REQUESTS, Address::encode(lun), &read10(0, 1), &[], 512);
    assert_eq!(guest.driver.queues[REQUESTS].wait_used().0, read.head);
    slow.release();
    let mut heads: Vec<u16> = (0..3).map(|_| guest.driver.queues[REQUESTS].wait_used().0).collect();
    let mut expected: Vec<u16> = flushes.iter().map(|flush| flush.head).collect();
    heads.sort_unstable();
    expected.sort_unstable();
    assert_eq!(heads, expected);
}

#[test]
fn detaching_waits_for_commands_and_closes_the_file() {
    let mut guest = Guest::new();
    let (slow, lun) = attach_slow(&mut guest, None);
    guest.submit(REQUESTS, Address::encode(lun), &write10(0, 1, 0), &[0; 512], 0);
    slow.wait_busy(1);
    assert_eq!(guest.manage(6, lun, guest.id), 10, "the write is being worked on");
    let bus = guest.bus.clone();
    let detaching = std::thread::spawn(move || bus.detach(lun));
    std::thread::sleep(Duration::from_millis(50));
    assert!(!detaching.is_finished());
    slow.release();
    detaching.join().unwrap().unwrap();
    assert_eq!(Arc::strong_count(&slow), 1);
    guest.driver.queues[REQUESTS].wait_used();
}

#[test]
fn aborting_a_task_waits_for_its_end() {
    let mut guest = Guest::new();
    let (slow, lun) = attach_slow(&mut guest, None);
    guest.submit(REQUESTS, Address::encode(lun), &write10(0, 1, 0), &[0; 512], 0);
    slow.wait_busy(1);
    let releaser = Arc::clone(&slow);
    let releasing = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(50));
        releaser.release();
    });
    assert_eq!(guest.manage(0, lun, guest.id), 0);
    assert!(guest.driver.queues[REQUESTS].used().is_some(), "the task ended first");
    releasing.join().unwrap();
    assert_eq!(guest.manage(7, lun, 0), 0);
    assert_eq!(guest.manage(5, lun, 0), 0);
    assert_eq!(guest.command(lun, &[0], &[], 0).sense_code(), (6, 0x29, 0));
    assert_eq!(guest.manage(5, 77, 0), 12);
    assert_eq!(guest.manage(2, lun, 0), 11);
    let mut query = 1_u32.to_le_bytes().to_vec();
    query.extend(Address::encode(lun));
    query.extend([0xff; 4]);
    assert_eq!(guest.control(&query, 5), [0; 5]);
    assert_eq!(guest.control(&[9], 1), [9]);
}

#[test]
fn errors_of_the_host_become_sense_data() {
    for (code, expected) in [(libc::ENOSPC, (7, 0x27, 7)), (libc::EIO, (3, 0x0c, 0))] {
        let mut guest = Guest::new();
        let (slow, lun) = attach_slow(&mut guest, Some(code));
        slow.release();
        let reply = guest.command(lun, &write10(4, 1, 0), &[1; 512], 0);
        assert_eq!(reply.sense_code(), expected);
        assert_eq!(guest.command(lun, &[0x35], &[], 0).sense_code(), expected);
    }
    let mut guest = Guest::new();
    let (mine, theirs) = disk(1 << 20);
    let lun = guest.attach(theirs, false);
    mine.set_len(4096).unwrap();
    assert_eq!(guest.command(lun, &read10(100, 1), &[], 512).sense_code(), (3, 0x11, 0));
}

#[test]
fn a_reset_stops_every_thread_and_the_driver_can_come_back() {
    let mut guest = Guest::new();
    let (mine, theirs) = disk(1 << 20);
    let lun = guest.attach(theirs, false);
    guest.device.reset();
    assert_eq!(Arc::strong_count(&guest.driver.memory), 1 + guest.driver.queues.len());
    guest.bus.detach(lun).unwrap();
    let lun = guest.bus.attach(mine, DiskOptions::default()).unwrap();
    guest.driver = Driver::new(&mut guest.device);
    assert_eq!(guest.command(lun, &[0], &[], 0).sense_code(), (6, 0x29, 0));
}

#[test]
fn the_driver_chooses_the_sizes_of_its_structures() {
    let bus = ScsiBus::new();
    let mut device = ScsiDevice::new(bus, 9);
    let mut queues = [0; 4];
    device.read_configuration(0, &mut queues);
    assert_eq!(u32::from_le_bytes(queues), 4);
    device.write_configuration(20, &18_u32.to_le_bytes());
    device.write_configuration(24, &16_u32.to_le_bytes());
    device.write_configuration(0, &16_u32.to_le_bytes());
    let mut sizes = [0; 8];
    device.read_configuration(20, &mut sizes);
    assert_eq!(sizes, [18, 0, 0, 0, 16, 0, 0, 0]);
    let mut driver = Driver::new(&mut device);
    let mut request = Address::encode(7).to_vec();
    request.resize(19 + 16, 0);
    let request = driver.readable(&request);
    let response = driver.writable(12 + 18);
    driver.queues[REQUESTS].add(&[request, response]);
    driver.queues[REQUESTS].notify();
    assert_eq!(driver.queues[REQUESTS].wait_used().1, 30);
    assert_eq!(driver.read(response.address, 1), [18]);
    device.reset();
    device.read_configuration(20, &mut sizes);
    assert_eq!(sizes, [96, 0, 0, 0, 32, 0, 0, 0]);
    device.read_configuration(u64::MAX, &mut sizes);
    assert_eq!(sizes, [0; 8]);
}

#[test]
fn malformed_requests_cost_nobody_else_anything() {
    let mut guest = Guest::new();
    let lun = guest.attach(disk(1 << 20).1, false);
    let bad = [
        vec![Buffer { address: 0x10_0000, length: 4, writable: false }],
        vec![Buffer { address: 0x10_0000, length: 51, writable: false }],
        vec![Buffer { address: u64::MAX - 4, length: 51, writable: false }],
        vec![
            Buffer { address: 0x10_0000, length: 51, writable: false },
            Buffer { address: 1 << 40, length: 108, writable: true },
        ],
        vec![Buffer { address: 0x10_0000, length: 4096, writable: true }],
    ];
    for chain in bad {
        let head = guest.driver.queues[REQUESTS].add(&chain);
        guest.driver.queues[REQUESTS].notify();
        assert_eq!(guest.driver.queues[REQUESTS].wait_used(), (head, 0));
    }
    assert_eq!(guest.command(lun, &[0], &[], 0).status, 0);
    // A ring index that jumps is never followed; the other queue goes on.
    let broken = guest.driver.queues[REQUESTS].available_index_address();
    guest.driver.write(broken.0, &0xf000_u16.to_le_bytes());
    guest.driver.queues[REQUESTS].notify();
    let pending = guest.submit(REQUESTS + 1, Address::encode(lun), &[0], &[], 0);
    let (head, written) = guest.driver.queues[REQUESTS + 1].wait_used();
    assert_eq!(head, pending.head);
    assert_eq!(guest.reply(&pending, written).status, 0);
}

/// One step on a small disk: what, the first block, how many, with what.
fn any_step() -> impl Strategy<Value = (u8, u64, u32, u8)> {
    (0..5_u8, 0..70_u64, 0..12_u32, 0..4_u8)
}

proptest! {
    /// Whatever is written and discarded, reading gives what a plain array would.
    #[test]
    fn a_disk_is_an_array_of_blocks(steps in prop::collection::vec(any_step(), 1..60)) {
        const BLOCKS: u64 = 64;
        let (mine, theirs) = disk(BLOCKS * BLOCK);
        let unit = Unit::new(Box::new(Volume::raw(theirs)), false, String::new()).unwrap();
        let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), 0x4000)]).unwrap();
        unit.execute(&Command::TestUnitReady, &mut Buffers::default(), &mut Buffers::default(), true)
            .unwrap_err();
        let mut model = vec![0_u8; (BLOCKS * BLOCK) as usize];
        for (what, start, count, value) in steps {
            let blocks = Blocks { start, count };
            let from = (start * BLOCK) as usize;
            let range = from..from + (u64::from(count) * BLOCK) as usize;
            let inside = start + u64::from(count) <= BLOCKS;
            let no_data = what == 4;
            let (command, data, filled) = match what {
                0 => (Command::Read(blocks), Vec::new(), None),
                1 => {
                    let write = Command::Write { blocks, force_unit_access: value == 0 };
                    (write, vec![value; range.len()], Some(value))
                }
                2 => {
                    let mut list = vec![0, 22, 0, 16, 0, 0, 0, 0];
                    list.extend(start.to_be_bytes());
                    list.extend(count.to_be_bytes());
                    list.extend([0; 4]);
                    (Command::Unmap { length: 24 }, list, Some(0))
                }
                _ => {
                    let same = Command::WriteSame { blocks, unmap: value > 1, no_data };
                    (same, vec![value; 512], Some(if no_data { 0 } else { value }))
                }
            };
            memory.write_slice(&data, GuestAddress(0)).unwrap();
            let segment = |address, length: usize| {
                let length = length as u32;
                [Segment { address: GuestAddress(address), length }]
            };
            let mut output = Buffers::new(&memory, &segment(0, data.len())).unwrap();
            let mut input = Buffers::new(&memory, &segment(0x2000, range.len())).unwrap();
            let result = unit.execute(&command, &mut output, &mut input, true);
            let fits = inside && (count > 0 || what < 3);
            prop_assert_eq!(result.is_ok(), fits, "{:?} {:?}", command, result);
            if let (true, Some(value)) = (fits, filled) {
                model[range.clone()].fill(value);
            }
            if let (true, None) = (fits, filled) {
                let mut found = vec![1; range.len()];
                memory.read_slice(&mut found, GuestAddress(0x2000)).unwrap();
                prop_assert!(found == model[range]);
            }
        }
        let mut found = vec![0; model.len()];
        mine.read_exact_at(&mut found, 0).unwrap();
        prop_assert!(found == model);
        prop_assert_eq!(mine.metadata().unwrap().len(), BLOCKS * BLOCK);
    }
}
