//! A guest of a few instructions that a real virtual processor runs and an instruction
//! emulator does not.
//!
//! A KVM that only runs paravirtual guests executes kernel code of other guests in
//! software, and its emulator lacks what every kernel uses: `cmpxchg16b`, a breakpoint
//! delivered through the interrupt table, `xrstor`, moves of vector registers. The guest
//! does each once, checks what it can, and reports through a port.

use kvm_bindings::{CpuId, kvm_regs};
use kvm_ioctls::VcpuFd;
use vm_memory::{Address, Bytes, GuestAddress, GuestMemoryError, GuestMemoryMmap};

use super::registers::{self, RFLAGS_FIXED};
use super::tables;
use crate::vmm::kvm::KvmError;

/// The guest's memory in bytes.
pub const MEMORY: u64 = 64 << 10;
/// The port through which it reports.
pub const PORT: u16 = 0xf1;
/// What it reports after all went well: the count of breakpoints plus this.
pub const SUCCESS: u8 = 0x41;

const GDT: GuestAddress = GuestAddress(0x1000);
const IDT: GuestAddress = GuestAddress(0x2000);
const PAGE_TABLES: GuestAddress = GuestAddress(0x3000);
const CODE: GuestAddress = GuestAddress(0x7000);
const HANDLER: GuestAddress = GuestAddress(0x7800);
const STACK_TOP: u64 = 0xa000;
/// Aligned to 64 bytes as `xsave` wants; zeroed.
const DATA: u64 = 0xb000;

/// CR4: `fxsave` and vector exceptions; `xsave`.
const CR4_VECTORS: u64 = (1 << 9) | (1 << 10);
const CR4_XSAVE: u64 = 1 << 18;
/// Leaf 1 ECX: `xsave`; `cmpxchg16b`.
const CPUID_XSAVE: u32 = 1 << 26;
/// The vector of `int3`.
const BREAKPOINT: u64 = 3;
/// An interrupt gate, present, for privilege 0.
const INTERRUPT_GATE: u16 = 0x8e00;

/// Counts breakpoints in R15 and returns.
const HANDLER_CODE: [u8; 5] = [
    0x49, 0xff, 0xc7, // inc r15
    0x48, 0xcf, // iretq
];

/// Vector moves, `cmpxchg16b` and the breakpoint. RBX holds the address of the data.
const COMMON_CODE: [u8; 36] = [
    0x66, 0x0f, 0xef, 0xc0, // pxor xmm0, xmm0
    0x66, 0x0f, 0x76, 0xc0, // pcmpeqd xmm0, xmm0: all ones
    0x0f, 0x11, 0x03, // movups [rbx], xmm0
    0x48, 0x8b, 0x03, // mov rax, [rbx]: the comparand, all ones
    0x48, 0x8b, 0x53, 0x08, // mov rdx, [rbx+8]
    0x48, 0x89, 0xdf, // mov rdi, rbx
    0x53, // push rbx
    0x31, 0xdb, // xor ebx, ebx
    0x31, 0xc9, // xor ecx, ecx
    0xf0, 0x48, 0x0f, 0xc7, 0x0f, // lock cmpxchg16b [rdi]: to zero
    0x5b, // pop rbx
    0x75, 0x02, // jnz +2: over the breakpoint
    0xcc, // int3
    0x90, // nop
];

/// Saves and restores everything: XCR0 = 3, then `xsave` and `xrstor`.
const XSAVE_CODE: [u8; 22] = [
    0x31, 0xc9, // xor ecx, ecx
    0x31, 0xd2, // xor edx, edx
    0xb8, 0x03, 0x00, 0x00, 0x00, // mov eax, 3
    0x0f, 0x01, 0xd1, // xsetbv
    0x0f, 0xae, 0x63, 0x40, // xsave [rbx+64]
    0x0f, 0xae, 0x6b, 0x40, // xrstor [rbx+64]
    0x90, 0x90, // nop; nop
];

/// The same on a processor without `xsave`.
const FXSAVE_CODE: [u8; 8] = [
    0x0f, 0xae, 0x43, 0x40, // fxsave [rbx+64]
    0x0f, 0xae, 0x4b, 0x40, // fxrstor [rbx+64]
];

/// Reports the count of breakpoints and stops.
const REPORT_CODE: [u8; 9] = [
    0x44, 0x88, 0xf8, // mov al, r15b
    0x04, 0x40, // add al, 0x40
    0xe6, PORT as u8, // out PORT, al
    0xf4,       // hlt
    0x90,       // nop
];

/// Writes the guest.
///
/// # Errors
/// Where the memory is smaller than [`MEMORY`].
pub fn write(memory: &GuestMemoryMmap, supported: &CpuId) -> Result<(), GuestMemoryError> {
    memory.write_slice(&tables::gdt_bytes(), GDT)?;
    tables::write_page_tables(memory, PAGE_TABLES, 1)?;
    // All in one page below 64 KiB: the offset's upper parts are zero.
    let gate = [HANDLER.raw_value() as u16, tables::CODE_SELECTOR, INTERRUPT_GATE, 0, 0, 0, 0, 0];
    let gate: Vec<u8> = gate.iter().flat_map(|word| word.to_le_bytes()).collect();
    memory.write_slice(&gate, IDT.unchecked_add(BREAKPOINT * 16))?;
    memory.write_slice(&HANDLER_CODE, HANDLER)?;
    let save: &[u8] = if has_xsave(supported) { &XSAVE_CODE } else { &FXSAVE_CODE };
    memory.write_slice(&[&COMMON_CODE, save, &REPORT_CODE].concat(), CODE)
}

/// Lets the processor start in the guest.
///
/// # Errors
/// [`KvmError::Call`].
pub fn set_up(vcpu: &VcpuFd, supported: &CpuId) -> Result<(), KvmError> {
    vcpu.set_cpuid2(supported).map_err(KvmError::call("set CPUID"))?;
    let xsave = if has_xsave(supported) { CR4_XSAVE } else { 0 };
    registers::set_long_mode(vcpu, PAGE_TABLES, GDT, CR4_VECTORS | xsave)?;
    let mut system = vcpu.get_sregs().map_err(KvmError::call("read system registers"))?;
    system.idt.base = IDT.raw_value();
    system.idt.limit = 0xfff;
    vcpu.set_sregs(&system).map_err(KvmError::call("set system registers"))?;
    let registers = kvm_regs {
        rip: CODE.raw_value(),
        rsp: STACK_TOP,
        rbx: DATA,
        rflags: RFLAGS_FIXED,
        ..kvm_regs::default()
    };
    vcpu.set_regs(&registers).map_err(KvmError::call("set registers"))
}

fn has_xsave(supported: &CpuId) -> bool {
    supported.as_slice().iter().any(|entry| entry.function == 1 && entry.ecx & CPUID_XSAVE != 0)
}
