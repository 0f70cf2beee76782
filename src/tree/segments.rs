//! The content of a file with holes: the bytes of its segments, one after the other.

use std::io::{self, Read};

use super::Segment;

/// Reads the segments' bytes in order. `read` fills a buffer from that offset of the file
/// and tells how many bytes it got; less than a segment's is the content's end.
pub struct SegmentReader<'a, F> {
    read: F,
    segments: &'a [Segment],
    /// In the first segment.
    position: u64,
}

impl<'a, F: FnMut(&mut [u8], u64) -> io::Result<usize>> SegmentReader<'a, F> {
    /// The bytes of these segments.
    pub fn new(segments: &'a [Segment], read: F) -> Self {
        Self { read, segments, position: 0 }
    }
}

impl<F: FnMut(&mut [u8], u64) -> io::Result<usize>> Read for SegmentReader<'_, F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while let Some((segment, rest)) = self.segments.split_first() {
            let left = segment.length - self.position;
            if left == 0 {
                self.segments = rest;
                self.position = 0;
                continue;
            }
            let wanted = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
            let space = buffer.get_mut(..wanted).unwrap_or_default();
            let count = (self.read)(space, segment.offset + self.position)?;
            self.position += count as u64;
            return Ok(count);
        }
        Ok(0)
    }
}
