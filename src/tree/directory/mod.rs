//! A directory of this host as a tree: what a version 1 distro's root is.
//!
//! [`Writer`] is the [`Sink`](super::Sink) that fills one, [`read`] gives the entries of
//! one back, [`remove`] deletes one. All three work through descriptors and never follow
//! a link or leave the tree, whatever is in it. They see owners as the process does that
//! runs them: in a user namespace those are the distro's own (`tree::process`).
//!
//! What this process cannot give a file (an owner that is not mapped, a device node, an
//! attribute that only the host's root may set) is noted in extended attributes of the
//! distro's file, and read back from there ([`note`]). So nothing is lost on the way
//! through a directory, with three exceptions, for which Linux has no place at an
//! ordinary user's hand: unmapped owners of links, pipes and sockets beyond the dozens
//! that their directory has room to note, attributes of such entries that their owner may
//! not set, and file flags (`chattr`), which no source tells of.

mod error;
pub mod note;
mod reader;
mod removal;
mod system;
mod writer;

pub use error::{Action, Error};
pub use reader::read;
pub use removal::remove;
pub use writer::Writer;
