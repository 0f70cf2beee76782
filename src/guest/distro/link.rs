//! What a distro init and the process that started it say to each other.
//!
//! A pair of `SOCK_SEQPACKET` sockets: one message per packet, descriptors beside it. A
//! session's request can be larger than a packet, so it travels as a memory file.

use std::fs::File;
use std::io::{self, IoSlice, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::time::Duration;

use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, sendmsg, setsockopt, socketpair,
    sockopt,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::guest::sys;
use crate::protocol::guest::GuestError;
use crate::protocol::session::StreamKind;

/// The largest packet.
const MAXIMUM_PACKET: usize = 16 << 10;

/// The room for messages that are not yet taken, in bytes.
const BUFFER: usize = 8 << 20;

/// To the distro init.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum Order {
    /// Run a session. Descriptors: the memory file with the encoded
    /// [`Session`](crate::protocol::session::Session), its control stream, then one
    /// stream for each of these.
    Session(Vec<StreamKind>),
    /// The host's time zone is this one now.
    TimeZone(String),
    /// End everything in the distro.
    Stop,
}

/// From the distro init.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum Report {
    /// The distro could not be started; its init ends.
    Failed(GuestError),
    /// The distro takes sessions.
    Ready {
        /// For the user.
        warnings: Vec<String>,
        /// How long it may take to end after [`Order::Stop`] before it is killed.
        stop_limit: Duration,
        /// `ID` and `VERSION_ID` of its os-release, or empty (B089).
        release: (String, String),
    },
}

/// A connected pair: the starter's end, the distro init's end.
///
/// # Errors
/// The system's.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = SockFlag::SOCK_CLOEXEC;
    let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)?;
    // Beyond the system's limit where that is allowed: a distro's init that is busy
    // starting some sessions has room for the requests of very many.
    let _ = setsockopt(&ours, sockopt::SndBufForce, &BUFFER);
    Ok((ours, theirs))
}

/// Sends one message without waiting.
///
/// # Errors
/// The system's; `WouldBlock` where the peer does not keep up.
pub fn send<T: Serialize>(
    socket: &impl AsFd,
    message: &T,
    descriptors: &[RawFd],
) -> io::Result<()> {
    let mut bytes = postcard::to_stdvec(message).map_err(io::Error::other)?;
    bytes.truncate(MAXIMUM_PACKET);
    let rights = [ControlMessage::ScmRights(descriptors)];
    sendmsg::<()>(
        socket.as_fd().as_raw_fd(),
        &[IoSlice::new(&bytes)],
        if descriptors.is_empty() { &[] } else { &rights },
        MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL,
        None,
    )?;
    Ok(())
}

/// Takes one message without waiting; `None` where the peer is gone.
///
/// # Errors
/// The system's (`WouldBlock` where there is none), and `InvalidData`.
pub fn receive<T: DeserializeOwned>(socket: &impl AsFd) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    let mut bytes = vec![0; MAXIMUM_PACKET];
    let (length, descriptors) = sys::receive(socket, &mut bytes, MsgFlags::MSG_DONTWAIT)?;
    if length == 0 {
        return Ok(None);
    }
    let message = postcard::from_bytes(bytes.get(..length).unwrap_or_default())
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    Ok(Some((message, descriptors)))
}

/// Hands a session over: `request` is a memory file with the encoded
/// [`Session`](crate::protocol::session::Session).
///
/// # Errors
/// The system's.
pub fn send_session(
    socket: &impl AsFd,
    request: &impl AsFd,
    control: &impl AsFd,
    streams: &[(StreamKind, OwnedFd)],
) -> io::Result<()> {
    let kinds = streams.iter().map(|(kind, _)| *kind).collect();
    send(socket, &Order::Session(kinds), &descriptors(request, control, streams))
}

/// The descriptors of a session in the order in which they are sent.
#[must_use]
pub fn descriptors(
    request: &impl AsFd,
    control: &impl AsFd,
    streams: &[(StreamKind, OwnedFd)],
) -> Vec<RawFd> {
    let mut all = vec![request.as_fd().as_raw_fd(), control.as_fd().as_raw_fd()];
    all.extend(streams.iter().map(|(_, stream)| stream.as_raw_fd()));
    all
}

/// A memory file with this content.
///
/// # Errors
/// The system's.
pub fn memory_file(content: &[u8]) -> io::Result<OwnedFd> {
    let mut file = File::from(memfd_create(c"session", MFdFlags::MFD_CLOEXEC)?);
    file.write_all(content)?;
    Ok(file.into())
}
