//! The guest's buffers for frames.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::sync::Arc;

use super::Deliver;
use crate::devices::GuestMemory;
use crate::devices::buffers::Buffers;
use crate::devices::ring::{Chain, Ring};

/// Where the number of buffers stands in what precedes a frame.
const BUFFERS: std::ops::Range<usize> = 10..12;

/// The queue of buffers, and those that were taken from it.
pub(super) struct Room {
    ring: Ring,
    /// Buffers that were taken from the queue and not used yet.
    spare: VecDeque<Chain>,
    /// Whether a frame may take several of them.
    mergeable: bool,
    /// Whether there is something to tell the driver.
    used: bool,
    /// Whether there was no room for the last frame.
    full: bool,
    /// What comes before data that is in the guest's memory already.
    head: Vec<u8>,
}

impl Room {
    /// All buffers that the driver will offer; `mergeable`: several for one frame.
    pub(super) fn new(ring: Ring, mergeable: bool) -> Self {
        let (spare, head) = (VecDeque::new(), Vec::new());
        Self { ring, spare, mergeable, used: false, full: false, head }
    }

    /// Whether there was no room for the last frame.
    pub(super) fn is_full(&mut self) -> bool {
        std::mem::take(&mut self.full)
    }

    /// Whether there are frames that the driver was not told of.
    pub(super) fn is_used(&self) -> bool {
        self.used
    }

    /// Tells the driver, where it wants to know.
    pub(super) fn tell(&mut self) {
        self.used = false;
        self.ring.signal();
    }

    /// Has so many spare buffers at hand that `length` bytes fit and tells how many, or
    /// none where the driver offers too few; 0 where they can never fit.
    fn gather(&mut self, length: usize) -> Option<usize> {
        let (mut count, mut space) = (0, 0);
        let mut fits = |chain: &Chain| {
            count += 1;
            space += space_of(chain);
            space >= length || !self.mergeable
        };
        let mut enough = self.spare.iter().any(&mut fits);
        if !enough {
            self.ring.disable_notification();
        }
        while !enough {
            // A driver that gives what it has given already gets nothing.
            if self.spare.len() > self.ring.size().into() {
                return None;
            }
            let spare = &mut self.spare;
            self.ring.pop_until(|chain| {
                enough = fits(&chain);
                spare.push_back(chain);
                enough
            });
            if !enough {
                self.used = true;
                if !self.ring.enable_notification() {
                    return None;
                }
            }
        }
        Some(if space >= length { count } else { 0 })
    }

    /// The memory of the first spare buffers.
    fn buffers<'m>(&self, memory: &'m GuestMemory, count: usize) -> Buffers<'m> {
        let segments = self.spare.iter().take(count).flat_map(|chain| &chain.writable);
        // `pop` has checked them.
        Buffers::new(memory, segments).unwrap_or_default()
    }

    /// Gives the driver the first spare buffers, as many as `length` bytes fill.
    fn use_up(&mut self, length: usize) {
        let mut rest = length;
        let mut used = Vec::new();
        while rest > 0
            && let Some(chain) = self.spare.pop_front()
        {
            let filled = space_of(&chain).min(rest);
            rest -= filled;
            // A frame is shorter than 4 GiB.
            used.push((chain.head, filled as u32));
        }
        self.ring.add_used_together(&used);
        self.used = true;
    }

    /// How many of the first spare buffers `length` bytes fill.
    fn count(&self, length: usize) -> u16 {
        let mut space = 0;
        let filled = self.spare.iter().take_while(|chain| {
            let before = space;
            space += space_of(chain);
            before < length
        });
        // No queue has more buffers than that.
        filled.count() as u16
    }
}

fn space_of(chain: &Chain) -> usize {
    chain.writable.iter().map(|part| part.length as usize).sum()
}

/// Copies what comes first in a frame, with the number of buffers in it.
fn copy_head(buffers: &mut Buffers<'_>, head: &[u8], number: u16) {
    match head.split_at_checked(BUFFERS.end) {
        Some((before, rest)) => {
            buffers.copy_from(before.get(..BUFFERS.start).unwrap_or_default());
            buffers.copy_from(&number.to_le_bytes());
            buffers.copy_from(rest);
        }
        None => _ = buffers.copy_from(head),
    }
}

impl Deliver for Room {
    /// One that cannot ever fit is dropped.
    fn pieces(&mut self, pieces: &[IoSlice<'_>]) -> bool {
        let length = pieces.iter().map(|piece| piece.len()).sum();
        let Some(count) = self.gather(length) else {
            self.full = true;
            return false;
        };
        if count == 0 {
            return true;
        }
        let memory = Arc::clone(self.ring.memory());
        let mut buffers = self.buffers(&memory, count);
        if let Some((head, others)) = pieces.split_first() {
            copy_head(&mut buffers, head, self.count(length));
            for piece in others {
                buffers.copy_from(piece);
            }
        }
        self.use_up(length);
        true
    }

    fn filled(
        &mut self,
        before: usize,
        most: usize,
        fill: &mut dyn FnMut(&mut Buffers<'_>) -> io::Result<usize>,
        head: &mut dyn FnMut(usize, &mut Vec<u8>),
    ) -> Option<io::Result<usize>> {
        let Some(count) = self.gather(before.saturating_add(most)) else {
            self.full = true;
            return None;
        };
        if count == 0 {
            return Some(Err(io::ErrorKind::StorageFull.into()));
        }
        let memory = Arc::clone(self.ring.memory());
        let mut buffers = self.buffers(&memory, count);
        let mut front = buffers.take(before);
        buffers.limit(most);
        let result = fill(&mut buffers);
        if let Ok(length @ 1..) = result {
            let length = length.min(most);
            self.head.clear();
            head(length, &mut self.head);
            debug_assert_eq!(self.head.len(), before);
            copy_head(&mut front, &self.head, self.count(before + length));
            self.use_up(before + length);
        }
        Some(result)
    }
}
