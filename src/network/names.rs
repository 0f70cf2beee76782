//! A guest's stream of questions for names (RFC 7766).
//!
//! What is known here is answered here, as it is where a question comes as a datagram. The
//! rest goes to the host's resolver on a stream that is opened for the first such question.
//! Messages are passed whole and in either order, and nothing is kept of them. A server that
//! cannot be connected to makes way for the next; where none is left the stream ends.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use super::socket;
use super::store::Store;

/// How long a server may take to be connected to.
const CONNECTING: Duration = Duration::from_secs(2);
/// How long a stream may be silent.
const SILENCE: Duration = Duration::from_secs(30);
/// The length that precedes a message, and the longest message with it.
const LENGTH: usize = 2;
const LONGEST: usize = LENGTH + 65_535;

/// A stream of questions.
#[derive(Debug)]
pub struct Names {
    guest: UnixStream,
    server: Option<TcpStream>,
    /// How many servers could not be connected to, and whether the present one could.
    failed: usize,
    connected: bool,
    from_guest: Store,
    to_guest: Store,
    from_server: Store,
    to_server: Store,
    /// Questions that the server has not answered.
    asked: usize,
    /// The guest asks no more.
    ended: bool,
    /// Whether it stands in the list of those with something for the guest.
    pub listed: bool,
    deadline: Instant,
}

/// What came of looking at a stream.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Progress {
    /// It goes on.
    Continues,
    /// It goes on with another socket, which is to be watched too.
    Watch(RawFd),
    /// It is over.
    Over,
}

impl Names {
    /// A stream, and the guest's end of it: a connection to nobody but this.
    ///
    /// # Errors
    /// The system's.
    pub fn new(now: Instant) -> io::Result<(Self, TcpStream)> {
        let (guest, end) = UnixStream::pair()?;
        guest.set_nonblocking(true)?;
        end.set_nonblocking(true)?;
        let names = Self {
            guest,
            server: None,
            failed: 0,
            connected: false,
            from_guest: Store::default(),
            to_guest: Store::default(),
            from_server: Store::default(),
            to_server: Store::default(),
            asked: 0,
            ended: false,
            listed: false,
            deadline: now + SILENCE,
        };
        // Connections know streams of the host only; what they do is the same with this.
        Ok((names, TcpStream::from(OwnedFd::from(end))))
    }

    /// The number of the guest's end, for `epoll_ctl`.
    pub fn number(&self) -> RawFd {
        self.guest.as_raw_fd()
    }

    /// When it is to be looked at whatever happens.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Moves what can be moved. `known` gives the answers that need no server.
    pub fn progress(
        &mut self,
        servers: &[SocketAddr],
        known: &mut dyn FnMut(&[u8]) -> Option<Vec<u8>>,
        now: Instant,
    ) -> Progress {
        let overdue = now >= self.deadline;
        let mut watch = None;
        if overdue && (self.connected || self.server.is_none()) {
            return Progress::Over;
        }
        if overdue {
            self.fail();
        }
        loop {
            let mut moved = match self.listen() {
                Ok(moved) => moved,
                Err(_) => return Progress::Over,
            };
            while let Some(question) = message(&mut self.from_guest) {
                moved = true;
                match known(question.get(LENGTH..).unwrap_or_default()) {
                    Some(answer) => put(&mut self.to_guest, &answer),
                    None => {
                        self.to_server.extend(&question);
                        self.asked += 1;
                    }
                }
            }
            if self.server.is_none() && self.asked > 0 {
                let Some(server) = servers.get(self.failed) else { return Progress::Over };
                match socket::begin_connect(*server) {
                    Ok(socket) => {
                        watch = Some(socket.as_raw_fd());
                        (self.server, self.connected) = (Some(socket), false);
                        self.deadline = now + CONNECTING;
                    }
                    Err(_) => self.failed += 1,
                }
                moved = true;
            }
            match self.ask() {
                Ok(more) => moved |= more,
                Err(_) if !self.connected => {
                    self.fail();
                    watch = None;
                    moved = true;
                }
                // It has ended: at rest that is its right, else nobody will answer.
                Err(_) if self.asked == 0 => self.server = None,
                Err(_) => return Progress::Over,
            }
            match drain(&mut self.to_guest, |[front, _]| (&self.guest).write(front)) {
                Ok(more) => moved |= more,
                Err(_) => return Progress::Over,
            }
            if !moved {
                break;
            }
            if self.connected || self.server.is_none() {
                self.deadline = now + SILENCE;
            }
        }
        if self.ended && self.asked == 0 && self.to_guest.is_empty() {
            return Progress::Over;
        }
        watch.map_or(Progress::Continues, Progress::Watch)
    }

    /// The server cannot be connected to.
    fn fail(&mut self) {
        self.server = None;
        self.failed += 1;
    }

    /// Takes what the guest asks, where what it asked before is on its way.
    fn listen(&mut self) -> io::Result<bool> {
        let waits = self.to_server.len() + self.to_guest.len();
        if self.ended || waits > LONGEST {
            return Ok(false);
        }
        match fill(&mut self.from_guest, |pieces| (&self.guest).read_vectored(pieces))? {
            Some(0) => {
                self.ended = true;
                Ok(true)
            }
            count => Ok(count.is_some()),
        }
    }

    /// Asks the server and takes its answers; an error where it has failed or ended.
    fn ask(&mut self) -> io::Result<bool> {
        let Some(mut server) = self.server.as_ref() else { return Ok(false) };
        if !self.connected {
            if let Some(error) = server.take_error()? {
                return Err(error);
            }
            match server.peer_addr() {
                Ok(_) => self.connected = true,
                Err(error) if error.kind() == ErrorKind::NotConnected => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        let mut moved = drain(&mut self.to_server, |[front, _]| server.write(front))?;
        if self.to_guest.len() <= LONGEST {
            match fill(&mut self.from_server, |pieces| server.read_vectored(pieces))? {
                Some(0) => return Err(ErrorKind::UnexpectedEof.into()),
                count => moved |= count.is_some(),
            }
        }
        while let Some(answer) = message(&mut self.from_server) {
            self.to_guest.extend(&answer);
            self.asked = self.asked.saturating_sub(1);
            self.failed = 0;
        }
        Ok(moved)
    }
}

/// The first message, with its length, where it is whole.
fn message(store: &mut Store) -> Option<Vec<u8>> {
    let bytes = |end| {
        let (front, back) = store.range(0..end);
        [front, back].concat()
    };
    let length = <[u8; LENGTH]>::try_from(bytes(LENGTH)).ok().map(u16::from_be_bytes)?;
    let whole = LENGTH + usize::from(length);
    let message = bytes(whole);
    (message.len() == whole).then(|| {
        store.forget(whole);
        message
    })
}

/// Adds an answer, with its length.
fn put(store: &mut Store, answer: &[u8]) {
    // One that is made here is far shorter.
    let Ok(length) = u16::try_from(answer.len()) else { return };
    store.extend(&length.to_be_bytes());
    store.extend(answer);
}

/// Reads where there is something: how much, or none where there is nothing yet.
fn fill(
    store: &mut Store,
    mut read: impl FnMut(&mut [io::IoSliceMut<'_>]) -> io::Result<usize>,
) -> io::Result<Option<usize>> {
    let room = LONGEST.saturating_sub(store.len()).min(4096);
    if room == 0 {
        return Ok(None);
    }
    loop {
        match store.fill(room, &mut read) {
            Ok(count) => return Ok(Some(count)),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
            Err(error) => return Err(error),
        }
    }
}

/// Writes what can be written; whether something was.
fn drain(
    store: &mut Store,
    mut write: impl FnMut(&[io::IoSlice<'_>; 2]) -> io::Result<usize>,
) -> io::Result<bool> {
    let mut moved = false;
    while !store.is_empty() {
        match store.drain(&mut write) {
            Ok(()) => moved = true,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => return Err(error),
        }
    }
    Ok(moved)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_message_is_taken_once_it_is_whole() {
        let mut store = Store::default();
        for byte in [0, 3, b'a', b'b'] {
            store.extend(&[byte]);
            assert_eq!(message(&mut store), None);
        }
        store.extend(b"c\0");
        assert_eq!(message(&mut store), Some(b"\0\x03abc".to_vec()));
        assert_eq!((message(&mut store), store.len()), (None, 1));
    }

    #[test]
    fn what_is_known_needs_no_server_and_the_rest_goes_to_the_first_that_is_there() {
        let now = Instant::now();
        let (mut names, mut end) = Names::new(now).unwrap();
        end.set_nonblocking(false).unwrap();
        let mut known = |message: &[u8]| (message == b"known").then(|| b"here".to_vec());
        end.write_all(b"\0\x05known\0\x05other").unwrap();
        let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let servers = [nobody, server.local_addr().unwrap()];
        assert!(matches!(names.progress(&servers, &mut known, now), Progress::Watch(_)));
        let mut answer = [0; 6];
        end.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"\0\x04here");
        let mut asked = server.accept().unwrap().0;
        assert_eq!(names.progress(&servers, &mut known, now), Progress::Continues);
        let mut question = [0; 7];
        asked.read_exact(&mut question).unwrap();
        assert_eq!(&question, b"\0\x05other");
        asked.write_all(b"\0\x05there").unwrap();
        assert_eq!(names.progress(&servers, &mut known, now), Progress::Continues);
        let mut answer = [0; 7];
        end.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"\0\x05there");
        // A server at rest may end, and another question finds it again.
        drop(asked);
        assert_eq!(names.progress(&servers, &mut known, now), Progress::Continues);
        end.write_all(b"\0\x01x").unwrap();
        assert!(matches!(names.progress(&servers, &mut known, now), Progress::Watch(_)));
        drop(server.accept().unwrap());
        assert_eq!(names.progress(&servers, &mut known, now), Progress::Over);
    }

    proptest::proptest! {
        #[test]
        fn a_guest_that_reads_no_answers_costs_a_bounded_amount(
            bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 1..600),
        ) {
            let now = Instant::now();
            let (mut names, mut end) = Names::new(now).unwrap();
            // Every other question is known.
            let mut turn = false;
            let mut known = |_: &[u8]| {
                turn = !turn;
                turn.then(|| vec![7; 200])
            };
            let server = TcpListener::bind("127.0.0.1:0").unwrap();
            let servers = [server.local_addr().unwrap()];
            for _ in 0..2000 {
                let written = end.write(&bytes).is_ok();
                if names.progress(&servers, &mut known, now) == Progress::Over {
                    break;
                }
                let stores = [&names.from_guest, &names.to_guest, &names.from_server, &names.to_server];
                let waiting: usize = stores.iter().map(|store| store.len()).sum();
                // A read can hold as many of the shortest questions as it has room for.
                proptest::prop_assert!(waiting < 4 * LONGEST + 4096 / LENGTH * 202, "{waiting}");
                if !written {
                    break;
                }
            }
        }
    }

    #[test]
    fn a_stream_is_over_with_its_guest_or_without_a_server() {
        let now = Instant::now();
        let mut known = |_: &[u8]| None;
        let (mut names, end) = Names::new(now).unwrap();
        assert_eq!(names.progress(&[], &mut known, now), Progress::Continues);
        drop(end);
        assert_eq!(names.progress(&[], &mut known, now), Progress::Over);
        let (mut names, mut end) = Names::new(now).unwrap();
        end.write_all(b"\0\x01x").unwrap();
        assert_eq!(names.progress(&[], &mut known, now), Progress::Over);
        let (mut names, _end) = Names::new(now).unwrap();
        assert_eq!(names.progress(&[], &mut known, now + SILENCE), Progress::Over);
    }
}
