//! The one kernel all distros share: fetched, prepared, kept.
//!
//! `kernels/<release>/` below the data directory holds what a boot needs: the uncompressed
//! kernel, the modules that the guest's init loads, and a disk with all modules. It is
//! prepared whole, beside its final name, by [`update()`]; [`current`] finds the newest and
//! keeps it from being removed while it is used; [`initramfs`] packs the guest's init.

pub mod custom;
pub mod decompress;
pub mod depmod;
pub mod elf;
pub mod error;
pub mod image;
pub mod index;
pub mod initramfs;
pub mod lz4;
pub mod modules;
pub mod package;
pub mod store;
pub mod update;

pub use custom::custom;
pub use error::KernelError;
pub use store::{Prepared, current};
pub use update::{Updated, update};
