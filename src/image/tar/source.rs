//! The byte stream of an archive: counts, and turns an early end into a typed error.

use std::io::{self, BufReader, Read};

use super::TarError;

/// How much is read ahead, in bytes; larger reads go past the buffer.
const READ_AHEAD: usize = 64 << 10;

/// The stream and the position in it.
pub(super) struct Source<R> {
    reader: BufReader<R>,
    offset: u64,
}

impl<R: Read> Source<R> {
    pub(super) fn new(reader: R) -> Self {
        Self { reader: BufReader::with_capacity(READ_AHEAD, reader), offset: 0 }
    }

    /// Bytes read so far.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// The error for a stream that ends here.
    pub(super) fn truncated(&self, part: &'static str) -> TarError {
        TarError::Truncated { offset: self.offset, part }
    }

    /// The error for a stream that cannot be read further: decompressors say so when what
    /// they read ends early.
    fn failed(&self, error: io::Error) -> TarError {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => self.truncated("its compressed data"),
            _ => TarError::Read(error),
        }
    }

    /// Fills `buffer` as far as the stream goes.
    pub(super) fn fill(&mut self, buffer: &mut [u8]) -> Result<usize, TarError> {
        let mut filled = 0;
        while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match self.read(rest) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.failed(error)),
            }
        }
        Ok(filled)
    }

    /// Exactly `length` bytes, which the caller has bounded.
    pub(super) fn take(&mut self, length: u64, part: &'static str) -> Result<Vec<u8>, TarError> {
        let mut bytes = Vec::new();
        let mut limited = (&mut self.reader).take(length);
        let result = limited.read_to_end(&mut bytes);
        self.offset += bytes.len() as u64;
        result.map_err(|error| self.failed(error))?;
        if (bytes.len() as u64) < length {
            return Err(self.truncated(part));
        }
        Ok(bytes)
    }

    /// Leaves out `length` bytes.
    pub(super) fn skip(&mut self, length: u64, part: &'static str) -> Result<(), TarError> {
        if length == 0 {
            return Ok(());
        }
        let skipped = io::copy(&mut (&mut self.reader).take(length), &mut io::sink())
            .map_err(|error| self.failed(error))?;
        self.offset += skipped;
        if skipped < length {
            return Err(self.truncated(part));
        }
        Ok(())
    }

    /// Reads what follows the end of the archive, so that a decompressor before this
    /// reader gets to check its own trailer.
    pub(super) fn drain(&mut self) -> Result<(), TarError> {
        self.offset +=
            io::copy(&mut self.reader, &mut io::sink()).map_err(|error| self.failed(error))?;
        Ok(())
    }

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.reader.read(buffer)?;
        self.offset += count as u64;
        Ok(count)
    }
}

/// One file's content. A failure to read is kept, because the sink that meets it cannot
/// tell it from its own.
pub(super) struct Content<'a, R> {
    source: &'a mut Source<R>,
    remaining: u64,
    failure: Option<TarError>,
}

impl<'a, R: Read> Content<'a, R> {
    pub(super) fn new(source: &'a mut Source<R>, length: u64) -> Self {
        Self { source, remaining: length, failure: None }
    }

    /// What went wrong, where something did.
    pub(super) fn failure(self) -> Option<TarError> {
        self.failure
    }
}

impl<R: Read> Read for Content<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = usize::try_from(self.remaining).unwrap_or(usize::MAX).min(buffer.len());
        let Some(buffer) = buffer.get_mut(..length).filter(|buffer| !buffer.is_empty()) else {
            return Ok(0);
        };
        match self.source.read(buffer) {
            Ok(0) => {
                self.failure = Some(self.source.truncated("a file's content"));
                Err(io::ErrorKind::UnexpectedEof.into())
            }
            Ok(count) => {
                self.remaining -= count as u64;
                Ok(count)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Err(error),
            Err(error) => {
                let kind = error.kind();
                self.failure = Some(self.source.failed(error));
                Err(kind.into())
            }
        }
    }
}
