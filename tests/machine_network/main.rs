//! The network of version 2: the distro's programs on one side, this machine on the other.
//!
//! The tests share the home of `fixture`. The rig runs them.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "these are tests")]

mod containers;
#[path = "../support/fixture.rs"]
mod fixture;
mod loopback;
mod names;
mod settings;
#[path = "../support/mod.rs"]
mod support;

use std::io::{Read, Write};
use std::net::{IpAddr, TcpListener, UdpSocket};
use std::process::{Child, Stdio};
use std::thread;

use sha2::{Digest, Sha256};

use fixture::{ALPHA, home, in_distro, shell};

/// The address of this machine that others reach it by.
fn own_address() -> IpAddr {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    // Nothing is sent by that.
    socket.connect("192.0.2.1:9").unwrap();
    socket.local_addr().unwrap().ip()
}

/// Runs a Perl program in a distro that prints `listens` when it does; waits until then.
fn start_listener(distro: &str, program: &str) -> Child {
    let mut test = home().wslr(["-d", distro, "--", "perl", "-MIO::Socket::IP", "-e", program]);
    let command = test.command().stdin(Stdio::null()).stdout(Stdio::piped());
    let mut session = command.spawn().unwrap();
    let mut said = [0; 7];
    session.stdout.as_mut().unwrap().read_exact(&mut said).unwrap();
    assert_eq!(&said, b"listens", "{distro}");
    session
}

/// What `--status` says of a port.
fn port(number: u16) -> Option<serde_json::Value> {
    let output = home().wslr(["--status", "--json"]).command().output().unwrap();
    let status: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    status["ports"].as_array().unwrap().iter().find(|port| port["port"] == number).cloned()
}

/// Makes names be asked of the machine's resolver.
fn use_resolver(distro: &str) {
    // Its settings came with its archive.
    shell(distro, "rm -f /etc/resolv.conf; ln -s /mnt/wsl/resolv.conf /etc/resolv.conf");
}

#[test]
#[ignore = "needs a KVM that boots stock kernels"]
fn b196_b198_there_is_an_interface_a_gateway_and_a_resolver() {
    let routes = shell(ALPHA, "cat /proc/net/route");
    assert!(routes.lines().any(|line| line.starts_with("eth0\t00000000\t")), "{routes}");
    assert!(shell(ALPHA, "cat /proc/net/fib_trie").contains("172."));
    // B211: the address of WSL's user-mode network.
    assert_eq!(shell(ALPHA, "cat /sys/class/net/eth0/address"), "00:00:00:00:01:00\n");
    let resolver = shell(ALPHA, "cat /mnt/wsl/resolv.conf");
    assert!(resolver.contains("\nnameserver 10.255.255.254\n"), "{resolver}");
}

#[test]
#[ignore = "needs a KVM that boots stock kernels"]
fn b197_connections_carry_data_and_are_refused_where_nobody_listens() {
    let address = own_address();
    let listener = TcpListener::bind((address, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let bytes: Vec<u8> = (0..8 << 20).map(|number: u32| (number % 251) as u8).collect();
    let expected = Sha256::digest(&bytes);
    let server = thread::spawn(move || {
        let mut stream = listener.accept().unwrap().0;
        stream.write_all(&bytes).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        drop(bytes);
        let mut stream = listener.accept().unwrap().0;
        let mut arrived = Vec::new();
        stream.read_to_end(&mut arrived).unwrap();
        arrived
    });
    let place = format!("/dev/tcp/{address}/{port}");
    let line = format!("exec 3<>{place}; cat <&3 >/tmp/bytes; cat /tmp/bytes >{place}");
    let output = in_distro(ALPHA, &["bash", "-c", &line]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(Sha256::digest(server.join().unwrap()), expected);

    let output = in_distro(ALPHA, &["bash", "-c", &format!("exec 3<>/dev/tcp/{address}/9")]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("Connection refused"), "{output:?}");
}

#[test]
#[ignore = "needs a KVM that boots stock kernels"]
fn b173_a_distro_is_told_how_it_is_connected() {
    let output = in_distro(ALPHA, &["wslinfo", "--networking-mode"]);
    assert_eq!((output.stdout.as_slice(), output.stderr.as_slice()), (&b"nat\n"[..], &b""[..]));
    let output = in_distro(ALPHA, &["wslinfo", "--invalid"]);
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(1), &b""[..]));
}

#[test]
#[ignore = "needs a KVM that boots stock kernels"]
fn z_after_a_shutdown_nothing_runs_and_the_disks_are_clean() {
    fixture::end();
}
