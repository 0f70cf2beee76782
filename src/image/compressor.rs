//! Compressions that archives are written in, on all processors at once.
//!
//! What comes out is what the compression's own tool reads: an xz stream in blocks, a zstd
//! frame, gzip members in a row. It does not depend on the number of threads, except that
//! of zstd with one.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use liblzma::stream::{Check, MtStreamBuilder};
use liblzma::write::XzEncoder;

/// As the tools have it where they are not told otherwise.
const GZIP_LEVEL: u32 = 6;
const XZ_LEVEL: u32 = 6;
const ZSTD_LEVEL: i32 = 3;

/// What the threads of an xz stream may take in all, in bytes; with more, there are fewer.
const XZ_MEMORY: u64 = 2 << 30;

/// Bytes of content in one gzip member.
const MEMBER: usize = 1 << 20;

/// How an archive is compressed.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Compression {
    /// Not at all.
    #[default]
    None,
    /// gzip.
    Gzip,
    /// xz.
    Xz,
    /// Zstandard.
    Zstd,
}

/// A stream that is compressed on its way to another one. It is complete when it was
/// finished.
pub enum Compressor<W: Write> {
    /// As it is.
    None(W),
    /// gzip.
    Gzip(Gzip<W>),
    /// xz.
    Xz(XzEncoder<W>),
    /// Zstandard.
    Zstd(zstd::Encoder<'static, W>),
}

impl<W: Write> Compressor<W> {
    /// A compressor to a stream with that many threads, 1 at least.
    ///
    /// # Errors
    /// Where there is no memory or no threads.
    pub fn new(compression: Compression, threads: usize, stream: W) -> io::Result<Self> {
        let threads = u32::try_from(threads.clamp(1, 256)).unwrap_or(1);
        Ok(match compression {
            Compression::None => Self::None(stream),
            Compression::Gzip => Self::Gzip(Gzip::new(stream, threads)?),
            Compression::Xz => {
                let builder = |threads| {
                    let mut builder = MtStreamBuilder::new();
                    builder.preset(XZ_LEVEL).check(Check::Crc64).threads(threads);
                    builder
                };
                let fits = |threads: &u32| builder(*threads).memusage() <= XZ_MEMORY;
                let threads = (1..=threads).rev().find(fits).unwrap_or(1);
                Self::Xz(XzEncoder::new_stream(stream, builder(threads).encoder()?))
            }
            Compression::Zstd => {
                let mut encoder = zstd::Encoder::new(stream, ZSTD_LEVEL)?;
                encoder.include_checksum(true)?;
                if threads > 1 {
                    encoder.multithread(threads)?;
                }
                Self::Zstd(encoder)
            }
        })
    }

    /// Completes the stream and gives back what it was written to.
    ///
    /// # Errors
    /// Those of writing to it.
    pub fn finish(self) -> io::Result<W> {
        match self {
            Self::None(stream) => Ok(stream),
            Self::Gzip(gzip) => gzip.finish(),
            Self::Xz(encoder) => encoder.finish(),
            Self::Zstd(encoder) => encoder.finish(),
        }
    }
}

impl<W: Write> Write for Compressor<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::None(stream) => stream.write(bytes),
            Self::Gzip(gzip) => gzip.write(bytes),
            Self::Xz(encoder) => encoder.write(bytes),
            Self::Zstd(encoder) => encoder.write(bytes),
        }
    }

    /// Nothing, but without a compression: what is not complete cannot be flushed well.
    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::None(stream) => stream.flush(),
            _ => Ok(()),
        }
    }
}

/// The bytes of one member, and who waits for what becomes of them.
type Job = (Vec<u8>, Sender<io::Result<Vec<u8>>>);

/// gzip members, each compressed by a thread.
pub struct Gzip<W> {
    stream: W,
    content: Vec<u8>,
    jobs: Sender<Job>,
    /// The members on their way, in order.
    members: VecDeque<Receiver<io::Result<Vec<u8>>>>,
    /// How many may be on their way.
    most: usize,
    is_empty: bool,
}

impl<W: Write> Gzip<W> {
    fn new(stream: W, threads: u32) -> io::Result<Self> {
        let (jobs, queue) = channel::<Job>();
        let queue = Arc::new(Mutex::new(queue));
        for _ in 0..threads {
            let queue = Arc::clone(&queue);
            // They end when the sender is gone.
            thread::Builder::new().name("gzip".to_owned()).spawn(move || {
                loop {
                    let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
                    let Ok((content, done)) = job else { return };
                    let _ = done.send(member(&content));
                }
            })?;
        }
        Ok(Self {
            stream,
            content: Vec::with_capacity(MEMBER),
            jobs,
            members: VecDeque::new(),
            most: threads as usize * 2,
            is_empty: true,
        })
    }

    /// Hands the collected bytes to a thread.
    fn submit(&mut self) -> io::Result<()> {
        if self.members.len() >= self.most {
            self.write_first()?;
        }
        let content = std::mem::replace(&mut self.content, Vec::with_capacity(MEMBER));
        let (done, member) = channel();
        self.jobs.send((content, done)).map_err(|_| lost())?;
        self.members.push_back(member);
        self.is_empty = false;
        Ok(())
    }

    /// Waits for the oldest member and writes it.
    fn write_first(&mut self) -> io::Result<()> {
        let Some(member) = self.members.pop_front() else { return Ok(()) };
        self.stream.write_all(&member.recv().map_err(|_| lost())??)
    }

    fn finish(mut self) -> io::Result<W> {
        if !self.content.is_empty() || self.is_empty {
            self.submit()?;
        }
        while !self.members.is_empty() {
            self.write_first()?;
        }
        Ok(self.stream)
    }
}

impl<W: Write> Write for Gzip<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = bytes.len().min(MEMBER - self.content.len());
        self.content.extend_from_slice(bytes.get(..count).unwrap_or_default());
        if self.content.len() == MEMBER {
            self.submit()?;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn member(content: &[u8]) -> io::Result<Vec<u8>> {
    let compressed = Vec::with_capacity(content.len() / 2);
    let level = flate2::Compression::new(GZIP_LEVEL);
    let mut encoder = flate2::write::GzEncoder::new(compressed, level);
    encoder.write_all(content)?;
    encoder.finish()
}

fn lost() -> io::Error {
    io::Error::other("a thread that compresses has ended")
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::super::compression::decompressed;
    use super::*;

    const ALL: [(Compression, &str); 3] =
        [(Compression::Gzip, "gzip"), (Compression::Xz, "xz"), (Compression::Zstd, "zstd")];

    fn compress(compression: Compression, threads: usize, content: &[u8]) -> Vec<u8> {
        let mut compressor = Compressor::new(compression, threads, Vec::new()).unwrap();
        compressor.write_all(content).unwrap();
        compressor.finish().unwrap()
    }

    /// What the command line tool makes of it.
    fn tool(name: &str, compressed: Vec<u8>) -> Vec<u8> {
        let (input, output) = (Stdio::piped(), Stdio::piped());
        let mut child = Command::new(name).arg("-dc").stdin(input).stdout(output).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let feeder = thread::spawn(move || stdin.write_all(&compressed).unwrap());
        let output = child.wait_with_output().unwrap();
        feeder.join().unwrap();
        assert!(output.status.success(), "{name}");
        output.stdout
    }

    #[test]
    fn b047_every_compression_is_read_by_its_tool_and_here() {
        let word = |index: u32| (index / 3).wrapping_mul(2_654_435_761).to_le_bytes();
        let content: Vec<u8> = (0..400_000).flat_map(word).collect();
        for (compression, name) in ALL {
            for length in [0, 1, MEMBER + 1, content.len()] {
                for threads in [1, 3] {
                    let content = &content[..length];
                    let compressed = compress(compression, threads, content);
                    assert!(length < MEMBER || compressed.len() < length);
                    let mut read = Vec::new();
                    let mut reader = decompressed(compressed.as_slice()).unwrap();
                    io::Read::read_to_end(&mut reader, &mut read).unwrap();
                    drop(reader);
                    assert!(read == content, "{name}, {length} bytes, {threads} threads");
                    assert!(tool(name, compressed) == content, "{name}, {length} bytes");
                }
            }
        }
    }

    #[test]
    fn a_stream_that_is_full_is_an_error() {
        struct Full(usize);
        impl Write for Full {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0 = self.0.checked_sub(bytes.len()).ok_or(io::ErrorKind::StorageFull)?;
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let content: Vec<u8> =
            (0..3_000_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        for (compression, name) in ALL {
            let mut compressor = Compressor::new(compression, 2, Full(100)).unwrap();
            let result = compressor.write_all(&content).and_then(|()| compressor.finish());
            let error = result.map(drop).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::StorageFull, "{name}");
        }
    }
}
