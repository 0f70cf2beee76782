//! What root of a distro may do on the host's kernel.
//!
//! The set is that of the usual container runtimes, without device nodes (there is no
//! device cgroup here to limit them) and with the one that ends the distro's own PID
//! namespace. What is missing is what reaches beyond the distro: mounts, modules, raw
//! input and output, the clock, the network's configuration, tracing other users.

use std::io;

use crate::guest::sys;

/// Numbers of `linux/capability.h`.
const KEPT: [u32; 14] = [
    0,  // CAP_CHOWN
    1,  // CAP_DAC_OVERRIDE
    3,  // CAP_FOWNER
    4,  // CAP_FSETID
    5,  // CAP_KILL
    6,  // CAP_SETGID
    7,  // CAP_SETUID
    8,  // CAP_SETPCAP
    10, // CAP_NET_BIND_SERVICE
    13, // CAP_NET_RAW
    18, // CAP_SYS_CHROOT
    22, // CAP_SYS_BOOT: reboot(2) ends the distro; kexec is filtered.
    29, // CAP_AUDIT_WRITE
    31, // CAP_SETFCAP
];

/// Gives all but the kept capabilities up for good, for this process and all that come
/// from it.
///
/// # Errors
/// The system's.
pub fn limit() -> io::Result<()> {
    // The kernel tells by an error which number is its first unknown one.
    for capability in (0..64).filter(|capability| !KEPT.contains(capability)) {
        match sys::drop_bounding(capability) {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => break,
            result => result?,
        }
    }
    let kept = KEPT.iter().fold(0_u64, |set, capability| set | 1 << capability);
    sys::limit_capabilities(kept)
}
