//! Root file system images: a compressed or plain tar stream becomes tree entries, and tree
//! entries such a stream.
//!
//! [`unpack`] is the way from a downloaded or given file to a [`Sink`]. Reading and
//! decompressing have a thread of their own; the archive is parsed and the sink is called
//! on the caller's.

pub mod compression;
pub mod compressor;
pub mod observer;
pub mod tar;

mod pipe;

use std::io::Read;

use crate::tree::Sink;

use self::tar::{Counts, TarError, UnpackError};

/// Reads an image of any supported compression to its end and hands every entry to
/// `sink`.
///
/// # Errors
/// Those of [`tar::read_entries`]; [`TarError::Read`] also where decompression fails.
pub fn unpack<S: Sink>(
    reader: impl Read + Send,
    sink: &mut S,
) -> Result<Counts, UnpackError<S::Error>> {
    let decompressed = compression::decompressed(reader).map_err(TarError::from)?;
    pipe::with_reader(decompressed, |reader| tar::read_entries(reader, sink, |path| path))
        .map_err(TarError::from)?
}
