//! Questions for names, asked of the host's resolver as they are.
//!
//! Nothing is kept: each question has a socket of its own, from a port nobody can guess, and
//! is gone with its answer. Where a server is silent the next one is asked; where none is
//! left the guest is told at once that it failed, for silence costs programs seconds.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use super::encode::Encoder;
use super::socket::Datagrams;

/// How long one server may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often a question is asked at most, all servers taken together.
const MAXIMUM_TRIES: usize = 4;
/// The shortest message: its header.
pub(super) const HEADER: usize = 12;
/// The longest question.
const MAXIMUM_QUESTION: usize = 4096;
/// The name by which a guest finds its host. Nobody else has it: ICANN keeps
/// `internal` free for such.
pub const HOST_NAME: &str = "host.wslr.internal";
/// Types, and the class, of a question (RFC 1035, 3.2; RFC 3596).
pub(super) const A: u16 = 1;
pub(super) const AAAA: u16 = 28;
const ANY: u16 = 255;
pub(super) const INTERNET: u16 = 1;
/// The most addresses of one answer, which so fits into the smallest message.
const MAXIMUM_ADDRESSES: usize = 8;
/// The answer that the server has failed.
const SERVER_FAILURE: u8 = 2;

/// A question on its way.
#[derive(Debug)]
pub struct Question {
    guest: SocketAddr,
    /// Where the guest sent it.
    asked: SocketAddr,
    message: Vec<u8>,
    servers: Vec<SocketAddr>,
    tries: usize,
    /// The present server's socket.
    pub socket: Option<Datagrams>,
    /// Whether it stands in the list of those with something for the guest.
    pub listed: bool,
    deadline: Instant,
}

impl Question {
    /// A question of the guest; none where it is not one.
    pub fn new(
        guest: SocketAddr,
        asked: SocketAddr,
        message: &[u8],
        servers: &[SocketAddr],
        now: Instant,
    ) -> Option<Self> {
        let is_answer = message.get(2).is_none_or(|flags| flags & 0x80 != 0);
        if is_answer || !(HEADER..=MAXIMUM_QUESTION).contains(&message.len()) {
            return None;
        }
        Some(Self {
            guest,
            asked,
            message: message.to_vec(),
            servers: servers.to_vec(),
            tries: 0,
            socket: None,
            listed: false,
            deadline: now + PATIENCE,
        })
    }

    /// When the next server is to be asked.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Asks the next server that can be asked; false where none is left.
    pub fn ask(&mut self, now: Instant) -> bool {
        self.socket = None;
        while self.tries < MAXIMUM_TRIES.max(self.servers.len()) && !self.servers.is_empty() {
            let server = self.servers.get(self.tries % self.servers.len()).copied();
            self.tries += 1;
            if let Some(Ok(socket)) = server.map(|server| self.send(server)) {
                self.socket = Some(socket);
                self.deadline = now + PATIENCE;
                return true;
            }
        }
        false
    }

    fn send(&self, server: SocketAddr) -> io::Result<Datagrams> {
        let socket = Datagrams::udp(server.is_ipv6())?;
        socket.connect(server)?;
        socket.send(server, &self.message)?;
        Ok(socket)
    }

    /// The answer, where it is there: none yet, or an error where the server is not.
    ///
    /// # Errors
    /// The system's.
    pub fn receive(&self, encoder: &Encoder, scratch: &mut [u8]) -> io::Result<Option<Vec<u8>>> {
        let Some(socket) = &self.socket else { return Ok(None) };
        loop {
            let (length, _) = match socket.receive(scratch) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                result => result?,
            };
            let answer = scratch.get(..length).unwrap_or_default();
            if length >= HEADER && answer.get(..2) == self.message.get(..2) {
                return Ok(encoder.udp(self.asked, self.guest, answer));
            }
        }
    }

    /// The answer that nobody answers.
    pub fn failure(&self, encoder: &Encoder) -> Option<Vec<u8>> {
        let mut answer = self.message.clone();
        // An answer, with recursion, to the same question and nothing else.
        if let Some([flags, more]) = answer.get_mut(2..4) {
            *flags |= 0x80;
            *more = 0x80 | SERVER_FAILURE;
        }
        let end = question_end(&answer)?;
        answer.truncate(end);
        answer.get_mut(6..HEADER)?.fill(0);
        encoder.udp(self.asked, self.guest, &answer)
    }
}

/// The name that a message asks for, in lower case and without a dot at its end, and the
/// type; `None` where it is not one question about the Internet.
pub fn asked(message: &[u8]) -> Option<(String, u16)> {
    let end = question_end(message)?;
    let (name, kind) = message.get(HEADER..end)?.split_last_chunk::<4>()?;
    let [kind_high, kind_low, class_high, class_low] = *kind;
    let is_query = message.get(2).is_some_and(|flags| flags & 0xf8 == 0);
    if !is_query || u16::from_be_bytes([class_high, class_low]) != INTERNET {
        return None;
    }
    let mut labels = Vec::new();
    let mut rest = name;
    while let Some((length, more)) = rest.split_first()
        && *length > 0
    {
        let (label, after) = more.split_at_checked(usize::from(*length))?;
        labels.push(std::str::from_utf8(label).ok()?.to_ascii_lowercase());
        rest = after;
    }
    Some((labels.join("."), u16::from_be_bytes([kind_high, kind_low])))
}

/// Whether a question of that type is for addresses.
pub fn is_for_addresses(kind: u16) -> bool {
    matches!(kind, A | AAAA | ANY)
}

/// The answer that a question's name has these addresses and nothing else.
pub fn addresses_answer(message: &[u8], kind: u16, addresses: &[IpAddr]) -> Option<Vec<u8>> {
    let mut answer = message.get(..question_end(message)?)?.to_vec();
    // An answer of whom the name belongs to, with recursion where it was asked for.
    let [flags, more] = answer.get_mut(2..4)? else { return None };
    *flags = *flags & 1 | 0x84;
    *more = 0x80;
    answer.get_mut(6..HEADER)?.fill(0);
    let mut count = 0_u8;
    for address in addresses.iter().take(MAXIMUM_ADDRESSES) {
        let (its, octets) = match address {
            IpAddr::V4(address) => (A, address.octets().to_vec()),
            IpAddr::V6(address) => (AAAA, address.octets().to_vec()),
        };
        if kind != its && kind != ANY {
            continue;
        }
        count += 1;
        // The name of the question; not to be kept, for the file may change.
        answer.extend([0xc0, HEADER as u8]);
        answer.extend([its.to_be_bytes(), INTERNET.to_be_bytes()].concat());
        answer.extend([0, 0, 0, 0, 0, octets.len() as u8]);
        answer.extend(octets);
    }
    *answer.get_mut(7)? = count;
    Some(answer)
}

/// Where the first question of a message ends.
fn question_end(message: &[u8]) -> Option<usize> {
    if message.get(4..6)? != [0, 1] {
        return None;
    }
    let mut position = HEADER;
    loop {
        match *message.get(position)? {
            0 => break,
            // Names are not compressed in a question.
            length @ 1..=63 => position += usize::from(length) + 1,
            64.. => return None,
        }
    }
    let end = position + 5;
    (end <= message.len()).then_some(end)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use super::*;

    #[test]
    fn the_end_of_a_question_is_found_or_not() {
        let mut message = vec![1, 2, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        message.extend(b"\x01a\x02bc\0\0\x01\0\x01rest");
        assert_eq!(question_end(&message), Some(12 + 6 + 4));
        for length in 0..22 {
            assert_eq!(question_end(&message[..length]), None);
        }
        message[12] = 0xc0;
        assert_eq!(question_end(&message), None);
    }

    #[test]
    fn a_name_with_addresses_is_answered_with_those_of_the_type() {
        let addresses: [IpAddr; 2] = [[172, 20, 224, 3].into(), Ipv6Addr::from(3).into()];
        let ask = |name: &[u8], kind: u8, class: u8| {
            let mut message = vec![1, 2, 1, 0, 0, 1, 0, 0, 0, 0, 0, 1];
            message.extend_from_slice(name);
            message.extend([0, kind, 0, class]);
            // An additional record, which is not answered.
            message.extend(b"\0\0\x29\x10\0\0\0\0\0\0\0");
            message
        };
        let name = b"\x04Host\x04wslr\x08INTERNAL\0";
        let message = ask(name, 1, 1);
        assert_eq!(asked(&message), Some((HOST_NAME.to_owned(), 1)));
        let answer = addresses_answer(&message, 1, &addresses).unwrap();
        assert_eq!(answer[..12], [1, 2, 0x85, 0x80, 0, 1, 0, 1, 0, 0, 0, 0]);
        assert!(answer.ends_with(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4, 172, 20, 224, 3]));
        let answer = addresses_answer(&ask(name, 28, 1), 28, &addresses).unwrap();
        assert!(answer.ends_with(&3_u128.to_be_bytes()) && answer[7] == 1);
        assert_eq!(addresses_answer(&ask(name, 255, 1), 255, &addresses).unwrap()[7], 2);
        // It has no mail, and that is an answer too.
        assert_eq!(addresses_answer(&ask(name, 15, 1), 15, &addresses).unwrap()[7], 0);
        assert_eq!(asked(&ask(name, 1, 3)), None);
        assert_eq!(asked(&ask(b"\x02\xff\xfe\0", 1, 1)), None);
        for length in 0..12 + name.len() + 4 {
            assert_eq!(asked(&message[..length]), None);
        }
    }
}
