//! The registers with which a processor starts.
//!
//! The first processor starts in the kernel in long mode; the others are as after a
//! reset and wait for the kernel's INIT and SIPI, which KVM's interrupt controller
//! carries out.

use kvm_bindings::{Msrs, kvm_fpu, kvm_lapic_state, kvm_msr_entry, kvm_regs};
use kvm_ioctls::VcpuFd;
use vm_memory::{Address, GuestAddress};

use super::{layout, tables};
use crate::vmm::kvm::KvmError;

/// CR0: protection, monitor, extension type, numeric errors, write protection, paging.
const CR0: u64 = (1 << 0) | (1 << 1) | (1 << 4) | (1 << 5) | (1 << 16) | (1 << 31);
/// CR4: physical address extension.
const CR4_PAE: u64 = 1 << 5;
/// EFER: long mode enabled and active.
const EFER_LONG_MODE: u64 = (1 << 8) | (1 << 10);
/// RFLAGS: the bit that is always set.
pub const RFLAGS_FIXED: u64 = 1 << 1;
/// The x87 control word and MXCSR after a reset.
const X87_CONTROL: u16 = 0x37f;
const MXCSR: u32 = 0x1f80;

/// `IA32_MISC_ENABLE` and its bit for fast string instructions.
const MISC_ENABLE: u32 = 0x1a0;
const FAST_STRINGS: u64 = 1;
/// `IA32_MTRR_DEF_TYPE`: the ranges are on, memory is write-back by default.
const MTRR_DEFAULT: u32 = 0x2ff;
const MTRR_WRITE_BACK: u64 = (1 << 11) | 6;
/// `IA32_TSC`.
const TSC: u32 = 0x10;

/// The local APIC's registers for its two pins, and their delivery modes.
const LVT_LINT0: usize = 0x350;
const LVT_LINT1: usize = 0x360;
const DELIVERY_NMI: u8 = 4;
const DELIVERY_EXTERNAL: u8 = 7;

/// Sets what every processor starts with.
///
/// CPUID must have been set: KVM refuses model-specific registers that it does not
/// announce.
///
/// # Errors
/// [`KvmError::Call`].
pub fn set_common(vcpu: &VcpuFd) -> Result<(), KvmError> {
    let fpu = kvm_fpu { fcw: X87_CONTROL, mxcsr: MXCSR, ..kvm_fpu::default() };
    vcpu.set_fpu(&fpu).map_err(KvmError::call("set the floating-point state"))?;
    set_msrs(vcpu)?;
    let mut apic = vcpu.get_lapic().map_err(KvmError::call("read the local APIC"))?;
    set_delivery(&mut apic, LVT_LINT0, DELIVERY_EXTERNAL);
    set_delivery(&mut apic, LVT_LINT1, DELIVERY_NMI);
    vcpu.set_lapic(&apic).map_err(KvmError::call("set the local APIC"))
}

/// Sets the delivery mode of a pin and unmasks it.
fn set_delivery(apic: &mut kvm_lapic_state, register: usize, mode: u8) {
    // Bits 8 to 10 of the register; bit 16 masks it.
    if let Some([_, delivery, mask, _]) = apic.regs.get_mut(register..register + 4) {
        *delivery = (*delivery & !7) | mode as i8;
        *mask &= !1;
    }
}

/// Sets the model-specific registers. One that the host lacks is left alone: none of
/// them is needed to boot.
fn set_msrs(vcpu: &VcpuFd) -> Result<(), KvmError> {
    for (index, data) in [(TSC, 0), (MISC_ENABLE, FAST_STRINGS), (MTRR_DEFAULT, MTRR_WRITE_BACK)] {
        let entry = kvm_msr_entry { index, data, ..kvm_msr_entry::default() };
        if let Ok(msrs) = Msrs::from_entries(&[entry]) {
            vcpu.set_msrs(&msrs).map_err(KvmError::call("set model-specific registers"))?;
        }
    }
    Ok(())
}

/// Lets the processor start in long mode at `entry`, with the given page tables.
///
/// # Errors
/// [`KvmError::Call`].
pub fn set_long_mode(
    vcpu: &VcpuFd,
    page_tables: GuestAddress,
    gdt: GuestAddress,
    cr4_extra: u64,
) -> Result<(), KvmError> {
    let mut registers = vcpu.get_sregs().map_err(KvmError::call("read system registers"))?;
    registers.cs = tables::code_segment();
    let data = tables::data_segment();
    (registers.ds, registers.es, registers.fs) = (data, data, data);
    (registers.gs, registers.ss) = (data, data);
    registers.tr = tables::task_segment();
    registers.gdt.base = gdt.raw_value();
    registers.gdt.limit = (tables::GDT.len() * 8 - 1) as u16;
    registers.cr0 = CR0;
    registers.cr3 = page_tables.raw_value();
    registers.cr4 = CR4_PAE | cr4_extra;
    registers.efer |= EFER_LONG_MODE;
    vcpu.set_sregs(&registers).map_err(KvmError::call("set system registers"))
}

/// Lets the first processor start in the kernel.
///
/// # Errors
/// [`KvmError::Call`].
pub fn set_boot(vcpu: &VcpuFd, entry: GuestAddress) -> Result<(), KvmError> {
    set_long_mode(vcpu, layout::PAGE_TABLES, layout::GDT, 0)?;
    let registers = kvm_regs {
        rflags: RFLAGS_FIXED,
        rip: entry.raw_value(),
        rsi: layout::BOOT_PARAMETERS.raw_value(),
        ..kvm_regs::default()
    };
    vcpu.set_regs(&registers).map_err(KvmError::call("set registers"))
}
