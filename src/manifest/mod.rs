//! The list of distros that can be installed.
