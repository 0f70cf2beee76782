//! The ext4 writer: a stream of entries becomes a mountable image in one pass.
