//! What a disk tells of itself: inquiry data, mode pages, capacity.

use super::{BLOCK, PHYSICAL_BLOCK};

/// The most blocks of one WRITE SAME, 4 GiB; what Linux asks at most.
pub const MAXIMUM_WRITE_SAME: u32 = 0x7f_ffff;
/// The most blocks of one UNMAP, all descriptors together.
pub const MAXIMUM_UNMAP: u32 = 0xff_ffff;
/// The most descriptors of one UNMAP.
pub const MAXIMUM_UNMAP_DESCRIPTORS: u32 = 256;

/// The vendor, product and revision; padded with spaces as the standard wants.
const VENDOR: &[u8; 8] = b"wslr    ";
const PRODUCT: &[u8; 16] = b"Virtual Disk    ";
const REVISION: &[u8; 4] = b"1.0 ";

/// Standard inquiry data.
#[must_use]
pub fn standard() -> Vec<u8> {
    // Direct access, SPC-4, response format 2 with HISUP, command queueing.
    let mut data = vec![0, 0, 6, 0x12, 31, 0, 0, 2];
    data.extend(VENDOR);
    data.extend(PRODUCT);
    data.extend(REVISION);
    data
}

/// Standard inquiry data of a unit that does not exist.
#[must_use]
pub fn absent() -> Vec<u8> {
    let mut data = standard();
    if let Some(kind) = data.first_mut() {
        *kind = 0x7f;
    }
    data
}

/// A vital product data page.
#[must_use]
pub fn page(page: u8, serial: &str) -> Option<Vec<u8>> {
    let body = match page {
        0x00 => vec![0x00, 0x80, 0x83, 0xb0, 0xb1, 0xb2],
        0x80 => serial.as_bytes().to_vec(),
        0x83 => {
            let mut name = VENDOR.to_vec();
            name.extend(serial.as_bytes());
            // ASCII, about the unit, T10 vendor identification.
            let mut body = vec![2, 1, 0, name.len() as u8];
            body.extend(name);
            body
        }
        0xb0 => limits(),
        // Not rotating.
        0xb1 => {
            let mut body = vec![0; 60];
            body.splice(..2, 1_u16.to_be_bytes());
            body
        }
        // UNMAP and both WRITE SAME give space back, which then reads zero; thin.
        0xb2 => vec![0, 0xe4, 2, 0],
        _ => return None,
    };
    let mut data = vec![0, page];
    data.extend((body.len() as u16).to_be_bytes());
    data.extend(body);
    Some(data)
}

/// The block limits page without its header.
fn limits() -> Vec<u8> {
    let granularity = (PHYSICAL_BLOCK / BLOCK) as u32;
    // A WRITE SAME of no blocks is refused rather than meaning the whole disk.
    let mut body = vec![1, 0];
    body.extend((granularity as u16).to_be_bytes());
    for field in [0, 0, 0, MAXIMUM_UNMAP, MAXIMUM_UNMAP_DESCRIPTORS, granularity, 1 << 31] {
        body.extend(field.to_be_bytes());
    }
    body.extend(u64::from(MAXIMUM_WRITE_SAME).to_be_bytes());
    body.resize(60, 0);
    body
}

/// The answer to READ CAPACITY (10): the last block, or all ones where it does not fit.
#[must_use]
pub fn capacity10(blocks: u64) -> Vec<u8> {
    let last = u32::try_from(blocks.saturating_sub(1)).unwrap_or(u32::MAX);
    let mut data = last.to_be_bytes().to_vec();
    data.extend((BLOCK as u32).to_be_bytes());
    data
}

/// The answer to READ CAPACITY (16).
#[must_use]
pub fn capacity16(blocks: u64) -> Vec<u8> {
    let mut data = blocks.saturating_sub(1).to_be_bytes().to_vec();
    data.extend((BLOCK as u32).to_be_bytes());
    // No protection; physical blocks; provisioned thinly, and holes read zero.
    data.extend([0, (PHYSICAL_BLOCK / BLOCK).trailing_zeros() as u8, 0xc0, 0]);
    data.resize(32, 0);
    data
}

/// The answer to MODE SENSE, or nothing where there is no such page.
#[must_use]
pub fn mode(page: u8, subpage: u8, control: u8, long: bool, read_only: bool) -> Option<Vec<u8>> {
    const CACHING: u8 = 0x08;
    const CONTROL: u8 = 0x0a;
    const ALL: u8 = 0x3f;
    // Saved values are not offered.
    if control == 3 || !(subpage == 0 || (subpage == 0xff && page == ALL)) {
        return None;
    }
    let changeable = control == 1;
    let mut pages = Vec::new();
    if page == CACHING || page == ALL {
        // Write cache on, so that the driver flushes.
        let mut body = vec![CACHING, 18, if changeable { 0 } else { 0x04 }];
        body.resize(20, 0);
        pages.extend(body);
    }
    if page == CONTROL || page == ALL {
        // Tasks may be reordered without restriction.
        let mut body = vec![CONTROL, 10, 0, if changeable { 0 } else { 0x10 }];
        body.resize(12, 0);
        pages.extend(body);
    }
    if pages.is_empty() {
        return None;
    }
    // Forced unit access is honoured.
    let device = 0x10 | if read_only { 0x80 } else { 0 };
    let mut data = if long {
        let [high, low] = ((pages.len() + 6) as u16).to_be_bytes();
        vec![high, low, 0, device, 0, 0, 0, 0]
    } else {
        vec![(pages.len() + 3) as u8, 0, device, 0]
    };
    data.extend(pages);
    Some(data)
}

/// The answer to REPORT LUNS.
#[must_use]
pub fn units(numbers: &[u16]) -> Vec<u8> {
    let mut data = ((numbers.len() * 8) as u32).to_be_bytes().to_vec();
    data.extend([0; 4]);
    for number in numbers {
        let [high, low] = number.to_be_bytes();
        let form = if high == 0 { 0 } else { 0x40 };
        data.extend([form | high, low, 0, 0, 0, 0, 0, 0]);
    }
    data
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_page_listed_exists_and_is_as_long_as_it_says() {
        let list = page(0, "serial").unwrap();
        for number in &list[4..] {
            let data = page(*number, "serial").unwrap();
            assert_eq!(data[1], *number);
            assert_eq!(usize::from(u16::from_be_bytes([data[2], data[3]])), data.len() - 4);
        }
        assert_eq!(page(0xb0, "").unwrap().len(), 64);
        assert_eq!(page(0xb1, "").unwrap().len(), 64);
        assert!(page(0xb7, "").is_none());
    }

    #[test]
    fn block_limits_stand_where_the_standard_has_them() {
        let data = page(0xb0, "").unwrap();
        assert_eq!(data[20..24], MAXIMUM_UNMAP.to_be_bytes());
        assert_eq!(data[24..28], MAXIMUM_UNMAP_DESCRIPTORS.to_be_bytes());
        assert_eq!(data[28..32], 8_u32.to_be_bytes());
        assert_eq!(data[36..44], u64::from(MAXIMUM_WRITE_SAME).to_be_bytes());
    }

    #[test]
    fn a_disk_beyond_two_tebibytes_sends_the_driver_to_the_long_form() {
        assert_eq!(capacity10(1 << 33)[..4], [0xff; 4]);
        assert_eq!(capacity16(1 << 33)[..8], ((1_u64 << 33) - 1).to_be_bytes());
    }

    #[test]
    fn the_write_cache_and_protection_are_told() {
        let short = mode(0x08, 0, 0, false, true).unwrap();
        assert_eq!((short[0] as usize, short[2]), (short.len() - 1, 0x90));
        assert_eq!(short[4..7], [8, 18, 4]);
        let long = mode(0x3f, 0, 0, true, false).unwrap();
        assert_eq!(u16::from_be_bytes([long[0], long[1]]) as usize, long.len() - 2);
        assert!(mode(0x1c, 0, 0, false, false).is_none());
    }
}
