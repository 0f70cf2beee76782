//! The journal of a file system that was not unmounted, replayed in memory: which of its
//! blocks take the place of others. Nothing is written.
//!
//! Source: Linux, `include/linux/jbd2.h` and `fs/jbd2/recovery.c`. Numbers are big-endian.

use std::collections::HashMap;

use super::super::checksum;
use super::blocks::{Blocks, Replacement};
use super::error::ReadError;
use super::extents::{Run, Runs};
use super::inode::Inode;

/// What every block of the journal's own begins with.
pub(super) const MAGIC: u32 = 0xc03b_3998;

const DESCRIPTOR: u32 = 1;
const COMMIT: u32 = 2;
const SUPER_BLOCKS: [u32; 2] = [3, 4];
const REVOKE: u32 = 5;

const FEATURE_REVOKE: u32 = 0x1;
const FEATURE_64BIT: u32 = 0x2;
const FEATURE_ASYNC_COMMIT: u32 = 0x4;
const FEATURE_CSUM_V2: u32 = 0x8;
const FEATURE_CSUM_V3: u32 = 0x10;

const TAG_ESCAPED: u32 = 1;
const TAG_SAME_UUID: u32 = 2;
const TAG_LAST: u32 = 8;

/// Where a block's own header ends.
const HEADER: usize = 12;

/// One block to be replayed.
struct Tag {
    block: u64,
    is_escaped: bool,
    checksum: u32,
}

/// The journal.
struct Journal<'a> {
    blocks: &'a Blocks,
    runs: Vec<Run>,
    features: u32,
    /// What checksums begin with; `None` where there are none.
    seed: Option<u32>,
    /// Its first block that is not its superblock, and its end.
    first: u64,
    end: u64,
}

/// Which blocks of the journal take the place of which blocks.
pub(super) fn replay(
    blocks: &Blocks,
    inode: &Inode,
) -> Result<HashMap<u64, Replacement>, ReadError> {
    let mut list = Runs::new(blocks, inode)?;
    let mut runs = Vec::new();
    while let Some(run) = list.next()? {
        runs.push(run);
        if runs.len() > 1 << 20 {
            return Err(ReadError::damaged("the journal is in too many pieces"));
        }
    }
    let size = blocks.size();
    let length = inode.size / size as u64;
    let mut journal = Journal { blocks, runs, features: 0, seed: None, first: 1, end: length };
    let head = journal.read(0)?;
    let wrong = |what: &str| ReadError::damaged(format!("the journal has a wrong {what}"));
    if number(&head, 0) != MAGIC || !SUPER_BLOCKS.contains(&number(&head, 4)) {
        return Err(wrong("superblock"));
    }
    if number(&head, 12) as usize != size {
        return Err(wrong("block size"));
    }
    journal.end = u64::from(number(&head, 16)).min(length);
    journal.first = u64::from(number(&head, 20));
    let (sequence, start) = (number(&head, 24), u64::from(number(&head, 28)));
    if number(&head, 4) == SUPER_BLOCKS[1] {
        journal.features = number(&head, 0x28);
    }
    let known =
        FEATURE_REVOKE | FEATURE_64BIT | FEATURE_ASYNC_COMMIT | FEATURE_CSUM_V2 | FEATURE_CSUM_V3;
    if journal.features & !known != 0 {
        let features = format!("journal {:#x}", journal.features & !known);
        return Err(ReadError::Unsupported { features });
    }
    if journal.features & (FEATURE_CSUM_V2 | FEATURE_CSUM_V3) != 0 {
        // The superblock's own checksum, at 0xfc, counts as zeros.
        if summed(u32::MAX, head.get(..1024).unwrap_or_default(), 0xfc) != number(&head, 0xfc) {
            return Err(wrong("checksum"));
        }
        journal.seed = Some(checksum::extend(u32::MAX, head.get(0x30..0x40).unwrap_or_default()));
    }
    if start == 0 {
        return Ok(HashMap::new());
    }
    if journal.first == 0 || !(journal.first..journal.end).contains(&start) {
        return Err(wrong("start"));
    }
    journal.replay(start, sequence)
}

impl Journal<'_> {
    /// The image's block that a block of the journal is.
    fn place(&self, block: u64) -> Result<u64, ReadError> {
        let after = self.runs.partition_point(|run| run.logical <= block);
        let run = after.checked_sub(1).and_then(|index| self.runs.get(index));
        run.filter(|run| block < run.logical + run.length)
            .map(|run| run.physical + (block - run.logical))
            .ok_or_else(|| ReadError::damaged(format!("the journal has no block {block}")))
    }

    fn read(&self, block: u64) -> Result<Vec<u8>, ReadError> {
        self.blocks.read(self.place(block)?)
    }

    /// The block `count` further on, around the end.
    fn after(&self, block: u64, count: u64) -> u64 {
        self.first + (block - self.first + count) % (self.end - self.first)
    }

    /// Goes through all transactions that were committed.
    fn replay(&self, start: u64, first: u32) -> Result<HashMap<u64, Replacement>, ReadError> {
        // What a transaction says counts when its commit is found.
        let mut revoked: HashMap<u64, u32> = HashMap::new();
        let mut written: Vec<(u32, u64, Replacement)> = Vec::new();
        let (mut new_revoked, mut new_written) = (Vec::new(), Vec::new());
        let (mut at, mut sequence, mut seen) = (start, first, 0_u64);
        while seen < self.end - self.first {
            let bytes = self.read(at)?;
            if number(&bytes, 0) != MAGIC || number(&bytes, 8) != sequence {
                break;
            }
            let mut used = 1;
            match number(&bytes, 4) {
                DESCRIPTOR if self.is_sound(&bytes, bytes.len() - 4) => {
                    for tag in self.tags(&bytes) {
                        let place = self.place(self.after(at, used))?;
                        let is_escaped = tag.is_escaped;
                        new_written.push((tag, Replacement { block: place, is_escaped }));
                        used += 1;
                    }
                }
                REVOKE if self.is_sound(&bytes, bytes.len() - 4) => {
                    new_revoked.extend(self.revoked(&bytes));
                }
                COMMIT if self.is_sound(&bytes, 16) => {
                    for block in new_revoked.drain(..) {
                        revoked.insert(block, sequence);
                    }
                    for (tag, place) in new_written.drain(..) {
                        self.check(&tag, place, sequence)?;
                        written.push((sequence, tag.block, place));
                    }
                    sequence = sequence.wrapping_add(1);
                }
                // What was not written to its end was not committed.
                _ => break,
            }
            seen += used;
            at = self.after(at, used);
        }
        let mut replaced = HashMap::new();
        for (sequence, block, place) in written {
            // Revoked at the same time or later: it is no metadata any more.
            let is_revoked = revoked
                .get(&block)
                .is_some_and(|last| sequence.wrapping_sub(*last).cast_signed() <= 0);
            if !is_revoked {
                replaced.insert(block, place);
            }
        }
        Ok(replaced)
    }

    /// Whether the checksum at `at` in a block of the journal's own is right.
    fn is_sound(&self, bytes: &[u8], at: usize) -> bool {
        self.seed.is_none_or(|seed| summed(seed, bytes, at) == number(bytes, at))
    }

    /// What a descriptor says of the blocks behind it.
    fn tags(&self, bytes: &[u8]) -> Vec<Tag> {
        let mut tags = Vec::new();
        let (is_v3, is_large) =
            (self.features & FEATURE_CSUM_V3 != 0, self.features & FEATURE_64BIT != 0);
        let size = match (is_v3, is_large) {
            (true, _) => 16,
            (false, true) => 12,
            (false, false) => 8,
        } + if !is_v3 && self.features & FEATURE_CSUM_V2 != 0 { 2 } else { 0 };
        let end = bytes.len() - if self.seed.is_some() { 4 } else { 0 };
        let mut at = HEADER;
        while at + size <= end {
            let low = number(bytes, at);
            let (flags, high, checksum) = if is_v3 {
                (number(bytes, at + 4), number(bytes, at + 8), number(bytes, at + 12))
            } else {
                let word = number(bytes, at + 4);
                (word & 0xffff, if is_large { number(bytes, at + 8) } else { 0 }, word >> 16)
            };
            let high = if is_large { high } else { 0 };
            tags.push(Tag {
                block: u64::from(high) << 32 | u64::from(low),
                is_escaped: flags & TAG_ESCAPED != 0,
                checksum,
            });
            at += size;
            if flags & TAG_SAME_UUID == 0 {
                at += 16;
            }
            if flags & TAG_LAST != 0 {
                break;
            }
        }
        tags
    }

    /// The blocks that a revoke block names.
    fn revoked(&self, bytes: &[u8]) -> Vec<u64> {
        let size = if self.features & FEATURE_64BIT != 0 { 8 } else { 4 };
        let end = (number(bytes, HEADER) as usize).min(bytes.len());
        let entries = bytes.get(HEADER + 4..end).unwrap_or_default().chunks_exact(size);
        entries
            .map(|entry| match size {
                8 => u64::from(number(entry, 0)) << 32 | u64::from(number(entry, 4)),
                _ => u64::from(number(entry, 0)),
            })
            .collect()
    }

    /// Checks a block that is to be replayed.
    fn check(&self, tag: &Tag, place: Replacement, sequence: u32) -> Result<(), ReadError> {
        let damaged = |what: &str| {
            ReadError::damaged(format!("the journal has {what} for block {}", tag.block))
        };
        if tag.block >= self.blocks.count() {
            return Err(damaged("a place beyond the end"));
        }
        let Some(seed) = self.seed else { return Ok(()) };
        let bytes = self.blocks.read(place.block)?;
        let sum = checksum::extend(checksum::extend(seed, &sequence.to_be_bytes()), &bytes);
        let is_right = match self.features & FEATURE_CSUM_V3 {
            0 => sum & 0xffff == tag.checksum,
            _ => sum == tag.checksum,
        };
        if is_right { Ok(()) } else { Err(damaged("a wrong checksum")) }
    }
}

/// The checksum of bytes whose own place in them, at `at`, counts as zeros.
fn summed(seed: u32, bytes: &[u8], at: usize) -> u32 {
    let sum = checksum::extend(seed, bytes.get(..at).unwrap_or_default());
    let sum = checksum::extend(sum, &[0; 4]);
    checksum::extend(sum, bytes.get(at + 4..).unwrap_or_default())
}

/// A big-endian word; zero beyond the end.
fn number(bytes: &[u8], at: usize) -> u32 {
    let bytes = bytes.get(at..).and_then(|rest| rest.first_chunk::<4>());
    bytes.map_or(0, |bytes| u32::from_be_bytes(*bytes))
}
