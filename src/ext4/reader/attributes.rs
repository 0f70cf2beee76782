//! An inode's extended attributes, from the inode and from its block.

use zerocopy::FromBytes;

use super::super::attributes::{MAGIC, SPACES};
use super::super::checksum;
use super::super::format::{AttributeEntry, AttributeHeader};
use super::blocks::Blocks;
use super::error::ReadError;
use super::inode::Inode;
use super::super_block::word;

/// A name and a value.
type Attribute = (Vec<u8>, Vec<u8>);

/// Where a file's content continues that is in its inode; no attribute to others.
pub(super) const INLINE: &[u8] = b"system.data";

/// All attributes, sorted, [`INLINE`] among them.
pub(super) fn read(
    blocks: &Blocks,
    inode: &Inode,
    seed: Option<u32>,
) -> Result<Vec<Attribute>, ReadError> {
    let damaged =
        || ReadError::damaged(format!("inode {} has wrong extended attributes", inode.number));
    let mut all = Vec::new();
    let inside = &inode.inline_attributes;
    if word(inside, 0) == MAGIC {
        // Offsets count from behind the magic number.
        let space = inside.get(4..).unwrap_or_default();
        entries(space, 0, &mut all).ok_or_else(damaged)?;
    }
    if inode.attribute_block != 0 {
        let block = blocks.read(inode.attribute_block)?;
        let (header, _) = AttributeHeader::read_from_prefix(&block).map_err(|_| damaged())?;
        if header.magic.get() != MAGIC || header.blocks.get() != 1 {
            return Err(damaged());
        }
        if let Some(seed) = seed {
            let mut sum = checksum::extend(seed, &inode.attribute_block.to_le_bytes());
            // The checksum's own place, at 16, counts as zeros.
            sum = checksum::extend(sum, block.get(..16).unwrap_or_default());
            sum = checksum::extend(sum, &[0; 4]);
            sum = checksum::extend(sum, block.get(20..).unwrap_or_default());
            if sum != header.checksum.get() {
                return Err(damaged());
            }
        }
        entries(&block, size_of::<AttributeHeader>(), &mut all).ok_or_else(damaged)?;
    }
    all.sort_unstable();
    Ok(all)
}

/// Reads entries from `at` on; values are at offsets of `space`.
fn entries(space: &[u8], mut at: usize, all: &mut Vec<Attribute>) -> Option<()> {
    loop {
        // The end: four zero bytes, or no room for more.
        if space.len() < at + 4 || word(space, at) == 0 {
            return Some(());
        }
        let (entry, _) = AttributeEntry::read_from_prefix(space.get(at..)?).ok()?;
        let name_at = at + size_of::<AttributeEntry>();
        let name_length = usize::from(entry.name_len);
        let name = space.get(name_at..name_at + name_length)?;
        let size = entry.value_size.get() as usize;
        // Values in inodes of their own are a feature that is refused.
        if entry.value_inum.get() != 0 || name.contains(&0) {
            return None;
        }
        let value = match size {
            0 => &[][..],
            _ => {
                let start = usize::from(entry.value_offs.get());
                space.get(start..start.checked_add(size)?)?
            }
        };
        let (prefix, index) = SPACES.iter().find(|(_, index)| *index == entry.name_index)?;
        let value = match index {
            2 | 3 => access_control_list(value)?,
            _ => value.to_vec(),
        };
        all.push(([*prefix, name].concat(), value));
        at = name_at + name_length.next_multiple_of(4);
    }
}

/// An access list as `getxattr` returns it: another version, and an id in every entry.
fn access_control_list(stored: &[u8]) -> Option<Vec<u8>> {
    let mut rest = stored.strip_prefix(&1_u32.to_le_bytes())?;
    let mut value = 2_u32.to_le_bytes().to_vec();
    while !rest.is_empty() {
        let named = matches!(rest, [0x02 | 0x08, 0, ..]);
        let (entry, after) = rest.split_at_checked(if named { 8 } else { 4 })?;
        value.extend_from_slice(entry);
        if !named {
            value.extend_from_slice(&u32::MAX.to_le_bytes());
        }
        rest = after;
    }
    Some(value)
}
