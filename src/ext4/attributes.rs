//! Extended attributes: in the inode as far as they fit, the rest in a block that inodes
//! with the same attributes share.

use std::collections::HashMap;

use zerocopy::IntoBytes;
use zerocopy::little_endian::{U16, U32};

use super::allocator::Allocator;
use super::checksum;
use super::error::Error;
use super::format::{
    ATTRIBUTE_SPACE, AttributeEntry, AttributeHeader, BLOCK_SIZE, Block, ZERO_BLOCK,
};
use super::output::Output;

pub(super) const MAGIC: u32 = 0xea02_0000;

/// The most inodes that share a block.
const MAXIMUM_SHARES: u32 = 1024;

/// How many different blocks are remembered for sharing.
const REMEMBERED: usize = 256;

/// Bytes of the magic number in an inode.
const INODE_HEADER: usize = 4;

/// The name spaces and their numbers (`fs/ext4/xattr.h`).
pub(super) const SPACES: [(&[u8], u8); 6] = [
    (b"system.posix_acl_access", 2),
    (b"system.posix_acl_default", 3),
    (b"user.", 1),
    (b"trusted.", 4),
    (b"security.", 6),
    (b"system.", 7),
];

/// An attribute as it is stored.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
struct Attribute {
    // In the order in which a block must be sorted.
    index: u8,
    name_length: usize,
    name: Vec<u8>,
    value: Vec<u8>,
}

impl Attribute {
    fn entry_size(&self) -> usize {
        (size_of::<AttributeEntry>() + self.name.len()).next_multiple_of(4)
    }

    fn value_size(&self) -> usize {
        self.value.len().next_multiple_of(4)
    }

    fn size(&self) -> usize {
        self.entry_size() + self.value_size()
    }
}

/// An inode's attributes, laid out.
pub(super) struct Layout {
    /// The space inside the inode.
    pub(super) inode: [u8; ATTRIBUTE_SPACE],
    /// The attributes in the block, all but the header's reference count and checksum.
    block: Option<Box<Block>>,
}

/// Lays attributes out; `None` where one has no place in ext4 or they do not fit.
pub(super) fn lay_out(attributes: &[(Vec<u8>, Vec<u8>)]) -> Option<Layout> {
    let mut inode = [0; ATTRIBUTE_SPACE];
    if attributes.is_empty() {
        return Some(Layout { inode, block: None });
    }
    let mut all = attributes
        .iter()
        .filter(|(name, value)| !is_only_mode(name, value))
        .map(|(name, value)| attribute(name, value))
        .collect::<Option<Vec<_>>>()?;
    all.sort_unstable();
    // Entries end with four zero bytes.
    let mut left = ATTRIBUTE_SPACE - INODE_HEADER - 4;
    let (inside, outside): (Vec<_>, Vec<_>) = all.into_iter().partition(|attribute| {
        let fits = attribute.size() <= left;
        if fits {
            left -= attribute.size();
        }
        fits
    });
    if !inside.is_empty() {
        let (header, space) = inode.split_at_mut(INODE_HEADER);
        header.copy_from_slice(&MAGIC.to_le_bytes());
        // Offsets count from behind the magic number; hashes are for blocks only.
        store(space, 0, &inside, false);
    }
    if outside.is_empty() {
        return Some(Layout { inode, block: None });
    }
    let needed: usize = outside.iter().map(Attribute::size).sum();
    if needed > BLOCK_SIZE - size_of::<AttributeHeader>() - 4 {
        return None;
    }
    let mut block = Box::new(ZERO_BLOCK);
    let hash = store(block.as_mut_slice(), size_of::<AttributeHeader>(), &outside, true);
    write_header(&mut block, hash, 0, 0);
    Some(Layout { inode, block: Some(block) })
}

fn attribute(name: &[u8], value: &[u8]) -> Option<Attribute> {
    let (space, index) = SPACES.iter().find(|(space, _)| name.starts_with(space))?;
    let rest = name.get(space.len()..)?;
    let is_list = matches!(index, 2 | 3);
    if rest.is_empty() != is_list || rest.len() > 255 || value.len() > BLOCK_SIZE {
        return None;
    }
    let value = if is_list { access_control_list(value)? } else { value.to_vec() };
    Some(Attribute { index: *index, name_length: rest.len(), name: rest.to_vec(), value })
}

/// Whether this is an access list of owner, group and others only. The mode says the same,
/// and Linux keeps no such list.
fn is_only_mode(name: &[u8], value: &[u8]) -> bool {
    let extended = |entry: &[u8]| matches!(entry, [0x02 | 0x08 | 0x10, ..]);
    name == b"system.posix_acl_access"
        && !value.get(4..).unwrap_or_default().chunks(8).any(extended)
}

/// The form that `getxattr` returns, as ext4 stores it: another version, and no id where
/// the tag needs none.
fn access_control_list(value: &[u8]) -> Option<Vec<u8>> {
    let entries = value.strip_prefix(&2_u32.to_le_bytes())?;
    let mut stored = 1_u32.to_le_bytes().to_vec();
    if entries.len() % 8 != 0 {
        return None;
    }
    for entry in entries.chunks_exact(8) {
        let named = matches!(entry, [0x02 | 0x08, 0, ..]);
        stored.extend(entry.get(..if named { 8 } else { 4 })?);
    }
    Some(stored)
}

/// Stores entries from `start` on and values from the end on; returns the block's hash.
fn store(space: &mut [u8], start: usize, attributes: &[Attribute], hashed: bool) -> u32 {
    let mut entry_at = start;
    let mut value_at = space.len();
    let mut total = 0_u32;
    let mut unhashed = false;
    for attribute in attributes {
        value_at -= attribute.value_size();
        let hash = if hashed { hash(attribute) } else { 0 };
        unhashed |= hash == 0;
        total = total.rotate_left(16) ^ hash;
        let entry = AttributeEntry {
            name_len: attribute.name.len() as u8,
            name_index: attribute.index,
            value_offs: U16::new(if attribute.value.is_empty() { 0 } else { value_at as u16 }),
            value_inum: U32::ZERO,
            value_size: U32::new(attribute.value.len() as u32),
            hash: U32::new(hash),
        };
        for (at, bytes) in [
            (entry_at, entry.as_bytes()),
            (entry_at + size_of::<AttributeEntry>(), &attribute.name),
            (value_at, &attribute.value),
        ] {
            if let Some(place) = space.get_mut(at..at + bytes.len()) {
                place.copy_from_slice(bytes);
            }
        }
        entry_at += attribute.entry_size();
    }
    if unhashed { 0 } else { total }
}

fn hash(attribute: &Attribute) -> u32 {
    let name =
        attribute.name.iter().fold(0_u32, |hash, byte| hash.rotate_left(5) ^ u32::from(*byte));
    attribute.value.chunks(4).fold(name, |hash, word| {
        let mut padded = [0; 4];
        for (place, byte) in padded.iter_mut().zip(word) {
            *place = *byte;
        }
        hash.rotate_left(16) ^ u32::from_le_bytes(padded)
    })
}

fn write_header(block: &mut Block, hash: u32, shares: u32, checksum: u32) {
    let header = AttributeHeader {
        magic: U32::new(MAGIC),
        refcount: U32::new(shares),
        blocks: U32::new(1),
        hash: U32::new(hash),
        checksum: U32::new(checksum),
        reserved: [U32::ZERO; 3],
    };
    if let Some(place) = block.get_mut(..size_of::<AttributeHeader>()) {
        place.copy_from_slice(header.as_bytes());
    }
}

/// Sets the reference count and the checksum of a block at its place.
fn seal(block: &mut Block, place: u64, shares: u32, seed: u32) {
    let hash = block.get(12..16).and_then(|bytes| bytes.try_into().ok());
    let hash = hash.map_or(0, u32::from_le_bytes);
    write_header(block, hash, shares, 0);
    let sum = checksum::extend(checksum::extend(seed, &place.to_le_bytes()), block.as_slice());
    write_header(block, hash, shares, sum);
}

/// The attribute blocks of the image and how many inodes share each.
pub(super) struct AttributeBlocks {
    seed: u32,
    /// Blocks that can be shared further, by content.
    known: HashMap<Box<Block>, u64>,
    shares: HashMap<u64, u32>,
}

impl AttributeBlocks {
    pub(super) fn new(seed: u32) -> Self {
        Self { seed, known: HashMap::new(), shares: HashMap::new() }
    }

    /// The block for a layout: zero for none, else a new or a shared one.
    pub(super) fn add(
        &mut self,
        layout: Layout,
        allocator: &mut Allocator,
        output: &mut Output,
    ) -> Result<u64, Error> {
        let Some(content) = layout.block else { return Ok(0) };
        if let Some(block) = self.known.get(&content) {
            let shares = self.shares.entry(*block).or_insert(0);
            if (1..MAXIMUM_SHARES).contains(shares) {
                *shares += 1;
                return Ok(*block);
            }
        }
        let block = allocator.allocate()?;
        let mut sealed = content.clone();
        seal(&mut sealed, block, 1, self.seed);
        output.write(block, &sealed)?;
        if self.known.len() >= REMEMBERED {
            self.known.clear();
        }
        self.known.insert(content, block);
        self.shares.insert(block, 1);
        Ok(block)
    }

    /// An inode with this block is gone.
    pub(super) fn release(&mut self, block: u64, allocator: &mut Allocator) {
        let Some(shares) = self.shares.get_mut(&block) else { return };
        *shares -= 1;
        if *shares == 0 {
            self.shares.remove(&block);
            self.known.retain(|_, known| *known != block);
            allocator.free(block);
        }
    }

    /// Blocks whose reference count on disk is not right, with the right one, ascending.
    pub(super) fn shared(&self) -> Vec<(u64, u32)> {
        let mut shared: Vec<_> = self
            .shares
            .iter()
            .filter(|(_, shares)| **shares != 1)
            .map(|(block, shares)| (*block, *shares))
            .collect();
        shared.sort_unstable();
        shared
    }

    /// Corrects the reference count in a block that was read back.
    pub(super) fn reseal(&self, content: &mut Block, block: u64, shares: u32) {
        seal(content, block, shares, self.seed);
    }
}
