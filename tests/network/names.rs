//! Questions for names of every type, by datagram and by stream (B200, B201).

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use wslr::network::addresses;

use crate::link::{HOST4, HOST6, Link, Options, as_root};
use crate::{PATIENCE, address, connect, wait_for};

/// Types of records (RFC 1035, 3.2.2; RFC 3596; RFC 2782; RFC 9460).
const A: u16 = 1;
const NS: u16 = 2;
const CNAME: u16 = 5;
const SOA: u16 = 6;
const PTR: u16 = 12;
const MX: u16 = 15;
const TXT: u16 = 16;
const AAAA: u16 = 28;
const SRV: u16 = 33;
const HTTPS: u16 = 65;

fn name(name: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for label in name.split('.') {
        bytes.push(label.len() as u8);
        bytes.extend(label.as_bytes());
    }
    bytes.push(0);
    bytes
}

fn question(number: u16, of: &str, kind: u16) -> Vec<u8> {
    let mut message = number.to_be_bytes().to_vec();
    message.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    message.extend(name(of));
    message.extend([kind.to_be_bytes(), [0, 1]].concat());
    message
}

/// The type that is asked for.
fn kind(question: &[u8]) -> u16 {
    let [.., high, low, _, _] = question else { panic!("{question:?}") };
    u16::from_be_bytes([*high, *low])
}

/// What the test's server knows, whatever the name.
fn content(kind: u16) -> Vec<u8> {
    match kind {
        A => vec![192, 0, 2, 1],
        AAAA => "2001:db8::77".parse::<std::net::Ipv6Addr>().unwrap().octets().to_vec(),
        NS | CNAME | PTR => name("other.example"),
        MX => [vec![0, 10], name("mail.example")].concat(),
        // More than fits into a datagram that is not asked to be long.
        TXT => [vec![255], vec![b't'; 255]].concat().repeat(12),
        SOA => [name("ns.example"), name("admin.example"), vec![7; 20]].concat(),
        SRV => [vec![0, 1, 0, 2, 0, 80], name("srv.example")].concat(),
        _ => vec![9; 40],
    }
}

fn answer(question: &[u8], letter: u8) -> Vec<u8> {
    let content = content(kind(question));
    let mut answer = question.to_vec();
    answer[2] |= 0x80;
    answer[7] = 1;
    answer.extend([0xc0, 12]);
    answer.extend(kind(question).to_be_bytes());
    // The server is known by the time for which it lets answers be kept.
    answer.extend([0, 1, 0, 0, 0, letter]);
    answer.extend((content.len() as u16).to_be_bytes());
    answer.extend(content);
    answer
}

/// What goes into a datagram: the question with a mark where the answer is too long.
fn short(question: &[u8], letter: u8) -> Vec<u8> {
    let whole = answer(question, letter);
    if whole.len() <= 512 {
        return whole;
    }
    let mut cut = question.to_vec();
    cut[2] |= 0x82;
    cut
}

/// A server of names; its streams end after so many questions.
fn serve(host: &str, letter: u8, per_stream: usize) {
    let socket = UdpSocket::bind(address(host, 53)).unwrap();
    let listener = TcpListener::bind(address(host, 53)).unwrap();
    thread::spawn(move || {
        let mut bytes = [0; 4096];
        while let Ok((length, from)) = socket.recv_from(&mut bytes) {
            socket.send_to(&short(&bytes[..length], letter), from).unwrap();
        }
    });
    thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            thread::spawn(move || {
                for _ in 0..per_stream {
                    let Some(question) = read_message(&mut stream) else { return };
                    stream.write_all(&with_length(&answer(&question, letter))).unwrap();
                }
            });
        }
    });
}

fn with_length(message: &[u8]) -> Vec<u8> {
    [&(message.len() as u16).to_be_bytes(), message].concat()
}

fn read_message(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut length = [0; 2];
    stream.read_exact(&mut length).ok()?;
    let mut bytes = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut bytes).ok()?;
    Some(bytes)
}

fn by_datagram(server: SocketAddr, question: &[u8]) -> Vec<u8> {
    let any = if server.is_ipv4() { "0.0.0.0" } else { "::" };
    let socket = UdpSocket::bind(address(any, 0)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.connect(server).unwrap();
    socket.send(question).unwrap();
    let mut bytes = [0; 4096];
    let length = socket.recv(&mut bytes).unwrap();
    bytes[..length].to_vec()
}

fn by_stream(server: SocketAddr, questions: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let mut stream = connect(server);
    // All at once: whoever asks need not wait.
    let all: Vec<u8> = questions.iter().flat_map(|question| with_length(question)).collect();
    stream.write_all(&all).unwrap();
    questions.iter().map_while(|_| read_message(&mut stream)).collect()
}

#[test]
fn b200_records_of_every_type_come_by_datagram_and_by_stream() {
    if !as_root() {
        return;
    }
    let link = Link::new();
    serve(HOST4, 4, usize::MAX);
    let kinds = [A, AAAA, MX, TXT, PTR, NS, SOA, CNAME, SRV, HTTPS];
    let questions: Vec<Vec<u8>> = (100..)
        .zip(kinds)
        .map(|(number, kind)| match kind {
            PTR => question(number, "1.2.0.192.in-addr.arpa", kind),
            _ => question(number, "name.example", kind),
        })
        .collect();
    // The resolver's address, and the gateway's of both versions of IP.
    let servers = [
        IpAddr::V4(addresses::RESOLVER),
        IpAddr::V4(link.addresses.gateway4),
        IpAddr::V6(link.addresses.gateway6),
    ];
    for server in servers.map(|server| SocketAddr::new(server, 53)) {
        for question in &questions {
            let (expected, asked) = (short(question, 4), question.clone());
            assert_eq!(link.in_guest(move || by_datagram(server, &asked)), expected);
        }
        let asked = questions.clone();
        let answers = link.in_guest(move || by_stream(server, &asked));
        let expected: Vec<_> = questions.iter().map(|question| answer(question, 4)).collect();
        assert!(answers == expected, "{server}: {} answers", answers.len());
    }
}

#[test]
fn b200_b202_a_change_of_the_resolver_is_seen_by_the_next_question() {
    if !as_root() {
        return;
    }
    let link = Link::new();
    serve(HOST4, 4, 1);
    serve(HOST6, 6, 1);
    serve("127.0.0.53", 53, 1);
    let server = SocketAddr::new(addresses::RESOLVER.into(), 53);
    for (number, (host, letter)) in
        (1..).zip([(HOST6, 6), ("127.0.0.53", 53), (HOST4, 4), (HOST6, 6)])
    {
        fs::write(&link.resolver, format!("nameserver {host}\n")).unwrap();
        let question = question(number, "name.example", MX);
        let asked = question.clone();
        assert_eq!(link.in_guest(move || by_datagram(server, &asked)), answer(&question, letter));
        let asked = vec![question.clone()];
        assert_eq!(link.in_guest(move || by_stream(server, &asked)), [answer(&question, letter)]);
    }
    // Nobody at the first: the second is asked, by stream as well.
    fs::write(&link.resolver, format!("nameserver 127.0.0.9\nnameserver {HOST4}\n")).unwrap();
    let asked = vec![question(9, "name.example", A)];
    let expected = answer(&asked[0], 4);
    let started = Instant::now();
    assert_eq!(link.in_guest(move || by_stream(server, &asked)), [expected]);
    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
    // Nobody at all: the stream ends, or is refused.
    fs::write(&link.resolver, "nameserver 127.0.0.9\n").unwrap();
    let asked = vec![question(10, "name.example", A)];
    assert!(link.in_guest(move || by_stream(server, &asked)).is_empty());
    fs::write(&link.resolver, "").unwrap();
    let error = link.in_guest(move || TcpStream::connect(server).map(drop));
    assert!(error.is_ok() || error.unwrap_err().kind() == ErrorKind::ConnectionRefused);
    wait_for("the flows to end", || link.flows() == 0);
}

#[test]
fn b201_what_the_host_knows_is_found_by_stream_too_beside_what_a_server_knows() {
    if !as_root() {
        return;
    }
    let link = Link::new();
    // One question per stream: a server that ends at rest is asked on another one.
    serve(HOST4, 4, 1);
    fs::write(link.resolver.with_file_name("hosts"), "192.0.2.77 file.example\n").unwrap();
    let server = SocketAddr::new(addresses::RESOLVER.into(), 53);
    let known = |asked: &[u8], count: u8| {
        let mut known = asked.to_vec();
        known[2] = 0x85;
        known[3] = 0x80;
        known[7] = count;
        known
    };
    let own = wslr::network::HOST_NAME;
    let asked = vec![
        question(1, own, A),
        question(2, "file.example", A),
        question(3, own, AAAA),
        question(4, own, MX),
    ];
    let answers = link.in_guest({
        let asked = asked.clone();
        move || by_stream(server, &asked)
    });
    let host4 = link.addresses.host4.octets();
    let host6 = link.addresses.host6.octets();
    let expected: [(u8, &[u8]); 4] = [(1, &host4), (1, &[192, 0, 2, 77]), (1, &host6), (0, &[])];
    assert_eq!(answers.len(), asked.len());
    for ((answer, asked), (count, end)) in answers.iter().zip(&asked).zip(expected) {
        assert!(answer.starts_with(&known(asked, count)) && answer.ends_with(end), "{answer:?}");
    }
    // By datagram it is the same.
    let asked = question(5, own, A);
    let of_datagram = asked.clone();
    let answer = link.in_guest(move || by_datagram(server, &of_datagram));
    assert!(answer.starts_with(&known(&asked, 1)) && answer.ends_with(&host4), "{answer:?}");
    // One stream, with a pause in which the server ends.
    let (first, second) = (question(6, "name.example", A), question(7, "name.example", MX));
    let expected = [super::names::answer(&first, 4), super::names::answer(&second, 4)];
    let answers = link.in_guest(move || {
        let mut stream = connect(server);
        [first, second].map(|question| {
            stream.write_all(&with_length(&question)).unwrap();
            let answer = read_message(&mut stream).unwrap();
            thread::sleep(Duration::from_millis(100));
            answer
        })
    });
    assert_eq!(answers, expected);
    wait_for("the flows to end", || link.flows() == 0);
}

#[test]
fn the_hosts_own_name_is_nobodys_where_its_loopback_is_not_to_be_reached() {
    if !as_root() {
        return;
    }
    let link = Link::with(Options { host_loopback: false, ..Options::default() });
    serve(HOST4, 4, usize::MAX);
    let server = SocketAddr::new(addresses::RESOLVER.into(), 53);
    let asked = question(1, wslr::network::HOST_NAME, A);
    let expected = answer(&asked, 4);
    let of_datagram = asked.clone();
    assert_eq!(link.in_guest(move || by_datagram(server, &of_datagram)), expected);
    assert_eq!(link.in_guest(move || by_stream(server, &[asked])), [expected]);
}

#[test]
fn b220_the_check_tells_a_name_that_is_not_found_from_a_place_that_is_not_reached() {
    use wslr::guest::connectivity::{Unconnected, check};
    if !as_root() {
        return;
    }
    let link = Link::new();
    let directory = tempfile::tempdir().unwrap();
    let settings = directory.path().join("resolv.conf");
    fs::write(&settings, format!("nameserver {}\n", addresses::RESOLVER)).unwrap();
    let hosts = link.resolver.with_file_name("hosts");
    fs::write(hosts, format!("{HOST4} here.example\n")).unwrap();
    let (listener, place) = crate::listener(HOST4);
    let here = format!("here.example:{}", place.port());
    let check = |text: &str| {
        let (text, settings) = (text.to_owned(), settings.clone());
        link.in_guest(move || check(Some(&text), &settings))
    };
    let (target, address) = check(&here).unwrap();
    assert_eq!((target.to_string(), address), (here.clone(), place));
    drop(listener);
    let error = check(&here).unwrap_err();
    let refused = ErrorKind::ConnectionRefused;
    assert!(matches!(&error, Unconnected::Place { source, .. } if source.kind() == refused));
    assert_eq!(error.status(), 3, "{error}");
    // Nobody is asked, or who is asked does not know it.
    let error = check("other.example").unwrap_err();
    let said = "the name 'other.example' cannot be resolved: no resolver answers";
    assert_eq!((error.status(), error.to_string().as_str()), (2, said));
    let server = UdpSocket::bind(crate::address(HOST4, 53)).unwrap();
    thread::spawn(move || {
        let mut bytes = [0; 512];
        while let Ok((length, from)) = server.recv_from(&mut bytes) {
            bytes[2..4].copy_from_slice(&[0x81, 0x83]);
            server.send_to(&bytes[..length], from).unwrap();
        }
    });
    let error = check("other.example").unwrap_err();
    let said = "the name 'other.example' cannot be resolved: there is no such name";
    assert_eq!((error.status(), error.to_string().as_str()), (2, said));
}
