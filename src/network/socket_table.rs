//! The kernel's tables of sockets (proc_pid_net(5)).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// States of a socket: connected, listening, and of UDP without a peer.
pub const ESTABLISHED: u8 = 1;
/// It listens.
pub const LISTENING: u8 = 10;
/// Of UDP: it has no peer.
pub const WITHOUT_PEER: u8 = 7;

/// A row of a table.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Row {
    /// Its own address.
    pub local: SocketAddr,
    /// Its peer's.
    pub remote: SocketAddr,
    /// Its state.
    pub state: u8,
    /// Its number among files; 0 where no file is left.
    pub inode: u64,
}

impl Row {
    /// Reads a line; `None` where it is none of a socket.
    #[must_use]
    pub fn parse(line: &str) -> Option<Self> {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        Some(Self {
            local: address(fields.get(1)?)?,
            remote: address(fields.get(2)?)?,
            state: u8::from_str_radix(fields.get(3)?, 16).ok()?,
            inode: fields.get(9)?.parse().ok()?,
        })
    }
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

/// The number of a socket's file in what a link of `/proc/PID/fd` names.
#[must_use]
pub fn inode_of_link(target: &str) -> Option<u64> {
    target.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

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
        fn no_line_makes_it_panic(line in "[0-9A-F: é]{0,120}") {
            let _ = (Row::parse(&line), inode_of_link(&line));
        }
    }
}
