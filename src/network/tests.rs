//! A guest that sends anything at all.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use vmm_sys_util::epoll::EventSet;

use super::addresses::Addresses;
use super::encode::{Encoder, Head};
use super::nat::{Nat, Settings};
use super::packet::{self, ETHERNET, OFFLOAD};
use super::parse::{self, Content};
use super::ports::Ports;
use super::tcp::{Connection, Given, Verdict};
use crate::devices::net::kept::Kept;
use crate::devices::net::{Link as _, Offloads};

fn nat() -> Nat {
    let settings = Settings {
        addresses: Addresses::on([20, 224]),
        resolver: PathBuf::from("/nonexistent"),
        hosts: PathBuf::from("/nonexistent"),
        ports: Ports::new(|_| {}, Default::default()).unwrap(),
        lan_forwarding: false,
        host_loopback: false,
    };
    Nat::new(settings, Offloads::default()).unwrap()
}

/// All frames for the guest.
fn frames(nat: &mut Nat) -> Vec<Vec<u8>> {
    let mut kept = Kept::default();
    while nat.has_frames() {
        nat.give(&mut kept);
    }
    kept.0
}

/// A sound segment of the guest's to its gateway, where nobody listens.
fn segment(flags: u16, data: &[u8]) -> Vec<u8> {
    segment_to("172.20.224.1:9".parse().unwrap(), flags, data)
}

/// The guest's address that sends to one of the same version.
fn source(destination: SocketAddr) -> SocketAddr {
    let addresses = Addresses::on([20, 224]);
    match destination {
        SocketAddr::V4(_) => (addresses.guest4, 1000).into(),
        SocketAddr::V6(_) => (addresses.guest6, 1000).into(),
    }
}

fn segment_to(destination: SocketAddr, flags: u16, data: &[u8]) -> Vec<u8> {
    let encoder = Encoder { gateway: [2; 6], offloads: Offloads::default() };
    let head = Head {
        source: source(destination),
        destination,
        sequence: 7,
        acknowledgment: 99,
        flags,
        window: 1000,
        options: None,
        maximum: 1460,
    };
    let mut frame = Vec::new();
    encoder.tcp(&mut frame, &head, &[data]);
    frame.extend_from_slice(data);
    frame
}

#[test]
fn a_segment_of_no_connection_is_answered_as_the_standard_says() {
    let mut nat = nat();
    for (flags, sequence, acknowledgment) in
        [(parse::SYN, 0, 11), (parse::ACK, 99, 10), (parse::SYN | parse::ACK, 99, 11)]
    {
        nat.take(&segment(flags, b"abc"));
        let answers = frames(&mut nat);
        let [answer] = &answers[..] else { panic!("{answers:?}") };
        let Some(Content::Packet(packet)) = parse::frame(answer) else { panic!("{answer:?}") };
        let answer = packet.tcp().unwrap();
        assert!(answer.has(parse::RST));
        assert_eq!((answer.sequence, answer.acknowledgment), (sequence, acknowledgment));
    }
    nat.take(&segment(parse::RST, b""));
    assert!(frames(&mut nat).is_empty());
}

#[test]
fn a_packet_of_somebody_else_or_with_a_wrong_checksum_is_dropped() {
    let mut nat = nat();
    let sound = segment(parse::SYN, b"");
    for place in [OFFLOAD + ETHERNET + 15, OFFLOAD + ETHERNET + 25, sound.len() - 1] {
        let mut damaged = sound.clone();
        damaged[place] ^= 1;
        nat.take(&damaged);
        assert!(frames(&mut nat).is_empty(), "{place}");
    }
    nat.take(&sound);
    assert_eq!(frames(&mut nat).len(), 1);
}

#[test]
fn no_frame_opens_a_socket_to_what_is_the_hosts_own() {
    // All that a host might trust because it comes from itself or its link, in frames that no
    // route of a guest would make.
    let mut nat = nat();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let encoder = Encoder { gateway: [2; 6], offloads: Offloads::default() };
    for host in [
        "127.0.0.1",
        "127.0.0.53",
        "127.255.255.254",
        "0.0.0.0",
        "169.254.169.254",
        "169.254.0.1",
        "172.20.224.3",
        "172.20.224.9",
        "::1",
        "::",
        "::ffff:127.0.0.1",
        "::127.0.0.1",
        "fe80::1:2",
        "64:ff9b::7f00:1",
        "64:ff9b::a9fe:a9fe",
        "fd77:736c:7200:1::3",
    ] {
        let place = SocketAddr::new(host.parse().unwrap(), port);
        nat.take(&segment_to(place, parse::SYN, b""));
        assert_eq!(nat.flows(), 0, "{host}");
        let answers = frames(&mut nat);
        let Some(Content::Packet(answer)) = parse::frame(&answers[0]) else { panic!("{host}") };
        let (icmp, _) = answer.icmp().unwrap();
        // Forbidden by an administrator.
        assert!(matches!((icmp.kind, icmp.code), (3, 13) | (1, 1)), "{host}: {icmp:?}");
        nat.take(&encoder.udp(source(place), place, b"x").unwrap());
        nat.take(&encoder.icmp(source(place).ip(), place.ip(), (8, 0), (1, 1), b"x").unwrap());
        assert_eq!(nat.flows(), 0, "{host}");
        frames(&mut nat);
    }
    listener.set_nonblocking(true).unwrap();
    assert!(listener.accept().is_err());
}

#[test]
fn a_guest_that_is_silent_after_the_hosts_end_is_soon_asked_for_a_sign_of_life() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let socket = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    socket.set_nonblocking(true).unwrap();
    let destination = "192.0.2.1:80".parse().unwrap();
    let of_guest = |sequence, acknowledgment, flags| parse::Segment {
        source: source(destination),
        destination,
        sequence,
        acknowledgment,
        flags,
        window: 1000,
        maximum: None,
        scale: None,
        data: &[],
    };
    let encoder = Encoder { gateway: [2; 6], offloads: Offloads::default() };
    let start = Instant::now();
    let first = of_guest(10, 0, parse::SYN);
    let mut connection = Connection::new(&first, &[], socket, 100, 1 << 16, start);
    let sent = |connection: &mut Connection, now| {
        let mut kept = Kept::default();
        let given = connection.give(&encoder, &mut Vec::new(), &mut kept, now);
        assert_eq!(given, (Given::Taken, Verdict::Continues));
        let [bytes] = &kept.0[..] else { panic!("{:?}", kept.0) };
        let Some(Content::Packet(packet)) = parse::frame(bytes) else { panic!("{bytes:?}") };
        let segment = packet.tcp().unwrap();
        (segment.sequence, segment.flags)
    };
    connection.socket_event(EventSet::OUT, start);
    assert_eq!(sent(&mut connection, start), (100, parse::SYN | parse::ACK));
    connection.segment(&of_guest(11, 101, parse::ACK), start);
    let quiet = connection.deadline() - start;
    drop(listener.accept().unwrap());
    connection.socket_event(EventSet::IN | EventSet::READ_HANG_UP, start);
    assert_eq!(sent(&mut connection, start), (101, parse::FIN | parse::ACK));
    connection.segment(&of_guest(11, 102, parse::ACK), start);
    let last = connection.deadline() - start;
    assert!(last <= Duration::from_secs(60) && last < quiet, "{last:?} {quiet:?}");
    // The question, and an answer: it lives on.
    let later = start + last;
    assert_eq!(connection.expire(later), Verdict::Continues);
    assert_eq!(sent(&mut connection, later), (101, parse::ACK));
    assert_eq!(connection.segment(&of_guest(11, 102, parse::ACK), later), Verdict::Continues);
    assert_eq!(connection.deadline() - later, last);
    // None: the guest's kernel resets what it does not know any more.
    connection.expire(later + last);
    let reset = of_guest(11, 102, parse::RST);
    assert_eq!(connection.segment(&reset, later + last), Verdict::Over);
}

#[test]
fn answers_to_a_guest_that_takes_none_do_not_pile_up() {
    let mut nat = nat();
    let mut taken = 0;
    while nat.takes() && taken < 100_000 {
        nat.take(&segment(parse::SYN, b""));
        taken += 1;
    }
    assert!(taken < 1000);
    frames(&mut nat);
    assert!(nat.takes());
}

proptest! {
    #[test]
    fn any_change_of_a_frame_is_survived(
        flags in 0_u16..64,
        data: Vec<u8>,
        changes: Vec<(prop::sample::Index, u8)>,
        end: prop::sample::Index,
        fix: bool,
    ) {
        let mut frame = segment(flags, &data);
        for (place, value) in changes {
            let place = place.index(frame.len());
            frame[place] = value;
        }
        frame.truncate(end.index(frame.len()) + 1);
        if fix && frame.len() >= OFFLOAD + ETHERNET + 20 {
            // So that the rest is looked at.
            frame[0] |= packet::NEEDS_CHECKSUM;
            let header = OFFLOAD + ETHERNET..OFFLOAD + ETHERNET + 20;
            frame[header.start + 10..header.start + 12].fill(0);
            let sum = !packet::fold(packet::add(0, &frame[header.clone()]));
            frame[header.start + 10..header.start + 12].copy_from_slice(&sum.to_be_bytes());
            // Not to anywhere but the gateway.
            frame[header.start + 16..header.end].copy_from_slice(&[172, 20, 224, 1]);
        }
        let mut nat = nat();
        nat.take(&frame);
        nat.expire(Instant::now());
        for answer in frames(&mut nat) {
            prop_assert!(answer.len() >= OFFLOAD + ETHERNET);
        }
    }
}
