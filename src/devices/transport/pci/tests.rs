//! A driver's way over the bus, and a hostile one's.

use std::sync::{Arc, Mutex};

use proptest::prelude::*;
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use vm_memory::{GuestAddress, GuestMemoryMmap};

use super::bus::{ADDRESS, PciBus};
use super::function::Function;
use crate::devices::transport::testing::{Record, Recorder};

const DATA: u16 = 0xcfc;
const PLACE: u32 = 0xc100_0000;
const VERSION_1: u64 = 1 << VIRTIO_F_VERSION_1;
const ACKNOWLEDGE_AND_DRIVER: u8 = 3;
const FEATURES_OK: u8 = 8;
const DRIVER_OK: u8 = 4;

/// What was sent, in order.
type Sent = Arc<Mutex<Vec<(u64, u32)>>>;

fn bus(device: Recorder) -> (PciBus, Arc<Mutex<Record>>, Sent) {
    let record = Arc::clone(&device.record);
    let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x10000)]).unwrap();
    let function = Function::new(Box::new(device), Arc::new(memory), PLACE).unwrap();
    let sent = Sent::default();
    function.interrupt.connect({
        let sent = Arc::clone(&sent);
        Box::new(move |address, value| sent.lock().unwrap().push((address, value)))
    });
    (PciBus::with(vec![function]), record, sent)
}

fn configuration(bus: &PciBus, device: u32, register: u32) -> u32 {
    bus.write_port(ADDRESS, &(1 << 31 | device << 11 | register).to_le_bytes());
    let mut data = [0; 4];
    bus.read_port(DATA, &mut data);
    u32::from_le_bytes(data)
}

fn configure(bus: &PciBus, device: u32, register: u32, value: u32) {
    bus.write_port(ADDRESS, &(1 << 31 | device << 11 | register).to_le_bytes());
    bus.write_port(DATA, &value.to_le_bytes());
}

/// Where the capability of that kind is.
fn capability(bus: &PciBus, kind: u8, part: Option<u8>) -> u32 {
    let mut place = configuration(bus, 1, 0x34) & 0xff;
    while place != 0 {
        let [found, next, _, its_part] = configuration(bus, 1, place).to_le_bytes();
        if found == kind && part.is_none_or(|part| part == its_part) {
            return place;
        }
        place = next.into();
    }
    panic!("no capability {kind:#x} {part:?}")
}

fn write(bus: &PciBus, offset: u64, data: &[u8]) {
    assert!(bus.write(u64::from(PLACE) + offset, data));
}

fn read<const LENGTH: usize>(bus: &PciBus, offset: u64) -> [u8; LENGTH] {
    let mut data = [0; LENGTH];
    assert!(bus.read(u64::from(PLACE) + offset, &mut data));
    data
}

/// Finds the device, lets its registers be, and takes its driver's way up to `DRIVER_OK`, with
/// the first queue at `address` and all messages in the table.
fn drive(bus: &PciBus, features: u64, address: u32) {
    configure(bus, 1, 4, 0b110);
    write(bus, 20, &[ACKNOWLEDGE_AND_DRIVER]);
    for page in [0_u32, 1] {
        write(bus, 8, &page.to_le_bytes());
        write(bus, 12, &((features >> (32 * page)) as u32).to_le_bytes());
    }
    write(bus, 20, &[ACKNOWLEDGE_AND_DRIVER | FEATURES_OK]);
    write(bus, 22, &0_u16.to_le_bytes());
    write(bus, 24, &16_u16.to_le_bytes());
    for (place, part) in [(32, 0), (40, 0x400), (48, 0x800)] {
        write(bus, place, &(address + part).to_le_bytes());
    }
    for (vector, offset) in (0_u32..3).zip((0x4000..).step_by(16)) {
        write(bus, offset, &(0xfee0_0000 + (vector << 12)).to_le_bytes());
        write(bus, offset + 8, &(64 + vector).to_le_bytes());
        write(bus, offset + 12, &[0; 4]);
    }
    let messages = capability(bus, 0x11, None);
    assert_eq!(configuration(bus, 1, messages) >> 16 & 0x7ff, 2, "three messages");
    configure(bus, 1, messages, 1 << 31);
    write(bus, 16, &0_u16.to_le_bytes());
    write(bus, 26, &1_u16.to_le_bytes());
    write(bus, 28, &1_u16.to_le_bytes());
    write(bus, 20, &[ACKNOWLEDGE_AND_DRIVER | FEATURES_OK | DRIVER_OK]);
}

#[test]
fn the_bus_has_a_bridge_and_the_device_and_nothing_else() {
    let (bus, ..) = bus(Recorder::default());
    // A bridge of the host, by which a kernel knows that there is a bus at all.
    assert_eq!(configuration(&bus, 0, 8) >> 16, 0x0600);
    assert_eq!(configuration(&bus, 1, 0), 0x1040_1af4 + (42 << 16));
    for device in 2..32 {
        assert_eq!(configuration(&bus, device, 0), u32::MAX);
    }
    // Other functions, other buses, and a place that is switched off.
    for address in [1 << 31 | 1 << 11 | 1 << 8, 1 << 31 | 1 << 16 | 1 << 11, 1 << 11] {
        bus.write_port(ADDRESS, &u32::to_le_bytes(address));
        let mut data = [0; 4];
        bus.read_port(DATA, &mut data);
        assert_eq!(data, [0xff; 4], "{address:#x}");
    }
    // How a driver learns the size of the registers, and that they are in memory.
    assert_eq!(configuration(&bus, 1, 0x10), PLACE);
    configure(&bus, 1, 0x10, u32::MAX);
    assert_eq!(configuration(&bus, 1, 0x10), 0xffff_8000);
    assert!(!bus.read(PLACE.into(), &mut [0]));
    configure(&bus, 1, 0x10, PLACE + 0x8000);
    configure(&bus, 1, 4, 2);
    // It may put them elsewhere.
    assert!(bus.read(u64::from(PLACE) + 0x8000, &mut [0]) && !bus.read(PLACE.into(), &mut [0]));
    for (part, offset) in [(1, 0), (2, 0x3000), (3, 0x1000), (4, 0x2000)] {
        let place = capability(&bus, 9, Some(part));
        assert_eq!(configuration(&bus, 1, place + 8), offset, "{part}");
    }
}

#[test]
fn a_driver_negotiates_starts_and_resets_the_device_and_each_queue_has_its_message() {
    let (bus, record, sent) = bus(Recorder::default());
    drive(&bus, VERSION_1 | 1, 0x1000);
    assert_eq!(read(&bus, 20), [0xf, 0]);
    let expected = vec![(VERSION_1 | 1, vec![(true, 16), (false, 8)])];
    assert_eq!(record.lock().unwrap().activations, expected);
    assert_eq!(read(&bus, 24), [16, 0, 1, 0, 1, 0, 0, 0]);
    let interrupt = Arc::clone(record.lock().unwrap().interrupt.as_ref().unwrap());
    let sent = || std::mem::take(&mut *sent.lock().unwrap());
    interrupt.queue_used(0);
    assert_eq!(sent(), [(0xfee0_1000, 65)]);
    // No message was given to that one.
    interrupt.queue_used(1);
    assert_eq!(sent(), []);
    interrupt.configuration_changed();
    assert_eq!((sent(), read(&bus, 21)), (vec![(0xfee0_0000, 64)], [1]));
    // What is masked waits, and is sent once.
    write(&bus, 0x4000 + 16 + 12, &[1, 0, 0, 0]);
    interrupt.queue_used(0);
    interrupt.queue_used(0);
    assert_eq!((sent(), read(&bus, 0x5000)), (vec![], [0b10]));
    write(&bus, 0x4000 + 16 + 12, &[0; 4]);
    assert_eq!((sent(), read(&bus, 0x5000)), (vec![(0xfee0_1000, 65)], [0]));
    let messages = capability(&bus, 0x11, None);
    configure(&bus, 1, messages, 0b11 << 30);
    interrupt.queue_used(0);
    assert_eq!(sent(), []);
    configure(&bus, 1, messages, 1 << 31);
    assert_eq!(sent(), [(0xfee0_1000, 65)]);
    // One that there is not is refused.
    write(&bus, 26, &3_u16.to_le_bytes());
    assert_eq!(read(&bus, 26), [0xff, 0xff]);

    write(&bus, 20, &[0]);
    assert_eq!((record.lock().unwrap().resets, read(&bus, 20)), (1, [0]));
    assert_eq!(read(&bus, 16), [0xff, 0xff]);
    drive(&bus, VERSION_1, 0x2000);
    assert_eq!(record.lock().unwrap().activations.len(), 2);
    bus.remove_all();
    assert_eq!((record.lock().unwrap().resets, configuration(&bus, 1, 0)), (2, u32::MAX));
}

#[test]
fn registers_are_reached_through_the_configuration_space_too() {
    let (bus, record, _) = bus(Recorder::default());
    drive(&bus, VERSION_1, 0x1000);
    let window = capability(&bus, 9, Some(5));
    // The first BAR, whatever is said of others; the number of queues.
    configure(&bus, 1, window + 4, u32::MAX);
    configure(&bus, 1, window + 8, 18);
    configure(&bus, 1, window + 12, 2);
    assert_eq!(configuration(&bus, 1, window + 16), 2);
    // Not aligned, not a width, beyond the end: nothing.
    for (offset, length) in [(17, 2), (18, 3), (0x7fff, 2), (0x8000, 4), (u32::MAX, 1)] {
        configure(&bus, 1, window + 8, offset);
        configure(&bus, 1, window + 12, length);
        configure(&bus, 1, window + 16, 0);
        assert_eq!(configuration(&bus, 1, window + 16), 0, "{offset:#x} {length}");
    }
    configure(&bus, 1, window + 8, 20);
    configure(&bus, 1, window + 12, 1);
    assert_eq!(configuration(&bus, 1, window + 16), 0xf);
    configure(&bus, 1, window + 16, 0);
    assert_eq!((record.lock().unwrap().resets, read(&bus, 20)), (1, [0]));
}

#[test]
fn a_queue_outside_memory_asks_for_a_reset_and_the_driver_is_told() {
    let (bus, record, sent) = bus(Recorder::default());
    drive(&bus, VERSION_1, 0xfff0);
    let [status] = read(&bus, 20);
    assert_ne!(status & 0x40, 0);
    assert!(record.lock().unwrap().activations.is_empty());
    assert_eq!(*sent.lock().unwrap(), [(0xfee0_0000, 64)]);
}

proptest! {
    #[test]
    fn no_sequence_of_accesses_starts_a_device_twice_or_panics(
        accesses in prop::collection::vec(
            (0_u64..0x8100, any::<u64>(), 0_usize..9, 0_u8..4), 0..300)
    ) {
        let (bus, record, _) = bus(Recorder::default());
        drive(&bus, VERSION_1, 0x1000);
        for (offset, value, width, way) in accesses {
            // Mostly the registers themselves and the values that matter.
            let offset = if value & 1 == 0 { (offset % 64) & !1 } else { offset };
            let value = if value & 2 == 0 { value >> 60 } else { value };
            let width = if value & 4 == 0 { [1, 2, 4][width % 3] } else { width };
            let bytes = &value.to_le_bytes()[..width];
            let address = u64::from(PLACE) + offset;
            let port = ADDRESS + (offset % 8) as u16;
            match way {
                0 => _ = bus.write(address, bytes),
                1 => _ = bus.read(address, &mut [0; 8][..width]),
                2 => bus.write_port(port, bytes),
                _ => bus.read_port(port, &mut [0; 8][..width]),
            }
            let record = record.lock().unwrap();
            let activations = record.activations.len() as u32;
            prop_assert!(activations - record.resets <= 1);
        }
    }
}
