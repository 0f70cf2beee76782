//! One disk: carries commands out on its backend.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::backend::Backend;
use super::command::{Blocks, Command};
use super::inquiry;
use super::sense::Sense;
use super::{BLOCK, ScsiError};
use crate::devices::buffers::Buffers;

/// Why a command was not carried out.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Refusal {
    /// The unit says no.
    Sense(Sense),
    /// The driver's buffers are shorter than the command's data.
    Overrun,
    /// It would have to wait for the host's storage; nothing was changed.
    WouldBlock,
}

impl From<Sense> for Refusal {
    fn from(sense: Sense) -> Self {
        Self::Sense(sense)
    }
}

/// A disk.
#[derive(Debug)]
pub struct Unit {
    backend: Box<dyn Backend>,
    blocks: AtomicU64,
    read_only: bool,
    serial: String,
    attention: Mutex<VecDeque<Sense>>,
}

impl Unit {
    /// A disk on `backend`. Bytes after the last whole block are not part of it.
    ///
    /// # Errors
    /// [`ScsiError::Length`] and [`ScsiError::TooSmall`].
    pub fn new(
        backend: Box<dyn Backend>,
        read_only: bool,
        serial: String,
    ) -> Result<Self, ScsiError> {
        let blocks = AtomicU64::new(measure(backend.as_ref())?);
        let attention = Mutex::new(VecDeque::from([Sense::RESET]));
        Ok(Self { backend, blocks, read_only, serial, attention })
    }

    /// Its size in logical blocks.
    #[must_use]
    pub fn blocks(&self) -> u64 {
        self.blocks.load(Ordering::Acquire)
    }

    /// Whether the driver must not write.
    #[must_use]
    pub fn read_only(&self) -> bool {
        self.read_only
    }

    /// The serial number.
    #[must_use]
    pub fn serial(&self) -> &str {
        &self.serial
    }

    /// Looks at the backend's length again; true where the size changed.
    ///
    /// # Errors
    /// [`ScsiError::Length`] and [`ScsiError::TooSmall`].
    pub fn measure_again(&self) -> Result<bool, ScsiError> {
        let blocks = measure(self.backend.as_ref())?;
        let changed = self.blocks.swap(blocks, Ordering::AcqRel) != blocks;
        if changed {
            self.attract(Sense::CAPACITY_CHANGED);
        }
        Ok(changed)
    }

    /// Lets the next command fail with a unit attention, once.
    pub fn attract(&self, sense: Sense) {
        let mut attention = self.attention.lock().unwrap_or_else(PoisonError::into_inner);
        if !attention.contains(&sense) {
            attention.push_back(sense);
        }
    }

    /// Unit attentions not yet reported, oldest first.
    #[must_use]
    pub fn attentions(&self) -> Vec<Sense> {
        let attention = self.attention.lock().unwrap_or_else(PoisonError::into_inner);
        attention.iter().copied().collect()
    }

    fn next_attention(&self) -> Option<Sense> {
        self.attention.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    /// Brings everything written to stable storage.
    ///
    /// # Errors
    /// Where it may be lost.
    pub fn flush(&self) -> io::Result<()> {
        if self.read_only { Ok(()) } else { self.backend.flush() }
    }

    /// Carries a command out: consumes `output` (from the driver) and `input` (to the
    /// driver) as far as data moved. With `wait` false, anything that may wait for the
    /// host's storage is refused instead.
    ///
    /// # Errors
    /// Why not.
    pub fn execute(
        &self,
        command: &Command,
        output: &mut Buffers<'_>,
        input: &mut Buffers<'_>,
        wait: bool,
    ) -> Result<(), Refusal> {
        let silent = matches!(command, Command::Inquiry { .. } | Command::RequestSense { .. });
        if !silent && let Some(sense) = self.next_attention() {
            return Err(sense.into());
        }
        match *command {
            Command::Inquiry { page, allocation } => {
                let data = match page {
                    None => inquiry::standard(),
                    Some(page) => inquiry::page(page, &self.serial).ok_or(Sense::INVALID_FIELD)?,
                };
                answer(input, &data, allocation)
            }
            Command::ModeSense { page, subpage, control, long, allocation } => {
                let data = inquiry::mode(page, subpage, control, long, self.read_only)
                    .ok_or(Sense::INVALID_FIELD)?;
                answer(input, &data, allocation)
            }
            Command::ReadCapacity10 => answer(input, &inquiry::capacity10(self.blocks()), 8),
            Command::ReadCapacity16 { allocation } => {
                answer(input, &inquiry::capacity16(self.blocks()), allocation)
            }
            Command::RequestSense { allocation } => {
                let sense = self.next_attention().unwrap_or(Sense::NONE);
                answer(input, &sense.encode(), allocation)
            }
            Command::StartStop | Command::TestUnitReady => Ok(()),
            // The bus answers it, for it alone knows all units.
            Command::ReportLuns { .. } => Err(Sense::INVALID_OPERATION.into()),
            Command::Verify(blocks) => self.range(blocks).map(drop),
            Command::Read(blocks) => self.read(blocks, input, wait),
            Command::Synchronize(_)
            | Command::Unmap { .. }
            | Command::Write { .. }
            | Command::WriteSame { .. }
                if !wait =>
            {
                Err(Refusal::WouldBlock)
            }
            Command::Synchronize(blocks) => {
                self.range(blocks)?;
                self.flush().map_err(|error| Sense::of_write(&error).into())
            }
            Command::Unmap { length } => self.unmap(length, output),
            Command::Write { blocks, force_unit_access } => {
                self.write(blocks, force_unit_access, output)
            }
            Command::WriteSame { blocks, unmap: _, no_data } => {
                self.write_same(blocks, no_data, output)
            }
        }
    }

    /// The byte offset and length of a run of blocks that lies within the disk.
    fn range(&self, blocks: Blocks) -> Result<(u64, u64), Refusal> {
        let capacity = self.blocks();
        let end = blocks.start.checked_add(blocks.count.into());
        if end.is_none_or(|end| end > capacity) {
            return Err(Sense::BLOCK_OUT_OF_RANGE.at(blocks.start).into());
        }
        // Within the disk, so within the backend's length in bytes.
        Ok((blocks.start.saturating_mul(BLOCK), u64::from(blocks.count) * BLOCK))
    }

    fn writable(&self) -> Result<(), Refusal> {
        if self.read_only { Err(Sense::WRITE_PROTECTED.into()) } else { Ok(()) }
    }

    fn read(&self, blocks: Blocks, input: &mut Buffers<'_>, wait: bool) -> Result<(), Refusal> {
        let (offset, length) = self.range(blocks)?;
        let mut data = exactly(input, length)?;
        self.backend.read(&mut data, offset, wait).map_err(|error| {
            if !wait && error.kind() == io::ErrorKind::WouldBlock {
                Refusal::WouldBlock
            } else {
                Sense::of_read(&error).at(blocks.start).into()
            }
        })
    }

    fn write(&self, blocks: Blocks, force: bool, output: &mut Buffers<'_>) -> Result<(), Refusal> {
        self.writable()?;
        let (offset, length) = self.range(blocks)?;
        let mut data = exactly(output, length)?;
        let mut result = self.backend.write(&mut data, offset);
        if force && result.is_ok() {
            result = self.backend.flush();
        }
        result.map_err(|error| Sense::of_write(&error).at(blocks.start).into())
    }

    fn write_same(
        &self,
        blocks: Blocks,
        no_data: bool,
        output: &mut Buffers<'_>,
    ) -> Result<(), Refusal> {
        self.writable()?;
        if !(1..=inquiry::MAXIMUM_WRITE_SAME).contains(&blocks.count) {
            return Err(Sense::INVALID_FIELD.into());
        }
        let (offset, length) = self.range(blocks)?;
        let mut pattern = [0; BLOCK as usize];
        if !no_data {
            exactly(output, BLOCK)?.copy_to(&mut pattern);
        }
        // Zeroes always become a hole: that is what keeps a disk small, and a hole can
        // be written to later just as well.
        let result = if pattern.iter().all(|byte| *byte == 0) {
            self.backend.discard(offset, length)
        } else {
            repeat(self.backend.as_ref(), &pattern, offset, length)
        };
        result.map_err(|error| Sense::of_write(&error).at(blocks.start).into())
    }

    fn unmap(&self, length: usize, output: &mut Buffers<'_>) -> Result<(), Refusal> {
        self.writable()?;
        if length == 0 {
            return Ok(());
        }
        if length < 8 {
            return Err(Sense::PARAMETER_LENGTH.into());
        }
        let mut list = vec![0; length];
        exactly(output, length as u64)?.copy_to(&mut list);
        let ranges = unmap_ranges(&list)?;
        let total = ranges.iter().fold(0_u64, |sum, blocks| sum + u64::from(blocks.count));
        if total > inquiry::MAXIMUM_UNMAP.into()
            || ranges.len() > inquiry::MAXIMUM_UNMAP_DESCRIPTORS as usize
        {
            return Err(Sense::INVALID_PARAMETER.into());
        }
        // All are checked before any is done.
        let places =
            ranges.iter().map(|blocks| self.range(*blocks)).collect::<Result<Vec<_>, _>>()?;
        for (offset, length) in places {
            self.backend.discard(offset, length).map_err(|error| Sense::of_write(&error))?;
        }
        Ok(())
    }
}

fn measure(backend: &dyn Backend) -> Result<u64, ScsiError> {
    let length = backend.length().map_err(ScsiError::Length)?;
    match length / BLOCK {
        0 => Err(ScsiError::TooSmall { length }),
        blocks => Ok(blocks),
    }
}

/// Takes `length` bytes, which must be there.
fn exactly<'m>(buffers: &mut Buffers<'m>, length: u64) -> Result<Buffers<'m>, Refusal> {
    let length = usize::try_from(length).map_err(|_| Refusal::Overrun)?;
    if buffers.length() < length {
        return Err(Refusal::Overrun);
    }
    Ok(buffers.take(length))
}

/// Hands out as much of `data` as the driver asked for.
pub(super) fn answer(
    input: &mut Buffers<'_>,
    data: &[u8],
    allocation: usize,
) -> Result<(), Refusal> {
    let data = data.get(..allocation).unwrap_or(data);
    if input.copy_from(data) < data.len() { Err(Refusal::Overrun) } else { Ok(()) }
}

/// The block descriptors of an UNMAP parameter list.
fn unmap_ranges(list: &[u8]) -> Result<Vec<Blocks>, Sense> {
    let (header, descriptors) = list.split_first_chunk::<8>().ok_or(Sense::PARAMETER_LENGTH)?;
    let announced = usize::from(u16::from_be_bytes([header[2], header[3]]));
    let descriptors = descriptors.get(..announced).ok_or(Sense::PARAMETER_LENGTH)?;
    let ranges = descriptors.as_chunks::<16>().0.iter().map(|bytes| {
        let [a, b, c, d, e, f, g, h, i, j, k, l, ..] = *bytes;
        Blocks {
            start: u64::from_be_bytes([a, b, c, d, e, f, g, h]),
            count: u32::from_be_bytes([i, j, k, l]),
        }
    });
    Ok(ranges.collect())
}

/// Writes one block over and over.
fn repeat(backend: &dyn Backend, pattern: &[u8], offset: u64, length: u64) -> io::Result<()> {
    const CHUNK: u64 = 1 << 20;
    let memory = pattern.repeat((CHUNK.min(length) / BLOCK) as usize);
    let mut done = 0;
    while done < length {
        let count = CHUNK.min(length - done);
        let piece = memory.get(..count as usize).unwrap_or(&memory);
        backend.write_bytes(piece, offset.saturating_add(done))?;
        done += count;
    }
    Ok(())
}
