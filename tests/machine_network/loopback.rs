//! Ports of a distro are on the host's loopback addresses, and the host's have a name there.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::Duration;

use crate::fixture::{ALPHA, home, in_distro};
use crate::support::wait_for;
use crate::{port, use_resolver};

#[test]
#[ignore = "needs a KVM that boots stock kernels"]
fn b204_b205_a_port_of_a_distro_is_the_hosts_while_somebody_listens() {
    // Two families, one of them the loopback's only.
    for (address, number) in [("127.0.0.1", 8201), ("[::]", 8202)] {
        let server = format!(
            "$s = IO::Socket::IP->new(LocalHost => '{address}', LocalPort => {number}, Listen => 5) \
             or die $!; while ($c = $s->accept) {{ print $c 'of the distro'; close $c }}"
        );
        let mut test = home().wslr(["-d", ALPHA, "--", "perl", "-MIO::Socket::IP", "-e", &server]);
        let mut session = test.command().stdin(std::process::Stdio::null()).spawn().unwrap();
        wait_for("the port", || TcpStream::connect(("127.0.0.1", number)).is_ok());
        for host in ["127.0.0.1", "::1"] {
            let mut answer = String::new();
            TcpStream::connect((host, number)).unwrap().read_to_string(&mut answer).unwrap();
            assert_eq!(answer, "of the distro", "{address} {host}");
        }
        let port = port(number).unwrap();
        assert_eq!(port["distribution"], ALPHA, "{port}");
        assert_eq!(
            (&port["process"], &port["state"]),
            (&"perl".into(), &"active".into()),
            "{port}"
        );
        // As a user would by Ctrl-C: the command ends, and what it ran with it.
        session.kill().unwrap();
        session.wait().unwrap();
        wait_for("its end", || TcpStream::connect(("127.0.0.1", number)).is_err());
        wait_for("its end in the status", || self::port(number).is_none());
    }
}

#[test]
#[ignore = "needs a KVM that boots stock kernels"]
fn the_hosts_own_services_are_reached_by_the_name_that_stands_for_it() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let number = listener.local_addr().unwrap().port();
    let server = thread::spawn(move || {
        for _ in 0..2 {
            listener.accept().unwrap().0.write_all(b"of the host").unwrap();
        }
    });
    use_resolver(ALPHA);
    let line = format!("exec 3<>/dev/tcp/host.wslr.internal/{number}; cat <&3");
    for _ in 0..2 {
        let output = in_distro(ALPHA, &["bash", "-c", &line]);
        assert_eq!(String::from_utf8_lossy(&output.stdout), "of the host", "{output:?}");
    }
    server.join().unwrap();
}

/// A perl program for a server of UDP that answers what it is told.
pub fn echo_server(place: &str, number: u16) -> String {
    format!(
        "$s = IO::Socket::IP->new(LocalHost => '{place}', LocalPort => {number}, \
         Proto => 'udp') or die $!; while ($f = recv($s, $b, 2000, 0)) {{ send($s, $b, 0, $f) }}"
    )
}

#[test]
#[ignore = "needs a KVM that boots stock kernels"]
fn b205_datagrams_reach_a_server_in_the_distro_on_its_loopback_too() {
    for (place, number) in [("0.0.0.0", 8211), ("127.0.0.1", 8212)] {
        let server = echo_server(place, number);
        let mut test = home().wslr(["-d", ALPHA, "--", "perl", "-MIO::Socket::IP", "-e", &server]);
        let mut session = test.command().stdin(std::process::Stdio::null()).spawn().unwrap();
        let loopback = SocketAddr::from(([127, 0, 0, 1], number));
        wait_for("the port", || UdpSocket::bind(loopback).is_err());
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        client.connect(loopback).unwrap();
        client.send(b"datagram").unwrap();
        let mut bytes = [0; 100];
        let length = client.recv(&mut bytes).unwrap();
        assert_eq!(&bytes[..length], b"datagram", "{place}");
        session.kill().unwrap();
        session.wait().unwrap();
        wait_for("its end", || UdpSocket::bind(loopback).is_ok());
    }
}
