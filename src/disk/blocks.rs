//! A disk in blocks, each somewhere in the file or nowhere, as a table tells.
//!
//! VHD and VHDX differ in how the table is kept, and that is [`Layout`]. What is common:
//!
//! - A block, once placed, keeps its place. So data moves without any lock, and discarding
//!   punches a hole into the file and changes nothing else.
//! - New blocks are put at the file's end, which reads as zeroes.
//! - The table in the file is changed by [`Disk::flush`] only, and only when the blocks that
//!   it will name are on stable storage. A crash before that forgets the new blocks with
//!   what was written to them since the flush before, which is what a disk may do.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::bytes::{Destination, Source};
use super::raw::{data_or_hole, punch};
use super::{Disk, Extent, check_range, writeback};

/// The most blocks a table may have, so that it takes 32 MB of memory at most. A VHDX of
/// 8 TB in blocks of 1 MB, or of 64 TB in blocks of 8 MB, has that many.
pub(super) const MAXIMUM_BLOCKS: u64 = 8 << 20;

/// How a format keeps its table.
pub(super) trait Layout: fmt::Debug + Send {
    /// Prepares the file for changes, before the first one. Nothing after `end` is in use.
    fn begin(&mut self, file: &File, end: u64) -> io::Result<()>;

    /// Brings table entries, from block to place, to stable storage. All else that was
    /// written is there already, and so is the file's length of at least `end`.
    fn commit(&mut self, file: &File, changed: &BTreeMap<u32, u32>, end: u64) -> io::Result<()>;

    /// Leaves a file that others need not repair. All is on stable storage.
    fn close(&mut self, file: &File) -> io::Result<()>;
}

/// What does not change of a disk in blocks; lengths in bytes.
#[derive(Debug)]
pub(super) struct Geometry {
    /// The disk's length.
    pub(super) size: u64,
    /// The length of a block's data, a power of two.
    pub(super) block: u64,
    /// What table entries count in.
    pub(super) unit: u64,
    /// What stands before a block's data: the bitmap of the sectors that were written.
    pub(super) bitmap: u64,
    /// What stands after the last block.
    pub(super) footer: Vec<u8>,
}

#[derive(Debug)]
struct Space {
    /// Where the next block goes.
    end: u64,
    /// The table's entries that the file does not have yet.
    changed: BTreeMap<u32, u32>,
}

/// A disk in blocks.
#[derive(Debug)]
pub(super) struct Blocks {
    file: File,
    geometry: Geometry,
    writable: bool,
    /// For each block its place in units; 0 is nowhere. Never changed but from 0.
    table: Vec<AtomicU32>,
    /// A bit for each block whose bitmap is known to be full.
    full: Vec<AtomicU64>,
    space: Mutex<Space>,
    /// Locked for as long as a flush takes.
    layout: Mutex<Box<dyn Layout>>,
    begun: AtomicBool,
}

impl Blocks {
    /// A disk whose blocks are at `table`, which holds one entry for each; `end` is after
    /// the last of all that is in use in the file.
    pub(super) fn new(
        file: File,
        geometry: Geometry,
        table: Vec<u32>,
        end: u64,
        layout: Box<dyn Layout>,
        writable: bool,
    ) -> Self {
        let words = if geometry.bitmap == 0 { 0 } else { table.len().div_ceil(64) };
        Self {
            file,
            geometry,
            writable,
            table: table.into_iter().map(AtomicU32::new).collect(),
            full: (0..words).map(|_| AtomicU64::new(0)).collect(),
            space: Mutex::new(Space { end, changed: BTreeMap::new() }),
            layout: Mutex::new(layout),
            begun: AtomicBool::new(false),
        }
    }

    fn space(&self) -> MutexGuard<'_, Space> {
        self.space.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn layout(&self) -> MutexGuard<'_, Box<dyn Layout>> {
        self.layout.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where a block's data is in the file.
    fn place(&self, block: u64) -> Option<u64> {
        let entry = usize::try_from(block).ok().and_then(|block| self.table.get(block))?;
        self.data(entry.load(Ordering::Acquire))
    }

    fn data(&self, unit: u32) -> Option<u64> {
        (unit != 0).then(|| u64::from(unit) * self.geometry.unit + self.geometry.bitmap)
    }

    /// Cuts the run of `length` bytes from `offset` at block boundaries: the block, the
    /// offset in it, the count.
    fn pieces(&self, mut offset: u64, mut length: u64) -> impl Iterator<Item = (u64, u64, u64)> {
        let size = self.geometry.block;
        std::iter::from_fn(move || {
            let within = offset % size;
            let count = length.min(size - within);
            let piece = (offset / size, within, count);
            offset += count;
            length -= count;
            (count > 0).then_some(piece)
        })
    }

    fn begin(&self) -> io::Result<()> {
        if self.begun.load(Ordering::Acquire) {
            return Ok(());
        }
        if !self.writable {
            return Err(io::ErrorKind::ReadOnlyFilesystem.into());
        }
        let mut layout = self.layout();
        if !self.begun.load(Ordering::Acquire) {
            let end = self.space().end;
            layout.begin(&self.file, end)?;
            self.begun.store(true, Ordering::Release);
        }
        Ok(())
    }

    /// The place of a block's data, at the file's end where it had none.
    fn allocate(&self, block: u64) -> io::Result<u64> {
        let outside = || io::Error::from(io::ErrorKind::InvalidInput);
        let index = u32::try_from(block).map_err(|_| outside())?;
        let entry = self.table.get(index as usize).ok_or_else(outside)?;
        let mut space = self.space();
        if let Some(place) = self.data(entry.load(Ordering::Acquire)) {
            return Ok(place);
        }
        let geometry = &self.geometry;
        let full = || io::Error::from(io::ErrorKind::FileTooLarge);
        let unit = u32::try_from(space.end / geometry.unit).map_err(|_| full())?;
        // The last entry means "nowhere" in a VHD.
        let place = self.data(unit).filter(|_| unit != u32::MAX).ok_or_else(full)?;
        let end = place.checked_add(geometry.block).ok_or_else(full)?;
        self.file.set_len(end.saturating_add(geometry.footer.len() as u64))?;
        if !geometry.footer.is_empty() {
            self.file.write_all_at(&geometry.footer, end)?;
        }
        // Over the old footer, once there is a new one.
        self.fill_bitmap(block, place)?;
        space.end = end;
        space.changed.insert(index, unit);
        entry.store(unit, Ordering::Release);
        Ok(place)
    }

    /// Says in the bitmap of a block that all of its sectors were written. Readers differ
    /// in whether they look; those that were not written hold zeroes.
    fn fill_bitmap(&self, block: u64, place: u64) -> io::Result<()> {
        let Some(word) = self.full.get((block / 64) as usize) else { return Ok(()) };
        let bit = 1 << (block % 64);
        if word.load(Ordering::Acquire) & bit == 0 {
            let ones = vec![0xff; self.geometry.bitmap as usize];
            self.file.write_all_at(&ones, place - self.geometry.bitmap)?;
            word.fetch_or(bit, Ordering::AcqRel);
        }
        Ok(())
    }

    /// Writes new table entries to the file.
    fn commit(&self, layout: &mut dyn Layout) -> io::Result<()> {
        let (changed, end) = {
            let mut space = self.space();
            (std::mem::take(&mut space.changed), space.end)
        };
        let result = self.file.sync_data().and_then(|()| {
            if changed.is_empty() { Ok(()) } else { layout.commit(&self.file, &changed, end) }
        });
        if result.is_err() {
            // Entries never change, so the newer ones and these do not contradict.
            self.space().changed.extend(changed);
        }
        result
    }
}

impl Disk for Blocks {
    fn length(&self) -> io::Result<u64> {
        Ok(self.geometry.size)
    }

    fn read(&self, into: &mut dyn Destination, offset: u64, wait: bool) -> io::Result<()> {
        let length = into.left() as u64;
        check_range(offset, length, self.geometry.size)?;
        for (block, within, count) in self.pieces(offset, length) {
            match self.place(block) {
                Some(place) => into.fill(&self.file, place + within, count as usize, wait)?,
                None => into.zero(count as usize),
            }
        }
        Ok(())
    }

    fn write(&self, from: &mut dyn Source, offset: u64) -> io::Result<()> {
        let length = from.left() as u64;
        check_range(offset, length, self.geometry.size)?;
        self.begin()?;
        for (block, within, count) in self.pieces(offset, length) {
            let place = match self.place(block) {
                Some(place) => place,
                None => self.allocate(block)?,
            };
            self.fill_bitmap(block, place)?;
            from.drain(&self.file, place + within, count as usize)?;
        }
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        if !self.begun.load(Ordering::Acquire) {
            return Ok(());
        }
        let mut layout = self.layout();
        self.commit(layout.as_mut())
    }

    fn start_flush(&self) {
        writeback::start(&self.file, 0, 0);
    }

    fn discard(&self, offset: u64, length: u64) -> io::Result<()> {
        check_range(offset, length, self.geometry.size)?;
        self.begin()?;
        for (block, within, count) in self.pieces(offset, length) {
            if let Some(place) = self.place(block) {
                punch(&self.file, place + within, count)?;
            }
        }
        Ok(())
    }

    fn extent(&self, offset: u64) -> io::Result<Extent> {
        let Some(left) = self.geometry.size.checked_sub(offset).filter(|left| *left > 0) else {
            return Ok(Extent { length: 0, data: false });
        };
        let within = offset % self.geometry.block;
        let rest = left.min(self.geometry.block - within);
        match self.place(offset / self.geometry.block) {
            Some(place) => data_or_hole(&self.file, place + within, place + within + rest),
            None => Ok(Extent { length: rest, data: false }),
        }
    }
}

impl Drop for Blocks {
    fn drop(&mut self) {
        if !self.begun.load(Ordering::Acquire) {
            return;
        }
        // Where it fails the file is as after a crash, and whole.
        let mut layout = self.layout();
        let _ = self
            .commit(layout.as_mut())
            .and_then(|()| self.file.sync_data())
            .and_then(|()| layout.close(&self.file));
    }
}

/// Why a table's blocks cannot be where it says.
pub(super) fn check_places(
    table: &[u32],
    geometry: &Geometry,
    from: u64,
    length: u64,
) -> Result<u64, String> {
    let mut places: Vec<u32> = table.iter().copied().filter(|unit| *unit != 0).collect();
    places.sort_unstable();
    let size = geometry.bitmap + geometry.block;
    let mut end = from;
    for unit in places {
        let start = u64::from(unit) * geometry.unit;
        if start < end {
            return Err(format!("the block at {start} overlaps what is before {end}"));
        }
        end = start.saturating_add(size);
        if end > length {
            return Err(format!("the block at {start} ends at {end}, the file at {length}"));
        }
    }
    Ok(end)
}
