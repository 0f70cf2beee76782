//! Any segments of TCP with any options, to somebody who listens: the connection takes them
//! all, and ends in the end.

#![no_main]

mod network;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some(mut nat) = network::link() else { return };
    let Ok(place) = network::LISTENER.local_addr() else { return };
    let (mut expected, mut own) = (0_u32, 1_u32);
    let mut rest = data;
    let mut first = true;
    for _ in 0..32 {
        let [flags, options, length, shift, after @ ..] = rest else { break };
        let (options, after) = after.split_at(usize::from(options % 41).min(after.len()));
        let (content, after) = after.split_at(usize::from(*length).min(after.len()));
        rest = after;
        // A connection first; then what is near to what it expects.
        let flags = if first { 2 } else { flags & 0x3f };
        let mut options = options.to_vec();
        options.resize(options.len().next_multiple_of(4), 0);
        let mut segment = 1000_u16.to_be_bytes().to_vec();
        segment.extend(place.port().to_be_bytes());
        let offset = if first { 0 } else { i32::from(*shift as i8) };
        segment.extend(own.wrapping_add_signed(offset).to_be_bytes());
        segment.extend(expected.wrapping_add_signed(offset >> 4).to_be_bytes());
        segment.extend([((20 + options.len()) / 4 << 4) as u8, flags]);
        segment.extend((u16::from(*length) << 8).to_be_bytes());
        segment.extend([0; 4]);
        segment.extend(&options);
        segment.extend_from_slice(content);
        own = own.wrapping_add(content.len() as u32 + u32::from(first));
        first = false;
        for answer in network::feed(&mut nat, &network::ipv4(6, network::HOST, &segment)) {
            let start = 12 + 14 + 20;
            if let Some(number) = answer.get(start + 4..start + 8)
                && answer.get(start - 11) == Some(&6)
            {
                let number = u32::from_be_bytes(number.try_into().expect("four"));
                expected = number.wrapping_add(1);
            }
        }
        assert!(nat.flows() <= 2);
    }
});
