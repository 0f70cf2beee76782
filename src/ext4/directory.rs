//! Directories: their entries in memory, and the blocks they become.
//!
//! A directory of more than one block gets its index (`half_md4`) at once, so that the
//! kernel never has to scan a large one.

use std::collections::HashMap;

use super::checksum;
use super::error::Error;
use super::format::{BLOCK_SIZE, Block, Inode, ZERO_BLOCK};
use super::hash::{NameHash, half_md4};

/// What a name stands for; the values are those of a directory entry's `file_type`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub(super) enum FileType {
    File = 1,
    Directory = 2,
    CharacterDevice = 3,
    BlockDevice = 4,
    Fifo = 5,
    Socket = 6,
    SymbolicLink = 7,
}

/// A name's inode.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Child {
    pub(super) inode: u32,
    pub(super) kind: FileType,
}

/// A directory while the tree is built.
pub(super) struct Directory {
    /// The inode of the directory that holds it.
    pub(super) parent: u32,
    /// Its own inode, without content.
    pub(super) inode: Inode,
    /// Its entries, `.` and `..` not included.
    pub(super) entries: HashMap<Box<[u8]>, Child>,
}

/// Bytes of a block that entries can use; the checksum takes the rest.
const USABLE: usize = BLOCK_SIZE - TAIL;

/// Bytes of the entry that looks empty and holds the checksum.
const TAIL: usize = 12;

/// Bytes that a leaf keeps free for names to come.
const SLACK: usize = BLOCK_SIZE / 8;

/// Bytes of an entry without its name.
const ENTRY: usize = 8;

/// Index entries of the root and of the blocks below it; the checksum takes one.
const ROOT_LIMIT: usize = (BLOCK_SIZE - ROOT_INDEX) / INDEX - 1;
const NODE_LIMIT: usize = (BLOCK_SIZE - NODE_INDEX) / INDEX - 1;

/// Where the index begins in the root and in the blocks below it.
const ROOT_INDEX: usize = 32;
const NODE_INDEX: usize = 8;

/// Bytes of an index entry.
const INDEX: usize = 8;

const HALF_MD4: u8 = 1;

/// The blocks of a directory.
pub(super) struct Blocks {
    pub(super) blocks: Vec<Block>,
    /// Whether the first blocks are an index.
    pub(super) indexed: bool,
}

/// Lays a directory out in at least `minimum` blocks.
pub(super) fn lay_out(
    number: u32,
    directory: &Directory,
    minimum: usize,
    hash_seed: [u32; 4],
    seed: u32,
) -> Result<Blocks, Error> {
    let mut names: Vec<(&[u8], Child)> =
        directory.entries.iter().map(|(name, child)| (name.as_ref(), *child)).collect();
    // The order of creation, so that reading a directory reads inodes in order; and the
    // same image every time.
    names.sort_unstable_by_key(|(name, child)| (child.inode, *name));
    let own = Child { inode: number, kind: FileType::Directory };
    let parent = Child { inode: directory.parent, kind: FileType::Directory };
    let size: usize = names.iter().map(|(name, _)| entry_size(name)).sum();
    if entry_size(b".") + entry_size(b"..") + size <= USABLE {
        let mut block = Leaf::new();
        block.push(b".", own);
        block.push(b"..", parent);
        for (name, child) in names {
            block.push(name, child);
        }
        let mut blocks = vec![block.finish(seed)];
        while blocks.len() < minimum {
            blocks.push(Leaf::new().finish(seed));
        }
        return Ok(Blocks { blocks, indexed: false });
    }
    let mut hashed: Vec<(NameHash, &[u8], Child)> =
        names.into_iter().map(|(name, child)| (half_md4(name, hash_seed), name, child)).collect();
    hashed.sort_unstable_by_key(|(hash, name, _)| (*hash, *name));
    index(&hashed, own, parent, seed)
}

/// The blocks of an indexed directory: the root, the index below it, the leaves.
fn index(
    names: &[(NameHash, &[u8], Child)],
    own: Child,
    parent: Child,
    seed: u32,
) -> Result<Blocks, Error> {
    let mut leaves = Vec::new();
    let mut starts = Vec::new();
    let mut leaf = Leaf::new();
    let mut last = None;
    for (hash, name, child) in names {
        if leaf.used > 0 && leaf.used + entry_size(name) > USABLE - SLACK {
            leaves.push(std::mem::replace(&mut leaf, Leaf::new()).finish(seed));
        }
        if leaf.used == 0 {
            // The lowest bit says that names with this hash begin in the leaf before.
            let continued = last == Some(hash.major);
            starts.push(if starts.is_empty() { 0 } else { hash.major | u32::from(continued) });
        }
        leaf.push(name, *child);
        last = Some(hash.major);
    }
    leaves.push(leaf.finish(seed));
    let nodes = if leaves.len() > ROOT_LIMIT { leaves.len().div_ceil(NODE_LIMIT) } else { 0 };
    if nodes > ROOT_LIMIT {
        return Err(Error::DirectoryTooLarge { entries: names.len() });
    }
    let mut places = starts.iter().enumerate().map(|(leaf, start)| (*start, 1 + nodes + leaf));
    let mut blocks = Vec::with_capacity(1 + nodes + leaves.len());
    blocks.push(ZERO_BLOCK);
    let below: Vec<(u32, usize)> = if nodes == 0 {
        places.collect()
    } else {
        let mut below = Vec::with_capacity(nodes);
        for node in 0..nodes {
            let entries: Vec<_> = places.by_ref().take(NODE_LIMIT).collect();
            below.push((entries.first().map_or(0, |entry| entry.0), 1 + node));
            let mut block = ZERO_BLOCK;
            put(&mut block, 4, &(BLOCK_SIZE as u16).to_le_bytes());
            write_index(&mut block, NODE_INDEX, NODE_LIMIT, &entries, seed);
            blocks.push(block);
        }
        below
    };
    if let Some(root) = blocks.first_mut() {
        put_entry(root, 0, entry_size(b"."), b".", own);
        put_entry(root, 12, BLOCK_SIZE - 12, b"..", parent);
        put(root, 28, &[HALF_MD4, 8, u8::from(nodes > 0), 0]);
        write_index(root, ROOT_INDEX, ROOT_LIMIT, &below, seed);
    }
    blocks.extend(leaves);
    Ok(Blocks { blocks, indexed: true })
}

/// Writes an index whose first entry has the limit and the count in place of its hash.
fn write_index(block: &mut Block, start: usize, limit: usize, entries: &[(u32, usize)], seed: u32) {
    for (position, (hash, place)) in entries.iter().enumerate() {
        let at = start + position * INDEX;
        if position > 0 {
            put(block, at, &hash.to_le_bytes());
        }
        put(block, at + 4, &(*place as u32).to_le_bytes());
    }
    put(block, start, &(limit as u16).to_le_bytes());
    put(block, start + 2, &(entries.len() as u16).to_le_bytes());
    let covered = block.get(..start + entries.len() * INDEX).unwrap_or_default();
    // The tail itself counts with a zero checksum.
    let sum = checksum::extend(checksum::extend(seed, covered), &[0; 8]);
    put(block, start + limit * INDEX + 4, &sum.to_le_bytes());
}

/// A block of entries.
struct Leaf {
    block: Block,
    used: usize,
    /// Where the last entry is.
    last: Option<usize>,
}

impl Leaf {
    fn new() -> Self {
        Self { block: ZERO_BLOCK, used: 0, last: None }
    }

    /// Adds an entry, which must fit.
    fn push(&mut self, name: &[u8], child: Child) {
        put_entry(&mut self.block, self.used, entry_size(name), name, child);
        self.last = Some(self.used);
        self.used += entry_size(name);
    }

    /// The last entry takes the rest of the block, then comes the checksum.
    fn finish(mut self, seed: u32) -> Block {
        let last = self.last.unwrap_or_default();
        put(&mut self.block, last + 4, &((USABLE - last) as u16).to_le_bytes());
        let sum = checksum::extend(seed, self.block.get(..USABLE).unwrap_or_default());
        put(&mut self.block, USABLE + 4, &(TAIL as u16).to_le_bytes());
        put(&mut self.block, USABLE + 7, &[0xde]);
        put(&mut self.block, USABLE + 8, &sum.to_le_bytes());
        self.block
    }
}

fn entry_size(name: &[u8]) -> usize {
    (ENTRY + name.len()).next_multiple_of(4)
}

fn put_entry(block: &mut Block, at: usize, size: usize, name: &[u8], child: Child) {
    put(block, at, &child.inode.to_le_bytes());
    put(block, at + 4, &(size as u16).to_le_bytes());
    put(block, at + 6, &[name.len() as u8, child.kind as u8]);
    put(block, at + ENTRY, name);
}

fn put(block: &mut Block, at: usize, bytes: &[u8]) {
    if let Some(place) = block.get_mut(at..at + bytes.len()) {
        place.copy_from_slice(bytes);
    }
}
