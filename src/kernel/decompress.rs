//! Decompression of what kernels and modules come in, recognised by its first bytes.

use std::io::{self, Read};

use super::{KernelError, lz4};

/// What bytes are compressed with.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Compression {
    /// bzip2.
    Bzip2,
    /// gzip.
    Gzip,
    /// LZ4, in its legacy frame; `CONFIG_KERNEL_LZ4`.
    Lz4,
    /// The format before xz; `CONFIG_KERNEL_LZMA`.
    Lzma,
    /// xz.
    Xz,
    /// Zstandard.
    Zstd,
}

impl Compression {
    /// Recognises compressed data; `None` where it is not, or not known.
    #[must_use]
    pub fn of(data: &[u8]) -> Option<Self> {
        const KNOWN: [(&[u8], Compression); 6] = [
            (b"BZh", Compression::Bzip2),
            (&[0x1f, 0x8b], Compression::Gzip),
            (lz4::MAGIC, Compression::Lz4),
            (&[0x5d, 0, 0], Compression::Lzma),
            (b"\xfd7zXZ\0", Compression::Xz),
            (&[0x28, 0xb5, 0x2f, 0xfd], Compression::Zstd),
        ];
        KNOWN.iter().find(|(magic, _)| data.starts_with(magic)).map(|(_, compression)| *compression)
    }
}

/// Decompresses one stream; what follows it is left alone.
///
/// # Errors
/// Where the data is corrupt, or what comes out is larger than `limit`. `what` names it.
pub fn decompress(
    compression: Compression,
    data: &[u8],
    limit: u64,
    what: &str,
) -> Result<Vec<u8>, KernelError> {
    let corrupt = |source: io::Error| KernelError::Compressed { what: what.to_owned(), source };
    let reader: Box<dyn Read + '_> = match compression {
        Compression::Bzip2 => Box::new(bzip2::read::BzDecoder::new(data)),
        Compression::Gzip => Box::new(flate2::read::GzDecoder::new(data)),
        Compression::Lz4 => {
            Box::new(io::Cursor::new(lz4::decompress(data, limit).map_err(corrupt)?))
        }
        Compression::Lzma => {
            let stream = liblzma::stream::Stream::new_lzma_decoder(u64::MAX)
                .map_err(|error| corrupt(error.into()))?;
            Box::new(liblzma::read::XzDecoder::new_stream(data, stream))
        }
        Compression::Xz => Box::new(liblzma::read::XzDecoder::new(data)),
        Compression::Zstd => Box::new(
            zstd::stream::read::Decoder::with_buffer(data).map_err(corrupt)?.single_frame(),
        ),
    };
    let mut plain = Vec::new();
    reader.take(limit.saturating_add(1)).read_to_end(&mut plain).map_err(corrupt)?;
    if plain.len() as u64 > limit {
        return Err(KernelError::TooLarge { what: what.to_owned(), limit });
    }
    Ok(plain)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn xz(plain: &[u8]) -> Vec<u8> {
        let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 0);
        encoder.write_all(plain).unwrap();
        encoder.finish().unwrap()
    }

    fn gzip(plain: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(plain).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn a_stream_is_recognised_and_what_follows_is_ignored() {
        let plain = b"kernel ".repeat(1000);
        for mut packed in [xz(&plain), gzip(&plain), zstd::encode_all(&plain[..], 1).unwrap()] {
            packed.extend_from_slice(&[0x12, 0x34, 0x56, 0x78]);
            let compression = Compression::of(&packed).unwrap();
            assert_eq!(decompress(compression, &packed, 7000, "it").unwrap(), plain);
        }
        assert_eq!(Compression::of(b"\x7fELF"), None);
    }

    #[test]
    fn output_is_limited_and_corruption_is_told() {
        let packed = xz(&[0; 10_000]);
        assert!(matches!(
            decompress(Compression::Xz, &packed, 9_999, "it"),
            Err(KernelError::TooLarge { limit: 9_999, .. })
        ));
        assert!(matches!(
            decompress(Compression::Xz, &packed[..packed.len() - 20], 10_000, "it"),
            Err(KernelError::Compressed { .. })
        ));
    }
}
