//! The sockets by which processes serve or are served: listening or connected TCP, and UDP
//! on a port that somebody chose (proc_pid_net(5)).

use std::collections::{BTreeSet, HashMap};
use std::fs::{self, File};
use std::io::Read;
use std::net::SocketAddr;

use nix::unistd::Pid;

use super::processes::Process;
use crate::network::socket_table::{ESTABLISHED, LISTENING, Row, WITHOUT_PEER, inode_of_link};

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
            let inode = target.to_str().and_then(inode_of_link);
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
    let Row { local, remote, state, inode } = Row::parse(line).filter(|row| row.inode != 0)?;
    let socket = match (is_tcp, state) {
        (true, ESTABLISHED) => Socket::Connected(remote),
        (true, LISTENING) => Socket::Listens(local.port()),
        (false, WITHOUT_PEER) if (1..FIRST_FREE_PORT).contains(&local.port()) => {
            Socket::Receives(local.port())
        }
        _ => return None,
    };
    Some((inode, socket))
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

    proptest! {
        #[test]
        fn no_line_makes_it_panic(line in "[0-9A-F: é]{0,120}", is_tcp: bool) {
            let _ = parse(&line, is_tcp);
        }
    }
}
