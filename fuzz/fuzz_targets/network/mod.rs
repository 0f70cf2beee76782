//! A link to feed frames to, and sound frames around any content. Nothing of it leaves this
//! machine: what a frame says of its destination is overwritten.

#![allow(dead_code, reason = "each target uses a part")]

use std::net::TcpListener;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use vmm_sys_util::epoll::EpollEvent;
use wslr::devices::net::kept::Kept;
use wslr::devices::net::{Link as _, Offloads};
use wslr::network::addresses::Addresses;
use wslr::network::nat::{Nat, Settings};
use wslr::network::packet;
use wslr::network::ports::Ports;

/// Somebody to connect to, by the address that stands for the host.
pub static LISTENER: LazyLock<TcpListener> = LazyLock::new(|| {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.set_nonblocking(true).expect("a socket");
    listener
});

pub const GATEWAY: [u8; 4] = [172, 20, 224, 1];
pub const HOST: [u8; 4] = [172, 20, 224, 3];

pub fn link() -> Option<Nat> {
    let settings = Settings {
        addresses: Addresses::on([20, 224]),
        resolver: "/nonexistent".into(),
        hosts: "/etc/hosts".into(),
        ports: Ports::new(|_| {}, Default::default()).ok()?,
        lan_forwarding: false,
        host_loopback: true,
    };
    Nat::new(settings, Offloads { checksum: true, segments4: true, segments6: true }).ok()
}

/// Gives the link a frame, and lets it do all that it has to.
pub fn feed(nat: &mut Nat, frame: &[u8]) -> Vec<Vec<u8>> {
    assert!(nat.takes());
    nat.take(frame);
    let mut kept = Kept::default();
    let mut ready = [EpollEvent::default(); 16];
    for _ in 0..2 {
        let count = nat.epoll().wait(0, &mut ready).unwrap_or(0);
        for report in &ready[..count] {
            nat.event(report.data(), report.event_set());
        }
        for _ in 0..64 {
            if !nat.has_frames() {
                break;
            }
            nat.give(&mut kept);
        }
        while let Ok((stream, _)) = LISTENER.accept() {
            drop(stream);
        }
    }
    nat.expire(Instant::now() + Duration::from_secs(1));
    kept.0
}

/// A packet of IPv4 of the guest's with that content, in a frame.
pub fn ipv4(protocol: u8, destination: [u8; 4], content: &[u8]) -> Vec<u8> {
    let mut frame = vec![0; packet::OFFLOAD];
    frame[0] = packet::NEEDS_CHECKSUM;
    frame.extend([2; 6]);
    frame.extend([1; 6]);
    frame.extend([8, 0]);
    let mut header = vec![0x45, 0];
    header.extend(((20 + content.len()) as u16).to_be_bytes());
    header.extend([0, 0, 0x40, 0, 64, protocol, 0, 0]);
    header.extend([172, 20, 224, 2]);
    header.extend(destination);
    let sum = !packet::fold(packet::add(0, &header));
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    frame.extend(header);
    frame.extend_from_slice(content);
    frame
}
