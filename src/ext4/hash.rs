//! The directory hash: half of MD4 over a name, seeded (`fs/ext4/hash.c`; the rounds are
//! those of RFC 1320 on half a block).

/// A name's hash: the part that the index uses, and the part that breaks ties.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct NameHash {
    /// Its lowest bit is clear.
    pub(super) major: u32,
    /// The tie breaker.
    pub(super) minor: u32,
}

const SECOND_ROUND: u32 = 0x5a82_7999;
const THIRD_ROUND: u32 = 0x6ed9_eba1;

/// Bytes of a name that one transformation takes.
const CHUNK: usize = 32;

/// The hash of a name, its bytes taken as unsigned.
pub(super) fn half_md4(name: &[u8], seed: [u32; 4]) -> NameHash {
    let mut state =
        if seed == [0; 4] { [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476] } else { seed };
    let mut rest = name;
    while !rest.is_empty() {
        transform(&mut state, &words(rest));
        rest = rest.get(CHUNK..).unwrap_or_default();
    }
    let [_, major, minor, _] = state;
    let major = major & !1;
    // The largest value marks the end of a directory.
    NameHash { major: if major == 0xffff_fffe { 0xffff_fffc } else { major }, minor }
}

/// Eight words of a name, padded with its length.
fn words(name: &[u8]) -> [u32; 8] {
    let length = name.len() as u32;
    let pad = length | length << 8;
    let pad = pad | pad << 16;
    let mut words = [pad; 8];
    let chunk = name.get(..CHUNK.min(name.len())).unwrap_or_default();
    for (word, bytes) in words.iter_mut().zip(chunk.chunks(4)) {
        *word = bytes.iter().fold(pad, |word, byte| (word << 8).wrapping_add(u32::from(*byte)));
    }
    words
}

fn transform(state: &mut [u32; 4], input: &[u32; 8]) {
    type Mix = fn(u32, u32, u32) -> u32;
    let choose: Mix = |x, y, z| z ^ (x & (y ^ z));
    let majority: Mix = |x, y, z| (x & y).wrapping_add((x ^ y) & z);
    let parity: Mix = |x, y, z| x ^ y ^ z;
    let rounds: [(Mix, u32, [usize; 8], [u32; 4]); 3] = [
        (choose, 0, [0, 1, 2, 3, 4, 5, 6, 7], [3, 7, 11, 19]),
        (majority, SECOND_ROUND, [1, 3, 5, 7, 0, 2, 4, 6], [3, 5, 9, 13]),
        (parity, THIRD_ROUND, [3, 7, 2, 6, 1, 5, 0, 4], [3, 9, 11, 15]),
    ];
    let [mut a, mut b, mut c, mut d] = *state;
    for (mix, constant, order, shifts) in rounds {
        for (step, word) in order.into_iter().enumerate() {
            let word = input.get(word).copied().unwrap_or_default().wrapping_add(constant);
            let shift = shifts.get(step % 4).copied().unwrap_or_default();
            let sum = a.wrapping_add(mix(b, c, d)).wrapping_add(word).rotate_left(shift);
            (a, b, c, d) = (d, sum, b, c);
        }
    }
    for (word, add) in state.iter_mut().zip([a, b, c, d]) {
        *word = word.wrapping_add(add);
    }
}
