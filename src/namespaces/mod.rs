//! What the kernel offers to keep a distro to itself on a kernel that it shares: user
//! namespaces, capabilities, a filter of system calls.
//!
//! Nothing here knows of distros or machines; [`user`] decides whom a distro's users are
//! on this host.

pub mod capabilities;
pub mod seccomp;
pub mod user;

/// Takes over where this process was started to make a user namespace and run something
/// in it ([`user::Mapping::command`]). Otherwise returns at once.
pub fn run_if_called() {
    let mut words = std::env::args_os();
    if words.next().is_some_and(|name| name == user::ARGUMENT) {
        user::run(words.collect());
    }
}
