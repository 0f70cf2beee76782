//! The network of version 2: the distro's programs on one side, this machine on the other.

use std::io::{Read, Write};
use std::net::{IpAddr, TcpListener, UdpSocket};
use std::thread;

use sha2::{Digest, Sha256};

use crate::fixture::{ALPHA, in_distro, shell};

/// The address of this machine that others reach it by.
fn own_address() -> IpAddr {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    // Nothing is sent by that.
    socket.connect("192.0.2.1:9").unwrap();
    socket.local_addr().unwrap().ip()
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
fn b197_a_name_is_found_and_its_server_answers() {
    // This distro's settings came with its archive.
    shell(ALPHA, "rm -f /etc/resolv.conf; ln -s /mnt/wsl/resolv.conf /etc/resolv.conf");
    shell(ALPHA, "getent hosts deb.debian.org");
    let request = "HEAD /debian/dists/trixie/InRelease HTTP/1.1\\r\\nHost: deb.debian.org\\r\\n\
                   User-Agent: wslr\\r\\nConnection: close\\r\\n\\r\\n";
    let line = format!("exec 3<>/dev/tcp/deb.debian.org/80; printf '{request}' >&3; head -n 1 <&3");
    let output = in_distro(ALPHA, &["bash", "-c", &line]);
    let answer = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(answer.starts_with("HTTP/1.") && answer.contains(" 200 "), "{output:?}");
}
