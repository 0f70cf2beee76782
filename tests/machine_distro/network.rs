//! The network of version 2: the distro's programs on one side, this machine on the other.

use std::io::{Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;

use sha2::{Digest, Sha256};

use crate::fixture::{ALPHA, configure, home, in_distro, shell};
use crate::support::wait_for;

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

#[test]
#[ignore = "needs a KVM that boots stock kernels"]
fn b173_a_distro_is_told_how_it_is_connected() {
    let output = in_distro(ALPHA, &["wslinfo", "--networking-mode"]);
    assert_eq!((output.stdout.as_slice(), output.stderr.as_slice()), (&b"nat\n"[..], &b""[..]));
    let output = in_distro(ALPHA, &["wslinfo", "--invalid"]);
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(1), &b""[..]));
}

/// What `--status` says of a port.
fn port(number: u16) -> Option<serde_json::Value> {
    let output = home().wslr(["--status", "--json"]).command().output().unwrap();
    let status: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    status["ports"].as_array().unwrap().iter().find(|port| port["port"] == number).cloned()
}

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
    // This distro's settings came with its archive.
    shell(ALPHA, "rm -f /etc/resolv.conf; ln -s /mnt/wsl/resolv.conf /etc/resolv.conf");
    let line = format!("exec 3<>/dev/tcp/host.wslr.internal/{number}; cat <&3");
    for _ in 0..2 {
        let output = in_distro(ALPHA, &["bash", "-c", &line]);
        assert_eq!(String::from_utf8_lossy(&output.stdout), "of the host", "{output:?}");
    }
    server.join().unwrap();
}

#[test]
#[ignore = "needs a KVM that boots stock kernels"]
fn z_b207_b209_b212_the_network_is_as_the_settings_have_it() {
    configure("networkingMode=none\n");
    home().wslr(["--shutdown"]).run();
    assert_eq!(shell(ALPHA, "ls /sys/class/net; wslinfo --networking-mode"), "lo\nnone\n");
    configure("networkingMode=mirrored\nlocalhostForwarding=false\n[wslr]\nhostLoopback=false\n");
    home().wslr(["--shutdown"]).run();
    let output = in_distro(ALPHA, &["wslinfo", "-n", "--networking-mode"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("falling back to networkingMode nat"), "{said}");
    assert_eq!(output.stdout, b"nat");
    // Neither way through the loopback addresses.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let number = listener.local_addr().unwrap().port();
    shell(ALPHA, "rm -f /etc/resolv.conf; ln -s /mnt/wsl/resolv.conf /etc/resolv.conf");
    let line = format!("exec 3<>/dev/tcp/host.wslr.internal/{number}");
    assert!(!in_distro(ALPHA, &["bash", "-c", &line]).status.success());
    let server = "$s = IO::Socket::IP->new(LocalPort => 8203, Listen => 5) or die $!; \
                  $| = 1; print 'listens'; sleep 3600";
    let mut test = home().wslr(["-d", ALPHA, "--", "perl", "-MIO::Socket::IP", "-e", server]);
    let output = test.command().stdin(std::process::Stdio::null());
    let mut session = output.stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut said = [0; 7];
    session.stdout.take().unwrap().read_exact(&mut said).unwrap();
    assert_eq!((&said, port(8203)), (b"listens", None));
    assert!(TcpStream::connect("127.0.0.1:8203").is_err());
    session.kill().unwrap();
    session.wait().unwrap();
    configure("");
    home().wslr(["--shutdown"]).run();
}
