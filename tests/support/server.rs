//! An HTTP server on the loopback interface.

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
    /// The connection ends after so many bytes of the body.
    pub cut: Option<usize>,
}

/// Serves some paths and counts the requests. It lives until the test program ends.
pub struct Server {
    address: SocketAddr,
    answers: Arc<Mutex<HashMap<String, Answer>>>,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Server {
    pub fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let server = Self {
            address: listener.local_addr().unwrap(),
            answers: Arc::default(),
            requests: Arc::default(),
        };
        let (answers, requests) = (Arc::clone(&server.answers), Arc::clone(&server.requests));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (answers, requests) = (Arc::clone(&answers), Arc::clone(&requests));
                thread::spawn(move || serve(stream, &answers, &requests));
            }
        });
        server
    }

    /// Serves a file.
    pub fn file(self, path: &str, body: impl Into<Vec<u8>>) -> Self {
        self.answer(path, Answer { status: 200, body: body.into(), cut: None })
    }

    /// Serves an answer.
    pub fn answer(self, path: &str, answer: Answer) -> Self {
        self.answers.lock().unwrap().insert(path.to_owned(), answer);
        self
    }

    /// The url of a path.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// The paths that were asked for, in order.
    pub fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

fn serve(
    stream: TcpStream,
    answers: &Mutex<HashMap<String, Answer>>,
    requests: &Mutex<Vec<String>>,
) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut stream = stream;
    let mut line = String::new();
    while reader.read_line(&mut line).is_ok_and(|length| length > 0) {
        let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
        let mut header = String::new();
        while reader.read_line(&mut header).is_ok_and(|length| length > 2) {
            header.clear();
        }
        requests.lock().unwrap().push(path.clone());
        let missing = Answer { status: 404, body: Vec::new(), cut: None };
        let answer = answers.lock().unwrap().get(&path).cloned().unwrap_or(missing);
        let head = format!(
            "HTTP/1.1 {} x\r\nContent-Length: {}\r\n\r\n",
            answer.status,
            answer.body.len()
        );
        let body = &answer.body[..answer.cut.unwrap_or(answer.body.len())];
        let sent = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body));
        if sent.is_err() || answer.cut.is_some() {
            return;
        }
        line.clear();
    }
}
