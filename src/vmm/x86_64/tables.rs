//! The descriptor and page tables in force when the kernel is entered.
//!
//! The 64-bit boot protocol (Linux, `Documentation/arch/x86/boot.rst`) wants flat
//! segments at selectors 0x10 and 0x18 and an identity mapping of all that the kernel is
//! given; it replaces both soon.

use kvm_bindings::kvm_segment;
use vm_memory::{Address, Bytes, GuestAddress, GuestMemoryError, GuestMemoryMmap};

use super::layout;

/// The selector of the code segment.
pub const CODE_SELECTOR: u16 = 0x10;
/// The selector of the data segments.
pub const DATA_SELECTOR: u16 = 0x18;
/// The selector of the task state segment.
const TASK_SELECTOR: u16 = 0x20;

/// Null, unused, code (64-bit, execute and read), data (read and write), and a busy task
/// state segment of no use.
pub const GDT: [u64; 6] =
    [0, 0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff, 0x008f_8b00_0000_ffff, 0];

/// Entry flags: present and writable.
const TABLE: u64 = 0b11;
/// Entry flags: present, writable, a page of 2 MiB.
const LARGE_PAGE: u64 = 0b1000_0011;
/// The size of a table.
const PAGE: u64 = 4096;
/// How many GiB are mapped.
const GIGABYTES: u64 = 4;

/// The bytes of the descriptor table.
pub fn gdt_bytes() -> Vec<u8> {
    GDT.iter().flat_map(|entry| entry.to_le_bytes()).collect()
}

/// Writes the descriptor table and page tables that map the lowest 4 GiB to themselves.
///
/// # Errors
/// Where the memory is too small.
pub fn write(memory: &GuestMemoryMmap) -> Result<(), GuestMemoryError> {
    memory.write_slice(&gdt_bytes(), layout::GDT)?;
    write_page_tables(memory, layout::PAGE_TABLES, GIGABYTES)
}

/// Writes page tables at `top` that map `gigabytes` (at most 512) to themselves; they
/// take `2 + gigabytes` pages.
///
/// # Errors
/// Where the memory is too small.
pub fn write_page_tables(
    memory: &GuestMemoryMmap,
    top: GuestAddress,
    gigabytes: u64,
) -> Result<(), GuestMemoryError> {
    let page = |number: u64| top.unchecked_add(number * PAGE);
    memory.write_obj(page(1).raw_value() | TABLE, top)?;
    for gigabyte in 0..gigabytes {
        let directory = page(2 + gigabyte);
        memory.write_obj(directory.raw_value() | TABLE, page(1).unchecked_add(gigabyte * 8))?;
        let entries: Vec<u8> = (0..512)
            .flat_map(|entry| (((gigabyte << 30) | (entry << 21)) | LARGE_PAGE).to_le_bytes())
            .collect();
        memory.write_slice(&entries, directory)?;
    }
    Ok(())
}

/// The flat code segment as the processor caches it.
pub fn code_segment() -> kvm_segment {
    kvm_segment {
        limit: u32::MAX,
        selector: CODE_SELECTOR,
        type_: 0b1011,
        present: 1,
        s: 1,
        l: 1,
        g: 1,
        ..kvm_segment::default()
    }
}

/// The flat data segment as the processor caches it.
pub fn data_segment() -> kvm_segment {
    kvm_segment {
        limit: u32::MAX,
        selector: DATA_SELECTOR,
        type_: 0b0011,
        present: 1,
        s: 1,
        db: 1,
        g: 1,
        ..kvm_segment::default()
    }
}

/// The task state segment as the processor caches it: long mode wants a valid one.
pub fn task_segment() -> kvm_segment {
    kvm_segment {
        limit: 0xffff,
        selector: TASK_SELECTOR,
        type_: 0b1011,
        present: 1,
        ..kvm_segment::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Walks the tables as the processor does (AMD64 APM volume 2, 5.3).
    fn translate(memory: &GuestMemoryMmap, top: GuestAddress, address: u64) -> u64 {
        let mut table = top.raw_value();
        for shift in [39, 30, 21] {
            let index = (address >> shift) & 511;
            let entry: u64 = memory.read_obj(GuestAddress(table + index * 8)).unwrap();
            assert_eq!(entry & 1, 1, "present at {shift}");
            table = entry & 0x000f_ffff_ffff_f000;
            if entry & 0x80 != 0 {
                return (table & !((1 << shift) - 1)) | (address & ((1 << shift) - 1));
            }
        }
        unreachable!("2 MiB pages end the walk")
    }

    #[test]
    fn the_lowest_four_gigabytes_are_mapped_to_themselves() {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap();
        write(&memory).unwrap();
        for address in [0, 0x7000, 0x100_0000, 0x3fff_ffff, 0x4000_0000, 0xffff_ffff] {
            assert_eq!(translate(&memory, layout::PAGE_TABLES, address), address);
        }
    }
}
