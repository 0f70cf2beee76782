//! The network of version 2: the distro's programs on one side, this machine on the other.

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

use crate::fixture::{ALPHA, BETA, configure, home, in_distro, run_tool, shell};
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
    use_resolver();
    let line = format!("exec 3<>/dev/tcp/host.wslr.internal/{number}; cat <&3");
    for _ in 0..2 {
        let output = in_distro(ALPHA, &["bash", "-c", &line]);
        assert_eq!(String::from_utf8_lossy(&output.stdout), "of the host", "{output:?}");
    }
    server.join().unwrap();
}

/// A perl program for a server of UDP that answers what it is told.
fn echo_server(place: &str, number: u16) -> String {
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

/// Makes names be asked of the machine's resolver.
fn use_resolver() {
    // This distro's settings came with its archive.
    shell(ALPHA, "rm -f /etc/resolv.conf; ln -s /mnt/wsl/resolv.conf /etc/resolv.conf");
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

/// Runs a line that takes long, and says so at once: a silent machine would be ended.
fn slowly(line: &str) -> String {
    let started = Instant::now();
    let output = in_distro(ALPHA, &["sh", "-c", line]);
    let told = format!("{line}: {:?}\n", started.elapsed());
    // Past what keeps a test's output back.
    std::io::stdout().write_all(told.as_bytes()).unwrap();
    assert!(output.status.success(), "{line}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
#[ignore = "needs a KVM that boots stock kernels"]
fn long_w_b206_apt_installs_packages_and_a_namespace_of_the_users_own_has_the_network() {
    use_resolver();
    slowly("apt-get -q update");
    let packages = "curl iproute2 nftables";
    slowly(&format!("DEBIAN_FRONTEND=noninteractive apt-get -q -y install {packages}"));
    let fetch = "curl -sSf --retry 3 http://deb.debian.org/debian/dists/trixie/InRelease";
    let expected = "-----BEGIN PGP SIGNED MESSAGE-----\n";
    assert_eq!(slowly(&format!("{fetch} | head -n 1")), expected);
    // Modules of the kernel come as they are needed: nothing here loads any.
    slowly(
        "set -e\n\
         ip netns add inner\n\
         ip link add br0 type bridge\n\
         ip addr add 10.77.0.1/24 dev br0\n\
         ip link set br0 up\n\
         ip link add veth0 type veth peer name veth1 netns inner\n\
         ip link set veth0 master br0 up\n\
         ip -n inner addr add 10.77.0.2/24 dev veth1\n\
         ip -n inner link set veth1 up\n\
         ip -n inner route add default via 10.77.0.1\n\
         echo 1 >/proc/sys/net/ipv4/ip_forward\n\
         nft add table ip own\n\
         nft 'add chain ip own out { type nat hook postrouting priority srcnat; }'\n\
         nft add rule ip own out ip saddr 10.77.0.0/24 masquerade",
    );
    assert_eq!(slowly(&format!("ip netns exec inner {fetch} | head -n 1")), expected);
    // A server in it is not the distro's, let alone the host's (B205).
    let server = echo_server("0.0.0.0", 8213);
    let words = ["ip", "netns", "exec", "inner", "perl", "-MIO::Socket::IP", "-e", &server];
    let mut test = home().wslr(["-d", ALPHA, "--"]);
    let command = test.command().args(words).stdin(std::process::Stdio::null());
    let mut session = command.spawn().unwrap();
    let listens = "ip netns exec inner ss -Hlun | grep -c 8213 || true";
    wait_for("the server", || shell(ALPHA, listens) == "1\n");
    assert!(port(8213).is_none());
    session.kill().unwrap();
    session.wait().unwrap();
    slowly("ip netns delete inner; ip link delete br0; nft delete table ip own");
}

#[test]
#[ignore = "needs a KVM that boots stock kernels"]
fn z_b196_an_isolated_distro_has_a_network_of_its_own() {
    configure(&format!("[wslr]\nisolatedDistributions={BETA}\n"));
    home().wslr(["--shutdown"]).run();
    let network = |distro| shell(distro, "readlink /proc/self/ns/net");
    assert_ne!(network(ALPHA), network(BETA));
    let told = shell(BETA, "ls /sys/class/net | xargs; wslinfo --networking-mode");
    assert_eq!(told, "eth0 lo\nnat\n");
    let host = own_address();
    let listener = TcpListener::bind((host, 0)).unwrap();
    let number = listener.local_addr().unwrap().port();
    let server = thread::spawn(move || {
        listener.accept().unwrap().0.write_all(b"of the machine").unwrap();
    });
    let read = |place: &str| {
        let line = format!("exec 3<>/dev/tcp/{place} && cat <&3");
        in_distro(BETA, &["bash", "-c", &line])
    };
    let output = read(&format!("{host}/{number}"));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "of the machine", "{output:?}");
    server.join().unwrap();
    // Names are found, the host's loopback is not.
    shell(BETA, "rm -f /etc/resolv.conf; ln -s /mnt/wsl/resolv.conf /etc/resolv.conf");
    shell(BETA, "getent hosts deb.debian.org");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let number = listener.local_addr().unwrap().port();
    assert!(!read(&format!("host.wslr.internal/{number}")).status.success());
    // Both listen on one port, of which one is the host's.
    let server = |what: &str| {
        format!(
            "$s = IO::Socket::IP->new(LocalPort => 8221, Listen => 5) or die $!; $| = 1; \
             print 'listens'; while ($c = $s->accept) {{ print $c '{what}'; close $c }}"
        )
    };
    let mut sessions = [BETA, ALPHA].map(|distro| {
        let mut test = home().wslr(["-d", distro, "--", "perl", "-MIO::Socket::IP", "-e"]);
        let command = test.command().arg(server(distro)).stdin(std::process::Stdio::null());
        let mut session = command.stdout(std::process::Stdio::piped()).spawn().unwrap();
        let mut said = [0; 7];
        session.stdout.as_mut().unwrap().read_exact(&mut said).unwrap();
        assert_eq!(&said, b"listens", "{distro}");
        session
    });
    wait_for("the port", || TcpStream::connect("127.0.0.1:8221").is_ok());
    let mut answer = String::new();
    TcpStream::connect("127.0.0.1:8221").unwrap().read_to_string(&mut answer).unwrap();
    assert_eq!(answer, ALPHA);
    assert_eq!(port(8221).unwrap()["distribution"], ALPHA);
    for session in &mut sessions {
        session.kill().unwrap();
        session.wait().unwrap();
    }
    configure("");
    home().wslr(["--shutdown"]).run();
}

#[test]
#[ignore = "needs a KVM that boots stock kernels"]
fn z_b197_ipv6_reaches_another_host_from_end_to_end() {
    let ip_with =
        |line: &str, statuses| run_tool("ip", &line.split(' ').collect::<Vec<_>>(), statuses);
    let ip = |line| ip_with(line, &[0]);
    ip("netns add other");
    ip("link add six0 type veth peer name six1 netns other");
    ip("-6 addr add 2001:db8:5::1/64 dev six0 nodad");
    ip("link set six0 up");
    ip("-n other -6 addr add 2001:db8:5::2/64 dev six1 nodad");
    ip("-n other link set six1 up");
    // What decides whether the distro has a way out by IPv6; one may be there.
    ip_with("-6 route add default via 2001:db8:5::2", &[0, 2]);
    home().wslr(["--shutdown"]).run();
    let other = fs::File::open("/run/netns/other").unwrap();
    let server = thread::spawn(move || {
        nix::sched::setns(other, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        let listener = TcpListener::bind("[2001:db8:5::2]:8300").unwrap();
        let (mut stream, from) = listener.accept().unwrap();
        let mut question = [0; 8];
        stream.read_exact(&mut question).unwrap();
        stream.write_all(b"of the other host").unwrap();
        (question, from.ip())
    });
    let line = "exec 3<>/dev/tcp/2001:db8:5::2/8300; printf question >&3; cat <&3";
    let output = in_distro(ALPHA, &["bash", "-c", line]);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "of the other host", "{output:?}");
    let (question, from) = server.join().unwrap();
    assert_eq!((&question, from), (b"question", "2001:db8:5::1".parse().unwrap()));
    // Nobody listens there any more.
    let output = in_distro(ALPHA, &["bash", "-c", line]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("Connection refused"), "{output:?}");
    ip("link delete six0");
    ip("netns delete other");
    home().wslr(["--shutdown"]).run();
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
    use_resolver();
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
