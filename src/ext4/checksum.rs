//! CRC32C the way ext4 chains it: without the final inversion.

/// Continues `seed` over `bytes`.
pub(super) fn extend(seed: u32, bytes: &[u8]) -> u32 {
    !crc32c::crc32c_append(!seed, bytes)
}

/// The seed of everything that belongs to a file system.
pub(super) fn file_system(uuid: &[u8; 16]) -> u32 {
    extend(u32::MAX, uuid)
}

/// The seed of everything that belongs to an inode of generation zero.
pub(super) fn inode(file_system: u32, number: u32) -> u32 {
    extend(extend(file_system, &number.to_le_bytes()), &0_u32.to_le_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chained_pieces_equal_the_whole() {
        assert_eq!(extend(extend(u32::MAX, b"1234"), b"56789"), extend(u32::MAX, b"123456789"));
        // The check value of CRC-32/ISCSI, before its final inversion.
        assert_eq!(extend(u32::MAX, b"123456789"), !0xe306_9283);
    }
}
