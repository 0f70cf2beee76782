//! The compressions that images come in, told by their first bytes.
//!
//! All of them are read to the last byte, several members or frames in a row included.

use std::io::{self, BufRead, BufReader, Cursor, Read};

use liblzma::bufread::XzDecoder;
use liblzma::stream::MtStreamBuilder;

/// How much is read ahead of a decompressor, in bytes.
const READ_AHEAD: usize = 256 << 10;

/// What an xz stream may ask for, in bytes: `xz -9` needs 65 MiB.
const XZ_MEMORY: u64 = 1 << 30;

/// What decompressing several xz blocks at once may take, in bytes; with more, fewer are
/// decompressed at once.
const XZ_THREADS_MEMORY: u64 = 192 << 20;

/// The most threads for one xz stream.
const XZ_THREADS: usize = 4;

/// The longest of the first bytes that tell a compression.
const MAGIC: usize = 6;

/// The decompressed content of a stream; a stream in no known compression as it is.
///
/// # Errors
/// Where the stream's beginning cannot be read or the decompressor cannot be set up.
pub fn decompressed<'a>(
    mut reader: impl Read + Send + 'a,
) -> io::Result<Box<dyn Read + Send + 'a>> {
    let mut magic = [0; MAGIC];
    let mut length = 0;
    while let Some(rest) = magic.get_mut(length..).filter(|rest| !rest.is_empty()) {
        match reader.read(rest) {
            Ok(0) => break,
            Ok(count) => length += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    let start = magic.get(..length).unwrap_or_default().to_vec();
    let whole = Cursor::new(start).chain(reader);
    Ok(match magic {
        [0x1f, 0x8b, ..] => Box::new(flate2::bufread::MultiGzDecoder::new(buffered(whole))),
        [0xfd, b'7', b'z', b'X', b'Z', 0] => Box::new(Xz::new(buffered(whole))?),
        // A frame, or one to be skipped before it.
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => {
            Box::new(zstd::Decoder::with_buffer(buffered(whole))?)
        }
        [b'B', b'Z', b'h', b'1'..=b'9', ..] => {
            Box::new(bzip2::bufread::MultiBzDecoder::new(buffered(whole)))
        }
        _ => Box::new(whole),
    })
}

fn buffered<R: Read>(reader: R) -> BufReader<R> {
    BufReader::with_capacity(READ_AHEAD, reader)
}

/// xz streams in a row, each with as many threads as it has use for.
struct Xz<R> {
    /// `None` after the end.
    decoder: Option<XzDecoder<R>>,
}

impl<R: BufRead> Xz<R> {
    fn new(reader: R) -> io::Result<Self> {
        Ok(Self { decoder: Some(decoder(reader)?) })
    }
}

fn decoder<R: BufRead>(reader: R) -> io::Result<XzDecoder<R>> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(XZ_THREADS);
    let stream = MtStreamBuilder::new()
        .threads(threads as u32)
        .memlimit_threading(XZ_THREADS_MEMORY)
        .memlimit_stop(XZ_MEMORY)
        .decoder()?;
    Ok(XzDecoder::new_stream(reader, stream))
}

impl<R: BufRead> Read for Xz<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while let Some(current) = &mut self.decoder {
            let count = current.read(buffer)?;
            if count > 0 || buffer.is_empty() {
                return Ok(count);
            }
            // Between streams there may be zeros.
            let Some(mut reader) = self.decoder.take().map(XzDecoder::into_inner) else { break };
            loop {
                let available = reader.fill_buf()?;
                let zeros = available.iter().take_while(|byte| **byte == 0).count();
                if zeros == 0 {
                    break;
                }
                reader.consume(zeros);
            }
            if !reader.fill_buf()?.is_empty() {
                self.decoder = Some(decoder(reader)?);
            }
        }
        Ok(0)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::process::{Command, Stdio};

    use super::*;

    /// What the command line tool makes of some bytes.
    fn compress(tool: &[&str], content: &[u8]) -> Vec<u8> {
        let mut child = Command::new(tool[0])
            .args(&tool[1..])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let content = content.to_vec();
        let feeder = std::thread::spawn(move || stdin.write_all(&content).unwrap());
        let output = child.wait_with_output().unwrap();
        feeder.join().unwrap();
        assert!(output.status.success());
        output.stdout
    }

    fn read(bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut content = Vec::new();
        decompressed(bytes)?.read_to_end(&mut content)?;
        Ok(content)
    }

    const TOOLS: [&[&str]; 5] = [
        &["gzip", "-c"],
        &["xz", "-c"],
        &["xz", "-c", "-T2", "--block-size=70000"],
        &["zstd", "-c", "-q"],
        &["bzip2", "-c"],
    ];

    fn content() -> Vec<u8> {
        (0..300_000_u32).map(|index| (index.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
    }

    #[test]
    fn b057_every_compression_is_told_by_its_first_bytes() {
        for tool in TOOLS {
            assert_eq!(read(&compress(tool, &content())).unwrap(), content(), "{tool:?}");
        }
        for plain in [b"".as_slice(), b"x", b"BZhx", b"plain text"] {
            assert_eq!(read(plain).unwrap(), plain);
        }
    }

    #[test]
    fn members_in_a_row_are_one_stream() {
        for tool in TOOLS {
            let mut bytes = compress(tool, b"first ");
            bytes.extend(compress(tool, b"second"));
            assert_eq!(read(&bytes).unwrap(), b"first second", "{tool:?}");
        }
    }

    #[test]
    fn a_cut_or_damaged_stream_is_an_error() {
        for tool in TOOLS {
            let whole = compress(tool, &content());
            for length in [7, whole.len() / 2, whole.len() - 1] {
                assert!(read(&whole[..length]).is_err(), "{tool:?} {length}");
            }
            // zstd's tool writes a checksum, the others' formats always have one.
            let mut damaged = whole.clone();
            damaged[whole.len() / 2] ^= 0x10;
            assert!(read(&damaged).is_err(), "{tool:?}");
        }
    }
}
