//! From one disk to another.

use std::io;

use super::Disk;

/// How much is moved at a time.
const CHUNK: usize = 1 << 20;

/// What is looked at for zeroes, so that holes stay holes where a file does not tell them.
const GRAIN: usize = 64 << 10;

static ZEROES: [u8; GRAIN] = [0; GRAIN];

/// After how many bytes the host is told to begin to write.
const BATCH: u64 = 8 << 20;

/// Writes all data of `from` to `to`, which is as long or longer and reads as zeroes.
/// `moved` is told of every run of bytes that is done.
///
/// # Errors
/// Where not all could be read and written.
pub fn copy(from: &dyn Disk, to: &dyn Disk, mut moved: impl FnMut(u64)) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    let (mut offset, mut waiting) = (0, 0);
    loop {
        let extent = from.extent(offset)?;
        if extent.length == 0 {
            return to.flush();
        }
        if !extent.data {
            offset += extent.length;
            moved(extent.length);
            continue;
        }
        let count = extent.length.min(CHUNK as u64);
        let Some(chunk) = buffer.get_mut(..count as usize) else { return Ok(()) };
        from.read_at(chunk, offset)?;
        write_data(to, chunk, offset)?;
        offset += count;
        waiting += count;
        if waiting >= BATCH {
            to.start_flush();
            waiting = 0;
        }
        moved(count);
    }
}

/// Writes the grains that are not zeroes, neighbours at once.
fn write_data(to: &dyn Disk, chunk: &[u8], offset: u64) -> io::Result<()> {
    let is_data = |grain: &[u8]| ZEROES.get(..grain.len()) != Some(grain);
    let grains: Vec<&[u8]> = chunk.chunks(GRAIN).collect();
    let mut at = 0;
    for run in grains.chunk_by(|a, b| is_data(a) == is_data(b)) {
        let length: usize = run.iter().map(|grain| grain.len()).sum();
        if run.first().is_some_and(|grain| is_data(grain)) {
            to.write_at(chunk.get(at..at + length).unwrap_or_default(), offset + at as u64)?;
        }
        at += length;
    }
    Ok(())
}
