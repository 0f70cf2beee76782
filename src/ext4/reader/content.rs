//! A file's content: which parts of it are data, and their bytes.

use std::io::{self, Read};

use super::Image;
use super::attributes;
use super::blocks::Blocks;
use super::error::ReadError;
use super::extents::{Run, Runs};
use super::inode::{Inode, Map};
use crate::tree::Segment;

/// How many parts of a file are told apart; what is behind the last is one part.
const SEGMENTS: usize = 1 << 16;

/// The parts of a file that are data.
pub(super) fn segments(blocks: &Blocks, inode: &Inode) -> Result<Vec<Segment>, ReadError> {
    let size = blocks.size() as u64;
    let mut segments: Vec<Segment> = Vec::new();
    let mut runs = Runs::new(blocks, inode)?;
    while let Some(run) = runs.next()? {
        let start = run.logical.saturating_mul(size).min(inode.size);
        let end = (run.logical + run.length).saturating_mul(size).min(inode.size);
        if start == inode.size {
            break;
        }
        let is_last = segments.len() + 1 == SEGMENTS;
        match segments.last_mut() {
            Some(last) if last.offset + last.length == start => last.length += end - start,
            _ if is_last => {
                segments.push(Segment { offset: start, length: inode.size - start });
                break;
            }
            _ => segments.push(Segment { offset: start, length: end - start }),
        }
    }
    Ok(segments)
}

/// All of the content of a file that is in its inode.
pub(super) fn inline_content(image: &Image, inode: &Inode) -> Result<Vec<u8>, ReadError> {
    let Map::Inline(first) = &inode.map else { return Ok(Vec::new()) };
    let mut content = first.to_vec();
    let attributes = attributes::read(&image.blocks, inode, image.layout.seed)?;
    if let Some((_, value)) = attributes.into_iter().find(|(name, _)| name == attributes::INLINE) {
        content.extend(value);
    }
    content.truncate(usize::try_from(inode.size).unwrap_or(usize::MAX));
    Ok(content)
}

/// Reads a file's bytes one after the other; holes are zeros.
pub(super) struct Content<'a> {
    blocks: &'a Blocks,
    runs: Runs<'a>,
    /// The run that is at or behind the position.
    run: Option<Run>,
    position: u64,
    size: u64,
}

impl<'a> Content<'a> {
    pub(super) fn new(blocks: &'a Blocks, inode: &Inode) -> Result<Self, ReadError> {
        let mut runs = Runs::new(blocks, inode)?;
        let run = runs.next()?;
        Ok(Self { blocks, runs, run, position: 0, size: inode.size })
    }

    /// Goes on to a later position.
    pub(super) fn seek(&mut self, position: u64) -> Result<(), ReadError> {
        self.position = position;
        let block = position / self.blocks.size() as u64;
        while let Some(run) = self.run.filter(|run| run.logical + run.length <= block) {
            self.run = self.runs.next()?;
            // The runs ascend, so this ends.
            let _ = run;
        }
        Ok(())
    }

    /// Goes to a block; whether it is a hole.
    pub(super) fn skip_hole(&mut self, block: u64) -> Result<bool, ReadError> {
        self.seek(block.saturating_mul(self.blocks.size() as u64))?;
        Ok(self.run.is_none_or(|run| run.logical > block))
    }

    fn fill(&mut self, buffer: &mut [u8]) -> Result<usize, ReadError> {
        let wanted = self.size.saturating_sub(self.position).min(buffer.len() as u64);
        if wanted == 0 {
            return Ok(0);
        }
        self.seek(self.position)?;
        let size = self.blocks.size() as u64;
        let (count, run) = match self.run {
            None => (wanted, None),
            Some(run) => match (run.logical * size).checked_sub(self.position) {
                Some(gap @ 1..) => (wanted.min(gap), None),
                _ => (wanted.min((run.logical + run.length) * size - self.position), Some(run)),
            },
        };
        let part = buffer.get_mut(..count as usize).unwrap_or_default();
        match run {
            None => part.fill(0),
            Some(run) => {
                let within = self.position - run.logical * size;
                let block = run.physical + within / size;
                self.blocks.read_at(block, (within % size) as usize, part)?;
            }
        }
        self.position += count;
        Ok(count as usize)
    }
}

impl Read for Content<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.fill(buffer).map_err(|error| match error {
            ReadError::Io(error) => error,
            error => io::Error::new(io::ErrorKind::InvalidData, error),
        })
    }
}
