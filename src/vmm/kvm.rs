//! Access to the host's KVM, and the three ways in which it is not there.

use std::fs;
use std::io;

use kvm_ioctls::{Cap, Kvm};

use crate::error::Diagnose;

/// The device that gives access to KVM.
const DEVICE: &str = "/dev/kvm";

/// The only API version there has been since Linux 2.6.22.
const API_VERSION: i32 = 12;

/// What this program cannot do without.
const NEEDED: [(Cap, &str); 6] = [
    (Cap::UserMemory, "user memory"),
    (Cap::Irqchip, "in-kernel interrupt controller"),
    (Cap::Ioeventfd, "ioeventfd"),
    (Cap::Irqfd, "irqfd"),
    (Cap::ExtCpuid, "CPUID"),
    (Cap::SetTssAddr, "TSS address"),
];

/// Why KVM cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KvmError {
    /// A call failed.
    #[error("KVM failed to {action}")]
    Call {
        /// What was asked of it.
        action: &'static str,
        /// The system's reason.
        source: io::Error,
    },
    /// `/dev/kvm` is there but this user may not open it.
    #[error("no permission to use {DEVICE}")]
    Denied,
    /// There is no `/dev/kvm`, or no driver behind it.
    #[error("this machine offers no hardware virtualization: there is no usable {DEVICE}")]
    Missing {
        /// The kernel module that fits the processor, where it can virtualize at all.
        module: Option<&'static str>,
    },
    /// The guest of the probe did not come through: KVM emulates kernel code and cannot
    /// run a stock kernel.
    #[error("this KVM only runs paravirtual guests and cannot boot an ordinary Linux kernel")]
    ParavirtualOnly {
        /// Where the probe stopped.
        reason: String,
    },
    /// An old or cut-down KVM.
    #[error("this KVM is too old: it lacks {feature}")]
    TooOld {
        /// What it lacks.
        feature: &'static str,
    },
}

impl KvmError {
    /// The error of a failed call, for `map_err`.
    pub fn call(action: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> Self {
        move |error| Self::Call { action, source: error.into() }
    }
}

impl Diagnose for KvmError {
    fn code(&self) -> &'static str {
        match self {
            Self::Call { .. } => "E_FAIL",
            Self::Denied => "E_ACCESSDENIED",
            Self::Missing { .. } | Self::ParavirtualOnly { .. } | Self::TooOld { .. } => {
                "WSL_E_VIRTUAL_MACHINE_PLATFORM_REQUIRED"
            }
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Call { .. } => None,
            Self::Denied => Some(
                "run `sudo usermod -aG kvm $USER` and log in again, or `sudo chmod 666 /dev/kvm`"
                    .to_owned(),
            ),
            Self::Missing { module: Some(module) } => Some(format!(
                "run `sudo modprobe {module}`; where that fails, enable virtualization in the firmware settings"
            )),
            Self::Missing { module: None } => Some(
                "enable Intel VT-x or AMD-V in the firmware settings, or nested virtualization for this virtual machine, then run `sudo modprobe kvm-intel` or `sudo modprobe kvm-amd`"
                    .to_owned(),
            ),
            Self::ParavirtualOnly { .. } => Some(
                "use a machine with real or nested hardware virtualization (Intel VT-x or AMD-V)"
                    .to_owned(),
            ),
            Self::TooOld { .. } => Some("use Linux 5.4 or newer on the host".to_owned()),
        }
    }
}

/// Opens KVM and checks that it can do what is needed.
///
/// # Errors
/// [`KvmError::Missing`], [`KvmError::Denied`], [`KvmError::TooOld`], or what else the
/// system says.
pub fn open() -> Result<Kvm, KvmError> {
    let kvm = Kvm::new().map_err(|error| classify(error.into()))?;
    if kvm.get_api_version() != API_VERSION {
        return Err(KvmError::TooOld { feature: "API version 12" });
    }
    match NEEDED.iter().find(|(capability, _)| !kvm.check_extension(*capability)) {
        Some((_, feature)) => Err(KvmError::TooOld { feature }),
        None => Ok(kvm),
    }
}

/// What a failed `open` of the device means.
fn classify(error: io::Error) -> KvmError {
    match error.raw_os_error() {
        Some(libc::EACCES | libc::EPERM) => KvmError::Denied,
        Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => {
            let processor = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
            KvmError::Missing { module: module_for(&processor) }
        }
        _ => KvmError::Call { action: "open /dev/kvm", source: error },
    }
}

/// The KVM module for the processor that `/proc/cpuinfo` describes.
fn module_for(cpuinfo: &str) -> Option<&'static str> {
    let flags = cpuinfo.lines().find(|line| line.starts_with("flags"))?;
    let has = |wanted: &str| flags.split_whitespace().any(|flag| flag == wanted);
    if has("vmx") {
        Some("kvm-intel")
    } else if has("svm") {
        Some("kvm-amd")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ways_kvm_is_not_there_are_told_apart() {
        let classified = |code| classify(io::Error::from_raw_os_error(code));
        assert!(matches!(classified(libc::ENOENT), KvmError::Missing { .. }));
        assert!(matches!(classified(libc::ENODEV), KvmError::Missing { .. }));
        assert!(matches!(classified(libc::EACCES), KvmError::Denied));
        assert!(matches!(classified(libc::EMFILE), KvmError::Call { .. }));
    }

    #[test]
    fn the_hint_names_the_module_of_the_processor() {
        assert_eq!(module_for("model name\t: x\nflags\t\t: fpu vmx sse\n"), Some("kvm-intel"));
        assert_eq!(module_for("flags\t\t: fpu svm\n"), Some("kvm-amd"));
        assert_eq!(module_for("flags\t\t: fpu svm_lock\n"), None);
        assert_eq!(module_for(""), None);
    }

    #[test]
    fn every_sentence_is_its_own_and_has_a_hint() {
        let errors = [
            KvmError::Denied,
            KvmError::Missing { module: None },
            KvmError::ParavirtualOnly { reason: String::new() },
        ];
        let mut sentences: Vec<_> = errors.iter().map(ToString::to_string).collect();
        assert!(errors.iter().all(|error| error.hint().is_some()));
        sentences.dedup();
        assert_eq!(sentences.len(), 3);
    }
}
