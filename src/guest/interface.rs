//! The calls that set up a network interface; their `unsafe` is here.

use std::io;
use std::mem;
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket,
};

/// `struct in6_rtmsg`'s metric of an ordinary route.
const METRIC: u32 = 1024;

/// A route's flags: usable, and through a gateway.
const UP_GATEWAY: u16 = 0x0001 | 0x0002;

/// `struct in6_rtmsg` of `linux/ipv6_route.h`, whose fields the libc crate hides.
#[repr(C)]
struct Route6 {
    destination: [u8; 16],
    source: [u8; 16],
    gateway: [u8; 16],
    kind: u32,
    destination_length: u16,
    source_length: u16,
    metric: u32,
    information: libc::c_ulong,
    flags: u32,
    interface: libc::c_int,
}

fn control(family: AddressFamily) -> io::Result<OwnedFd> {
    Ok(socket(family, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?)
}

/// Runs an ioctl on a request of the type that it takes.
///
/// # Safety
/// `T` is the structure that `number` reads and writes.
unsafe fn call<T>(socket: &OwnedFd, number: u64, request: &mut T) -> io::Result<()> {
    // SAFETY: the pointer is to a valid structure of the type that the caller vouches for.
    Errno::result(unsafe {
        libc::ioctl(socket.as_raw_fd(), number as libc::Ioctl, &raw mut *request)
    })?;
    Ok(())
}

/// A request about the interface of that name.
fn request(name: &str) -> io::Result<libc::ifreq> {
    // SAFETY: all-zero is a valid ifreq: an empty name, no value.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    // The last byte stays zero.
    if name.len() >= request.ifr_name.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    Ok(request)
}

fn socket_address(address: Ipv4Addr) -> libc::sockaddr {
    let address: nix::sys::socket::SockaddrIn = SocketAddrV4::new(address, 0).into();
    let address: libc::sockaddr_in = address.into();
    // SAFETY: both are plain bytes of the same size, made to stand for each other.
    unsafe { mem::transmute::<libc::sockaddr_in, libc::sockaddr>(address) }
}

/// Brings an interface up.
///
/// # Errors
/// The system's.
pub fn bring_up(name: &str) -> io::Result<()> {
    let mut request = request(name)?;
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as i16;
    // SAFETY: the call takes an ifreq.
    unsafe { call(&control(AddressFamily::Inet)?, libc::SIOCSIFFLAGS, &mut request) }
}

/// Gives an interface, which is down, another name.
fn rename(from: &str, to: &str) -> io::Result<()> {
    let (mut change, new) = (request(from)?, request(to)?);
    change.ifr_ifru.ifru_newname = new.ifr_name;
    // SAFETY: the call takes an ifreq.
    unsafe { call(&control(AddressFamily::Inet)?, libc::SIOCSIFNAME, &mut change) }
}

/// The number of an interface.
///
/// # Errors
/// The system's.
pub fn number(name: &str) -> io::Result<u32> {
    let number = index(&control(AddressFamily::Inet)?, name)?;
    u32::try_from(number).map_err(io::Error::other)
}

fn index(socket: &OwnedFd, name: &str) -> io::Result<i32> {
    let mut request = request(name)?;
    // SAFETY: the call takes an ifreq.
    unsafe { call(socket, libc::SIOCGIFINDEX, &mut request) }?;
    // SAFETY: the call has put the index there.
    Ok(unsafe { request.ifr_ifru.ifru_ifindex })
}

/// The interfaces of the network in which this was opened, whichever the process is in.
#[derive(Debug)]
pub struct Links(OwnedFd);

impl Links {
    /// Those of this process's network.
    ///
    /// # Errors
    /// The system's.
    pub fn open() -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC;
        let protocol = SockProtocol::NetlinkRoute;
        Ok(Self(socket(AddressFamily::Netlink, SockType::Raw, flags, protocol)?))
    }

    /// Makes an interface of the same name in another network, which the process is in: one
    /// that shares the cable of this one, with an Ethernet address of its own (rtnetlink(7),
    /// macvlan).
    ///
    /// # Errors
    /// The system's.
    pub fn add_below(&self, name: &str, mac: [u8; 6], network: BorrowedFd<'_>) -> io::Result<()> {
        const NEW_LINK: u16 = 16;
        const REQUEST_ACKNOWLEDGED: u16 = 0x01 | 0x04;
        const CREATE_NEW: u16 = 0x400 | 0x200;
        const ADDRESS: u16 = 1;
        const NAME: u16 = 3;
        const LINK: u16 = 5;
        const INFORMATION: u16 = 18;
        const NETWORK: u16 = 28;
        /// Those that share a cable do not see one another.
        const PRIVATE: u32 = 1;
        /// Linux before 6.14 wants a name that neither network has.
        const NEW: &str = "wslr-new";
        let parent = index(&self.0, name)?;
        let mode = attribute(1, &PRIVATE.to_ne_bytes());
        let kind = [attribute(1, b"macvlan"), attribute(2, &mode)].concat();
        let content = [
            // Nothing of the interface's own header.
            vec![0; 16],
            attribute(LINK, &parent.to_ne_bytes()),
            attribute(NAME, &[NEW.as_bytes(), &[0]].concat()),
            attribute(ADDRESS, &mac),
            attribute(NETWORK, &network.as_raw_fd().to_ne_bytes()),
            attribute(INFORMATION, &kind),
        ]
        .concat();
        // The content is far shorter.
        let length = (16 + content.len()) as u32;
        let mut message = length.to_ne_bytes().to_vec();
        message.extend(NEW_LINK.to_ne_bytes());
        message.extend((REQUEST_ACKNOWLEDGED | CREATE_NEW).to_ne_bytes());
        message.extend([0; 8]);
        message.extend(content);
        send(self.0.as_raw_fd(), &message, MsgFlags::empty())?;
        let mut answer = [0; 4096];
        let length = recv(self.0.as_raw_fd(), &mut answer, MsgFlags::empty())?;
        // An error, of which none is the number zero.
        let error = answer.get(..length).and_then(|answer| answer.get(16..20));
        match error.and_then(|bytes| bytes.try_into().ok()).map(i32::from_ne_bytes) {
            Some(0) => rename(NEW, name),
            Some(error) => Err(io::Error::from_raw_os_error(error.wrapping_neg())),
            None => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

/// An attribute of rtnetlink, whose content is short.
fn attribute(kind: u16, content: &[u8]) -> Vec<u8> {
    let length = (4 + content.len()) as u16;
    let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
    bytes.extend(content);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// Gives an interface an address: of IPv4 its only one.
///
/// # Errors
/// The system's.
pub fn set_address(name: &str, address: IpAddr, prefix: u8) -> io::Result<()> {
    match address {
        IpAddr::V4(address) => {
            let socket = control(AddressFamily::Inet)?;
            let mask = u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0);
            for (number, address) in
                [(libc::SIOCSIFADDR, address), (libc::SIOCSIFNETMASK, mask.into())]
            {
                let mut request = request(name)?;
                request.ifr_ifru.ifru_addr = socket_address(address);
                // SAFETY: the calls take an ifreq.
                unsafe { call(&socket, number, &mut request) }?;
            }
            Ok(())
        }
        IpAddr::V6(address) => {
            let socket = control(AddressFamily::Inet6)?;
            let mut request = libc::in6_ifreq {
                ifr6_addr: libc::in6_addr { s6_addr: address.octets() },
                ifr6_prefixlen: prefix.into(),
                ifr6_ifindex: index(&socket, name)?,
            };
            // SAFETY: on a socket of IPv6 the call takes an in6_ifreq.
            unsafe { call(&socket, libc::SIOCSIFADDR, &mut request) }
        }
    }
}

/// Sends what has no other way through a gateway.
///
/// # Errors
/// The system's.
pub fn set_gateway(name: &str, gateway: IpAddr) -> io::Result<()> {
    match gateway {
        IpAddr::V4(gateway) => {
            // SAFETY: all-zero is a valid rtentry: the way to everywhere, no device.
            let mut route: libc::rtentry = unsafe { mem::zeroed() };
            route.rt_dst = socket_address(Ipv4Addr::UNSPECIFIED);
            route.rt_genmask = socket_address(Ipv4Addr::UNSPECIFIED);
            route.rt_gateway = socket_address(gateway);
            route.rt_flags = UP_GATEWAY;
            // SAFETY: the call takes an rtentry.
            unsafe { call(&control(AddressFamily::Inet)?, libc::SIOCADDRT, &mut route) }
        }
        IpAddr::V6(gateway) => {
            let socket = control(AddressFamily::Inet6)?;
            let mut route = Route6 {
                destination: [0; 16],
                source: [0; 16],
                gateway: gateway.octets(),
                kind: 0,
                destination_length: 0,
                source_length: 0,
                metric: METRIC,
                information: 0,
                flags: UP_GATEWAY.into(),
                interface: index(&socket, name)?,
            };
            // SAFETY: on a socket of IPv6 the call takes an in6_rtmsg.
            unsafe { call(&socket, libc::SIOCADDRT, &mut route) }
        }
    }
}
