//! A sink whose progress is shown.

use std::io::{self, Read};

use crate::terminal::progress::Bar;
use crate::tree::{Entry, Kind, Sink};

/// Passes entries on and counts the bytes of files.
pub struct Counted<'a, S> {
    sink: &'a mut S,
    bar: &'a Bar,
    bytes: u64,
}

impl<'a, S> Counted<'a, S> {
    /// A sink before another one.
    pub fn new(sink: &'a mut S, bar: &'a Bar) -> Self {
        Self { sink, bar, bytes: 0 }
    }

    /// What it has counted.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl<S: Sink> Sink for Counted<'_, S> {
    type Error = S::Error;

    fn add(&mut self, entry: Entry<'_>) -> Result<(), S::Error> {
        let Entry { path, metadata, kind } = entry;
        match kind {
            Kind::File { size, segments, content } => {
                let mut content = Counter { content, bar: self.bar, bytes: &mut self.bytes };
                let kind = Kind::File { size, segments, content: &mut content };
                self.sink.add(Entry { path, metadata, kind })
            }
            kind => self.sink.add(Entry { path, metadata, kind }),
        }
    }
}

struct Counter<'a> {
    content: &'a mut dyn Read,
    bar: &'a Bar,
    bytes: &'a mut u64,
}

impl Read for Counter<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.content.read(buffer)?;
        self.bar.add(count as u64);
        *self.bytes += count as u64;
        Ok(count)
    }
}
