//! The system calls that a distro on the host's kernel does not get.
//!
//! They are those that reach the kernel itself (modules, another kernel, BPF programs,
//! performance counters), what no namespace divides (keyrings), and what finds files
//! without a path. A process cannot regain by a user namespace of its own what is filtered
//! here. Set-user-ID programs keep working: the filter is installed by root, so that the
//! `no_new_privs` flag stays off.

use std::io;

use libc::sock_filter;

use crate::guest::sys;

/// System call numbers of the kernel's own architecture.
const DENIED: &[libc::c_long] = &[
    libc::SYS_add_key,
    libc::SYS_bpf,
    libc::SYS_delete_module,
    libc::SYS_finit_module,
    libc::SYS_init_module,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ioperm,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_iopl,
    libc::SYS_kexec_file_load,
    libc::SYS_kexec_load,
    libc::SYS_keyctl,
    libc::SYS_lookup_dcookie,
    libc::SYS_open_by_handle_at,
    libc::SYS_perf_event_open,
    libc::SYS_request_key,
    libc::SYS_userfaultfd,
];

/// The same of 32-bit programs (`arch/x86/entry/syscalls/syscall_32.tbl`), and what only
/// they have.
#[cfg(target_arch = "x86_64")]
const DENIED_32: &[u32] = &[
    286, // add_key
    357, // bpf
    129, // delete_module
    350, // finit_module
    128, // init_module
    101, // ioperm
    110, // iopl
    283, // kexec_load
    288, // keyctl
    253, // lookup_dcookie
    342, // open_by_handle_at
    336, // perf_event_open
    287, // request_key
    374, // userfaultfd
    166, // vm86
    113, // vm86old
];

/// What changes the owner of a file.
const OWNERS: &[libc::c_long] = &[
    #[cfg(target_arch = "x86_64")]
    libc::SYS_chown,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_lchown,
];

#[cfg(target_arch = "x86_64")]
const OWNERS_32: &[u32] = &[
    182, // chown
    212, // chown32
    95,  // fchown
    207, // fchown32
    298, // fchownat
    16,  // lchown
    198, // lchown32
];

/// `linux/audit.h`.
#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: u32 = 0xc000_00b7;
#[cfg(target_arch = "x86_64")]
const ARCHITECTURE_32: u32 = 0x4000_0003;

/// Numbers from here on are those of the x32 interface, which no distro uses.
#[cfg(target_arch = "x86_64")]
const X32: u32 = 0x4000_0000;

/// Places in `struct seccomp_data`.
const NUMBER_AT: u32 = 0;
const ARCHITECTURE_AT: u32 = 4;

const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
const DENY: u32 = libc::SECCOMP_RET_ERRNO | libc::EPERM.cast_unsigned();
/// Nothing is done, and the call returns 0.
const SUCCEED: u32 = libc::SECCOMP_RET_ERRNO;
const UNKNOWN: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOSYS.cast_unsigned();

const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
const IF_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
#[cfg(target_arch = "x86_64")]
const IF_AT_LEAST: u16 = (libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as u16;
const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;

/// Installs the filter for this process and all that come from it. Needs CAP_SYS_ADMIN in
/// the process's user namespace. With `ignore_owners` a change of a file's owner does
/// nothing and succeeds: in a user namespace of one user there is nobody to give a file to,
/// and package managers want to.
///
/// # Errors
/// The system's.
pub fn install(ignore_owners: bool) -> io::Result<()> {
    sys::install_filter(&program(ignore_owners))
}

/// Every branch skips one instruction or none, so the program can be of any length.
fn program(ignore_owners: bool) -> Vec<sock_filter> {
    let mut program = vec![load(ARCHITECTURE_AT)];
    let numbers = |calls: &[libc::c_long]| -> Vec<u32> {
        calls.iter().filter_map(|call| u32::try_from(*call).ok()).collect()
    };
    let owners = |calls: Vec<u32>| if ignore_owners { calls } else { Vec::new() };
    block(&mut program, ARCHITECTURE, &numbers(DENIED), &owners(numbers(OWNERS)));
    #[cfg(target_arch = "x86_64")]
    block(&mut program, ARCHITECTURE_32, DENIED_32, &owners(OWNERS_32.to_vec()));
    program.push(give(UNKNOWN));
    program
}

/// What is done with the calls of one architecture.
fn block(program: &mut Vec<sock_filter>, architecture: u32, denied: &[u32], ignored: &[u32]) {
    let mut body = vec![load(NUMBER_AT)];
    #[cfg(target_arch = "x86_64")]
    if architecture == ARCHITECTURE {
        body.extend([jump(IF_AT_LEAST, X32, 0, 1), give(UNKNOWN)]);
    }
    for number in denied {
        body.extend([jump(IF_EQUAL, *number, 0, 1), give(DENY)]);
    }
    for number in ignored {
        body.extend([jump(IF_EQUAL, *number, 0, 1), give(SUCCEED)]);
    }
    body.push(give(ALLOW));
    // Another architecture skips the block by a jump without a limit of 255.
    let skip = u32::try_from(body.len()).unwrap_or(u32::MAX);
    program.push(jump(IF_EQUAL, architecture, 1, 0));
    program.push(sock_filter {
        code: (libc::BPF_JMP | libc::BPF_JA) as u16,
        jt: 0,
        jf: 0,
        k: skip,
    });
    program.append(&mut body);
}

fn load(at: u32) -> sock_filter {
    sock_filter { code: LOAD, jt: 0, jf: 0, k: at }
}

fn jump(code: u16, value: u32, when_true: u8, when_false: u8) -> sock_filter {
    sock_filter { code, jt: when_true, jf: when_false, k: value }
}

fn give(action: u32) -> sock_filter {
    sock_filter { code: RETURN, jt: 0, jf: 0, k: action }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs the program as the kernel does.
    fn run(architecture: u32, number: u32) -> u32 {
        run_in(&program(false), architecture, number)
    }

    fn run_in(program: &[sock_filter], architecture: u32, number: u32) -> u32 {
        let (mut at, mut register) = (0_usize, 0);
        loop {
            let one = program[at];
            at += 1;
            match one.code {
                LOAD if one.k == NUMBER_AT => register = number,
                LOAD => register = architecture,
                IF_EQUAL => at += usize::from(if register == one.k { one.jt } else { one.jf }),
                IF_AT_LEAST => at += usize::from(if register >= one.k { one.jt } else { one.jf }),
                RETURN => return one.k,
                _ => at += one.k as usize,
            }
        }
    }

    #[test]
    fn dangerous_calls_are_denied_in_both_interfaces_and_the_rest_is_not() {
        assert_eq!(run(ARCHITECTURE, libc::SYS_init_module as u32), DENY);
        assert_eq!(run(ARCHITECTURE, libc::SYS_userfaultfd as u32), DENY);
        assert_eq!(run(ARCHITECTURE, libc::SYS_write as u32), ALLOW);
        assert_eq!(run(ARCHITECTURE, libc::SYS_mount as u32), ALLOW);
        assert_eq!(run(ARCHITECTURE_32, 128), DENY);
        // The number of `write`; in the other interface it is another call.
        assert_eq!(run(ARCHITECTURE_32, 4), ALLOW);
        assert_eq!(run(ARCHITECTURE, 128), ALLOW);
        assert_eq!(run(ARCHITECTURE, X32 | 1), UNKNOWN);
        assert_eq!(run(0xc000_00b7, 1), UNKNOWN);
    }

    #[test]
    fn owners_are_ignored_where_that_is_asked_for() {
        let ignoring = program(true);
        assert_eq!(run_in(&ignoring, ARCHITECTURE, libc::SYS_fchownat as u32), SUCCEED);
        assert_eq!(run_in(&ignoring, ARCHITECTURE_32, 212), SUCCEED);
        assert_eq!(run_in(&ignoring, ARCHITECTURE, libc::SYS_bpf as u32), DENY);
        assert_eq!(run(ARCHITECTURE, libc::SYS_chown as u32), ALLOW);
    }
}
