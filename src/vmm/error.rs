//! Why a virtual machine could not be started.

use std::io;
use std::path::PathBuf;

use super::kvm::KvmError;
use crate::error::Diagnose;

/// Why a virtual machine could not be started.
#[derive(Debug, thiserror::Error)]
pub enum VmmError {
    /// The firmware tables do not fit their place: too many processors and devices.
    #[error("the ACPI tables need {length} bytes, {limit} are there")]
    AcpiTooLarge {
        /// Bytes the tables have.
        length: u64,
        /// Bytes reserved for them.
        limit: u64,
    },
    /// A device cannot be put on the bus.
    #[error("cannot attach a device")]
    Attach(#[from] crate::devices::transport::pci::bus::AttachError),
    /// The command line cannot be given to a kernel.
    #[error("invalid kernel command line")]
    CommandLine(#[from] super::command_line::CommandLineError),
    /// The log of the guest's console cannot be opened.
    #[error("cannot open the kernel log '{path}'")]
    ConsoleLog {
        /// The log.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A system call of the machine's set-up failed.
    #[error("cannot {action}")]
    Host {
        /// What was being done.
        action: &'static str,
        /// The system's reason.
        source: io::Error,
    },
    /// The initramfs does not fit between the kernel and the end of low memory.
    #[error("the initramfs of {length} bytes does not fit into {memory} bytes of memory")]
    InitramfsTooLarge {
        /// Its length in bytes.
        length: u64,
        /// The machine's memory in bytes.
        memory: u64,
    },
    /// The kernel's file cannot be read.
    #[error("cannot read the kernel '{path}'")]
    KernelRead {
        /// The kernel.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The file is no kernel for this architecture, or is damaged or too large.
    #[error("cannot load the kernel '{path}': {reason}")]
    KernelFormat {
        /// The kernel.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// KVM cannot be used, or failed.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// Too little or too much memory was asked for.
    #[error("{bytes} bytes of memory are not between {minimum} and {maximum}")]
    MemorySize {
        /// What was asked for.
        bytes: u64,
        /// The least that works.
        minimum: u64,
        /// The most that works.
        maximum: u64,
    },
    /// The guest's memory could not be mapped or written.
    #[error("cannot set up {bytes} bytes of guest memory: {reason}")]
    Memory {
        /// The memory's size.
        bytes: u64,
        /// What failed.
        reason: String,
    },
    /// More processors than the platform or this KVM has.
    #[error("{processors} processors are not between 1 and {maximum}")]
    ProcessorCount {
        /// What was asked for.
        processors: u32,
        /// The most that works.
        maximum: u32,
    },
    /// More devices than the platform has interrupts.
    #[error("{devices} devices are more than the {maximum} the machine has interrupts for")]
    TooManyDevices {
        /// How many were given.
        devices: usize,
        /// The most that works.
        maximum: usize,
    },
}

impl Diagnose for VmmError {
    fn code(&self) -> &'static str {
        match self {
            Self::Kvm(error) => error.code(),
            Self::KernelRead { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                "WSL_E_CUSTOM_KERNEL_NOT_FOUND"
            }
            Self::CommandLine(_)
            | Self::KernelFormat { .. }
            | Self::MemorySize { .. }
            | Self::ProcessorCount { .. } => "E_INVALIDARG",
            Self::InitramfsTooLarge { .. } | Self::Memory { .. } => "E_OUTOFMEMORY",
            _ => "E_FAIL",
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::CommandLine(_) => Some("check kernelCommandLine in ~/.wslconfig".to_owned()),
            Self::InitramfsTooLarge { .. } | Self::MemorySize { .. } => {
                Some("set memory in the [wsl2] section of ~/.wslconfig".to_owned())
            }
            Self::KernelFormat { .. } | Self::KernelRead { .. } => Some(
                "check kernel in ~/.wslconfig, or run wslr --update for the default kernel"
                    .to_owned(),
            ),
            Self::Kvm(error) => error.hint(),
            Self::Memory { .. } => {
                Some("close other programs, or set memory in ~/.wslconfig lower".to_owned())
            }
            Self::ProcessorCount { .. } => {
                Some("set processors in the [wsl2] section of ~/.wslconfig".to_owned())
            }
            _ => None,
        }
    }
}
