//! What is particular to x86-64: where things are in memory, what firmware would have
//! told the kernel, and the state in which it is entered.

pub mod acpi;
pub mod boot;
pub mod cpuid;
pub mod layout;
pub mod ports;
pub mod probe_code;
pub mod registers;
pub mod state;
pub mod tables;
