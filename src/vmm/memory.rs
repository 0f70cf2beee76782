//! The guest's memory: anonymous, private, filled on demand.
//!
//! Nothing is reserved on the host: pages appear when the guest touches them, as huge
//! pages where the host can.

use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::VmFd;
use vm_memory::{
    Address, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion, GuestRegionMmap,
    MmapRegion,
};

use super::error::VmmError;
use super::kvm::KvmError;

/// The size of a huge page.
const HUGE_PAGE: usize = 2 << 20;
/// How often an aligned mapping is tried for.
const ALIGNMENT_ATTEMPTS: u32 = 8;

/// Maps memory for the given ranges of guest addresses and lengths.
///
/// # Errors
/// [`VmmError::Memory`] where the host has no room for it.
pub fn map(ranges: &[(GuestAddress, u64)]) -> Result<GuestMemoryMmap, VmmError> {
    let bytes = ranges.iter().map(|(_, length)| length).sum();
    let fail = |reason: String| VmmError::Memory { bytes, reason };
    let mut regions = Vec::with_capacity(ranges.len());
    for (start, length) in ranges {
        let length = usize::try_from(*length).map_err(|error| fail(error.to_string()))?;
        let mapping = map_aligned(length).map_err(|error| fail(error.to_string()))?;
        advise(&mapping);
        let region = GuestRegionMmap::new(mapping, *start)
            .ok_or_else(|| fail("the address space wraps".to_owned()))?;
        regions.push(region);
    }
    GuestMemoryMmap::from_regions(regions).map_err(|error| fail(error.to_string()))
}

/// Maps memory, aligned to a huge page where that can be had.
///
/// KVM uses huge pages only where guest and host addresses are aligned alike. Linux before
/// 6.7 does not align by itself, but puts a mapping right below the last one: a filler of
/// the surplus moves the next mapping to where it should be.
fn map_aligned(length: usize) -> Result<MmapRegion, vm_memory::mmap::MmapRegionError> {
    let mut mapping = MmapRegion::new(length)?;
    // Another thread's mapping can get in between.
    for _ in 0..ALIGNMENT_ATTEMPTS {
        let surplus = mapping.as_ptr().addr() % HUGE_PAGE;
        if surplus == 0 {
            break;
        }
        drop(mapping);
        let _filler = MmapRegion::<()>::new(surplus)?;
        mapping = MmapRegion::new(length)?;
    }
    Ok(mapping)
}

/// Asks for huge pages, and keeps the guest's memory out of core dumps and of children:
/// a fork would make every page copy-on-write. A host that refuses one of them runs the
/// guest all the same.
fn advise(mapping: &MmapRegion) {
    for advice in [libc::MADV_HUGEPAGE, libc::MADV_DONTDUMP, libc::MADV_DONTFORK] {
        // SAFETY: the range is exactly one mapping of our own, alive during the call, and
        // none of these changes its contents.
        let _ = unsafe { libc::madvise(mapping.as_ptr().cast(), mapping.size(), advice) };
    }
}

/// Gives the memory to the virtual machine.
///
/// # Errors
/// [`KvmError::Call`].
pub fn register(vm: &VmFd, memory: &GuestMemoryMmap) -> Result<(), KvmError> {
    for (slot, region) in (0..).zip(memory.iter()) {
        let entry = kvm_userspace_memory_region {
            slot,
            flags: 0,
            guest_phys_addr: region.start_addr().raw_value(),
            memory_size: region.len(),
            userspace_addr: region.as_ptr() as u64,
        };
        // SAFETY: the range is one live mapping of its own. Whoever holds `vm` also holds
        // the memory and drops it last, and nothing in this program takes references
        // into it: all access is volatile.
        unsafe { vm.set_user_memory_region(entry) }
            .map_err(KvmError::call("register guest memory"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_lies_where_huge_pages_can_be_used() {
        let ranges = [(GuestAddress(0), 64 << 20), (GuestAddress(1 << 32), 32 << 20)];
        let memory = map(&ranges).unwrap();
        let aligned = memory.iter().filter(|region| region.as_ptr().addr() % HUGE_PAGE == 0);
        assert_eq!(aligned.count(), 2);
    }

    #[test]
    fn more_than_the_address_space_is_an_error() {
        assert!(matches!(map(&[(GuestAddress(0), 1 << 60)]), Err(VmmError::Memory { .. })));
    }
}
