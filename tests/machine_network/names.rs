//! Names are the host's: its resolver is asked, and its changes are followed.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv6Addr, TcpListener, UdpSocket};
use std::thread;

use crate::containers::{install, slowly};
use crate::fixture::{ALPHA, in_distro, shell};
use crate::use_resolver;

#[test]
#[ignore = "needs a KVM that boots stock kernels"]
fn b197_a_name_is_found_and_its_server_answers() {
    use_resolver(ALPHA);
    shell(ALPHA, "getent hosts deb.debian.org");
    let request = "HEAD /debian/dists/trixie/InRelease HTTP/1.1\\r\\nHost: deb.debian.org\\r\\n\
                   User-Agent: wslr\\r\\nConnection: close\\r\\n\\r\\n";
    let line = format!("exec 3<>/dev/tcp/deb.debian.org/80; printf '{request}' >&3; head -n 1 <&3");
    let output = in_distro(ALPHA, &["bash", "-c", &line]);
    let answer = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(answer.starts_with("HTTP/1.") && answer.contains(" 200 "), "{output:?}");
}

#[test]
#[ignore = "needs a KVM that boots stock kernels"]
fn b220_the_check_tells_at_which_step_the_world_is_lost() {
    use_resolver(ALPHA);
    let check = |place: &[&str]| {
        let words = [&["wslinfo", "--check-connectivity"], place].concat();
        let output = in_distro(ALPHA, &words);
        let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        (output.status.code(), said)
    };
    let (status, said) = check(&[]);
    assert!(status == Some(0) && said.starts_with("'deb.debian.org:80' ("), "{said}");
    let (status, said) = check(&["nobody.invalid"]);
    assert!(status == Some(2) && said.contains("'nobody.invalid' cannot be resolved"), "{said}");
    let (status, said) = check(&["host.wslr.internal:9"]);
    assert!(status == Some(3) && said.contains("Connection refused"), "{said}");
}

/// The machine's settings of the resolver, restored when this is dropped.
struct Settings(Vec<u8>);

const RESOLVER: &str = "/etc/resolv.conf";

impl Settings {
    fn keep() -> Self {
        Self(fs::read(RESOLVER).unwrap())
    }
}

impl Drop for Settings {
    fn drop(&mut self) {
        fs::write(RESOLVER, &self.0).unwrap();
    }
}

/// What the server knows of every name, by the type of record (RFC 1035, 3.2.2; RFC 3596).
fn content(kind: u16, last: u8) -> Option<Vec<u8>> {
    const OTHER: &[u8] = b"\x05other\x07example\0";
    Some(match kind {
        1 => vec![192, 0, 2, last],
        12 => OTHER.to_vec(),
        15 => [&[0, 10], OTHER].concat(),
        16 => b"\x05hello".to_vec(),
        28 => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last.into()).octets().to_vec(),
        _ => return None,
    })
}

fn answer(question: &[u8], last: u8) -> Vec<u8> {
    // Without what is additional to the question.
    let end = 12 + question[12..].iter().position(|byte| *byte == 0).unwrap() + 5;
    let kind = u16::from_be_bytes([question[end - 4], question[end - 3]]);
    let content = content(kind, last);
    let mut answer = question[..end].to_vec();
    answer[2..12].copy_from_slice(&[0x81, 0x80, 0, 1, 0, content.is_some().into(), 0, 0, 0, 0]);
    if let Some(content) = content {
        answer.extend([0xc0, 12]);
        answer.extend(kind.to_be_bytes());
        answer.extend([0, 1, 0, 0, 0, 0]);
        answer.extend((content.len() as u16).to_be_bytes());
        answer.extend(content);
    }
    answer
}

/// A server of names, whose addresses end in that number.
fn serve_names(at: &str, last: u8) {
    let socket = UdpSocket::bind((at, 53)).unwrap();
    let listener = TcpListener::bind((at, 53)).unwrap();
    thread::spawn(move || {
        let mut bytes = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut bytes) {
            socket.send_to(&answer(&bytes[..length], last), from).unwrap();
        }
    });
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut length = [0; 2];
            while stream.read_exact(&mut length).is_ok() {
                let mut question = vec![0; u16::from_be_bytes(length).into()];
                stream.read_exact(&mut question).unwrap();
                let answer = answer(&question, last);
                let length = (answer.len() as u16).to_be_bytes();
                stream.write_all(&[&length, answer.as_slice()].concat()).unwrap();
            }
        }
    });
}

#[test]
#[ignore = "needs a KVM that boots stock kernels"]
fn b202_a_change_of_the_hosts_resolver_is_seen_by_the_next_question() {
    use_resolver(ALPHA);
    let settings = Settings::keep();
    for (at, last) in [("127.0.0.1", 1), ("127.0.0.2", 2)] {
        serve_names(at, last);
        fs::write(RESOLVER, format!("nameserver {at}\n")).unwrap();
        let found = shell(ALPHA, "getent ahostsv4 name.example | head -n 1");
        assert!(found.starts_with(&format!("192.0.2.{last} ")), "{found}");
    }
    drop(settings);
    shell(ALPHA, "getent hosts deb.debian.org");
}

#[test]
#[ignore = "needs a KVM that boots stock kernels"]
fn long_b200_dig_has_records_of_every_type_by_datagram_and_by_stream() {
    use_resolver(ALPHA);
    install("--no-install-recommends bind9-dnsutils");
    let settings = Settings::keep();
    serve_names("127.0.0.3", 3);
    fs::write(RESOLVER, "nameserver 127.0.0.3\n").unwrap();
    for protocol in ["+notcp", "+tcp"] {
        for (words, expected) in [
            ("name.example A", "192.0.2.3\n"),
            ("name.example AAAA", "2001:db8::3\n"),
            ("name.example MX", "10 other.example.\n"),
            ("name.example TXT", "\"hello\"\n"),
            ("-x 192.0.2.3", "other.example.\n"),
        ] {
            let line = format!("dig +short +tries=1 +time=20 {protocol} {words}");
            assert_eq!(slowly(&line), expected, "{line}");
        }
    }
    drop(settings);
}
