//! A processor's state as plain data, which is what a snapshot would hold of it.

use kvm_bindings::{
    MsrList, Msrs, kvm_cpuid_entry2, kvm_debugregs, kvm_lapic_state, kvm_mp_state, kvm_msr_entry,
    kvm_regs, kvm_sregs, kvm_vcpu_events, kvm_xcrs, kvm_xsave,
};
use kvm_ioctls::VcpuFd;
use serde::{Deserialize, Serialize};

use crate::vmm::kvm::KvmError;

/// How many model-specific registers KVM reads in one call.
const MSR_CHUNK: usize = 64;
/// The most CPUID entries KVM has.
const MAXIMUM_CPUID_ENTRIES: usize = 256;

/// Everything a processor is made of.
#[derive(Debug, Deserialize, Serialize)]
pub struct ProcessorState {
    /// Whether it runs, halts or waits for its start.
    pub multiprocessing: kvm_mp_state,
    /// General registers.
    pub registers: kvm_regs,
    /// Segments, control registers, tables.
    pub system_registers: kvm_sregs,
    /// Floating-point and vector state.
    pub extended: kvm_xsave,
    /// Which parts of that are on.
    pub extended_control: kvm_xcrs,
    /// Debug registers.
    pub debug_registers: kvm_debugregs,
    /// The local APIC.
    pub interrupt_controller: kvm_lapic_state,
    /// The time stamp counter's rate in kHz.
    pub tsc_khz: u32,
    /// What it says about itself.
    pub cpuid: Vec<kvm_cpuid_entry2>,
    /// Model-specific registers.
    pub model_specific: Vec<kvm_msr_entry>,
    /// Exceptions and interrupts under way.
    pub events: kvm_vcpu_events,
}

impl ProcessorState {
    /// Reads the state of a processor that does not run, and the given model-specific
    /// registers. The order matters: reading the multiprocessing state can change the
    /// local APIC, and events come last.
    ///
    /// # Errors
    /// [`KvmError::Call`].
    pub fn read(vcpu: &VcpuFd, msrs: &MsrList) -> Result<Self, KvmError> {
        let fail = || KvmError::call("read a processor's state");
        Ok(Self {
            multiprocessing: vcpu.get_mp_state().map_err(fail())?,
            registers: vcpu.get_regs().map_err(fail())?,
            system_registers: vcpu.get_sregs().map_err(fail())?,
            extended: vcpu.get_xsave().map_err(fail())?,
            extended_control: vcpu.get_xcrs().map_err(fail())?,
            debug_registers: vcpu.get_debug_regs().map_err(fail())?,
            interrupt_controller: vcpu.get_lapic().map_err(fail())?,
            tsc_khz: vcpu.get_tsc_khz().map_err(fail())?,
            cpuid: vcpu.get_cpuid2(MAXIMUM_CPUID_ENTRIES).map_err(fail())?.as_slice().to_vec(),
            model_specific: read_msrs(vcpu, msrs)?,
            events: vcpu.get_vcpu_events().map_err(fail())?,
        })
    }
}

/// Reads model-specific registers. KVM stops at the first one it cannot read, which is
/// then left out.
fn read_msrs(vcpu: &VcpuFd, indices: &MsrList) -> Result<Vec<kvm_msr_entry>, KvmError> {
    let mut read = Vec::with_capacity(indices.as_slice().len());
    let mut rest = indices.as_slice();
    while !rest.is_empty() {
        let (chunk, _) = rest.split_at(rest.len().min(MSR_CHUNK));
        let entries: Vec<_> = chunk
            .iter()
            .map(|index| kvm_msr_entry { index: *index, ..kvm_msr_entry::default() })
            .collect();
        let Ok(mut msrs) = Msrs::from_entries(&entries) else { break };
        let count = vcpu
            .get_msrs(&mut msrs)
            .map_err(KvmError::call("read model-specific registers"))?
            .min(chunk.len());
        read.extend(msrs.as_slice().iter().take(count));
        let skipped = usize::from(count < chunk.len());
        rest = rest.get(count + skipped..).unwrap_or_default();
    }
    Ok(read)
}
