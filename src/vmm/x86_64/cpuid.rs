//! What each processor of the guest says about itself.
//!
//! KVM tells what host and hypervisor support; what is particular to a processor (its
//! APIC id, the topology) is filled in here: one socket, one thread per core.
//! Leaves: Intel SDM volume 2A, CPUID; AMD APM volume 3, appendix E.

use kvm_bindings::{CpuId, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};

/// Leaf 1 EDX: several logical processors per package.
const HTT: u32 = 1 << 28;
/// Leaf 1 ECX: Intel's virtualization.
const VMX: u32 = 1 << 5;
/// Leaf 1 ECX: the local APIC has a deadline timer, which KVM's always has.
const TSC_DEADLINE: u32 = 1 << 24;
/// Leaf 1 ECX: there is a hypervisor.
const HYPERVISOR: u32 = 1 << 31;
/// Leaf 0x80000001 ECX: AMD's virtualization.
const SVM: u32 = 1 << 2;
/// Leaf 0x80000001 ECX: leaf 0x8000001e is there.
const TOPOLOGY_EXTENSIONS: u32 = 1 << 22;
/// Leaf 7 EDX: cores of different kinds, which the guest cannot tell apart.
const HYBRID: u32 = 1 << 15;

/// The leaves that list topology levels in their sub-leaves.
const TOPOLOGY_LEAVES: [u32; 2] = [0xb, 0x1f];
/// AMD's own leaf of that kind, which is not needed beside them.
const AMD_TOPOLOGY_LEAF: u32 = 0x8000_0026;
/// Topology level types of those leaves.
const LEVEL_THREAD: u32 = 1;
const LEVEL_CORE: u32 = 2;

/// What the guest may see.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Topology {
    /// How many processors there are.
    pub processors: u32,
    /// Whether they offer virtualization themselves.
    pub nested_virtualization: bool,
}

/// The entries for processor `number`, from what KVM supports.
///
/// # Errors
/// The `kvm_bindings` error where there are more entries than KVM takes.
pub fn for_processor(
    supported: &CpuId,
    topology: Topology,
    number: u32,
) -> Result<CpuId, vmm_sys_util::fam::Error> {
    let mut entries: Vec<kvm_cpuid_entry2> = supported
        .as_slice()
        .iter()
        .filter(|entry| !TOPOLOGY_LEAVES.contains(&entry.function))
        .filter(|entry| entry.function != AMD_TOPOLOGY_LEAF)
        .copied()
        .collect();
    let amd = is_amd(&entries);
    for entry in &mut entries {
        adjust(entry, topology, number, amd);
    }
    let highest = entries.iter().find(|entry| entry.function == 0).map_or(0, |entry| entry.eax);
    for leaf in TOPOLOGY_LEAVES.into_iter().filter(|leaf| *leaf <= highest) {
        entries.extend(topology_levels(leaf, topology.processors, number));
    }
    CpuId::from_entries(&entries)
}

/// Whether the vendor is AMD or Hygon, whose leaves differ.
fn is_amd(entries: &[kvm_cpuid_entry2]) -> bool {
    entries
        .iter()
        .any(|entry| entry.function == 0 && [*b"Auth", *b"Hygo"].contains(&entry.ebx.to_le_bytes()))
}

/// Fills in what is particular to the processor.
fn adjust(entry: &mut kvm_cpuid_entry2, topology: Topology, number: u32, amd: bool) {
    let processors = topology.processors;
    match entry.function {
        1 => {
            entry.ebx = (entry.ebx & 0xffff) | (processors.min(255) << 16) | (number << 24);
            entry.ecx |= TSC_DEADLINE | HYPERVISOR;
            if processors > 1 {
                entry.edx |= HTT;
            } else {
                entry.edx &= !HTT;
            }
            if !topology.nested_virtualization {
                entry.ecx &= !VMX;
            }
        }
        4 if !amd => entry.eax = cache_sharing(entry.eax, processors),
        7 if entry.index == 0 => entry.edx &= !HYBRID,
        0x8000_0001 if amd => {
            if !topology.nested_virtualization {
                entry.ecx &= !SVM;
            }
            entry.ecx |= TOPOLOGY_EXTENSIONS;
        }
        0x8000_0008 if amd => {
            // Bits of the APIC id that number the cores, and the cores less one.
            entry.ecx = (entry.ecx & !0xf0ff) | (id_bits(processors) << 12) | (processors - 1);
        }
        0x8000_000a if !topology.nested_virtualization => {
            (entry.eax, entry.ebx, entry.ecx, entry.edx) = (0, 0, 0, 0);
        }
        0x8000_001d if amd => {
            let sharing = if cache_level(entry.eax) >= 3 { processors } else { 1 };
            entry.eax = (entry.eax & !(0xfff << 14)) | ((sharing - 1) << 14);
        }
        0x8000_001e if amd => {
            entry.eax = number;
            // The core's number, one thread in it; one node.
            entry.ebx = number & 0xff;
            entry.ecx = 0;
        }
        _ => {}
    }
}

/// The level in EAX of a cache leaf.
fn cache_level(eax: u32) -> u32 {
    (eax >> 5) & 7
}

/// EAX of leaf 4: who shares the cache, and how many cores there are.
fn cache_sharing(eax: u32, processors: u32) -> u32 {
    let type_ = eax & 0x1f;
    if type_ == 0 {
        return eax;
    }
    let sharing = if cache_level(eax) >= 3 { processors } else { 1 };
    (eax & 0x3fff) | ((sharing - 1) << 14) | ((processors - 1).min(63) << 26)
}

/// How many bits number that many processors.
fn id_bits(processors: u32) -> u32 {
    processors.next_power_of_two().trailing_zeros()
}

/// The three sub-leaves of a topology leaf: threads, cores, the end.
fn topology_levels(leaf: u32, processors: u32, number: u32) -> [kvm_cpuid_entry2; 3] {
    let level = |index, eax, ebx, type_: u32| kvm_cpuid_entry2 {
        function: leaf,
        index,
        flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
        eax,
        ebx,
        ecx: (type_ << 8) | index,
        edx: number,
        ..kvm_cpuid_entry2::default()
    };
    [
        level(0, 0, 1, LEVEL_THREAD),
        level(1, id_bits(processors), processors, LEVEL_CORE),
        level(2, 0, 0, 0),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(function: u32, index: u32) -> kvm_cpuid_entry2 {
        kvm_cpuid_entry2 { function, index, ..kvm_cpuid_entry2::default() }
    }

    fn supported(vendor: [u8; 4]) -> CpuId {
        let mut first = entry(0, 0);
        first.eax = 0x1f;
        first.ebx = u32::from_le_bytes(vendor);
        let mut features = entry(1, 0);
        features.ecx = VMX;
        let mut extended = entry(0x8000_0001, 0);
        extended.ecx = SVM;
        let entries = [first, features, entry(0xb, 0), extended, entry(0x8000_001e, 0)];
        CpuId::from_entries(&entries).unwrap()
    }

    fn find(entries: &CpuId, function: u32, index: u32) -> kvm_cpuid_entry2 {
        *entries
            .as_slice()
            .iter()
            .find(|entry| (entry.function, entry.index) == (function, index))
            .unwrap()
    }

    #[test]
    fn each_processor_has_its_own_number_everywhere() {
        let topology = Topology { processors: 5, nested_virtualization: true };
        let entries = for_processor(&supported(*b"Auth"), topology, 3).unwrap();
        assert_eq!(find(&entries, 1, 0).ebx >> 16, (3 << 8) | 5);
        assert_eq!(find(&entries, 0xb, 0).edx, 3);
        let cores = find(&entries, 0xb, 1);
        assert_eq!((cores.eax, cores.ebx, cores.ecx), (3, 5, (2 << 8) | 1));
        assert_eq!(find(&entries, 0x1f, 1).edx, 3);
        assert_eq!(find(&entries, 0x8000_001e, 0).eax, 3);
        assert_eq!(entries.as_slice().iter().filter(|entry| entry.function == 0xb).count(), 3);
    }

    #[test]
    fn virtualization_is_hidden_when_it_is_off() {
        for (nested, bits) in [(true, (VMX, SVM)), (false, (0, 0))] {
            let topology = Topology { processors: 1, nested_virtualization: nested };
            let entries = for_processor(&supported(*b"Auth"), topology, 0).unwrap();
            let seen = (find(&entries, 1, 0).ecx & VMX, find(&entries, 0x8000_0001, 0).ecx & SVM);
            assert_eq!(seen, bits);
        }
    }

    #[test]
    fn only_the_last_cache_level_is_shared() {
        let third = (3 << 5) | 3;
        let second = (2 << 5) | 3;
        assert_eq!((cache_sharing(third, 4) >> 14) & 0xfff, 3);
        assert_eq!((cache_sharing(second, 4) >> 14) & 0xfff, 0);
        assert_eq!(cache_sharing(0, 4), 0);
    }
}
