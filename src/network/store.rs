//! Bytes of a stream that wait.
//!
//! A ring that system calls fill and drain in place: a byte is moved into it once and out of
//! it once. Its memory grows with what waits, stays while a stream flows, and is given back
//! by [`Store::tidy`].

use std::io::{self, IoSlice, IoSliceMut};
use std::ops::Range;

/// The memory that is not worth giving back.
const KEPT: usize = 2 << 10;
/// The memory that is cheap enough to be had anew for every byte that comes.
const CHEAP: usize = 64 << 10;

/// The bytes, oldest first.
#[derive(Debug, Default)]
pub struct Store {
    /// All of it, of a size that is a power of two, or nothing.
    ring: Vec<u8>,
    /// Where the oldest byte is.
    start: usize,
    length: usize,
}

impl Store {
    /// How many bytes wait.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether none does.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// The bytes in that range, in one or two pieces.
    pub fn range(&self, range: Range<usize>) -> (&[u8], &[u8]) {
        let end = range.end.min(self.length);
        let (front, back) = self.split(range.start.min(end), end);
        let piece = |range| self.ring.get(range).unwrap_or_default();
        (piece(front), piece(back))
    }

    /// Where bytes `from` to `to`, counted from the oldest, are in the ring.
    fn split(&self, from: usize, to: usize) -> (Range<usize>, Range<usize>) {
        let (from, to) = (self.start + from, self.start + to);
        let size = self.ring.len();
        if from >= size {
            return (from - size..to - size, 0..0);
        }
        (from..to.min(size), 0..to.saturating_sub(size))
    }

    /// Makes room for so many more bytes.
    fn reserve(&mut self, more: usize) {
        let size = self.length.saturating_add(more);
        if size <= self.ring.len() {
            return;
        }
        // Zeroes that the system gives: what is not used is not there.
        let mut ring = vec![0; size.next_power_of_two().max(KEPT)];
        let (front, back) = self.range(0..self.length);
        let (low, high) = ring.split_at_mut(front.len());
        low.copy_from_slice(front);
        high.get_mut(..back.len()).unwrap_or_default().copy_from_slice(back);
        (self.ring, self.start) = (ring, 0);
    }

    /// Has up to `most` bytes read behind those that wait; tells how many were.
    ///
    /// # Errors
    /// Those of `read`.
    pub fn fill(
        &mut self,
        most: usize,
        read: impl FnOnce(&mut [IoSliceMut<'_>]) -> io::Result<usize>,
    ) -> io::Result<usize> {
        self.reserve(most);
        let (front, back) = self.split(self.length, self.length.saturating_add(most));
        let (low, high) = self.ring.split_at_mut(front.start);
        let front = high.get_mut(..front.len()).unwrap_or_default();
        let back = low.get_mut(back).unwrap_or_default();
        let result = read(&mut [IoSliceMut::new(front), IoSliceMut::new(back)]);
        if let Ok(count) = result {
            self.length += count.min(most);
        }
        self.rest();
        result
    }

    /// Adds bytes.
    pub fn extend(&mut self, bytes: &[u8]) {
        let copied = self.fill(bytes.len(), |pieces| {
            let mut rest = bytes;
            for piece in pieces {
                let (now, later) = rest.split_at(piece.len().min(rest.len()));
                piece.get_mut(..now.len()).unwrap_or_default().copy_from_slice(now);
                rest = later;
            }
            Ok(bytes.len() - rest.len())
        });
        debug_assert!(matches!(copied, Ok(count) if count == bytes.len()));
    }

    /// Has the oldest bytes written, and forgets those that were.
    ///
    /// # Errors
    /// Those of `write`.
    pub fn drain(
        &mut self,
        write: impl FnOnce(&[IoSlice<'_>; 2]) -> io::Result<usize>,
    ) -> io::Result<()> {
        let (front, back) = self.range(0..self.length);
        let count = write(&[IoSlice::new(front), IoSlice::new(back)])?;
        self.forget(count);
        Ok(())
    }

    /// Forgets the oldest bytes.
    pub fn forget(&mut self, count: usize) {
        let count = count.min(self.length);
        self.length -= count;
        self.start += count;
        if self.start >= self.ring.len() {
            self.start -= self.ring.len();
        }
        self.rest();
    }

    /// Gives cheap memory back where nothing waits.
    fn rest(&mut self) {
        if self.length == 0 {
            self.start = 0;
            if self.ring.len() <= CHEAP {
                self.tidy();
            }
        }
    }

    /// Whether memory is kept for bytes to come.
    pub fn is_untidy(&self) -> bool {
        self.length == 0 && self.ring.len() > KEPT
    }

    /// Gives memory back where nothing waits.
    pub fn tidy(&mut self) {
        if self.is_untidy() {
            self.ring = Vec::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::io::{Read as _, Write as _};

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_goes_in_comes_out_in_order(
            steps in prop::collection::vec((0_usize..5000, 0_usize..5000, 0_usize..6000), 1..60),
        ) {
            let (mut store, mut model) = (Store::default(), VecDeque::new());
            let mut next = 0_u8;
            for (bytes, read, gone) in steps {
                let mut fresh = |count| {
                    (0..count).map(|_| { next = next.wrapping_mul(5).wrapping_add(3); next })
                        .collect::<Vec<u8>>()
                };
                let extended = fresh(bytes);
                store.extend(&extended);
                model.extend(extended);
                // A read that gets less than it could.
                let filled = fresh(read);
                let wanted = read + bytes / 2;
                let count = store.fill(wanted, |pieces| {
                    assert_eq!(pieces.iter().map(|piece| piece.len()).sum::<usize>(), wanted);
                    filled.as_slice().read_vectored(pieces)
                });
                prop_assert_eq!(count.unwrap(), read);
                model.extend(filled);
                let (from, to) = (gone / 3, gone / 2 + 7);
                let (front, back) = store.range(from..to);
                let expected: Vec<u8> =
                    model.iter().copied().take(to).skip(from).collect();
                prop_assert_eq!([front, back].concat(), expected);
                if gone % 2 == 0 {
                    store.forget(gone);
                    model.drain(..gone.min(model.len()));
                } else {
                    let mut taken = vec![0; gone];
                    store.drain(|pieces| taken.as_mut_slice().write_vectored(pieces)).unwrap();
                    let count = gone.min(model.len());
                    taken.truncate(count);
                    prop_assert_eq!(taken, model.drain(..count).collect::<Vec<u8>>());
                }
                prop_assert_eq!((store.len(), store.is_empty()), (model.len(), model.is_empty()));
            }
        }
    }

    #[test]
    fn memory_stays_while_a_stream_flows_and_is_given_back_after_it() {
        let mut store = Store::default();
        store.extend(&[1; 100_000]);
        store.forget(100_000);
        assert_eq!((store.ring.len(), store.is_untidy()), (1 << 17, true));
        store.tidy();
        assert_eq!((store.ring.capacity(), store.is_untidy()), (0, false));
        // Little is had anew each time.
        store.extend(&[1; 5000]);
        store.forget(5000);
        assert_eq!(store.ring.capacity(), 0);
    }
}
