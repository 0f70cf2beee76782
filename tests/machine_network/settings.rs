//! What needs a machine that was started anew: other settings, another network of the host.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::thread;

use crate::fixture::{ALPHA, BETA, home, in_distro, restart_with, run_tool, shell};
use crate::support::wait_for;
use crate::{own_address, port, start_listener, use_resolver};

#[test]
#[ignore = "needs a KVM that boots stock kernels"]
fn z_b196_an_isolated_distro_has_a_network_of_its_own() {
    restart_with(&format!("[wslr]\nisolatedDistributions={BETA}\n"));
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
    use_resolver(BETA);
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
    let mut sessions = [BETA, ALPHA].map(|distro| start_listener(distro, &server(distro)));
    wait_for("the port", || TcpStream::connect("127.0.0.1:8221").is_ok());
    let mut answer = String::new();
    TcpStream::connect("127.0.0.1:8221").unwrap().read_to_string(&mut answer).unwrap();
    assert_eq!(answer, ALPHA);
    assert_eq!(port(8221).unwrap()["distribution"], ALPHA);
    for session in &mut sessions {
        session.kill().unwrap();
        session.wait().unwrap();
    }
    restart_with("");
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
fn z_b205_a_kernel_without_ipv6_has_its_ports_on_the_host_all_the_same() {
    restart_with("kernelCommandLine=ipv6.disable=1\n");
    assert_eq!(shell(ALPHA, "ls /proc/net/if_inet6 2>/dev/null || true"), "");
    let server = "$s = IO::Socket::INET->new(LocalAddr => '127.0.0.1', LocalPort => 8231, \
                  Listen => 5) or die $!; while ($c = $s->accept) { print $c 'four'; close $c }";
    let mut test = home().wslr(["-d", ALPHA, "--", "perl", "-MIO::Socket::INET", "-e", server]);
    let mut session = test.command().stdin(std::process::Stdio::null()).spawn().unwrap();
    wait_for("the port", || TcpStream::connect("127.0.0.1:8231").is_ok());
    let mut answer = String::new();
    TcpStream::connect("127.0.0.1:8231").unwrap().read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "four");
    // And the other way.
    let listener = TcpListener::bind((own_address(), 0)).unwrap();
    let place = listener.local_addr().unwrap();
    let server = thread::spawn(move || listener.accept().unwrap().0.write_all(b"host").unwrap());
    let line = format!("exec 3<>/dev/tcp/{}/{}; cat <&3", place.ip(), place.port());
    assert_eq!(in_distro(ALPHA, &["bash", "-c", &line]).stdout, b"host");
    server.join().unwrap();
    session.kill().unwrap();
    session.wait().unwrap();
    restart_with("");
}

#[test]
#[ignore = "needs a KVM that boots stock kernels"]
fn z_b207_b209_b212_the_network_is_as_the_settings_have_it() {
    restart_with("networkingMode=none\n");
    assert_eq!(shell(ALPHA, "ls /sys/class/net; wslinfo --networking-mode"), "lo\nnone\n");
    restart_with("networkingMode=bridged\nlocalhostForwarding=false\n[wslr]\nhostLoopback=false\n");
    let output = in_distro(ALPHA, &["wslinfo", "-n", "--networking-mode"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("falling back to networkingMode nat"), "{said}");
    assert_eq!(output.stdout, b"nat");
    // Neither way through the loopback addresses.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let number = listener.local_addr().unwrap().port();
    use_resolver(ALPHA);
    let line = format!("exec 3<>/dev/tcp/host.wslr.internal/{number}");
    assert!(!in_distro(ALPHA, &["bash", "-c", &line]).status.success());
    let server = "$s = IO::Socket::IP->new(LocalPort => 8203, Listen => 5) or die $!; \
                  $| = 1; print 'listens'; sleep 3600";
    let mut session = start_listener(ALPHA, server);
    assert_eq!(port(8203), None);
    assert!(TcpStream::connect("127.0.0.1:8203").is_err());
    session.kill().unwrap();
    session.wait().unwrap();
    restart_with("");
}

#[test]
#[ignore = "needs a KVM that boots stock kernels"]
fn z_b213_b214_the_ports_of_distros_and_of_the_host_are_one() {
    restart_with(&format!("networkingMode=mirrored\n[wslr]\nisolatedDistributions={BETA}\n"));
    let listener = TcpListener::bind("127.0.0.1:8231").unwrap();
    let socket = UdpSocket::bind("127.0.0.1:8232").unwrap();
    let output = in_distro(ALPHA, &["wslinfo", "-n", "--networking-mode"]);
    assert_eq!((output.stdout.as_slice(), output.stderr.as_slice()), (&b"mirrored"[..], &b""[..]));
    // What the host has at the start of the machine, and each of the two for itself.
    let bind = |distro, kind: &str, port: u16| {
        let program = format!(
            "IO::Socket::IP->new(LocalHost => '127.0.0.1', LocalPort => {port}, {kind}) or die $@"
        );
        let output = in_distro(distro, &["perl", "-MIO::Socket::IP", "-e", &program]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success() || said.contains("Address already in use"), "{said}");
        output.status.success()
    };
    let (tcp, udp) = ("Listen => 5", "Proto => 'udp'");
    assert!(!bind(ALPHA, tcp, 8231) && bind(ALPHA, udp, 8231));
    assert!(bind(ALPHA, tcp, 8232) && !bind(ALPHA, udp, 8232));
    // The host's services by the loopback address, whose own they seem to be.
    let server = thread::spawn(move || {
        listener.accept().unwrap().0.write_all(b"of the host").unwrap();
        listener
    });
    let ask = "$s = IO::Socket::IP->new(PeerHost => '127.0.0.1', PeerPort => 8231) or die $@; \
               print $s->peerhost, ' ', <$s>";
    let output = in_distro(ALPHA, &["perl", "-MIO::Socket::IP", "-e", ask]);
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(said, "127.0.0.1 of the host", "{output:?}");
    let listener = server.join().unwrap();
    let echo = thread::spawn(move || {
        let mut bytes = [0; 16];
        let (length, from) = socket.recv_from(&mut bytes).unwrap();
        socket.send_to(&bytes[..length], from).unwrap();
        socket
    });
    let ask = "$s = IO::Socket::IP->new(PeerHost => '127.0.0.1', PeerPort => 8232, \
               Proto => 'udp') or die $@; send($s, 'datagram', 0); recv($s, $b, 99, 0); print $b";
    let output = in_distro(ALPHA, &["perl", "-MIO::Socket::IP", "-e", ask]);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "datagram", "{output:?}");
    let socket = echo.join().unwrap();
    let line = "exec 3<>/dev/tcp/127.0.0.1/8233";
    let said = in_distro(ALPHA, &["bash", "-c", line]).stderr;
    assert!(String::from_utf8_lossy(&said).contains("Connection refused"));
    // An isolated distro has its own.
    assert_eq!(shell(BETA, "wslinfo --networking-mode"), "nat\n");
    assert!(bind(BETA, tcp, 8231));
    // Changes while the machine runs, either way.
    drop((listener, socket));
    wait_for("the ports", || bind(ALPHA, tcp, 8231) && bind(ALPHA, udp, 8232));
    let listener = TcpListener::bind("0.0.0.0:8234").unwrap();
    wait_for("the host's port", || !bind(ALPHA, tcp, 8234));
    drop(listener);
    let server = "$s = IO::Socket::IP->new(LocalPort => 8235, Listen => 5) or die $!; \
                  $| = 1; print 'listens'; sleep 3600";
    let mut session = start_listener(ALPHA, server);
    wait_for("the distro's port", || TcpListener::bind("127.0.0.1:8235").is_err());
    session.kill().unwrap();
    session.wait().unwrap();
    wait_for("its end", || TcpListener::bind("127.0.0.1:8235").is_ok());
    // What was a distro's a moment ago was never the host's.
    assert!(bind(ALPHA, tcp, 8235));
    restart_with("");
}
