//! The kernel's own word on sockets that listen (sock_diag(7)).
//!
//! It looks at these only, where a table of `/proc` has it look at all the places that
//! connections may have, which takes a hundred times as long.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd as _;

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket,
};

use super::socket_table::{LISTENING, WITHOUT_PEER};
use crate::protocol::guest::Transport;

/// `SOCK_DIAG_BY_FAMILY`, and that all are asked for.
const BY_FAMILY: u16 = 20;
const REQUEST_DUMP: u16 = 0x001 | 0x300;
/// Messages of netlink: an error, and the end.
const ERROR: u16 = 2;
const DONE: u16 = 3;
/// The length of a message's head, and of `struct inet_diag_sockid`.
const HEAD: usize = 16;
const ID: usize = 48;

/// More than the kernel says at once.
const BUFFER: usize = 64 << 10;

/// Where somebody listens, in the network that this thread is in, and the inodes of the sockets.
///
/// # Errors
/// The system's: the kernel may not have it, or not all of it.
pub fn listening(transport: Transport) -> io::Result<Vec<(SocketAddr, u64)>> {
    let (protocol, state) = match transport {
        Transport::Tcp => (libc::IPPROTO_TCP, LISTENING),
        Transport::Udp => (libc::IPPROTO_UDP, WITHOUT_PEER),
    };
    let mut found = Vec::new();
    for family in [libc::AF_INET, libc::AF_INET6] {
        // Both are small numbers.
        ask(family as u8, protocol as u8, 1 << state, &mut found)?;
    }
    Ok(found)
}

fn ask(
    family: u8,
    protocol: u8,
    states: u32,
    found: &mut Vec<(SocketAddr, u64)>,
) -> io::Result<()> {
    let kind = Some(SockProtocol::NetlinkSockDiag);
    let netlink = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, kind)?;
    let content = [&[family, protocol, 0, 0][..], &states.to_ne_bytes(), &[0; ID]].concat();
    // The content is far shorter.
    let length = (HEAD + content.len()) as u32;
    let head = [BY_FAMILY.to_ne_bytes(), REQUEST_DUMP.to_ne_bytes()].concat();
    let message = [&length.to_ne_bytes()[..], &head, &[0; 8], &content].concat();
    send(netlink.as_raw_fd(), &message, MsgFlags::empty())?;
    let mut buffer = vec![0; BUFFER];
    loop {
        let length = recv(netlink.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        if take(buffer.get(..length).unwrap_or_default(), found)? {
            return Ok(());
        }
    }
}

/// Takes messages of an answer; true where it is at its end.
fn take(mut messages: &[u8], found: &mut Vec<(SocketAddr, u64)>) -> io::Result<bool> {
    let invalid = || io::Error::from(io::ErrorKind::InvalidData);
    if messages.is_empty() {
        return Err(invalid());
    }
    while !messages.is_empty() {
        let length = word(messages, 0).ok_or_else(invalid)? as usize;
        let content = messages.get(HEAD..length).ok_or_else(invalid)?;
        match messages.get(4..6) {
            Some(kind) if kind == DONE.to_ne_bytes() => return Ok(true),
            Some(kind) if kind == ERROR.to_ne_bytes() => {
                let error = word(content, 0).ok_or_else(invalid)?.cast_signed();
                return Err(io::Error::from_raw_os_error(error.wrapping_neg()));
            }
            _ => found.extend(parse(content)),
        }
        messages = messages.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(false)
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// `struct inet_diag_msg`.
fn parse(content: &[u8]) -> Option<(SocketAddr, u64)> {
    let port = u16::from_be_bytes(*content.get(4..)?.first_chunk()?);
    let address = content.get(8..)?;
    let address = match i32::from(*content.first()?) {
        libc::AF_INET => IpAddr::V4(Ipv4Addr::from(*address.first_chunk::<4>()?)),
        libc::AF_INET6 => IpAddr::V6(Ipv6Addr::from(*address.first_chunk::<16>()?)).to_canonical(),
        _ => return None,
    };
    let inode = word(content, 4 + ID + 16)?;
    Some((SocketAddr::new(address, port), inode.into()))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};
    use std::os::unix::fs::MetadataExt as _;

    use proptest::prelude::*;

    use super::*;

    fn inode(socket: impl Into<std::os::fd::OwnedFd>) -> u64 {
        std::fs::File::from(socket.into()).metadata().unwrap().ino()
    }

    #[test]
    fn sockets_that_listen_are_told_with_their_inodes() {
        for place in ["127.0.0.1:0", "[::]:0", "[::ffff:127.0.0.1]:0"] {
            let listener = TcpListener::bind(place).unwrap();
            let client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let datagrams = UdpSocket::bind(place).unwrap();
            let plain = |mut place: SocketAddr| {
                place.set_ip(place.ip().to_canonical());
                place
            };
            let here = plain(listener.local_addr().unwrap());
            let found = listening(Transport::Tcp).unwrap();
            assert!(found.contains(&(here, inode(listener.try_clone().unwrap()))), "{found:?}");
            let other = inode(client.try_clone().unwrap());
            assert!(found.iter().all(|(_, inode)| *inode != other), "{found:?}");
            let here = plain(datagrams.local_addr().unwrap());
            let found = listening(Transport::Udp).unwrap();
            assert!(found.contains(&(here, inode(datagrams.try_clone().unwrap()))), "{found:?}");
        }
    }

    proptest! {
        #[test]
        fn no_answer_makes_it_panic(answer: Vec<u8>) {
            let _ = take(&answer, &mut Vec::new());
            let _ = parse(&answer);
        }
    }
}
