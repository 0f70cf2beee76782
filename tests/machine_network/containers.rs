//! Networks inside of a distro: those that users make themselves, and Docker's.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Instant;

use crate::fixture::{ALPHA, home, in_distro, shell};
use crate::loopback::echo_server;
use crate::support::wait_for;
use crate::{port, use_resolver};

/// Runs a line that takes long, and says so at once: a silent machine would be ended.
pub fn slowly(line: &str) -> String {
    let started = Instant::now();
    let output = in_distro(ALPHA, &["sh", "-c", line]);
    let told = format!("{line}: {:?}\n", started.elapsed());
    // Past what keeps a test's output back.
    std::io::stdout().write_all(told.as_bytes()).unwrap();
    assert!(output.status.success(), "{line}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Installs packages, with options of `apt-get` before them.
pub fn install(packages: &str) {
    slowly("apt-get -q update");
    slowly(&format!("DEBIAN_FRONTEND=noninteractive apt-get -q -y install {packages}"));
}

#[test]
#[ignore = "needs a KVM that boots stock kernels"]
fn long_w_b206_apt_installs_packages_and_a_namespace_of_the_users_own_has_the_network() {
    use_resolver(ALPHA);
    install("curl iproute2 nftables");
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
fn long_x_docker_publishes_a_port_and_its_containers_find_names() {
    use_resolver(ALPHA);
    install("--no-install-recommends busybox-static docker-cli docker.io iptables");
    let mut test = home().wslr(["-d", ALPHA, "--", "sh", "-c", "dockerd >/tmp/dockerd.log 2>&1"]);
    let mut daemon = test.command().stdin(std::process::Stdio::null()).spawn().unwrap();
    slowly(
        "for _ in $(seq 120); do docker info >/dev/null 2>&1 && exit 0; sleep 2; done; \
         tail -n 20 /tmp/dockerd.log >&2; exit 1",
    );
    slowly(
        "set -e; mkdir -p /tmp/image/bin /tmp/image/www; cp /bin/busybox /tmp/image/bin/\n\
         echo of the container >/tmp/image/www/index.html\n\
         tar -C /tmp/image -c . | docker import - web",
    );
    slowly("docker run -d --name web -p 8080:80 web /bin/busybox httpd -f -p 80 -h /www");
    wait_for("the port", || TcpStream::connect("127.0.0.1:8080").is_ok());
    let mut stream = TcpStream::connect("127.0.0.1:8080").unwrap();
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.ends_with("of the container\n"), "{answer}");
    let port = port(8080).unwrap();
    assert_eq!((&port["distribution"], &port["state"]), (&ALPHA.into(), &"active".into()));
    let found = slowly("docker run --rm web /bin/busybox nslookup -type=a deb.debian.org");
    assert!(found.contains("10.255.255.254") && found.contains("Address"), "{found}");
    slowly("docker rm -f web");
    wait_for("its end", || TcpStream::connect("127.0.0.1:8080").is_err());
    wait_for("its end in the status", || self::port(8080).is_none());
    daemon.kill().unwrap();
    daemon.wait().unwrap();
}
