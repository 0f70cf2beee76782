//! The virtual machine monitor, on KVM.
