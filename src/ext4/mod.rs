//! The ext4 writer: a tree that streams in becomes a mountable file system image. The way
//! back is [`reader`].
//!
//! One pass, no temporary tree, no privileges. [`Geometry`](geometry) fixes every metadata
//! address before the first byte, so content goes straight to its final place in one
//! ascending stream and only names and one window of inodes stay in memory. Directories,
//! bitmaps, descriptors and superblocks follow in [`Writer::finish`]. What is all zeros is
//! never written: an empty image of 1 TiB takes about 10 MiB of the host's disk.
//!
//! Source of the format: Linux, `Documentation/filesystems/ext4/`, and
//! `fs/ext4/{ext4,ext4_extents,xattr}.h`.

mod allocator;
mod attributes;
mod checksum;
mod content;
mod directory;
mod error;
mod extents;
mod format;
mod geometry;
mod hash;
mod inodes;
mod journal;
mod metadata;
mod output;
pub mod reader;
mod writer;

pub use error::Error;
pub use writer::{Options, Summary, Writer};
