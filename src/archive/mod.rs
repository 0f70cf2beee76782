//! A distro or a package straight from a signed Debian-style archive.
