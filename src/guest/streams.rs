//! The streams of sessions as they arrive, until each session is whole.
//!
//! Every stream is a connection of its own that says first whose it is. Nothing is read
//! beyond that (and the request on a control stream): the rest belongs to the relay.

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use crate::protocol::frame::MAXIMUM_LENGTH;
use crate::protocol::guest::StreamHeader;
use crate::protocol::incremental::FrameReader;
use crate::protocol::session::{Session, StreamKind};

/// The largest header.
const MAXIMUM_HEADER: usize = 32;

/// How many connections may be without a header, and how many sessions without all their
/// streams.
const MAXIMUM_WAITING: usize = 1024;

/// How long a connection may stay so.
const PATIENCE: Duration = Duration::from_secs(30);

/// A session with all its streams.
#[derive(Debug)]
pub struct Whole {
    /// The request.
    pub session: Session,
    /// The request as it came.
    pub encoded: Vec<u8>,
    /// The control stream.
    pub control: OwnedFd,
    /// The byte streams.
    pub streams: Vec<(StreamKind, OwnedFd)>,
}

/// A connection that has not said all it must.
struct Arrival {
    stream: File,
    reader: FrameReader,
    /// The number of the session whose request this stream carries.
    control_of: Option<u64>,
    since: Instant,
}

/// The streams of a session that is not whole.
struct Gathering {
    request: Option<(Session, Vec<u8>, OwnedFd)>,
    streams: Vec<(StreamKind, OwnedFd)>,
    since: Instant,
}

/// All streams that wait for something.
#[derive(Default)]
pub struct Streams {
    arrivals: Vec<Arrival>,
    gatherings: HashMap<u64, Gathering>,
}

impl Streams {
    /// Takes a new connection, non-blocking; refused (closed) where too many wait.
    pub fn accept(&mut self, stream: OwnedFd) {
        if self.arrivals.len() < MAXIMUM_WAITING {
            self.arrivals.push(Arrival {
                stream: File::from(stream),
                reader: FrameReader::new(MAXIMUM_HEADER),
                control_of: None,
                since: Instant::now(),
            });
        }
    }

    /// The connections to poll for input.
    pub fn interests(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.arrivals.iter().map(|arrival| arrival.stream.as_fd())
    }

    /// When the oldest stream's patience ends.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        let arrivals = self.arrivals.iter().map(|arrival| arrival.since);
        let gatherings = self.gatherings.values().map(|gathering| gathering.since);
        arrivals.chain(gatherings).min().map(|oldest| oldest + PATIENCE)
    }

    /// Reads what has come; gives the sessions that are whole now and closes what waited
    /// too long or talks nonsense.
    pub fn advance(&mut self) -> Vec<Whole> {
        let mut whole = Vec::new();
        for mut arrival in std::mem::take(&mut self.arrivals) {
            loop {
                match self.read(arrival, &mut whole) {
                    Step::Again(next) => arrival = next,
                    Step::Wait(waiting) => {
                        self.arrivals.push(waiting);
                        break;
                    }
                    Step::Taken => break,
                }
            }
        }
        self.arrivals.retain(|arrival| arrival.since.elapsed() < PATIENCE);
        self.gatherings.retain(|_, gathering| gathering.since.elapsed() < PATIENCE);
        whole
    }

    /// Reads the next frame of one connection.
    fn read(&mut self, mut arrival: Arrival, whole: &mut Vec<Whole>) -> Step {
        let body = match arrival.reader.next_body(&mut arrival.stream) {
            Ok(Some(body)) => body,
            Ok(None) => return Step::Wait(arrival),
            Err(_) => return Step::Taken,
        };
        let Some(number) = arrival.control_of else {
            let Ok(header) = postcard::from_bytes::<StreamHeader>(&body) else {
                return Step::Taken;
            };
            if header.kind == StreamKind::Control {
                arrival.control_of = Some(header.session);
                arrival.reader = FrameReader::new(MAXIMUM_LENGTH);
                return Step::Again(arrival);
            }
            let stream = arrival.stream.into();
            whole.extend(self.gather(header.session, |gathering| {
                gathering.streams.retain(|(kind, _)| *kind != header.kind);
                gathering.streams.push((header.kind, stream));
            }));
            return Step::Taken;
        };
        if let Ok(session) = postcard::from_bytes::<Session>(&body) {
            let control = arrival.stream.into();
            whole.extend(self.gather(number, |gathering| {
                gathering.request = Some((session, body, control));
            }));
        }
        Step::Taken
    }

    /// Adds to a session; gives it where that makes it whole.
    fn gather(&mut self, number: u64, add: impl FnOnce(&mut Gathering)) -> Option<Whole> {
        if self.gatherings.len() >= MAXIMUM_WAITING && !self.gatherings.contains_key(&number) {
            return None;
        }
        let gathering = self.gatherings.entry(number).or_insert_with(|| Gathering {
            request: None,
            streams: Vec::new(),
            since: Instant::now(),
        });
        add(gathering);
        let (session, _, _) = gathering.request.as_ref()?;
        let has = |wanted: &StreamKind| gathering.streams.iter().any(|(kind, _)| kind == wanted);
        if !session.streams.kinds().iter().all(has) {
            return None;
        }
        let gathering = self.gatherings.remove(&number)?;
        let (session, encoded, control) = gathering.request?;
        Some(Whole { session, encoded, control, streams: gathering.streams })
    }
}

/// What is next for a connection.
enum Step {
    /// Read on.
    Again(Arrival),
    /// It is complete, or closed.
    Taken,
    /// More must come.
    Wait(Arrival),
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use uuid::Uuid;

    use super::*;
    use crate::protocol::frame;
    use crate::protocol::session::{Directory, Program, Streams as Standard, User};

    fn connect(streams: &mut Streams) -> UnixStream {
        let (ours, theirs) = UnixStream::pair().unwrap();
        theirs.set_nonblocking(true).unwrap();
        streams.accept(theirs.into());
        ours
    }

    fn session() -> Session {
        Session {
            distro: Uuid::nil(),
            program: Program::Shell,
            user: User::Number(0),
            directory: Directory::Home,
            environment: vec![],
            streams: Standard { terminal: None, stdin: true, stdout: false, stderr: false },
        }
    }

    #[test]
    fn a_session_is_whole_when_its_last_stream_came_whatever_the_order() {
        for control_first in [true, false] {
            let mut streams = Streams::default();
            let mut control = connect(&mut streams);
            let mut stdin = connect(&mut streams);
            let send_control = |control: &mut UnixStream| {
                let header = StreamHeader { session: 7, kind: StreamKind::Control };
                frame::write(control, &header).unwrap();
                frame::write(control, &session()).unwrap();
            };
            let send_stdin = |stdin: &mut UnixStream| {
                let header = StreamHeader { session: 7, kind: StreamKind::Stdin };
                frame::write(stdin, &header).unwrap();
                stdin.write_all(b"payload").unwrap();
            };
            if control_first {
                send_control(&mut control);
                assert!(streams.advance().is_empty());
                send_stdin(&mut stdin);
            } else {
                send_stdin(&mut stdin);
                assert!(streams.advance().is_empty());
                send_control(&mut control);
            }
            let whole = streams.advance().pop().unwrap();
            assert_eq!(whole.session, session());
            let (kind, stream) = whole.streams.into_iter().next().unwrap();
            let mut payload = [0; 7];
            File::from(stream).read_exact(&mut payload).unwrap();
            assert_eq!((kind, &payload), (StreamKind::Stdin, b"payload"));
            assert!(streams.deadline().is_none());
        }
    }

    #[test]
    fn nonsense_closes_the_connection() {
        let mut streams = Streams::default();
        let mut stranger = connect(&mut streams);
        stranger.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
        assert!(streams.advance().is_empty());
        assert_eq!(streams.interests().count(), 0);
        let mut rest = Vec::new();
        let _ = stranger.read_to_end(&mut rest);
        assert!(rest.is_empty());
    }
}
