//! The distros that are installed.
