//! Any questions for names: each is answered or dropped.

#![no_main]

mod network;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some(mut nat) = network::link() else { return };
    let mut datagram = [1000_u16, 53].map(u16::to_be_bytes).concat();
    datagram.extend(((8 + data.len()) as u16).to_be_bytes());
    datagram.extend([0, 0]);
    datagram.extend_from_slice(data);
    if datagram.len() > 60_000 {
        return;
    }
    let answers = network::feed(&mut nat, &network::ipv4(17, network::GATEWAY, &datagram));
    for answer in answers {
        // The same question, answered.
        let message = &answer[12 + 14 + 20 + 8..];
        assert_eq!(message[..2], data[..2]);
        assert!(message[2] & 0x80 != 0);
    }
    assert_eq!(nat.flows(), 0);
});
