//! Guest memory as a list of pieces that system calls fill and drain directly.
//!
//! `virtio_queue`'s reader and writer copy; a disk or a stream wants the kernel to move
//! the bytes itself. [`Buffers`] is the one place where guest memory becomes `iovec`s,
//! and so the one place of the devices that needs `unsafe`. Every piece was checked to
//! lie in guest memory when it was made.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryMmap, VolatileSlice};

/// The most pieces one system call takes (`IOV_MAX`).
const MAXIMUM_IOVECS: usize = 1024;

/// The size of a page of the host, in bytes.
const PAGE: usize = 4096;

/// A run of guest physical memory.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Segment {
    /// Where it starts.
    pub address: GuestAddress,
    /// Its length in bytes.
    pub length: u32,
}

impl Segment {
    /// Whether all of it is guest memory.
    #[must_use]
    pub fn is_in(&self, memory: &GuestMemoryMmap) -> bool {
        let length = self.length as usize;
        length == 0
            || memory.get_slice(self.address, length).is_ok()
            || GuestMemoryBackend::check_range(memory, self.address, length)
    }
}

/// A segment lies outside guest memory.
#[derive(Debug, thiserror::Error)]
#[error("{length} bytes at {address:#x} are not guest memory")]
pub struct NotGuestMemory {
    /// The guest physical address.
    pub address: u64,
    /// The length in bytes.
    pub length: u32,
}

/// Pieces of guest memory, consumed from the front.
#[derive(Clone, Debug, Default)]
pub struct Buffers<'m> {
    slices: VecDeque<VolatileSlice<'m>>,
}

impl<'m> Buffers<'m> {
    /// The memory of `segments`, in order.
    ///
    /// # Errors
    /// Where a segment is not wholly guest memory.
    pub fn new<'s>(
        memory: &'m GuestMemoryMmap,
        segments: impl IntoIterator<Item = &'s Segment>,
    ) -> Result<Self, NotGuestMemory> {
        let segments = segments.into_iter();
        let mut slices = VecDeque::with_capacity(segments.size_hint().0);
        for segment in segments.filter(|segment| segment.length > 0) {
            let outside = || NotGuestMemory { address: segment.address.0, length: segment.length };
            // Nearly always it is in one piece.
            if let Ok(slice) = memory.get_slice(segment.address, segment.length as usize) {
                slices.push_back(slice);
                continue;
            }
            let length = segment.length as usize;
            for piece in GuestMemoryBackend::get_slices(memory, segment.address, length) {
                slices.push_back(piece.map_err(|_| outside())?);
            }
        }
        Ok(Self { slices })
    }

    /// The bytes left.
    #[must_use]
    pub fn length(&self) -> usize {
        self.slices.iter().map(VolatileSlice::len).fold(0, usize::saturating_add)
    }

    /// Whether nothing is left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.slices.is_empty()
    }

    /// Takes the first `count` bytes off, or all where fewer are left.
    pub fn take(&mut self, count: usize) -> Self {
        let mut front = VecDeque::new();
        let mut missing = count;
        while missing > 0 {
            let Some(slice) = self.slices.pop_front() else { break };
            match slice.split_at(missing) {
                Ok((head, tail)) if !tail.is_empty() => {
                    front.push_back(head);
                    self.slices.push_front(tail);
                    break;
                }
                _ => {
                    missing -= slice.len();
                    front.push_back(slice);
                }
            }
        }
        Self { slices: front }
    }

    /// Drops the first `count` bytes, or all where fewer are left.
    fn skip(&mut self, count: usize) {
        let mut missing = count;
        while missing > 0
            && let Some(slice) = self.slices.pop_front()
        {
            match slice.offset(missing) {
                Ok(rest) if !rest.is_empty() => {
                    self.slices.push_front(rest);
                    return;
                }
                _ => missing -= slice.len().min(missing),
            }
        }
    }

    /// Leaves the first `count` bytes only.
    pub fn limit(&mut self, count: usize) {
        let mut missing = count;
        for position in 0..self.slices.len() {
            let Some(slice) = self.slices.get_mut(position) else { return };
            if slice.len() >= missing {
                if let Ok(front) = slice.subslice(0, missing) {
                    *slice = front;
                }
                self.slices.truncate(position + usize::from(missing > 0));
                return;
            }
            missing -= slice.len();
        }
    }

    /// Appends the pieces of `other`.
    pub fn append(&mut self, mut other: Self) {
        self.slices.append(&mut other.slices);
    }

    /// Copies to the host and consumes; returns the bytes copied.
    pub fn copy_to(&mut self, destination: &mut [u8]) -> usize {
        let mut copied = 0;
        for slice in self.take(destination.len()).slices {
            if let Some(rest) = destination.get_mut(copied..) {
                copied += slice.copy_to(rest);
            }
        }
        copied
    }

    /// Copies from the host and consumes; returns the bytes copied.
    pub fn copy_from(&mut self, source: &[u8]) -> usize {
        let mut copied = 0;
        for slice in self.take(source.len()).slices {
            if let Some(rest) = source.get(copied..) {
                slice.copy_from(rest);
                copied += slice.len();
            }
        }
        copied
    }

    /// Fills and consumes all that is left with zeroes.
    pub fn zero(&mut self) {
        const ZEROES: [u8; 4096] = [0; 4096];
        while self.copy_from(&ZEROES) > 0 {}
    }

    /// Gives the host back the whole pages of all that is left, and consumes it. What the
    /// guest finds there afterwards is zero.
    pub fn discard(&mut self) {
        for slice in self.slices.drain(..) {
            let guard = slice.ptr_guard_mut();
            let start = guard.as_ptr();
            let before = start.align_offset(PAGE);
            let Some(length) = guard.len().checked_sub(before).map(|rest| rest & !(PAGE - 1))
            else {
                continue;
            };
            if length > 0 {
                // SAFETY: whole pages within one slice of mapped guest memory, which is
                // private and anonymous and outlives the call (`self` borrows the mapping).
                // Nothing in this program holds references into it; that its content changes
                // is what the guest asked for.
                let _ = unsafe {
                    libc::madvise(start.wrapping_add(before).cast(), length, libc::MADV_DONTNEED)
                };
            }
        }
    }

    /// One `preadv2(2)` into the front; returns and consumes the bytes read.
    ///
    /// # Errors
    /// Those of the system call, and `InvalidInput` for offsets beyond `i64`.
    pub fn read_at(
        &mut self,
        file: BorrowedFd<'_>,
        offset: u64,
        flags: libc::c_int,
    ) -> io::Result<usize> {
        let offset = file_offset(offset)?;
        self.transfer(|vectors, count| {
            // SAFETY: the vectors describe mapped guest memory that outlives the call
            // (`self` borrows the mapping); the guest seeing it change is what is wanted.
            unsafe { libc::preadv2(file.as_raw_fd(), vectors, count, offset, flags) }
        })
    }

    /// One `pwritev2(2)` from the front; returns and consumes the bytes written.
    ///
    /// # Errors
    /// Those of the system call, and `InvalidInput` for offsets beyond `i64`.
    pub fn write_at(
        &mut self,
        file: BorrowedFd<'_>,
        offset: u64,
        flags: libc::c_int,
    ) -> io::Result<usize> {
        let offset = file_offset(offset)?;
        self.transfer(|vectors, count| {
            // SAFETY: as in `read_at`; the kernel only reads the memory.
            unsafe { libc::pwritev2(file.as_raw_fd(), vectors, count, offset, flags) }
        })
    }

    /// One `recvmsg(2)` into the front that does not block; returns and consumes the
    /// bytes received.
    ///
    /// # Errors
    /// Those of the system call.
    pub fn receive(&mut self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        self.receive_with(socket, 0)
    }

    /// The same, and the socket keeps the bytes (`MSG_PEEK`).
    ///
    /// # Errors
    /// Those of the system call.
    pub fn peek(&mut self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        self.receive_with(socket, libc::MSG_PEEK)
    }

    fn receive_with(&mut self, socket: BorrowedFd<'_>, flags: libc::c_int) -> io::Result<usize> {
        self.transfer(|vectors, count| {
            let mut message = message(vectors, count);
            let flags = flags | libc::MSG_DONTWAIT;
            // SAFETY: as in `read_at`; the message has neither name nor control data.
            unsafe { libc::recvmsg(socket.as_raw_fd(), &mut message, flags) }
        })
    }

    /// One `sendmsg(2)` from the front that neither blocks nor raises `SIGPIPE`; returns
    /// and consumes the bytes sent.
    ///
    /// # Errors
    /// Those of the system call.
    pub fn send(&mut self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        self.transfer(|vectors, count| {
            let message = message(vectors, count);
            let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
            // SAFETY: as in `write_at`; the message has neither name nor control data.
            unsafe { libc::sendmsg(socket.as_raw_fd(), &message, flags) }
        })
    }

    /// Runs a vectored system call on the front, consumes what it moved, and repeats it
    /// where a signal interrupted it.
    fn transfer(
        &mut self,
        call: impl Fn(*const libc::iovec, libc::c_int) -> libc::ssize_t,
    ) -> io::Result<usize> {
        let guards: Vec<_> =
            self.slices.iter().take(MAXIMUM_IOVECS).map(VolatileSlice::ptr_guard_mut).collect();
        let vectors: Vec<_> = guards
            .iter()
            .map(|guard| libc::iovec { iov_base: guard.as_ptr().cast(), iov_len: guard.len() })
            .collect();
        let moved = loop {
            let moved = call(vectors.as_ptr(), vectors.len() as libc::c_int);
            match usize::try_from(moved) {
                Ok(moved) => break moved,
                Err(_) => {
                    let error = io::Error::last_os_error();
                    if error.kind() != io::ErrorKind::Interrupted {
                        return Err(error);
                    }
                }
            }
        };
        drop(guards);
        self.skip(moved);
        Ok(moved)
    }
}

fn file_offset(offset: u64) -> io::Result<libc::off_t> {
    libc::off_t::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput.into())
}

fn message(vectors: *const libc::iovec, count: libc::c_int) -> libc::msghdr {
    // SAFETY: all-zero is a valid `msghdr`: no name, no vectors, no control data.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = vectors.cast_mut();
    message.msg_iovlen = count as usize;
    message
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    fn memory() -> GuestMemoryMmap {
        GuestMemoryMmap::from_ranges(&[
            (GuestAddress(0), 0x1000),
            (GuestAddress(0x1000), 0x1000),
            (GuestAddress(0x10000), 0x1000),
        ])
        .unwrap()
    }

    fn segment(address: u64, length: u32) -> Segment {
        Segment { address: GuestAddress(address), length }
    }

    #[test]
    fn memory_that_does_not_exist_is_refused() {
        let memory = memory();
        for bad in [
            segment(0x2000, 1),
            segment(0x1fff, 2),
            segment(u64::MAX, 2),
            segment(u64::MAX - 3, 4),
            segment(0, u32::MAX),
        ] {
            assert!(Buffers::new(&memory, &[segment(0, 1), bad]).is_err(), "{bad:?}");
        }
        assert_eq!(Buffers::new(&memory, &[segment(0xfff, 2)]).unwrap().length(), 2);
    }

    #[test]
    fn bytes_keep_their_order_across_pieces_files_and_sockets() {
        let memory = memory();
        let pieces = [segment(0x10000, 3), segment(0xffe, 4), segment(5, 0), segment(0, 3)];
        let mut buffers = Buffers::new(&memory, &pieces).unwrap();
        assert_eq!(buffers.copy_from(b"0123456789abc"), 10);
        assert!(buffers.is_empty());

        let file = tempfile::tempfile().unwrap();
        let mut buffers = Buffers::new(&memory, &pieces).unwrap();
        assert_eq!(buffers.write_at(file.as_fd(), 2, 0).unwrap(), 10);
        Buffers::new(&memory, &pieces).unwrap().zero();
        let mut buffers = Buffers::new(&memory, &pieces).unwrap();
        let mut front = buffers.take(5);
        assert_eq!((front.length(), buffers.length()), (5, 5));
        assert_eq!(front.read_at(file.as_fd(), 2, 0).unwrap(), 5);
        assert_eq!(buffers.read_at(file.as_fd(), 7, 0).unwrap(), 5);

        let (left, right) = std::os::unix::net::UnixStream::pair().unwrap();
        let mut buffers = Buffers::new(&memory, &pieces).unwrap();
        assert_eq!(buffers.send(left.as_fd()).unwrap(), 10);
        let other = [segment(0x100, 1), segment(0x200, 20)];
        let mut buffers = Buffers::new(&memory, &other).unwrap();
        assert_eq!(buffers.receive(right.as_fd()).unwrap(), 10);
        assert_eq!(buffers.length(), 11);

        let mut buffers = Buffers::new(&memory, &pieces).unwrap();
        for (limit, left) in [(20, 10), (10, 10), (8, 8), (7, 7), (3, 3), (1, 1), (0, 0)] {
            buffers.limit(limit);
            assert_eq!((buffers.length(), buffers.is_empty()), (left, left == 0));
        }
        for (skipped, left) in [(0, 10), (2, 8), (3, 7), (8, 2), (10, 0), (99, 0)] {
            let mut buffers = Buffers::new(&memory, &pieces).unwrap();
            buffers.skip(skipped);
            assert_eq!(buffers.length(), left);
        }

        let mut back = [0; 10];
        assert_eq!(Buffers::new(&memory, &other).unwrap().copy_to(&mut back), 10);
        assert_eq!(&back, b"0123456789");
    }
}
