//! Asking a resolver for the addresses of a name, without the C library: a static executable
//! that runs in any distro cannot use its modules.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use super::dns::{A, AAAA, HEADER, INTERNET};

/// How long one server may take.
const PATIENCE: Duration = Duration::from_secs(3);
/// The longest answer.
const LONGEST: usize = 4096;
/// The answer that there is no such name.
const NO_SUCH_NAME: u8 = 3;

/// Why there are no addresses.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum LookupError {
    /// It is not a name.
    #[error("it is not a name")]
    NotAName,
    /// The resolver says that there is none.
    #[error("there is no such name")]
    Unknown,
    /// The name has no addresses.
    #[error("it has no address")]
    NoAddress,
    /// No resolver answers.
    #[error("no resolver answers")]
    NoAnswer,
}

/// The addresses of a name, those of IPv4 first.
///
/// # Errors
/// Where there are none.
pub fn addresses(name: &str, servers: &[SocketAddr]) -> Result<Vec<IpAddr>, LookupError> {
    let mut found = Vec::new();
    for (number, kind) in [(1, A), (2, AAAA)] {
        let question = question(number, name, kind).ok_or(LookupError::NotAName)?;
        let answer = servers.iter().find_map(|server| ask(*server, &question));
        let answer = answer.ok_or(LookupError::NoAnswer)?;
        if answer.get(3).is_some_and(|flags| flags & 15 == NO_SUCH_NAME) {
            return Err(LookupError::Unknown);
        }
        found.extend(records(&answer).unwrap_or_default());
    }
    if found.is_empty() { Err(LookupError::NoAddress) } else { Ok(found) }
}

/// A server's answer that is not its failure.
fn ask(server: SocketAddr, question: &[u8]) -> Option<Vec<u8>> {
    let any: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.set_read_timeout(Some(PATIENCE)).ok()?;
    socket.connect(server).ok()?;
    socket.send(question).ok()?;
    let mut answer = vec![0; LONGEST];
    loop {
        let length = socket.recv(&mut answer).ok()?;
        answer.truncate(length);
        let is_it = answer.get(..2) == question.get(..2);
        let [flags, code] = *answer.get(2..4)?.first_chunk()?;
        if is_it && flags & 0x80 != 0 {
            return matches!(code & 15, 0 | NO_SUCH_NAME).then_some(answer);
        }
        answer.resize(LONGEST, 0);
    }
}

/// A question, where that is a name.
fn question(number: u16, name: &str, kind: u16) -> Option<Vec<u8>> {
    let [high, low] = number.to_be_bytes();
    let mut message = vec![high, low, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.trim_end_matches('.').split('.') {
        let length = u8::try_from(label.len()).ok().filter(|length| (1..64).contains(length))?;
        message.push(length);
        message.extend(label.as_bytes());
    }
    message.push(0);
    message.extend([kind.to_be_bytes(), INTERNET.to_be_bytes()].concat());
    (message.len() <= HEADER + 255 + 4).then_some(message)
}

/// The addresses in an answer; none where it is not whole.
fn records(answer: &[u8]) -> Option<Vec<IpAddr>> {
    let number = |at: usize| Some(u16::from_be_bytes(*answer.get(at..)?.first_chunk()?));
    let mut at = HEADER;
    for _ in 0..number(4)? {
        at = name_end(answer, at)? + 4;
    }
    let mut found = Vec::new();
    for _ in 0..number(6)? {
        at = name_end(answer, at)?;
        let (kind, length) = (number(at)?, usize::from(number(at + 8)?));
        let content = answer.get(at + 10..at + 10 + length)?;
        at += 10 + length;
        if kind == A {
            found.extend(<[u8; 4]>::try_from(content).map(IpAddr::from));
        } else if kind == AAAA {
            found.extend(<[u8; 16]>::try_from(content).map(IpAddr::from));
        }
    }
    Some(found)
}

/// Where a name ends, which may be a reference to another.
fn name_end(message: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *message.get(at)? {
            0 => return Some(at + 1),
            length @ 1..=63 => at += 1 + usize::from(length),
            192.. => return Some(at + 2),
            64..=191 => return None,
        }
    }
}

/// A name and a port, as a user writes it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Target {
    /// A name, or an address in digits.
    pub name: String,
    /// The port.
    pub port: u16,
}

impl Target {
    /// `NAME`, `NAME:PORT`, an address of IPv6 with a port in brackets.
    #[must_use]
    pub fn parse(text: &str, port: u16) -> Option<Self> {
        if let Ok(place) = text.parse::<SocketAddr>() {
            return Some(Self { name: place.ip().to_string(), port: place.port() });
        }
        let (name, port) = match text.split_once(':') {
            _ if text.parse::<IpAddr>().is_ok() => (text, port),
            Some((name, port)) => (name, port.parse().ok()?),
            None => (text, port),
        };
        (!name.is_empty()).then(|| Self { name: name.to_owned(), port })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name.contains(':') {
            true => write!(formatter, "[{}]:{}", self.name, self.port),
            false => write!(formatter, "{}:{}", self.name, self.port),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn addresses_are_found_among_other_records() {
        let question = question(1, "name.example", A).unwrap();
        let mut answer = question.clone();
        answer[2] = 0x81;
        answer[7] = 3;
        // A name for another, its address, and one of IPv6.
        answer.extend(b"\xc0\x0c\0\x05\0\x01\0\0\0\x3c\0\x04\x01b\xc0\x11");
        answer.extend(b"\x01b\xc0\x11\0\x01\0\x01\0\0\0\x3c\0\x04\xc0\0\x02\x07");
        answer.extend(b"\xc0\x0c\0\x1c\0\x01\0\0\0\x3c\0\x10");
        answer.extend(Ipv6Addr::LOCALHOST.octets());
        let expected: [IpAddr; 2] = [[192, 0, 2, 7].into(), Ipv6Addr::LOCALHOST.into()];
        assert_eq!(records(&answer), Some(expected.to_vec()));
        for length in 0..answer.len() {
            assert_eq!(records(&answer[..length]), None);
        }
        assert_eq!(records(&question), Some(Vec::new()));
        assert_eq!(super::question(1, "a..b", A), None);
        assert_eq!(super::question(1, &"a".repeat(64), A), None);
        assert_eq!(super::question(1, &"a.".repeat(200), A), None);
    }

    proptest! {
        #[test]
        fn any_answer_is_survived(answer in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = records(&answer);
        }
    }

    #[test]
    fn a_target_is_a_name_or_an_address_with_or_without_a_port() {
        let parse = |text| Target::parse(text, 80).map(|target| target.to_string());
        assert_eq!(parse("a.example").as_deref(), Some("a.example:80"));
        assert_eq!(parse("a.example:443").as_deref(), Some("a.example:443"));
        assert_eq!(parse("192.0.2.1").as_deref(), Some("192.0.2.1:80"));
        assert_eq!(parse("::1").as_deref(), Some("[::1]:80"));
        assert_eq!(parse("[::1]:443").as_deref(), Some("[::1]:443"));
        for bad in ["", ":80", "a:b", "a:99999", "a:1:2"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
