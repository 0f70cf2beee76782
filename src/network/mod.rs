//! The network of version 2: frames of the guest become ordinary sockets of the host.
//!
//! So the host's routes, VPN, firewall and resolver apply to a distro as to any program of
//! the user's, and follow them as they change, without privilege and without a helper.
//! [`nat::Nat`] is the other end of the guest's cable ([`crate::devices::net::Link`]). It
//! answers for the gateway's address, ends the guest's TCP connections here and opens the
//! host's own beside them ([`tcp`]), carries datagrams and echoes ([`datagram`]), and hands
//! questions for names to the host's resolver ([`dns`], [`names`]). Ports that a distro listens on are
//! the host's too, on its loopback addresses ([`ports`]).
//!
//! Nothing the guest sends can cost more than a fixed amount: flows are counted, each has
//! bounded buffers, and no answer is queued for a guest that takes none. A reader that is
//! slow on either side closes the other's window; nothing is dropped but datagrams.
//!
//! From the guest's side a host cannot be told from one that is really there: a refused
//! connection is refused, an unreachable one unreachable, ends and resets arrive as such.

pub mod addresses;
mod datagram;
mod delay;
mod dns;
mod encode;
pub mod host_ports;
pub mod hosts;
pub mod lookup;
mod names;
pub mod nat;
pub mod packet;
mod parse;
pub mod ports;
pub mod resolver;
pub mod settings_file;
mod socket;
mod socket_diagnostics;
pub mod socket_table;
mod store;
mod tcp;
#[cfg(test)]
mod tests;
mod timers;
mod unacknowledged;

pub use dns::HOST_NAME;
