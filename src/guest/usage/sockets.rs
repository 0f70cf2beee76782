//! The sockets by which processes serve or are served: listening or connected TCP, and UDP
//! on a port that somebody chose (proc_pid_net(5)).

use std::collections::{BTreeSet, HashMap};
use std::fs::{self, File};
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use nix::unistd::Pid;

use super::processes::Process;

/// The longest table that is read, in bytes.
const MAXIMUM_TABLE: u64 = 16 << 20;

/// The most descriptors that are looked at, of one process and of all.
const MAXIMUM_DESCRIPTORS: usize = 4096;
const MAXIMUM_TOTAL: usize = 1 << 18;

/// The first port that the kernel gives who asks for none (ip_local_port_range).
const FIRST_FREE_PORT: u16 = 32_768;

/// A row of one of the tables that counts as use.
#[derive(Clone, Debug, Eq, PartialEq)]
enum Socket {
    Listens(u16),
    Connected(SocketAddr),
    /// Takes datagrams.
    Receives(u16),
}

/// What the processes use sockets for. The tables are those of the first process's network.
pub fn in_use(init: Pid, processes: &[&Process]) -> BTreeSet<String> {
    let mut sockets = HashMap::new();
    for (name, is_tcp) in [("tcp", true), ("tcp6", true), ("udp", false), ("udp6", false)] {
        let Ok(file) = File::open(format!("/proc/{init}/net/{name}")) else { continue };
        let mut text = String::new();
        let _ = file.take(MAXIMUM_TABLE).read_to_string(&mut text);
        sockets.extend(text.lines().skip(1).filter_map(|line| parse(line, is_tcp)));
    }
    let mut uses = BTreeSet::new();
    let mut left = MAXIMUM_TOTAL;
    for process in processes {
        let directory = fs::read_dir(format!("/proc/{}/fd", process.pid));
        let limit = MAXIMUM_DESCRIPTORS.min(left);
        for descriptor in directory.into_iter().flatten().flatten().take(limit) {
            left -= 1;
            let Ok(target) = fs::read_link(descriptor.path()) else { continue };
            let inode = target.to_str().and_then(|text| {
                text.strip_prefix("socket:[")?.strip_suffix(']')?.parse::<u64>().ok()
            });
            let Some(socket) = inode.and_then(|inode| sockets.get(&inode)) else { continue };
            let name = &process.name;
            uses.insert(match socket {
                Socket::Listens(port) => format!("{name} listens on TCP port {port}"),
                Socket::Connected(peer) => format!("{name} is connected to {peer}"),
                Socket::Receives(port) => format!("{name} listens on UDP port {port}"),
            });
        }
    }
    uses
}

/// The inode of a row and what it means.
fn parse(line: &str, is_tcp: bool) -> Option<(u64, Socket)> {
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    let (local, remote) = (address(fields.get(1)?)?, address(fields.get(2)?)?);
    let state = u8::from_str_radix(fields.get(3)?, 16).ok()?;
    let inode = fields.get(9)?.parse().ok().filter(|inode| *inode != 0)?;
    // TCP_ESTABLISHED, TCP_LISTEN, and TCP_CLOSE for UDP without a peer.
    let socket = match (is_tcp, state) {
        (true, 1) => Socket::Connected(remote),
        (true, 10) => Socket::Listens(local.port()),
        (false, 7) if (1..FIRST_FREE_PORT).contains(&local.port()) => {
            Socket::Receives(local.port())
        }
        _ => return None,
    };
    Some((inode, socket))
}

/// `ADDRESS:PORT` in hexadecimal, each word of the address in the machine's byte order.
fn address(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let words: Vec<u32> = address
        .as_bytes()
        .chunks(8)
        .map(|chunk| u32::from_str_radix(std::str::from_utf8(chunk).ok()?, 16).ok())
        .collect::<Option<_>>()?;
    let address: IpAddr = match *words.as_slice() {
        [word] => Ipv4Addr::from(word.to_ne_bytes()).into(),
        [a, b, c, d] => {
            let mut bytes = [0; 16];
            for (place, word) in bytes.chunks_exact_mut(4).zip([a, b, c, d]) {
                place.copy_from_slice(&word.to_ne_bytes());
            }
            Ipv6Addr::from(bytes).to_canonical()
        }
        _ => return None,
    };
    Some(SocketAddr::new(address, u16::from_str_radix(port, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream, UdpSocket};

    use proptest::prelude::*;

    use super::*;

    fn own() -> BTreeSet<String> {
        let own = Process {
            pid: Pid::this(),
            parent: Pid::parent(),
            name: "me".to_owned(),
            pids: Vec::new(),
        };
        in_use(Pid::this(), &[&own])
    }

    #[test]
    fn sockets_of_a_process_are_found_and_named() {
        let four = TcpListener::bind("127.0.0.1:0").unwrap();
        let six = TcpListener::bind("[::1]:0").unwrap();
        let peer = four.local_addr().unwrap();
        let connection = TcpStream::connect(peer).unwrap();
        let datagrams = (20_000..FIRST_FREE_PORT)
            .find_map(|port| UdpSocket::bind(("127.0.0.1", port)).ok())
            .unwrap();
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        let uses = own();
        let six = six.local_addr().unwrap().port();
        let port = datagrams.local_addr().unwrap().port();
        for wanted in [
            format!("me listens on TCP port {}", peer.port()),
            format!("me listens on TCP port {six}"),
            format!("me is connected to {peer}"),
            format!("me listens on UDP port {port}"),
        ] {
            assert!(uses.contains(&wanted), "{wanted} in {uses:?}");
        }
        let port = client.local_addr().unwrap().port();
        assert!(!uses.contains(&format!("me listens on UDP port {port}")));
        drop(connection);
    }

    #[test]
    fn a_mapped_address_is_shown_as_what_it_is() {
        let text = if cfg!(target_endian = "little") {
            "0000000000000000FFFF00000100007F:0050"
        } else {
            "00000000000000000000FFFF7F000001:0050"
        };
        assert_eq!(address(text).unwrap().to_string(), "127.0.0.1:80");
        assert_eq!(address("0:0:0"), None);
    }

    proptest! {
        #[test]
        fn no_line_makes_it_panic(line in "[0-9A-F: é]{0,120}", is_tcp: bool) {
            let _ = parse(&line, is_tcp);
        }
    }
}
