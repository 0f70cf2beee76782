//! The map of guest-physical addresses.
//!
//! ```text
//! 0x0000_0500  GDT                       0x0002_0000  command line
//! 0x0000_7000  boot parameters           0x000e_0000  ACPI tables, 128 KiB
//! 0x0000_8000  random seed               0x0010_0000  memory; the kernel, the initramfs
//! 0x0000_9000  page tables, six pages    0xc000_0000  hole: virtio devices, APICs
//!                                        0x1_0000_0000  the rest of the memory
//! ```

use vm_memory::GuestAddress;

use crate::vmm::error::VmmError;

/// The global descriptor table in force when the kernel is entered.
pub const GDT: GuestAddress = GuestAddress(0x500);
/// The boot parameters ("zero page").
pub const BOOT_PARAMETERS: GuestAddress = GuestAddress(0x7000);
/// The `setup_data` with random bytes for the kernel's pool.
pub const RANDOM_SEED: GuestAddress = GuestAddress(0x8000);
/// The top-level page table; its five successors follow.
pub const PAGE_TABLES: GuestAddress = GuestAddress(0x9000);
/// The command line.
pub const COMMAND_LINE: GuestAddress = GuestAddress(0x2_0000);
/// The end of the memory below the legacy hole.
pub const LOW_MEMORY_END: u64 = 0x9_fc00;
/// The ACPI tables, the root pointer first.
pub const ACPI: GuestAddress = GuestAddress(0xe_0000);
/// Where memory goes on after the legacy hole.
pub const HIGH_MEMORY_START: u64 = 0x10_0000;
/// The end of the ACPI tables.
pub const ACPI_END: u64 = HIGH_MEMORY_START;
/// The hole below 4 GiB where devices are, and where the first device is.
pub const HOLE_START: u64 = 0xc000_0000;
/// Where memory goes on above the hole.
pub const HOLE_END: u64 = 1 << 32;

/// The register files of the virtio devices, one page each.
pub const VIRTIO_START: u64 = HOLE_START;
/// The size of one device's register file.
pub const VIRTIO_LENGTH: u64 = 0x1000;
/// The first device's interrupt line. The lines before it are taken by convention.
pub const VIRTIO_FIRST_LINE: u32 = 5;
/// The in-kernel I/O APIC has 24 lines.
pub const INTERRUPT_LINES: u32 = 24;
/// The most virtio devices there are interrupt lines for.
pub const MAXIMUM_DEVICES: usize = (INTERRUPT_LINES - VIRTIO_FIRST_LINE) as usize;

/// Where the devices of PCI have their registers.
pub const PCI_START: u32 = VIRTIO_START as u32 + 0x100_0000;
/// The length of that.
pub const PCI_LENGTH: u32 = 0x10_0000;

/// The I/O APIC.
pub const IO_APIC: u32 = 0xfec0_0000;
/// The local APICs.
pub const LOCAL_APIC: u32 = 0xfee0_0000;
/// Three pages that Intel's VMX needs for itself, and the identity map before them.
pub const TSS: usize = 0xfffb_d000;
/// One page that Intel's VMX needs for itself.
pub const IDENTITY_MAP: u64 = 0xfffb_c000;

/// Processor numbers are 8-bit APIC ids, and 255 means all of them.
pub const MAXIMUM_PROCESSORS: u32 = 254;
/// The least memory a machine is made with.
pub const MINIMUM_MEMORY: u64 = 128 << 20;
/// The most memory: 46 address bits, which every processor with KVM has or more, less
/// the hole.
pub const MAXIMUM_MEMORY: u64 = (1 << 46) - (HOLE_END - HOLE_START);

/// The ranges of guest addresses that `bytes` of memory take, rounded down to 2 MiB.
///
/// # Errors
/// [`VmmError::MemorySize`].
pub fn memory_ranges(bytes: u64) -> Result<Vec<(GuestAddress, u64)>, VmmError> {
    let bytes_down = bytes & !((2 << 20) - 1);
    if !(MINIMUM_MEMORY..=MAXIMUM_MEMORY).contains(&bytes_down) {
        return Err(VmmError::MemorySize {
            bytes,
            minimum: MINIMUM_MEMORY,
            maximum: MAXIMUM_MEMORY,
        });
    }
    if bytes_down <= HOLE_START {
        return Ok(vec![(GuestAddress(0), bytes_down)]);
    }
    Ok(vec![(GuestAddress(0), HOLE_START), (GuestAddress(HOLE_END), bytes_down - HOLE_START)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_goes_around_the_hole() {
        assert_eq!(memory_ranges(1 << 30).unwrap(), [(GuestAddress(0), 1 << 30)]);
        assert_eq!(
            memory_ranges(4 << 30).unwrap(),
            [(GuestAddress(0), HOLE_START), (GuestAddress(HOLE_END), (4 << 30) - HOLE_START)]
        );
        assert_eq!(memory_ranges((1 << 30) + 4097).unwrap(), [(GuestAddress(0), 1 << 30)]);
        assert!(memory_ranges(1 << 20).is_err());
        assert!(memory_ranges(u64::MAX).is_err());
    }
}
