//! The legacy LZ4 frame, in which kernels with `CONFIG_KERNEL_LZ4` come.
//!
//! A magic number, then blocks of at most 8 MiB of content, each after its compressed size
//! (LZ4 frame format description, "Legacy frame"; LZ4 block format description). A kernel's
//! own size follows the last block and looks like the size of one more.

use std::io;

/// What the frame begins with.
pub const MAGIC: &[u8] = &[0x02, 0x21, 0x4c, 0x18];
/// The most content of one block.
const BLOCK: usize = 8 << 20;
/// The shortest match.
const MINIMUM_MATCH: usize = 4;

/// Decompresses a frame; stops after `limit` bytes and the block they are in.
///
/// # Errors
/// Where it is corrupt.
pub fn decompress(frame: &[u8], limit: u64) -> io::Result<Vec<u8>> {
    let mut rest = frame.strip_prefix(MAGIC).ok_or_else(|| corrupt("no magic number"))?;
    let mut plain = Vec::new();
    while plain.len() as u64 <= limit {
        let Some((size, after)) = rest.split_first_chunk::<4>() else { break };
        let size = u32::from_le_bytes(*size) as usize;
        let Some((block, after)) = after.split_at_checked(size) else {
            // The content's size, the frame's last word.
            if after.is_empty() && size == plain.len() {
                break;
            }
            return Err(corrupt("a block is cut off"));
        };
        decode(block, &mut plain)?;
        rest = after;
    }
    Ok(plain)
}

/// Appends the content of a block.
fn decode(block: &[u8], plain: &mut Vec<u8>) -> io::Result<()> {
    let start = plain.len();
    let mut input = Input(block);
    loop {
        let token = input.byte()?;
        let literals = input.length(token >> 4)?;
        plain.extend_from_slice(input.bytes(literals)?);
        if input.0.is_empty() {
            return Ok(());
        }
        let distance = usize::from(u16::from_le_bytes([input.byte()?, input.byte()?]));
        let length = input.length(token & 15)? + MINIMUM_MATCH;
        let from = plain.len().checked_sub(distance).filter(|from| *from >= start);
        let from = from.filter(|_| distance > 0).ok_or_else(|| corrupt("a match is too far"))?;
        if plain.len() + length > start + BLOCK {
            return Err(corrupt("a block is too long"));
        }
        // A match may run into what it makes.
        let mut left = length;
        while left > 0 {
            let part = left.min(plain.len() - from);
            plain.extend_from_within(from..from + part);
            left -= part;
        }
    }
}

struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn bytes(&mut self, count: usize) -> io::Result<&'a [u8]> {
        let (bytes, rest) =
            self.0.split_at_checked(count).ok_or_else(|| corrupt("a block is cut off"))?;
        self.0 = rest;
        Ok(bytes)
    }

    fn byte(&mut self) -> io::Result<u8> {
        let (byte, rest) = self.0.split_first().ok_or_else(|| corrupt("a block is cut off"))?;
        self.0 = rest;
        Ok(*byte)
    }

    /// A length: four bits of the token, and more bytes where they are all set.
    fn length(&mut self, bits: u8) -> io::Result<usize> {
        let mut length = usize::from(bits);
        if bits == 15 {
            loop {
                let more = self.byte()?;
                length += usize::from(more);
                if more < 255 {
                    break;
                }
            }
        }
        Ok(length)
    }
}

fn corrupt(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("corrupt LZ4 data: {what}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(blocks: &[&[u8]]) -> Vec<u8> {
        let mut frame = MAGIC.to_vec();
        for block in blocks {
            frame.extend_from_slice(&(block.len() as u32).to_le_bytes());
            frame.extend_from_slice(block);
        }
        frame
    }

    #[test]
    fn literals_matches_and_the_size_at_the_end() {
        // "abc", then nine bytes from three back, then "!".
        let block = [0x35, b'a', b'b', b'c', 3, 0, 0x10, b'!'];
        // 20 literals: a length with one more byte.
        let mut long = vec![0xf0, 5];
        long.extend_from_slice(&[b'x'; 20]);
        let mut frame = frame(&[&block, &long]);
        let plain = [b"abcabcabcabc!".as_slice(), &[b'x'; 20]].concat();
        assert_eq!(decompress(&frame, 100).unwrap(), plain);
        frame.extend_from_slice(&(plain.len() as u32).to_le_bytes());
        assert_eq!(decompress(&frame, 100).unwrap(), plain);
    }

    #[test]
    fn a_match_cannot_reach_before_its_block() {
        for block in [[0x10, b'a', 2, 0, 0x00], [0x10, b'a', 0, 0, 0x00]] {
            assert!(decompress(&frame(&[&[0x10, b'b'], &block]), 100).is_err());
        }
        assert!(decompress(&frame(&[&[0x10, b'b']])[..9], 100).is_err());
    }

    proptest! {
        #[test]
        fn hostile_blocks_are_refused_or_read(block in prop::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(plain) = decompress(&frame(&[&block]), 1 << 20) {
                prop_assert!(plain.len() <= BLOCK);
            }
        }
    }
}
