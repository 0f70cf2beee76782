//! What `benches/network_rig` runs on both sides of a guest's network: small questions, whose
//! number in a second says what each costs. It is one file without dependencies, and so a
//! program that runs in any guest.
//!
//! `serve ADDRESS` answers there, and names on 127.0.0.1; `ask ADDRESS RESOLVER` asks.

#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used)]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

const ECHO: u16 = 7001;
const GREETER: u16 = 7002;
/// How long each kind of question is asked.
const TIME: Duration = Duration::from_secs(4);
const PATIENCE: Option<Duration> = Some(Duration::from_secs(2));

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["serve", address] => serve(address),
        ["ask", address, resolver] => ask(address, resolver),
        _ => println!("network_ask: skipped, it is a part of benches/network_rig"),
    }
}

fn serve(address: &str) {
    let echo = TcpListener::bind((address, ECHO)).unwrap();
    let greeter = TcpListener::bind((address, GREETER)).unwrap();
    let datagrams = UdpSocket::bind((address, ECHO)).unwrap();
    let names = UdpSocket::bind("127.0.0.1:53").unwrap();
    thread::spawn(move || {
        for stream in echo.incoming() {
            let mut stream = stream.unwrap();
            thread::spawn(move || {
                stream.set_nodelay(true).unwrap();
                while stream.read_exact(&mut [0]).is_ok() && stream.write_all(&[1]).is_ok() {}
            });
        }
    });
    thread::spawn(move || {
        for stream in greeter.incoming() {
            let _ = stream.unwrap().write_all(&[1]);
        }
    });
    thread::spawn(move || answer(&datagrams, <[u8]>::to_vec));
    answer(&names, |question| {
        // The question alone, and one address.
        let end = 12 + question[12..].iter().position(|byte| *byte == 0).unwrap() + 5;
        let mut answer = question[..end].to_vec();
        answer[2..12].copy_from_slice(&[0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0]);
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4, 192, 0, 2, 1]);
        answer
    });
}

fn answer(socket: &UdpSocket, to: impl Fn(&[u8]) -> Vec<u8>) {
    let mut bytes = [0; 512];
    while let Ok((length, from)) = socket.recv_from(&mut bytes) {
        let _ = socket.send_to(&to(&bytes[..length]), from);
    }
}

/// Asks for [`TIME`] and prints how often a second that was.
fn measure(what: &str, mut once: impl FnMut(u32) -> bool) {
    let (mut count, mut lost) = (0_u32, 0);
    let started = Instant::now();
    while started.elapsed() < TIME {
        count += 1;
        lost += u32::from(!once(count));
    }
    let rate = f64::from(count) / started.elapsed().as_secs_f64();
    println!("{what}: {rate:.0} per second, {lost} lost");
}

fn ask(address: &str, resolver: &str) {
    let mut stream = TcpStream::connect((address, ECHO)).unwrap();
    stream.set_nodelay(true).unwrap();
    measure("requests", |_| stream.write_all(&[1]).is_ok() && stream.read_exact(&mut [0]).is_ok());
    measure("connections", |_| {
        let stream = TcpStream::connect((address, GREETER));
        stream.and_then(|mut stream| stream.read_exact(&mut [0])).is_ok()
    });
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.set_read_timeout(PATIENCE).unwrap();
    socket.connect((address, ECHO)).unwrap();
    measure("datagrams", |_| socket.send(&[1; 40]).is_ok() && socket.recv(&mut [0; 512]).is_ok());
    measure("names", |number| {
        // As a program does that asks once: with a socket of its own.
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.set_read_timeout(PATIENCE).unwrap();
        let [.., high, low] = number.to_be_bytes();
        let mut question = vec![high, low, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        question.extend(b"\x04name\x07example\0\0\x01\0\x01");
        let mut bytes = [0; 512];
        socket.send_to(&question, (resolver, 53)).is_ok()
            && socket.recv(&mut bytes).is_ok()
            && bytes[..2] == [high, low]
    });
}
