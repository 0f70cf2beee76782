//! The calls that set up a network interface; their `unsafe` is here.

use std::io;
use std::mem;
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

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
