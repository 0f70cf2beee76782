//! A directory's entries. An index is passed over: to who does not know it, its blocks
//! are empty ones.

use std::io::Read;

use super::super::checksum;
use super::super::format::INODE_INDEX;
use super::Image;
use super::content::{Content, inline_content};
use super::error::ReadError;
use super::inode::{Inode, Map};
use super::super_block::word;

/// The most entries that are taken.
const MAXIMUM_ENTRIES: usize = 1 << 24;

/// Bytes of an entry without its name.
const ENTRY: usize = 8;

/// Bytes of the entry that looks empty and holds a block's checksum.
const TAIL: usize = 12;

/// What that entry has for a type.
const TAIL_TYPE: u8 = 0xde;

/// A name and its inode.
pub(super) type Name = (Vec<u8>, u32);

/// All names but `.` and `..`.
pub(super) fn read(image: &Image, inode: &Inode) -> Result<Vec<Name>, ReadError> {
    let mut names = Vec::new();
    if let Map::Inline(_) = inode.map {
        // The parent's number, then entries; more of them in the attribute.
        let content = inline_content(image, inode)?;
        let (first, rest) = content.split_at_checked(60).unwrap_or((&content, &[]));
        for part in [first.get(4..).unwrap_or_default(), rest] {
            block(inode, part, &mut names)?;
        }
        return Ok(names);
    }
    let size = image.blocks.size();
    let mut content = Content::new(&image.blocks, inode)?;
    let mut bytes = vec![0; size];
    // Beyond what the file system can have there is nothing but holes.
    let blocks = (inode.size / size as u64).min(image.blocks.count());
    for index in 0..blocks {
        let is_hole = content.skip_hole(index)?;
        if is_hole {
            continue;
        }
        content.read_exact(&mut bytes)?;
        let part = check(inode, index, &bytes)?;
        block(inode, part, &mut names)?;
    }
    Ok(names)
}

fn damaged(inode: &Inode, what: &str) -> ReadError {
    ReadError::damaged(format!("directory {} has {what}", inode.number))
}

/// The part of a block that has entries.
fn check<'a>(inode: &Inode, index: u64, bytes: &'a [u8]) -> Result<&'a [u8], ReadError> {
    let Some(seed) = inode.seed else { return Ok(bytes) };
    let reaches_end = |offset| match usize::from(half(bytes, offset + 4)) {
        0 | 0xffff => bytes.len() > 0xffff,
        length => length == bytes.len() - offset,
    };
    // The root of an index: its second entry reaches to the end. A block below it: one
    // empty entry does. They may end with the checksum of what they were before.
    let is_root = index == 0 && inode.flags & INODE_INDEX != 0 && reaches_end(12);
    let is_node = word(bytes, 0) == 0 && reaches_end(0);
    if is_root || is_node {
        return Ok(bytes);
    }
    let (body, tail) = bytes.split_at_checked(bytes.len() - TAIL).unwrap_or_default();
    let is_tail = word(tail, 0) == 0
        && usize::from(half(tail, 4)) == TAIL
        && tail.get(6..8) == Some(&[0, TAIL_TYPE]);
    if !is_tail {
        return Err(damaged(inode, &format!("no checksum in block {index}")));
    }
    if checksum::extend(seed, body) != word(tail, 8) {
        return Err(damaged(inode, &format!("a wrong checksum in block {index}")));
    }
    Ok(body)
}

/// A little-endian half word.
fn half(bytes: &[u8], at: usize) -> u16 {
    let bytes = bytes.get(at..).and_then(|rest| rest.first_chunk::<2>());
    bytes.map_or(0, |bytes| u16::from_le_bytes(*bytes))
}

/// Reads the entries of a block.
fn block(inode: &Inode, bytes: &[u8], names: &mut Vec<Name>) -> Result<(), ReadError> {
    let wrong = || damaged(inode, "a wrong entry");
    let mut at = 0;
    while at + ENTRY <= bytes.len() {
        let number = word(bytes, at);
        // Blocks of 64 KiB have lengths that 16 bits do not.
        let length = match usize::from(half(bytes, at + 4)) {
            0 | 0xffff if bytes.len() >= 0xfff0 => bytes.len() - at,
            length => length,
        };
        let name_length = bytes.get(at + 6).copied().map_or(0, usize::from);
        if length < ENTRY + name_length || length % 4 != 0 || at + length > bytes.len() {
            return Err(wrong());
        }
        let name = bytes.get(at + ENTRY..at + ENTRY + name_length).ok_or_else(wrong)?;
        if number != 0 && name != b"." && name != b".." {
            if name.is_empty() || name.contains(&b'/') || name.contains(&0) {
                return Err(damaged(inode, "a name that cannot be"));
            }
            if names.len() == MAXIMUM_ENTRIES {
                return Err(damaged(inode, "too many entries"));
            }
            names.push((name.to_vec(), number));
        }
        at += length;
    }
    Ok(())
}
