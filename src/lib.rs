//! `wslr`: the Windows `wsl` command line, on a Linux host.
//!
//! One executable with three lives: the command a user types, the service that owns the
//! virtual machine, and the init of the guest. `ARCHITECTURE.md` walks through all three.

pub mod archive;
pub mod command;
pub mod config;
pub mod convert;
pub mod devices;
pub mod disk;
pub mod download;
pub mod error;
pub mod ext4;
pub mod guest;
pub mod image;
pub mod kernel;
pub mod manifest;
pub mod namespaces;
pub mod network;
pub mod protocol;
pub mod registry;
pub mod service;
pub mod storage;
pub mod terminal;
pub mod tree;
pub mod vmm;
