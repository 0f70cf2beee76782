//! The packages that make an archive's release a usable distro.

/// What a distro has besides everything essential or required: package management over
/// https, systemd with user sessions, and what a person expects at a prompt.
pub const PACKAGES: &[&str] = &[
    "apt",
    "ca-certificates",
    "dbus",
    "dbus-user-session",
    "iproute2",
    "kmod",
    "less",
    "libpam-systemd",
    "nano",
    "netbase",
    "passwd",
    "procps",
    "sudo",
    "systemd",
    "systemd-sysv",
];
