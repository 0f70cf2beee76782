//! A file's content on its way into blocks: segments, holes, and blocks of zeros.

use std::io::Read;

use super::allocator::Allocator;
use super::error::Error;
use super::extents::Extents;
use super::format::{BLOCK_SIZE, ZERO_BLOCK};
use super::output::Output;
use crate::tree::Segment;

/// The largest file: block numbers within a file have 32 bits and the last is not used.
pub(super) const MAXIMUM_FILE: u64 = (u32::MAX as u64) * BLOCK_SIZE as u64;

const BLOCK: u64 = BLOCK_SIZE as u64;

/// Why content could not be stored.
pub(super) enum Failure {
    /// The segments contradict themselves or the size.
    Segments,
    /// Anything else.
    Error(Error),
}

impl<E: Into<Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Error(error.into())
    }
}

/// Stores the segments of a file; blocks that are all zeros become holes.
pub(super) fn store(
    size: u64,
    segments: &[Segment],
    content: &mut dyn Read,
    extents: &mut Extents,
    allocator: &mut Allocator,
    output: &mut Output,
) -> Result<(), Failure> {
    // Where the pending bytes end in the file.
    let mut position = 0_u64;
    for segment in segments {
        let end = segment.offset.checked_add(segment.length).filter(|end| *end <= size);
        let end = end.ok_or(Failure::Segments)?;
        if segment.offset < position {
            return Err(Failure::Segments);
        }
        if segment.length == 0 {
            continue;
        }
        if segment.offset / BLOCK != position / BLOCK {
            close(position, extents, allocator, output)?;
            position = segment.offset - segment.offset % BLOCK;
        }
        output.push(zeros((segment.offset - position) as usize))?;
        position = segment.offset;
        while position < end {
            let space = output.space()?;
            let wanted = usize::try_from(end - position).unwrap_or(usize::MAX).min(space.len());
            let space = space.get_mut(..wanted).unwrap_or_default();
            let count = match content.read(space) {
                Ok(0) => {
                    return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
                }
                Ok(count) => count,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error.into()),
            };
            output.filled(count);
            position += count as u64;
            place(position, extents, allocator, output)?;
        }
    }
    close(position, extents, allocator, output)?;
    Ok(())
}

fn zeros(count: usize) -> &'static [u8] {
    static ZEROS: [u8; BLOCK_SIZE] = ZERO_BLOCK;
    ZEROS.get(..count).unwrap_or_default()
}

/// Pads the last block and gives it its place.
fn close(
    position: u64,
    extents: &mut Extents,
    allocator: &mut Allocator,
    output: &mut Output,
) -> Result<(), Error> {
    let rest = position % BLOCK;
    if rest > 0 {
        output.push(zeros((BLOCK - rest) as usize))?;
        place(position + BLOCK - rest, extents, allocator, output)?;
    }
    Ok(())
}

/// Gives every whole pending block its place; `position` is where the pending bytes end.
fn place(
    position: u64,
    extents: &mut Extents,
    allocator: &mut Allocator,
    output: &mut Output,
) -> Result<(), Error> {
    let mut logical = ((position - output.pending().len() as u64) / BLOCK) as u32;
    while let Some(block) = output.pending().get(..BLOCK_SIZE) {
        if block == ZERO_BLOCK {
            output.skip();
        } else {
            let physical = allocator.allocate()?;
            output.commit(physical)?;
            extents.push(logical, physical, allocator, output)?;
        }
        logical += 1;
    }
    Ok(())
}
