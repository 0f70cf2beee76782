//! The system calls that nix does not offer safely: the guest's `unsafe` is here
//! (but for descriptors that arrive in a message).
//!
//! Every process of the guest is single-threaded, which is what makes its forks sound.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{self, IoSliceMut};
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::{SigSet, SigmaskHow};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use nix::unistd::Pid;

use crate::protocol::session::{ExitStatus, WindowSize};

/// `linux/sched.h`; beyond the `int` that the libc crate gives it.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Which side of a fork this is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Forked {
    /// The new process.
    Child,
    /// The old one, with the new one's id.
    Parent(Pid),
}

/// Forks this single-threaded process.
///
/// # Errors
/// The system's.
pub fn fork() -> io::Result<Forked> {
    // SAFETY: the guest's processes have one thread, so the child's memory is consistent
    // and it may do all that its parent may.
    Ok(match unsafe { nix::unistd::fork() }? {
        nix::unistd::ForkResult::Child => Forked::Child,
        nix::unistd::ForkResult::Parent { child } => Forked::Parent(child),
    })
}

/// Forks this single-threaded process into new namespaces (`CLONE_NEW*`), and straight
/// into a cgroup where one is given.
///
/// # Errors
/// The system's.
pub fn fork_into(namespaces: i32, cgroup: Option<BorrowedFd<'_>>) -> io::Result<Forked> {
    // SAFETY: all-zero is a valid clone_args: no flags, no pointers.
    let mut arguments: libc::clone_args = unsafe { mem::zeroed() };
    arguments.flags = u64::from(namespaces.cast_unsigned());
    arguments.exit_signal = u64::from(libc::SIGCHLD.cast_unsigned());
    if let Some(cgroup) = cgroup {
        arguments.flags |= CLONE_INTO_CGROUP;
        arguments.cgroup = u64::from(cgroup.as_raw_fd().cast_unsigned());
    }
    // SAFETY: no CLONE_VM and no stack, so this is a fork; the structure is valid and its
    // size is passed. One thread, as above.
    let result = unsafe {
        libc::syscall(libc::SYS_clone3, &raw mut arguments, mem::size_of::<libc::clone_args>())
    };
    match Errno::result(result)? {
        0 => Ok(Forked::Child),
        pid => Ok(Forked::Parent(Pid::from_raw(pid as i32))),
    }
}

/// A child that ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Ended {
    /// Its process id.
    pub pid: Pid,
    /// How.
    pub status: ExitStatus,
}

/// What [`reap`] found.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Reaped {
    /// This child ended.
    Ended(Ended),
    /// There are children, none has ended.
    None,
    /// There is no child.
    NoChildren,
}

/// Takes one ended child, without waiting. Real-time signals included, which nix's
/// `waitpid` refuses.
#[must_use]
pub fn reap() -> Reaped {
    loop {
        let mut status = 0;
        // SAFETY: the pointer is to a local.
        let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG | libc::__WALL) };
        match pid {
            0 => return Reaped::None,
            -1 if Errno::last() == Errno::EINTR => {}
            -1 => return Reaped::NoChildren,
            pid => {
                let status = if libc::WIFSIGNALED(status) {
                    ExitStatus::Signal(libc::WTERMSIG(status) as u8)
                } else {
                    ExitStatus::Code(libc::WEXITSTATUS(status) as u8)
                };
                return Reaped::Ended(Ended { pid: Pid::from_raw(pid), status });
            }
        }
    }
}

/// Sends a signal by number, real-time ones included.
///
/// # Errors
/// The system's.
pub fn kill(pid: Pid, signal: i32) -> io::Result<()> {
    // SAFETY: a plain system call without pointers.
    Errno::result(unsafe { libc::kill(pid.as_raw(), signal) })?;
    Ok(())
}

/// Lets this process run when no other wants to.
pub fn lower_priority() {
    // SAFETY: no pointers; it is this process's own priority.
    let _ = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, 19) };
}

/// Closes every descriptor above the standard ones but those given.
pub fn close_all_except(keep: &[RawFd]) {
    let mut keep: Vec<u32> = keep.iter().filter_map(|fd| u32::try_from(*fd).ok()).collect();
    keep.sort_unstable();
    let mut first = 3_u32;
    for fd in keep {
        if fd > first {
            close_range(first, fd - 1);
        }
        first = first.max(fd.saturating_add(1));
    }
    close_range(first, u32::MAX);
}

fn close_range(first: u32, last: u32) {
    // SAFETY: the caller is a fresh child that never returns into code that owns the
    // closed descriptors; nothing is dropped in it.
    let _ = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
}

/// Whether this process is in a user namespace made by a user without other ids.
#[must_use]
pub fn is_single_user() -> bool {
    std::fs::read("/proc/self/setgroups").is_ok_and(|text| text.trim_ascii() == b"deny")
}

/// Makes `/dev/null` of the standard descriptors.
pub fn silence() {
    if let Ok(nothing) = File::options().read(true).write(true).open("/dev/null") {
        let _ = nix::unistd::dup2_stdin(&nothing);
        let _ = nix::unistd::dup2_stdout(&nothing);
        let _ = nix::unistd::dup2_stderr(&nothing);
    }
}

/// Every signal at its default action, none blocked: what a program expects at its start.
pub fn reset_signals() {
    // The kernel's sigaction: handler, flags, restorer, mask. All zero is the default.
    // Not by the C library, which hides two signals of its own that can be inherited.
    let default = [0_u64; 4];
    let none = std::ptr::null_mut::<u64>();
    for signal in 1..=64_i64 {
        // SAFETY: the default action runs no code of ours; the structure is valid.
        let _ = unsafe {
            libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), none, 8_usize)
        };
    }
    let _ = nix::sys::signal::sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None);
}

/// The most descriptors of one message: a session's request, its control stream, its four
/// streams.
const MAXIMUM_DESCRIPTORS: usize = 6;

/// Receives bytes and the descriptors that come with them; none and none at the end.
///
/// # Errors
/// The system's.
pub fn receive(
    socket: &impl AsFd,
    bytes: &mut [u8],
    flags: MsgFlags,
) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut space = nix::cmsg_space!([RawFd; MAXIMUM_DESCRIPTORS]);
    let mut parts = [IoSliceMut::new(bytes)];
    let socket = socket.as_fd().as_raw_fd();
    let flags = flags | MsgFlags::MSG_CMSG_CLOEXEC;
    let received = recvmsg::<()>(socket, &mut parts, Some(&mut space), flags)?;
    let mut descriptors = Vec::new();
    for message in received.cmsgs()? {
        if let ControlMessageOwned::ScmRights(list) = message {
            // SAFETY: the kernel has just made these descriptors for this process.
            descriptors.extend(list.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
        }
    }
    Ok((received.bytes, descriptors))
}

/// Has ended children reaped by the kernel, until [`reset_signals`].
pub fn ignore_children() {
    // SAFETY: ignoring a signal runs no code of ours.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
}

fn c_path(path: &Path) -> io::Result<CString> {
    use std::os::unix::ffi::OsStrExt;
    CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other)
}

/// A detached copy of the mount (with those below it) at `path`. A copy of a shared
/// mount stays in its peer group.
///
/// # Errors
/// The system's.
pub fn copy_mount(path: &Path) -> io::Result<OwnedFd> {
    let path = c_path(path)?;
    let flags =
        libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC | libc::AT_RECURSIVE.cast_unsigned();
    // SAFETY: the path is NUL-terminated and lives through the call.
    let fd = Errno::result(unsafe {
        libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags)
    })?;
    // SAFETY: the call returned a new descriptor that nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// A new detached mount of a file system without a source, with `MOUNT_ATTR_*`.
///
/// # Errors
/// The system's.
pub fn new_mount(kind: &CStr, attributes: u64) -> io::Result<OwnedFd> {
    const FSOPEN_CLOEXEC: u32 = 1;
    const FSMOUNT_CLOEXEC: u32 = 1;
    const FSCONFIG_SET_STRING: u32 = 1;
    const FSCONFIG_CMD_CREATE: u32 = 6;
    // SAFETY: the name is NUL-terminated and lives through the call.
    let fd =
        Errno::result(unsafe { libc::syscall(libc::SYS_fsopen, kind.as_ptr(), FSOPEN_CLOEXEC) })?;
    // SAFETY: the call returned a new descriptor that nothing else owns.
    let context = unsafe { OwnedFd::from_raw_fd(fd as RawFd) };
    let none = std::ptr::null::<u8>();
    // What `/proc/mounts` shows as the source. SAFETY: both strings are NUL-terminated.
    Errno::result(unsafe {
        let context = context.as_raw_fd();
        let key = c"source".as_ptr();
        libc::syscall(libc::SYS_fsconfig, context, FSCONFIG_SET_STRING, key, kind.as_ptr(), 0)
    })?;
    // SAFETY: this command takes neither key nor value.
    Errno::result(unsafe {
        let context = context.as_raw_fd();
        libc::syscall(libc::SYS_fsconfig, context, FSCONFIG_CMD_CREATE, none, none, 0)
    })?;
    // SAFETY: the arguments are integers.
    let fd = Errno::result(unsafe {
        libc::syscall(libc::SYS_fsmount, context.as_raw_fd(), FSMOUNT_CLOEXEC, attributes)
    })?;
    // SAFETY: the call returned a new descriptor that nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// Gives a capability up that no program executed from here on can then have.
///
/// # Errors
/// The system's; `EINVAL` where the kernel has none of that number.
pub fn drop_bounding(capability: u32) -> io::Result<()> {
    // SAFETY: the arguments are integers.
    Errno::result(unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) })?;
    Ok(())
}

/// Leaves this process those of its capabilities that are in `kept`, bit by number, and
/// lets programs inherit none beside those of their user.
///
/// # Errors
/// The system's.
pub fn limit_capabilities(kept: u64) -> io::Result<()> {
    /// `_LINUX_CAPABILITY_VERSION_3`: two sets of 32.
    const VERSION: u32 = 0x2008_0522;
    let mut header = [VERSION, 0];
    // Effective, permitted, inheritable; twice.
    let mut sets = [0_u32; 6];
    // SAFETY: the kernel fills in two triples of 32-bit words, as version 3 says.
    Errno::result(unsafe {
        libc::syscall(libc::SYS_capget, header.as_mut_ptr(), sets.as_mut_ptr())
    })?;
    let [effective, permitted, _, effective_high, permitted_high, _] = sets;
    let (low, high) = (kept as u32, (kept >> 32) as u32);
    let sets =
        [effective & low, permitted & low, 0, effective_high & high, permitted_high & high, 0];
    // SAFETY: as above; nothing is written.
    Errno::result(unsafe { libc::syscall(libc::SYS_capset, header.as_mut_ptr(), sets.as_ptr()) })?;
    Ok(())
}

/// Installs a filter of system calls.
///
/// # Errors
/// The system's.
pub fn install_filter(program: &[libc::sock_filter]) -> io::Result<()> {
    let filter = libc::sock_fprog {
        len: u16::try_from(program.len()).map_err(io::Error::other)?,
        filter: program.as_ptr().cast_mut(),
    };
    // SAFETY: the structure points to as many instructions as it says, which live through
    // the call; the kernel copies them and writes nothing.
    Errno::result(unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const filter)
    })?;
    Ok(())
}

/// Sets attributes (`MOUNT_ATTR_*`) of a detached mount and of those below it.
///
/// # Errors
/// The system's.
pub fn set_attributes(mount: &impl AsFd, set: u64) -> io::Result<()> {
    // SAFETY: all-zero is a valid mount_attr: nothing is set or cleared.
    let mut attributes: libc::mount_attr = unsafe { mem::zeroed() };
    attributes.attr_set = set;
    // SAFETY: the empty path is NUL-terminated, the structure's size is passed.
    Errno::result(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_fd().as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | libc::AT_RECURSIVE,
            &raw mut attributes,
            mem::size_of::<libc::mount_attr>(),
        )
    })?;
    Ok(())
}

/// Mounts a detached mount at `path`.
///
/// # Errors
/// The system's.
pub fn attach_mount(mount: &impl AsFd, path: &Path) -> io::Result<()> {
    const MOVE_MOUNT_F_EMPTY_PATH: u32 = 4;
    const MOVE_MOUNT_T_SYMLINKS: u32 = 0x10;
    let path = c_path(path)?;
    // SAFETY: both paths are NUL-terminated and live through the call.
    Errno::result(unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            mount.as_fd().as_raw_fd(),
            c"".as_ptr(),
            libc::AT_FDCWD,
            path.as_ptr(),
            MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_SYMLINKS,
        )
    })?;
    Ok(())
}

/// Grows a mounted ext4 file system, of which `on` is any open file, to `length` bytes, less
/// what is no whole block (`EXT4_IOC_RESIZE_FS` of the kernel's `fs/ext4/ioctl.c`).
///
/// # Errors
/// The system's.
pub fn grow_ext4(on: &File, length: u64) -> io::Result<()> {
    // _IOW('f', 16, __u64)
    const RESIZE: libc::Ioctl = nix::request_code_write!(b'f', 16, size_of::<u64>());
    let blocks = length / nix::sys::statvfs::fstatvfs(on)?.block_size();
    // SAFETY: the kernel reads one number of 64 bits from the pointer, which is valid for the
    // call.
    Errno::result(unsafe { libc::ioctl(on.as_raw_fd(), RESIZE, &raw const blocks) })?;
    Ok(())
}

/// Loads a kernel module.
///
/// # Errors
/// The system's; `EEXIST` where it is loaded or built in.
pub fn load_module(module: &File) -> io::Result<()> {
    // SAFETY: the parameter string is NUL-terminated.
    Errno::result(unsafe {
        libc::syscall(libc::SYS_finit_module, module.as_raw_fd(), c"".as_ptr(), 0)
    })?;
    Ok(())
}

/// Swaps to a device from now on, and tells it what is not needed any more.
///
/// # Errors
/// The system's.
pub fn swap_on(device: &Path) -> io::Result<()> {
    use std::os::unix::ffi::OsStrExt;
    const SWAP_FLAG_DISCARD: libc::c_int = 0x1_0000;
    let path = CString::new(device.as_os_str().as_bytes())?;
    // SAFETY: the path is NUL-terminated.
    Errno::result(unsafe { libc::swapon(path.as_ptr(), SWAP_FLAG_DISCARD) })?;
    Ok(())
}

/// Adds random bytes to the kernel's pool and credits them.
///
/// # Errors
/// The system's.
pub fn add_entropy(random: &File, bytes: &[u8]) -> io::Result<()> {
    const RNDADDENTROPY: libc::Ioctl = 0x4008_5203;
    // struct rand_pool_info: bits of entropy, size in bytes, the bytes.
    let size = i32::try_from(bytes.len()).map_err(io::Error::other)?;
    let mut message = size.saturating_mul(8).to_ne_bytes().to_vec();
    message.extend_from_slice(&size.to_ne_bytes());
    message.extend_from_slice(bytes);
    // SAFETY: the buffer holds the header and as many bytes as the header says.
    Errno::result(unsafe { libc::ioctl(random.as_raw_fd(), RNDADDENTROPY, message.as_ptr()) })?;
    Ok(())
}

/// Brings the loopback interface up.
///
/// # Errors
/// The system's.
pub fn loopback_up() -> io::Result<()> {
    let socket = nix::sys::socket::socket(
        nix::sys::socket::AddressFamily::Inet,
        nix::sys::socket::SockType::Datagram,
        nix::sys::socket::SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    // SAFETY: all-zero is a valid ifreq: an empty name, no flags.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    request.ifr_name[0] = b'l'.cast_signed();
    request.ifr_name[1] = b'o'.cast_signed();
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as i16;
    // SAFETY: the request is a valid ifreq with a NUL-terminated name.
    Errno::result(unsafe {
        libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as libc::Ioctl, &raw const request)
    })?;
    Ok(())
}

/// Sets a terminal's size.
///
/// # Errors
/// The system's.
pub fn set_window_size(terminal: &impl AsFd, size: WindowSize) -> io::Result<()> {
    let size =
        libc::winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the pointer is to a valid winsize.
    Errno::result(unsafe {
        libc::ioctl(terminal.as_fd().as_raw_fd(), libc::TIOCSWINSZ, &raw const size)
    })?;
    Ok(())
}

/// The slave side of a pseudo-terminal, without going through a path.
///
/// # Errors
/// The system's.
pub fn open_peer(master: &impl AsFd) -> io::Result<OwnedFd> {
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: the argument is an integer.
    let fd = Errno::result(unsafe {
        libc::ioctl(master.as_fd().as_raw_fd(), libc::TIOCGPTPEER, flags)
    })?;
    // SAFETY: the call returned a new descriptor that nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Makes a terminal the controlling one of this session leader.
///
/// # Errors
/// The system's.
pub fn set_controlling_terminal(terminal: &impl AsFd) -> io::Result<()> {
    // SAFETY: the argument is an integer.
    Errno::result(unsafe { libc::ioctl(terminal.as_fd().as_raw_fd(), libc::TIOCSCTTY, 0) })?;
    Ok(())
}

/// How many bytes can be read at once from a pipe.
///
/// # Errors
/// The system's.
pub fn readable_bytes(fd: &impl AsFd) -> io::Result<usize> {
    let mut count: libc::c_int = 0;
    // SAFETY: the pointer is to a local integer.
    Errno::result(unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), libc::FIONREAD, &raw mut count) })?;
    Ok(usize::try_from(count).unwrap_or(0))
}

/// Whether this is a terminal, master sides included.
#[must_use]
pub fn is_terminal(fd: &impl AsFd) -> bool {
    nix::unistd::isatty(fd).unwrap_or(false)
}

/// Makes reads and writes return instead of waiting.
///
/// # Errors
/// The system's.
pub fn set_nonblocking(fd: &impl AsFd) -> io::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}
