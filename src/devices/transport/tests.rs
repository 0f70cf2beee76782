//! A driver's way through the registers, and a hostile one's.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use proptest::prelude::*;
use vm_memory::{GuestAddress, GuestMemoryMmap};

use super::*;
use crate::devices::transport::control::{DRIVER_OK, FEATURES_OK, NEEDS_RESET};
use crate::devices::transport::testing::{Record, Recorder};
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;

const VERSION_1: u64 = 1 << VIRTIO_F_VERSION_1;
const ACKNOWLEDGE_AND_DRIVER: u32 = 3;

fn transport(device: Recorder) -> (Transport, Arc<Mutex<Record>>) {
    let record = Arc::clone(&device.record);
    let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x10000)]).unwrap();
    (Transport::new(Box::new(device), Arc::new(memory)).unwrap(), record)
}

fn write(transport: &mut Transport, register: u32, value: u32) {
    transport.write(register.into(), &value.to_le_bytes());
}

fn read(transport: &Transport, register: u32) -> u32 {
    let mut data = [0; 4];
    transport.read(register.into(), &mut data);
    u32::from_le_bytes(data)
}

/// Takes the driver's way up to `DRIVER_OK` with the first queue at `address`.
fn drive(transport: &mut Transport, features: u64, address: u32) {
    write(transport, registers::VIRTIO_MMIO_STATUS, ACKNOWLEDGE_AND_DRIVER);
    for page in [0, 1] {
        write(transport, registers::VIRTIO_MMIO_DRIVER_FEATURES_SEL, page);
        let value = (features >> (32 * page)) as u32;
        write(transport, registers::VIRTIO_MMIO_DRIVER_FEATURES, value);
    }
    let status = ACKNOWLEDGE_AND_DRIVER | FEATURES_OK;
    write(transport, registers::VIRTIO_MMIO_STATUS, status);
    write(transport, registers::VIRTIO_MMIO_QUEUE_SEL, 0);
    write(transport, registers::VIRTIO_MMIO_QUEUE_NUM, 16);
    write(transport, registers::VIRTIO_MMIO_QUEUE_DESC_LOW, address);
    write(transport, registers::VIRTIO_MMIO_QUEUE_AVAIL_LOW, address + 0x400);
    write(transport, registers::VIRTIO_MMIO_QUEUE_USED_LOW, address + 0x800);
    write(transport, registers::VIRTIO_MMIO_QUEUE_READY, 1);
    write(transport, registers::VIRTIO_MMIO_STATUS, status | DRIVER_OK);
}

#[test]
fn a_driver_finds_negotiates_starts_and_resets_the_device() {
    let (mut transport, record) = transport(Recorder::default());
    assert_eq!(read(&transport, registers::VIRTIO_MMIO_MAGIC_VALUE), MAGIC);
    assert_eq!(read(&transport, registers::VIRTIO_MMIO_VERSION), 2);
    assert_eq!(read(&transport, registers::VIRTIO_MMIO_DEVICE_ID), 42);
    assert_eq!(read(&transport, registers::VIRTIO_MMIO_QUEUE_NUM_MAX), 64);
    drive(&mut transport, VERSION_1 | 1, 0x1000);
    assert_eq!(read(&transport, registers::VIRTIO_MMIO_STATUS), 0xf);
    let expected = vec![(VERSION_1 | 1, vec![(true, 16), (false, 8)])];
    assert_eq!(record.lock().unwrap().activations, expected);

    let raised = Arc::new(AtomicUsize::new(0));
    transport.interrupt.connect({
        let raised = Arc::clone(&raised);
        Box::new(move || _ = raised.fetch_add(1, Ordering::SeqCst))
    });
    let interrupt = Arc::clone(record.lock().unwrap().interrupt.as_ref().unwrap());
    let raised = || raised.swap(0, Ordering::SeqCst);
    interrupt.queue_used(0);
    assert_eq!(raised(), 1);
    // The driver has not looked yet.
    interrupt.queue_used(1);
    assert_eq!(raised(), 0);
    assert_eq!(read(&transport, registers::VIRTIO_MMIO_INTERRUPT_STATUS), 1);
    // It is told once, whatever becomes of the acknowledgment.
    assert_eq!(read(&transport, registers::VIRTIO_MMIO_INTERRUPT_STATUS), 0);
    interrupt.queue_used(0);
    interrupt.configuration_changed();
    assert_eq!(read(&transport, registers::VIRTIO_MMIO_INTERRUPT_STATUS), 3);
    assert_eq!(raised(), 2);
    // A change of the configuration is told until it is acknowledged.
    assert_eq!(read(&transport, registers::VIRTIO_MMIO_INTERRUPT_STATUS), 2);
    write(&mut transport, registers::VIRTIO_MMIO_INTERRUPT_ACK, 2);
    assert_eq!(read(&transport, registers::VIRTIO_MMIO_INTERRUPT_STATUS), 0);

    write(&mut transport, registers::VIRTIO_MMIO_STATUS, 0);
    assert_eq!(record.lock().unwrap().resets, 1);
    assert_eq!(read(&transport, registers::VIRTIO_MMIO_QUEUE_READY), 0);
    drive(&mut transport, VERSION_1, 0x2000);
    assert_eq!(record.lock().unwrap().activations.len(), 2);
}

#[test]
fn features_that_are_not_offered_or_the_legacy_interface_are_refused() {
    for features in [VERSION_1 | 2, 1] {
        let (mut transport, record) = transport(Recorder::default());
        drive(&mut transport, features, 0x1000);
        let status = read(&transport, registers::VIRTIO_MMIO_STATUS);
        assert_eq!(status & (FEATURES_OK | DRIVER_OK), 0);
        assert!(record.lock().unwrap().activations.is_empty());
    }
}

#[test]
fn a_queue_outside_memory_or_a_failing_device_asks_for_a_reset() {
    for (address, fails) in [(0xfff0, false), (0x1001, false), (0xffff_f000, false), (0x1000, true)]
    {
        let (mut transport, record) = transport(Recorder { fails, ..Recorder::default() });
        drive(&mut transport, VERSION_1, address);
        let status = read(&transport, registers::VIRTIO_MMIO_STATUS);
        assert_ne!(status & NEEDS_RESET, 0, "{address:#x}");
        assert_eq!(record.lock().unwrap().activations.len(), usize::from(fails));
        assert_eq!(read(&transport, registers::VIRTIO_MMIO_INTERRUPT_STATUS), 2);
        write(&mut transport, registers::VIRTIO_MMIO_STATUS, 0);
        assert_eq!(read(&transport, registers::VIRTIO_MMIO_STATUS), 0);
    }
}

#[test]
fn configuration_is_read_in_any_width_and_registers_only_in_words() {
    let (transport, _) = transport(Recorder::default());
    let mut byte = [0xff];
    transport.read(CONFIGURATION + 3, &mut byte);
    assert_eq!(byte, [3]);
    transport.read(0, &mut byte);
    assert_eq!(byte, [0]);
    assert_eq!(read(&transport, registers::VIRTIO_MMIO_SHM_LEN_LOW), u32::MAX);
}

proptest! {
    #[test]
    fn no_sequence_of_accesses_starts_a_device_twice_or_panics(
        accesses in prop::collection::vec(
            (0_u64..0x200, any::<u32>(), 0_usize..9, any::<bool>()), 0..200)
    ) {
        let (mut transport, record) = transport(Recorder::default());
        for (offset, value, width, is_write) in accesses {
            // Mostly the registers themselves and the values that matter.
            let (offset, value) =
                if value & 1 == 0 { (offset & !3, value >> 28) } else { (offset, value) };
            let bytes = u64::from(value).to_le_bytes();
            let width = if value & 2 == 0 { 4 } else { width };
            if is_write {
                transport.write(offset, &bytes[..width]);
            } else {
                transport.read(offset, &mut [0; 8][..width]);
            }
            let record = record.lock().unwrap();
            let activations = record.activations.len() as u32;
            prop_assert!(activations - record.resets <= 1);
        }
    }
}
