//! An HTTP server that serves some files, with ranges, and can misbehave.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

/// What a path is answered with.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub body: Vec<u8>,
    pub headers: Vec<(String, String)>,
    /// Whether `Range` is honoured.
    pub ranges: bool,
    /// The connection breaks after so many bytes of each answer's body.
    pub cut: Option<usize>,
}

impl Answer {
    pub fn file(body: impl Into<Vec<u8>>) -> Self {
        Self { status: 200, body: body.into(), headers: Vec::new(), ranges: true, cut: None }
    }

    pub fn status(status: u16) -> Self {
        Self { status, ..Self::file("") }
    }

    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }
}

/// A request as it came.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Request {
    pub path: String,
    pub headers: HashMap<String, String>,
}

#[derive(Default)]
struct State {
    answers: Mutex<HashMap<String, Answer>>,
    requests: Mutex<Vec<Request>>,
}

/// The server; it lives until the test program ends.
pub struct Server {
    address: SocketAddr,
    state: Arc<State>,
}

impl Server {
    pub fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let server = Self { address: listener.local_addr().unwrap(), state: Arc::default() };
        let state = Arc::clone(&server.state);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = Arc::clone(&state);
                thread::spawn(move || serve(stream, &state));
            }
        });
        server
    }

    pub fn set(&self, path: &str, answer: Answer) {
        self.state.answers.lock().unwrap().insert(path.to_owned(), answer);
    }

    pub fn remove(&self, path: &str) {
        self.state.answers.lock().unwrap().remove(path);
    }

    pub fn get(&self, path: &str) -> Vec<u8> {
        self.state.answers.lock().unwrap()[path].body.clone()
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub fn requests(&self) -> Vec<Request> {
        self.state.requests.lock().unwrap().clone()
    }

    pub fn paths(&self) -> Vec<String> {
        self.requests().into_iter().map(|request| request.path).collect()
    }
}

fn serve(mut stream: TcpStream, state: &State) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    while let Some(request) = read_request(&mut reader) {
        let missing = Answer::status(404);
        let answer = state.answers.lock().unwrap().get(&request.path).cloned().unwrap_or(missing);
        state.requests.lock().unwrap().push(request.clone());
        if !send(&mut stream, &request, &answer) {
            return;
        }
    }
}

fn read_request(reader: &mut BufReader<TcpStream>) -> Option<Request> {
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|length| *length > 0)?;
    let path = line.split(' ').nth(1)?.to_owned();
    let mut headers = HashMap::new();
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).ok()?;
        let Some((name, value)) = header.trim_end().split_once(": ") else {
            return Some(Request { path, headers });
        };
        headers.insert(name.to_lowercase(), value.to_owned());
    }
}

fn send(stream: &mut TcpStream, request: &Request, answer: &Answer) -> bool {
    let length = answer.body.len();
    let start = range(request, answer);
    let (status, start) = match start {
        Some(start) if start >= length => (416, length),
        Some(start) => (206, start),
        None => (answer.status, 0),
    };
    let body = &answer.body[start..];
    let mut head = format!("HTTP/1.1 {status} x\r\nContent-Length: {}\r\n", body.len());
    if status == 206 {
        head.push_str(&format!("Content-Range: bytes {start}-{}/{length}\r\n", length - 1));
    }
    for (name, value) in &answer.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    let sent = &body[..answer.cut.map_or(body.len(), |cut| cut.min(body.len()))];
    let done = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(sent));
    done.is_ok() && answer.cut.is_none()
}

/// The start that was asked for, unless `If-Range` names another version.
fn range(request: &Request, answer: &Answer) -> Option<usize> {
    if !answer.ranges || answer.status != 200 {
        return None;
    }
    if let Some(condition) = request.headers.get("if-range")
        && !answer.headers.iter().any(|(_, value)| value == condition)
    {
        return None;
    }
    request.headers.get("range")?.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok()
}
