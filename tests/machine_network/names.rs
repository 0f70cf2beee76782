//! Names are the host's: its resolver is asked, and its changes are followed.

use std::fs;
use std::net::UdpSocket;
use std::thread;

use crate::fixture::{ALPHA, in_distro, shell};
use crate::use_resolver;

#[test]
#[ignore = "needs a KVM that boots stock kernels"]
fn b197_a_name_is_found_and_its_server_answers() {
    use_resolver();
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
    use_resolver();
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

/// A server that gives every name that address.
fn serve_names(at: &str, address: [u8; 4]) {
    let socket = UdpSocket::bind((at, 53)).unwrap();
    thread::spawn(move || {
        let mut bytes = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut bytes) {
            let mut answer = bytes[..length].to_vec();
            // Without what is additional to the question.
            let end = 12 + answer[12..].iter().position(|byte| *byte == 0).unwrap() + 5;
            let is_for_it = answer[end - 3] == 1;
            answer.truncate(end);
            answer[2..12].copy_from_slice(&[0x81, 0x80, 0, 1, 0, is_for_it.into(), 0, 0, 0, 0]);
            if is_for_it {
                answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4]);
                answer.extend(address);
            }
            socket.send_to(&answer, from).unwrap();
        }
    });
}

#[test]
#[ignore = "needs a KVM that boots stock kernels"]
fn b202_a_change_of_the_hosts_resolver_is_seen_by_the_next_question() {
    use_resolver();
    let settings = Settings::keep();
    for (at, last) in [("127.0.0.1", 1), ("127.0.0.2", 2)] {
        serve_names(at, [192, 0, 2, last]);
        fs::write(RESOLVER, format!("nameserver {at}\n")).unwrap();
        let found = shell(ALPHA, "getent ahostsv4 name.example | head -n 1");
        assert!(found.starts_with(&format!("192.0.2.{last} ")), "{found}");
    }
    drop(settings);
    shell(ALPHA, "getent hosts deb.debian.org");
}
