//! One call on the distro's system bus, and what keeps its answer true.
//!
//! As much of the D-Bus protocol (D-Bus Specification 0.43) as a call needs whose
//! arguments are strings and numbers: authentication by uid, the marshalling of both, and
//! replies with descriptors. Little-endian, as all machines this runs on are. The bus is
//! the distro's own program: every length it sends is checked.

use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nix::sys::socket::MsgFlags;

use crate::guest::sys;

/// Where the system bus of a distro is.
pub const SOCKET: &str = "/run/dbus/system_bus_socket";

/// The longest message that is taken, in bytes; a call's reply is a few hundred.
const MAXIMUM_MESSAGE: usize = 64 << 10;

/// The most messages that are passed over while a reply is waited for.
const MAXIMUM_OTHERS: usize = 100;

const CALL: u8 = 1;
const RETURN: u8 = 2;
const ERROR: u8 = 3;

/// Why a call has no reply.
#[derive(Debug, thiserror::Error)]
pub enum BusError {
    /// The connection failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The bus said something else than the protocol wants.
    #[error("the system bus does not follow its protocol")]
    Protocol,
    /// The peer refused.
    #[error("{0}")]
    Refused(String),
}

/// An argument of a call.
#[derive(Clone, Copy, Debug)]
pub enum Argument<'a> {
    /// `b`.
    Boolean(bool),
    /// An empty `a(sv)`.
    NoProperties,
    /// `u`.
    Number(u32),
    /// `s`.
    Text(&'a str),
}

/// What is called.
#[derive(Clone, Copy, Debug)]
pub struct Method<'a> {
    /// The name of the service.
    pub destination: &'a str,
    /// The object.
    pub path: &'a str,
    /// Its interface.
    pub interface: &'a str,
    /// Its method.
    pub member: &'a str,
}

/// A reply.
#[derive(Debug)]
pub struct Reply {
    /// Its first argument, where that is text.
    pub text: Option<String>,
    /// The descriptors that came with it.
    pub descriptors: Vec<OwnedFd>,
}

/// A connection.
#[derive(Debug)]
pub struct Bus {
    stream: UnixStream,
    serial: u32,
    received: Vec<u8>,
    descriptors: Vec<OwnedFd>,
}

impl Bus {
    /// Connects to the distro's system bus as root; nothing takes longer than `limit`.
    ///
    /// # Errors
    /// Where there is none, or it does not take this process.
    pub fn connect(limit: Duration) -> Result<Self, BusError> {
        Self::on(UnixStream::connect(SOCKET)?, limit)
    }

    fn on(stream: UnixStream, limit: Duration) -> Result<Self, BusError> {
        stream.set_read_timeout(Some(limit))?;
        stream.set_write_timeout(Some(limit))?;
        let mut bus = Self { stream, serial: 0, received: Vec::new(), descriptors: Vec::new() };
        // The uid 0, in hexadecimal of its decimal digits.
        bus.stream.write_all(b"\0AUTH EXTERNAL 30\r\n")?;
        bus.expect(b"OK ")?;
        bus.stream.write_all(b"NEGOTIATE_UNIX_FD\r\n")?;
        bus.expect(b"AGREE_UNIX_FD")?;
        bus.stream.write_all(b"BEGIN\r\n")?;
        let driver = "org.freedesktop.DBus";
        let path = "/org/freedesktop/DBus";
        let hello = Method { destination: driver, path, interface: driver, member: "Hello" };
        bus.call(hello, &[])?;
        Ok(bus)
    }

    /// Reads a line of the authentication. Nothing follows it before it is answered.
    fn expect(&mut self, start: &[u8]) -> Result<(), BusError> {
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            let mut byte = [0];
            self.stream.read_exact(&mut byte)?;
            line.extend(byte);
            if line.len() > 256 {
                return Err(BusError::Protocol);
            }
        }
        if line.starts_with(start) { Ok(()) } else { Err(BusError::Protocol) }
    }

    /// Calls a method and waits for its reply.
    ///
    /// # Errors
    /// Where the connection fails or the peer refuses.
    pub fn call(
        &mut self,
        method: Method<'_>,
        arguments: &[Argument<'_>],
    ) -> Result<Reply, BusError> {
        self.serial += 1;
        let message = encode(method, self.serial, arguments);
        self.stream.write_all(&message)?;
        for _ in 0..MAXIMUM_OTHERS {
            let received = self.receive()?;
            let message = Message::parse(&received).ok_or(BusError::Protocol)?;
            let descriptors = std::mem::take(&mut self.descriptors);
            if message.reply_to != Some(self.serial) {
                continue;
            }
            return match message.kind {
                RETURN => Ok(Reply { text: message.text, descriptors }),
                ERROR => Err(BusError::Refused(message.text.unwrap_or_default())),
                _ => Err(BusError::Protocol),
            };
        }
        Err(BusError::Protocol)
    }

    /// The bytes of the next message.
    fn receive(&mut self) -> Result<Vec<u8>, BusError> {
        loop {
            if let Some(length) = message_length(&self.received)?
                && self.received.len() >= length
            {
                let rest = self.received.split_off(length);
                return Ok(std::mem::replace(&mut self.received, rest));
            }
            let mut bytes = [0; 4096];
            let (count, descriptors) = sys::receive(&self.stream, &mut bytes, MsgFlags::empty())?;
            if count == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
            self.descriptors.extend(descriptors);
            self.received.extend_from_slice(bytes.get(..count).unwrap_or_default());
        }
    }
}

/// The whole length of the message that starts so, where enough of it is there to know.
fn message_length(bytes: &[u8]) -> Result<Option<usize>, BusError> {
    let (Some(body), Some(fields)) = (number_at(bytes, 4), number_at(bytes, 12)) else {
        return Ok(None);
    };
    let whole = |body: u32, fields: u32| {
        let fields = usize::try_from(fields).ok()?.checked_next_multiple_of(8)?;
        16_usize.checked_add(fields)?.checked_add(usize::try_from(body).ok()?)
    };
    match whole(body, fields) {
        Some(length) if length <= MAXIMUM_MESSAGE && bytes.first() == Some(&b'l') => {
            Ok(Some(length))
        }
        _ => Err(BusError::Protocol),
    }
}

fn number_at(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_le_bytes(bytes.try_into().ok()?))
}

/// What is wanted of a received message.
#[derive(Debug, Eq, PartialEq)]
struct Message {
    kind: u8,
    reply_to: Option<u32>,
    text: Option<String>,
}

impl Message {
    fn parse(bytes: &[u8]) -> Option<Self> {
        let kind = *bytes.get(1)?;
        let fields_end = 16_usize.checked_add(usize::try_from(number_at(bytes, 12)?).ok()?)?;
        let mut reply_to = None;
        let mut signature = &b""[..];
        let mut at = 16_usize;
        while at < fields_end {
            at = at.checked_next_multiple_of(8)?;
            // The field's code, then a variant: its type's signature and the value.
            let code = *bytes.get(at)?;
            let kind = bytes.get(at.checked_add(1)?..at.checked_add(4)?)?;
            at = at.checked_add(4)?;
            match kind {
                [1, b'u', 0] => {
                    at = at.checked_next_multiple_of(4)?;
                    if code == 5 {
                        reply_to = number_at(bytes, at);
                    }
                    at = at.checked_add(4)?;
                }
                [1, b's' | b'o', 0] => {
                    at = at.checked_next_multiple_of(4)?;
                    at = at.checked_add(text_at(bytes, at)?.len())?.checked_add(5)?;
                }
                [1, b'g', 0] => {
                    let length = usize::from(*bytes.get(at)?);
                    let start = at.checked_add(1)?;
                    let end = start.checked_add(length)?;
                    if code == 8 {
                        signature = bytes.get(start..end)?;
                    }
                    at = end.checked_add(1)?;
                }
                _ => return None,
            }
        }
        let body = fields_end.checked_next_multiple_of(8)?;
        let text = if signature.starts_with(b"s") {
            Some(String::from_utf8_lossy(text_at(bytes, body)?).into_owned())
        } else {
            None
        };
        Some(Self { kind, reply_to, text })
    }
}

/// The bytes of a string, without the NUL byte after it.
fn text_at(bytes: &[u8], at: usize) -> Option<&[u8]> {
    let length = usize::try_from(number_at(bytes, at)?).ok()?;
    let start = at.checked_add(4)?;
    bytes.get(start..start.checked_add(length)?)
}

/// Marshals values; alignment counts from the start.
#[derive(Default)]
struct Writer(Vec<u8>);

impl Writer {
    fn align(&mut self, to: usize) {
        self.0.resize(self.0.len().next_multiple_of(to), 0);
    }

    fn number(&mut self, number: u32) {
        self.align(4);
        self.0.extend(number.to_le_bytes());
    }

    fn text(&mut self, text: &str) {
        // Our own, and short.
        self.number(u32::try_from(text.len()).unwrap_or_default());
        self.0.extend(text.as_bytes());
        self.0.push(0);
    }

    fn signature(&mut self, signature: &str) {
        self.0.push(u8::try_from(signature.len()).unwrap_or_default());
        self.0.extend(signature.as_bytes());
        self.0.push(0);
    }

    fn argument(&mut self, argument: &Argument<'_>) {
        match *argument {
            Argument::Boolean(value) => self.number(value.into()),
            Argument::NoProperties => {
                self.number(0);
                self.align(8);
            }
            Argument::Number(number) => self.number(number),
            Argument::Text(text) => self.text(text),
        }
    }
}

fn encode(method: Method<'_>, serial: u32, arguments: &[Argument<'_>]) -> Vec<u8> {
    let mut body = Writer::default();
    let mut signature = String::new();
    for argument in arguments {
        body.argument(argument);
        signature.push_str(match argument {
            Argument::Boolean(_) => "b",
            Argument::NoProperties => "a(sv)",
            Argument::Number(_) => "u",
            Argument::Text(_) => "s",
        });
    }
    let mut fields = Writer::default();
    let texts = [
        (1, "o", method.path),
        (2, "s", method.interface),
        (3, "s", method.member),
        (6, "s", method.destination),
    ];
    for (code, kind, text) in texts {
        fields.align(8);
        fields.0.push(code);
        fields.signature(kind);
        fields.text(text);
    }
    if !signature.is_empty() {
        fields.align(8);
        fields.0.push(8);
        fields.signature("g");
        fields.signature(&signature);
    }
    let length = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap_or_default();
    let mut message = Writer(vec![b'l', CALL, 0, 1]);
    message.number(length(&body.0));
    message.number(serial);
    message.number(length(&fields.0));
    message.0.extend(fields.0);
    message.align(8);
    message.0.extend(body.0);
    message.0
}

#[cfg(test)]
mod tests {
    use std::thread;

    use proptest::prelude::*;

    use super::*;

    const METHOD: Method<'_> =
        Method { destination: "a.b", path: "/a", interface: "a.b", member: "Do" };

    /// A message as a bus sends it.
    fn answer(kind: u8, reply_to: u32, signature: &str, body: &[u8]) -> Vec<u8> {
        let mut fields = Writer::default();
        fields.0.push(5);
        fields.signature("u");
        fields.number(reply_to);
        fields.align(8);
        fields.0.push(8);
        fields.signature("g");
        fields.signature(signature);
        let mut message = Writer(vec![b'l', kind, 0, 1]);
        message.number(body.len() as u32);
        message.number(9);
        message.number(fields.0.len() as u32);
        message.0.extend(fields.0);
        message.align(8);
        message.0.extend(body);
        message.0
    }

    #[test]
    fn a_call_is_marshalled_as_the_specification_says() {
        let arguments = [
            Argument::Number(7),
            Argument::Text("x"),
            Argument::Boolean(true),
            Argument::NoProperties,
        ];
        let message = encode(METHOD, 3, &arguments);
        assert_eq!(message[..4], [b'l', 1, 0, 1]);
        assert_eq!(message_length(&message).unwrap(), Some(message.len()));
        let body = [
            &7_u32.to_le_bytes()[..],
            &1_u32.to_le_bytes(),
            b"x\0\0\0",
            &1_u32.to_le_bytes(),
            &0_u32.to_le_bytes(),
            &[0; 4],
        ]
        .concat();
        assert!(message.ends_with(&body));
        let text = String::from_utf8_lossy(&message).into_owned();
        assert!(text.contains("\u{8}\u{1}g\0\u{8}usba(sv)\0"), "{text:?}");
    }

    #[test]
    fn a_reply_is_found_among_other_messages() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let text = [&4_u32.to_le_bytes()[..], b"c123\0"].concat();
        let bus = thread::spawn(move || {
            let mut read = [0; 4096];
            for line in [&b"OK 1234\r\n"[..], b"AGREE_UNIX_FD\r\n"] {
                let _ = theirs.read(&mut read).unwrap();
                theirs.write_all(line).unwrap();
            }
            let _ = theirs.read(&mut read).unwrap();
            theirs.write_all(&answer(RETURN, 1, "s", &text)).unwrap();
            theirs.write_all(&answer(4, 0, "s", &text)).unwrap();
            let _ = theirs.read(&mut read).unwrap();
            let whole = answer(RETURN, 2, "so", &text);
            let (first, second) = whole.split_at(20);
            theirs.write_all(first).unwrap();
            theirs.write_all(second).unwrap();
            let _ = theirs.read(&mut read).unwrap();
            theirs.write_all(&answer(ERROR, 3, "s", &text)).unwrap();
            // It may have read less than was sent; the caller is to be able to send all.
            theirs
        });
        let mut connected = Bus::on(ours, Duration::from_secs(10)).unwrap();
        assert_eq!(connected.call(METHOD, &[]).unwrap().text.as_deref(), Some("c123"));
        let refused = connected.call(METHOD, &[]).unwrap_err();
        assert!(matches!(refused, BusError::Refused(text) if text == "c123"));
        drop(bus.join().unwrap());
    }

    proptest! {
        #[test]
        fn no_message_makes_it_panic(bytes: Vec<u8>) {
            let _ = message_length(&bytes);
            let _ = Message::parse(&bytes);
            let mut header = b"l\x02\0\x01\x10\0\0\0\x01\0\0\0\x20\0\0\0".to_vec();
            header.extend(bytes);
            let _ = Message::parse(&header);
        }
    }
}
