//! Any bytes as SCSI commands with their data, on a disk with content.

#![no_main]

use std::os::unix::fs::FileExt;

use libfuzzer_sys::fuzz_target;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use wslr::devices::buffers::{Buffers, Segment};
use wslr::devices::scsi::Volume;
use wslr::devices::scsi::command::{Command, LENGTH};
use wslr::devices::scsi::unit::Unit;

const DISK: u64 = 1 << 20;
const DATA: u32 = 0x1000;

fuzz_target!(|data: &[u8]| {
    let Ok(file) = tempfile::tempfile() else { return };
    let _ = file.set_len(DISK);
    let _ = file.write_all_at(&[7; 4096], 8192);
    let Ok(disk) = file.try_clone() else { return };
    let Ok(unit) = Unit::new(Box::new(Volume::raw(disk)), false, "serial".into()) else { return };
    let ranges = [(GuestAddress(0), 0x1_0000)];
    let Ok(memory) = GuestMemoryMmap::<()>::from_ranges(&ranges) else { return };
    for request in data.chunks(LENGTH + 64) {
        let mut cdb = [0; LENGTH];
        let length = request.len().min(LENGTH);
        cdb[..length].copy_from_slice(&request[..length]);
        let Ok(command) = Command::parse(&cdb) else { continue };
        let _ = memory.write_slice(&request[length..], GuestAddress(0));
        let buffer = |address, length| {
            Buffers::new(&memory, &[Segment { address: GuestAddress(address), length }])
        };
        let (Ok(mut output), Ok(mut input)) = (buffer(0, DATA), buffer(0x2000, DATA)) else {
            return;
        };
        let _ = unit.execute(&command, &mut output, &mut input, true);
    }
    assert_eq!(file.metadata().map(|metadata| metadata.len()).ok(), Some(DISK));
});
