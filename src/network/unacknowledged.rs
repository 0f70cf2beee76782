//! What the host has said and the guest has not acknowledged, and so may want again.
//!
//! It is in two places, one after the other. What comes little by little is read into a
//! [`Store`]. Where a stream flows, bytes stay in the host's socket, if the kernel can do that
//! (`SO_PEEK_OFF` of TCP: Linux 6.9): the system copies them from there into the guest's
//! memory, as often as need be, and they are taken out once they are acknowledged.

use std::io::{self, Read as _};
use std::net::TcpStream;
use std::ops::Range;
use std::os::fd::AsFd as _;

use super::socket;
use super::store::Store;
use crate::devices::buffers::Buffers;

/// The bytes, oldest first.
#[derive(Debug, Default)]
pub struct Unacknowledged {
    store: Store,
    /// How many of those in the socket the guest was given.
    shown: usize,
    /// Where in the socket the system looks next.
    place: usize,
    flows: bool,
}

impl Unacknowledged {
    /// How many bytes wait for an acknowledgment, or to be given.
    pub fn len(&self) -> usize {
        self.store.len() + self.shown
    }

    /// Whether none does.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether bytes stay in the socket.
    pub fn flows(&self) -> bool {
        self.flows
    }

    /// From now on bytes stay in the socket, where the kernel can do that.
    pub fn flow(&mut self, socket: &TcpStream) {
        self.flows = socket::look_from(socket, 0).is_ok();
        self.place = 0;
    }

    /// Reads up to `most` bytes of the socket; tells how many there were. Not while bytes stay
    /// there.
    ///
    /// # Errors
    /// The system's.
    pub fn read(&mut self, mut socket: &TcpStream, most: usize) -> io::Result<usize> {
        self.store.fill(most, |pieces| socket.read_vectored(pieces))
    }

    /// How many bytes from the given one on are at hand, and not in the socket.
    pub fn stored(&self, start: usize) -> usize {
        self.store.len().saturating_sub(start)
    }

    /// The bytes in that range, in one or two pieces; it is one of those at hand.
    pub fn range(&self, range: Range<usize>) -> (&[u8], &[u8]) {
        self.store.range(range)
    }

    /// Copies bytes of the socket into the guest's memory, as many as there is room for; tells
    /// how many there were. The first is `start`, which is none of those at hand.
    ///
    /// # Errors
    /// The system's.
    pub fn show(
        &mut self,
        socket: &TcpStream,
        start: usize,
        buffers: &mut Buffers<'_>,
    ) -> io::Result<usize> {
        let place = start.saturating_sub(self.store.len());
        if place != self.place {
            socket::look_from(socket, place)?;
            self.place = place;
        }
        let count = buffers.peek(socket.as_fd())?;
        self.place += count;
        self.shown = self.shown.max(self.place);
        Ok(count)
    }

    /// The guest has the oldest of them.
    pub fn forget(&mut self, socket: &TcpStream, count: usize) {
        let stored = count.min(self.store.len());
        self.store.forget(stored);
        let shown = (count - stored).min(self.shown);
        socket::discard(socket, shown);
        self.shown -= shown;
        // The system moves it as well.
        self.place = self.place.saturating_sub(shown);
    }

    /// Whether memory is kept for bytes to come, or the socket is to hold them.
    pub fn is_untidy(&self) -> bool {
        self.is_empty() && (self.flows || self.store.is_untidy())
    }

    /// Gives memory back where nothing waits.
    pub fn tidy(&mut self) {
        if self.is_untidy() {
            self.store.tidy();
            self.flows = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::net::TcpListener;
    use std::os::fd::AsRawFd as _;

    use vm_memory::{Bytes as _, GuestAddress, GuestMemoryMmap};

    use super::*;
    use crate::devices::buffers::Segment;

    /// Shows up to `most` bytes from `start` on; what the guest then has.
    fn show(bytes: &mut Unacknowledged, socket: &TcpStream, start: usize, most: u32) -> Vec<u8> {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 16)]).unwrap();
        let segment = Segment { address: GuestAddress(0), length: most };
        let mut buffers = Buffers::new(&memory, &[segment]).unwrap();
        let count = bytes.show(socket, start, &mut buffers).unwrap();
        let mut shown = vec![0; count];
        memory.read_slice(&mut shown, GuestAddress(0)).unwrap();
        shown
    }

    #[test]
    fn an_urgent_byte_moves_none_of_the_others() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (socket, _) = listener.accept().unwrap();
        socket::prepare(&socket).unwrap();
        let mut bytes = Unacknowledged::default();
        bytes.flow(&socket);
        if !bytes.flows() {
            return;
        }
        peer.write_all(b"before").unwrap();
        let urgent = nix::sys::socket::MsgFlags::MSG_OOB;
        nix::sys::socket::send(peer.as_raw_fd(), b"!", urgent).unwrap();
        peer.write_all(b"behind it").unwrap();
        let mut shown = Vec::new();
        // An urgent byte ends what is copied at once.
        while shown.len() < 16 {
            shown.extend(show(&mut bytes, &socket, shown.len(), 4));
        }
        assert_eq!(String::from_utf8_lossy(&shown), "before!behind it");
        bytes.forget(&socket, 8);
        assert_eq!(show(&mut bytes, &socket, 0, 3), b"ehi");
    }

    #[test]
    fn bytes_stay_in_the_socket_until_they_are_acknowledged() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (socket, _) = listener.accept().unwrap();
        let mut bytes = Unacknowledged::default();
        peer.write_all(b"at hand").unwrap();
        assert_eq!(bytes.read(&socket, 100).unwrap(), 7);
        bytes.flow(&socket);
        if !bytes.flows() {
            eprintln!("this kernel cannot look at what is further on in a socket of TCP");
            return;
        }
        peer.write_all(b"in the socket").unwrap();
        assert_eq!(bytes.stored(3), 4);
        assert_eq!(show(&mut bytes, &socket, 7, 6), b"in the");
        assert_eq!(show(&mut bytes, &socket, 13, 100), b" socket");
        assert_eq!((bytes.len(), bytes.stored(7)), (20, 0));
        // Again, from anywhere.
        assert_eq!(show(&mut bytes, &socket, 10, 100), b"the socket");
        bytes.forget(&socket, 10);
        assert_eq!(bytes.len(), 10);
        assert_eq!(show(&mut bytes, &socket, 0, 3), b"the");
        assert_eq!(show(&mut bytes, &socket, 4, 100), b"socket");
        // Nothing is given up that could be wanted again.
        bytes.tidy();
        assert!(bytes.flows());
        bytes.forget(&socket, 10);
        assert!(bytes.is_empty() && bytes.is_untidy());
        let nothing = [Segment { address: GuestAddress(0), length: 9 }];
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 16)]).unwrap();
        let mut buffers = Buffers::new(&memory, &nothing).unwrap();
        let error = bytes.show(&socket, 0, &mut buffers).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        bytes.tidy();
        peer.write_all(b"more").unwrap();
        assert_eq!(bytes.read(&socket, 100).unwrap(), 4);
        // The end is told like that of a file.
        bytes.forget(&socket, 4);
        drop(peer);
        bytes.flow(&socket);
        assert_eq!(show(&mut bytes, &socket, 0, 9), b"");
    }
}
