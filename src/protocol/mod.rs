//! What the three lives of the executable say to each other.
//!
//! The command and the service talk over a Unix socket ([`client`]); the service and the
//! guest's init talk over vsock streams ([`guest`]); both use the same length-prefixed
//! frames ([`frame`]). Both ends of every message are the same Rust types, and both ends
//! are the same executable, so the encoding carries no compatibility layer: a version
//! word at the start of each connection refuses a stranger.

pub mod client;
pub mod frame;
pub mod guest;
pub mod incremental;
pub mod session;
