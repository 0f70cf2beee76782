//! The compressions that archives use: gzip, xz, zstd and none.

use std::io::{self, BufReader, Read};

use liblzma::stream::{CONCATENATED, Stream};

/// How much memory an xz stream may ask for: `xz -9` needs 65 MiB.
const XZ_MEMORY: u64 = 256 << 20;

/// The content of a file whose compression its name's suffix tells.
///
/// # Errors
/// Where the decoder cannot be set up or the suffix is unknown.
pub(super) fn by_name<'a, R: Read + Send + 'a>(
    name: &str,
    reader: R,
) -> io::Result<Box<dyn Read + Send + 'a>> {
    let suffix = name.rsplit('/').next().unwrap_or(name).rsplit_once('.').map(|(_, suffix)| suffix);
    Ok(match suffix {
        Some("gz") => Box::new(flate2::read::MultiGzDecoder::new(reader)),
        Some("xz") => {
            let stream = Stream::new_stream_decoder(XZ_MEMORY, CONCATENATED)?;
            let reader = BufReader::with_capacity(1 << 16, reader);
            Box::new(liblzma::bufread::XzDecoder::new_stream(reader, stream))
        }
        Some("zst") => Box::new(zstd::Decoder::new(reader)?),
        None | Some("tar") => Box::new(reader),
        Some(_) => {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                format!("'{name}' has an unknown compression"),
            ));
        }
    })
}
