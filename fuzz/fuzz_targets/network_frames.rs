//! Any frames from the guest, one after the other: the link takes them all.

#![no_main]

mod network;

use libfuzzer_sys::fuzz_target;
use wslr::network::packet;

fuzz_target!(|data: &[u8]| {
    let Some(mut nat) = network::link() else { return };
    let mut rest = data;
    for _ in 0..32 {
        let [kind, length, after @ ..] = rest else { break };
        let (content, after) = after.split_at(usize::from(*length).min(after.len()));
        rest = after;
        let start = packet::OFFLOAD + packet::ETHERNET;
        let mut frame = match kind % 4 {
            0 => network::ipv4(kind / 4, network::GATEWAY, content),
            1 => {
                let mut frame = network::ipv4(0, network::GATEWAY, content);
                frame[start - 2..start].copy_from_slice(&[8, 6]);
                frame.drain(start..start + 20);
                frame
            }
            2 => {
                let mut frame = network::ipv4(0, network::GATEWAY, content);
                frame[start - 2..start].copy_from_slice(&[0x86, 0xdd]);
                frame.drain(start..start + 20);
                frame
            }
            _ => content.to_vec(),
        };
        // To nobody but the gateway.
        let six = frame.get(start - 2..start) == Some(&[0x86, 0xdd]);
        if six && let Some(place) = frame.get_mut(start + 24..start + 40) {
            place.copy_from_slice(&[0xfd, 0x77, 0x73, 0x6c, 0x72, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1]);
        } else if kind % 4 == 3
            && let Some(place) = frame.get_mut(start + 16..start + 20)
        {
            place.copy_from_slice(&network::GATEWAY);
        }
        for answer in network::feed(&mut nat, &frame) {
            assert!(answer.len() >= start);
        }
    }
});
