//! Sockets of the host that do not block.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::sync::{Mutex, PoisonError};

use nix::errno::Errno;
use nix::sys::socket::sockopt::{
    Ipv4RecvErr, Ipv6RecvErr, Ipv6V6Only, Linger, OobInline, ReuseAddr, TcpNoDelay,
};
use nix::sys::socket::{
    AddressFamily, Backlog, ControlMessageOwned, MsgFlags, SockFlag, SockProtocol, SockType,
    SockaddrStorage, bind, connect, listen, recv, recvfrom, recvmsg, sendto, setsockopt, socket,
};
use nix::{setsockopt_impl, sockopt_impl};
use vmm_sys_util::epoll::EventSet;

/// How many may wait at a listener. The kernel lets a caller beyond that try again a second
/// later, and has a limit of its own.
const WAITING: i32 = 4096;

/// The socket, whether it is of IPv6, and whether its queue of errors may have something.
#[derive(Debug)]
pub struct Datagrams {
    socket: OwnedFd,
    six: bool,
    failed: bool,
}

/// Why a datagram did not arrive.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Undelivered {
    /// Where it was to go.
    pub destination: SocketAddr,
    /// Type and code of the ICMP message, or of what it stands for.
    pub reason: (u8, u8),
}

fn new(six: bool, kind: SockType, protocol: Option<SockProtocol>) -> io::Result<OwnedFd> {
    let family = if six { AddressFamily::Inet6 } else { AddressFamily::Inet };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    Ok(socket(family, kind, flags, protocol)?)
}

/// Begins to connect.
///
/// # Errors
/// The system's, where it is known at once that it will not do.
pub fn begin_connect(peer: SocketAddr) -> io::Result<TcpStream> {
    let socket = new(peer.is_ipv6(), SockType::Stream, None)?;
    prepare(&socket)?;
    match connect(socket.as_raw_fd(), &SockaddrStorage::from(peer)) {
        Ok(()) | Err(Errno::EINPROGRESS) => Ok(socket.into()),
        Err(error) => Err(error.into()),
    }
}

/// Lets a stream's bytes go at once, and an urgent one be like the others: the system would
/// leave it out, but count it where bytes are looked at.
///
/// # Errors
/// The system's.
pub fn prepare(socket: &impl AsFd) -> io::Result<()> {
    setsockopt(socket, TcpNoDelay, &true)?;
    Ok(setsockopt(socket, OobInline, &true)?)
}

/// Listens at a port of this machine; an address of IPv6 means that version only.
///
/// # Errors
/// The system's: the port may be taken.
pub fn listen_at(place: SocketAddr) -> io::Result<TcpListener> {
    let socket = new(place.is_ipv6(), SockType::Stream, None)?;
    // Connections of earlier listeners that are still being ended do not count.
    setsockopt(&socket, ReuseAddr, &true)?;
    bind_at(&socket, place)?;
    listen(&socket, Backlog::new(WAITING)?)?;
    Ok(socket.into())
}

fn bind_at(socket: &OwnedFd, place: SocketAddr) -> io::Result<()> {
    if place.is_ipv6() {
        setsockopt(socket, Ipv6V6Only, &true)?;
    }
    Ok(bind(socket.as_raw_fd(), &SockaddrStorage::from(place))?)
}

sockopt_impl!(
    /// `SO_PEEK_OFF`.
    PeekOffset,
    SetOnly,
    libc::SOL_SOCKET,
    libc::SO_PEEK_OFF,
    i32
);

/// Where in what is unread of a stream the system looks next; it goes on from there by itself.
///
/// # Errors
/// The system's: Linux before 6.9, for IPv6 before 6.12, cannot do it.
pub fn look_from(socket: &TcpStream, place: usize) -> io::Result<()> {
    Ok(setsockopt(socket, PeekOffset, &i32::try_from(place).map_err(io::Error::other)?)?)
}

/// Throws the first unread bytes of a stream away; they were looked at, so they are there.
pub fn discard(socket: &TcpStream, mut count: usize) {
    // Nothing is written to it; nor does it take memory, as nobody touches it.
    static NOWHERE: Mutex<[u8; 1 << 20]> = Mutex::new([0; 1 << 20]);
    while count > 0 {
        let mut nowhere = NOWHERE.lock().unwrap_or_else(PoisonError::into_inner);
        let length = count.min(nowhere.len());
        let place = nowhere.get_mut(..length).unwrap_or_default();
        let flags = MsgFlags::MSG_TRUNC | MsgFlags::MSG_DONTWAIT;
        match recv(socket.as_raw_fd(), place, flags) {
            Ok(gone @ 1..) => count = count.saturating_sub(gone),
            Err(Errno::EINTR) => {}
            Ok(0) | Err(_) => return,
        }
    }
}

/// Makes closing the socket a reset.
pub fn reset_on_close(socket: &TcpStream) {
    let linger = nix::libc::linger { l_onoff: 1, l_linger: 0 };
    // Where it fails the peer learns of the end in good order.
    let _ = setsockopt(socket, Linger, &linger);
}

impl Datagrams {
    /// A socket for UDP.
    ///
    /// # Errors
    /// The system's.
    pub fn udp(six: bool) -> io::Result<Self> {
        Self::with(six, None)
    }

    /// A socket for UDP at a port of this machine; an address of IPv6 means that version
    /// only.
    ///
    /// # Errors
    /// The system's: the port may be taken.
    pub fn bind(place: SocketAddr) -> io::Result<Self> {
        let datagrams = Self::udp(place.is_ipv6())?;
        bind_at(&datagrams.socket, place)?;
        Ok(datagrams)
    }

    /// A socket for echoes.
    ///
    /// # Errors
    /// The system's: not everybody may have one.
    pub fn echo(six: bool) -> io::Result<Self> {
        let protocol = if six { SockProtocol::IcmpV6 } else { SockProtocol::Icmp };
        Self::with(six, Some(protocol))
    }

    fn with(six: bool, protocol: Option<SockProtocol>) -> io::Result<Self> {
        let socket = new(six, SockType::Datagram, protocol)?;
        // So that the guest can be told what the network says.
        if six {
            setsockopt(&socket, Ipv6RecvErr, &true)?;
        } else {
            setsockopt(&socket, Ipv4RecvErr, &true)?;
        }
        Ok(Self { socket, six, failed: false })
    }

    /// Its number, for `epoll_ctl`.
    #[must_use]
    pub fn number(&self) -> i32 {
        self.socket.as_raw_fd()
    }

    /// Makes it take datagrams only from there.
    ///
    /// # Errors
    /// The system's.
    pub fn connect(&self, peer: SocketAddr) -> io::Result<()> {
        Ok(connect(self.number(), &SockaddrStorage::from(peer))?)
    }

    /// Sends a datagram.
    ///
    /// # Errors
    /// The system's.
    pub fn send(&self, destination: SocketAddr, data: &[u8]) -> io::Result<()> {
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        let address = SockaddrStorage::from(destination);
        let mut result = sendto(self.number(), data, &address, flags);
        // The error of an earlier datagram is reported first; it comes by the queue as well.
        if matches!(result, Err(Errno::ECONNREFUSED | Errno::EHOSTUNREACH)) {
            result = sendto(self.number(), data, &address, flags);
        }
        Ok(result.map(|_| ())?)
    }

    /// Receives a datagram: its length and sender.
    ///
    /// # Errors
    /// The system's; `WouldBlock` where there is none.
    pub fn receive(&self, buffer: &mut [u8]) -> io::Result<(usize, Option<SocketAddr>)> {
        let (length, address) = recvfrom::<SockaddrStorage>(self.number(), buffer)?;
        Ok((length, address.as_ref().and_then(plain)))
    }

    /// Notes what `epoll` says: the queue of errors is read only where there is one.
    pub fn note(&mut self, events: EventSet) {
        self.failed |= events.contains(EventSet::ERROR);
    }

    /// What the network says of a datagram that was sent.
    pub fn undelivered(&mut self) -> Option<Undelivered> {
        let undelivered = self.failed.then(|| self.next_error()).flatten();
        self.failed = undelivered.is_some();
        undelivered
    }

    fn next_error(&self) -> Option<Undelivered> {
        let mut space = nix::cmsg_space!([u8; 128]);
        let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
        let message =
            recvmsg::<SockaddrStorage>(self.number(), &mut [], Some(&mut space), flags).ok()?;
        let destination = plain(message.address.as_ref()?)?;
        let error = message.cmsgs().ok()?.find_map(|message| match message {
            ControlMessageOwned::Ipv4RecvErr(error, _) => Some(error),
            ControlMessageOwned::Ipv6RecvErr(error, _) => Some(error),
            _ => None,
        })?;
        let from_network =
            matches!(error.ee_origin, nix::libc::SO_EE_ORIGIN_ICMP | nix::libc::SO_EE_ORIGIN_ICMP6);
        // Without a message of the network it is this host that knows no way.
        let reason = match (from_network, self.six) {
            (true, _) => (error.ee_type, error.ee_code),
            (false, true) => (1, 0),
            (false, false) => (3, 0),
        };
        Some(Undelivered { destination, reason })
    }
}

fn plain(address: &SockaddrStorage) -> Option<SocketAddr> {
    if let Some(address) = address.as_sockaddr_in() {
        return Some(SocketAddr::from((address.ip(), address.port())));
    }
    let address = address.as_sockaddr_in6()?;
    Some(SocketAddr::from((address.ip(), address.port())))
}
