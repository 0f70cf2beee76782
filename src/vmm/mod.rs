//! The virtual machine: memory, processors, boot and power, on KVM.
//!
//! [`machine::VirtualMachine`] is the whole of it to the rest of the program: started
//! from a [`machine::Configuration`], it runs on threads of its own until the guest ends
//! it or [`machine::VirtualMachine::kill`] does. What depends on the processor's
//! architecture is in one folder each; the parts beside it know none of it.

pub mod command_line;
pub mod error;
pub mod exit;
pub mod kvm;
pub mod machine;
pub mod memory;
pub mod probe;
pub mod vcpu;
pub mod x86_64;
