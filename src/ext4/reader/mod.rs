//! The ext4 reader: an image's files without mounting it.
//!
//! [`Image`] reads what the writer, `mke2fs` and WSL make: extents and the older block
//! maps, hashed and linear directories, attributes in inodes and blocks, data in inodes,
//! 64-bit addresses, checksums of metadata, which are checked. A journal that was left
//! behind is replayed in memory. [`Image::read_tree`] gives everything as tree entries;
//! [`Image::find`] and [`File`] are for single files.
//!
//! Every byte of an image is hostile. Whatever it holds, reading ends, with an error or
//! with a tree, in memory for the names of the directories on the way down, for the files
//! with more than one name, and one number for each directory.
//!
//! Source of the format: as for the writer.

mod attributes;
mod blocks;
mod content;
mod directory;
mod error;
mod extents;
mod free;
mod indirect;
mod inode;
mod journal;
mod super_block;
mod walk;

use std::fs;
use std::io::Read;

use super::format::{MODE_DIRECTORY, MODE_FILE, MODE_SYMBOLIC_LINK, ROOT};
use crate::disk::Disk;
use crate::disk::raw::Raw;
use crate::tree::path::TreePath;
use crate::tree::{CopyError, Sink};

use self::blocks::Blocks;
use self::content::Content;
pub use self::error::ReadError;
use self::inode::{Inode, Map};
use self::super_block::Layout;

/// The longest target of a symbolic link, in bytes.
const MAXIMUM_TARGET: u64 = 4096;

/// An ext4 file system in a file.
#[derive(Debug)]
pub struct Image {
    blocks: Blocks,
    layout: Layout,
}

/// What a superblock says of its file system.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Health {
    /// The file system's length in bytes.
    pub size: u64,
    /// The kernel has met an error in it, and nobody has repaired it.
    pub has_errors: bool,
}

/// One file of an image.
#[derive(Clone, Debug)]
pub struct File {
    inode: Inode,
}

impl Image {
    /// Opens an image and replays its journal in memory, where that is needed. The file is
    /// only read.
    ///
    /// # Errors
    /// Where there is no ext4 file system, or one that is damaged or not supported.
    pub fn open(file: fs::File) -> Result<Self, ReadError> {
        Self::on(Box::new(Raw::new(file)))
    }

    /// Looks at the superblock of a disk and at nothing else.
    ///
    /// # Errors
    /// Where there is no ext4 file system, or its superblock contradicts itself or the
    /// disk.
    pub fn examine(disk: &dyn Disk) -> Result<Health, ReadError> {
        let (_, layout) = super_block(disk)?;
        let size = layout.blocks * layout.block_size as u64;
        Ok(Health { size, has_errors: layout.has_errors })
    }

    /// What the superblock says, once the journal is replayed.
    #[must_use]
    pub fn health(&self) -> Health {
        let size = self.layout.blocks * self.layout.block_size as u64;
        Health { size, has_errors: self.layout.has_errors }
    }

    /// The same for the image in a disk of any format.
    ///
    /// # Errors
    /// As [`Image::open`].
    pub fn on(disk: Box<dyn Disk>) -> Result<Self, ReadError> {
        let length = disk.length()?;
        let (mut bytes, layout) = super_block(disk.as_ref())?;
        let blocks = Blocks::new(disk, layout.block_size, layout.blocks);
        let mut image = Self { blocks, layout };
        if let Some(number) = image.layout.journal {
            let inode = image.inode(number)?;
            let replaced = journal::replay(&image.blocks, &inode)?;
            image.blocks.replace(replaced);
            // The superblock may be among what was replayed.
            let block = super_block::OFFSET / image.layout.block_size as u64;
            let within = super_block::OFFSET % image.layout.block_size as u64;
            image.blocks.read_at(block, within as usize, &mut bytes)?;
            let layout = Layout::new(&bytes, length)?;
            if layout.block_size != image.layout.block_size || layout.blocks > image.layout.blocks {
                return Err(ReadError::damaged("the journal changes the size"));
            }
            image.layout = layout;
        }
        Ok(image)
    }

    /// Passes everything to a sink: each directory before what is in it, files in the
    /// order of their inodes. An empty `lost+found` is left out.
    ///
    /// # Errors
    /// [`CopyError::Source`] where something cannot be read, [`CopyError::Sink`] where the
    /// sink refuses an entry, or a file's content cannot be read.
    pub fn read_tree<S: Sink>(&self, sink: &mut S) -> Result<(), CopyError<ReadError, S::Error>> {
        walk::read_tree(self, sink)
    }

    /// The regular file at a path; symbolic links are followed inside the image. `None`
    /// where there is none, or something else.
    ///
    /// # Errors
    /// Where the image is damaged or cannot be read.
    pub fn find(&self, path: &TreePath) -> Result<Option<File>, ReadError> {
        let mut above = vec![self.inode(ROOT)?];
        let mut todo: Vec<Vec<u8>> = path.components().map(<[u8]>::to_vec).collect();
        todo.reverse();
        let mut links = 0;
        while let Some(name) = todo.pop() {
            let Some(directory) = above.last() else { return Ok(None) };
            match name.as_slice() {
                b"" | b"." => continue,
                b".." => {
                    if above.len() > 1 {
                        above.pop();
                    }
                    continue;
                }
                _ => {}
            }
            if directory.kind() != MODE_DIRECTORY {
                return Ok(None);
            }
            let names = directory::read(self, directory)?;
            let Some((_, number)) = names.into_iter().find(|(found, _)| *found == name) else {
                return Ok(None);
            };
            let inode = self.inode(number)?;
            if inode.kind() != MODE_SYMBOLIC_LINK {
                above.push(inode);
                continue;
            }
            links += 1;
            // As many as Linux follows.
            if links > 40 {
                return Ok(None);
            }
            let target = self.target(&inode)?;
            if target.starts_with(b"/") {
                above.truncate(1);
            }
            todo.extend(target.split(|byte| *byte == b'/').rev().map(<[u8]>::to_vec));
        }
        let inode = above.pop().filter(|inode| inode.kind() == MODE_FILE);
        Ok(inode.map(|inode| File { inode }))
    }

    /// Reads bytes of a file from an offset on; fewer than asked for at its end.
    ///
    /// # Errors
    /// Where the image is damaged or cannot be read.
    pub fn read_at(&self, file: &File, offset: u64, bytes: &mut [u8]) -> Result<usize, ReadError> {
        if let Map::Inline(_) = file.inode.map {
            let content = content::inline_content(self, &file.inode)?;
            let rest = usize::try_from(offset).ok().and_then(|offset| content.get(offset..));
            let rest = rest.unwrap_or_default();
            let count = rest.len().min(bytes.len());
            for (place, byte) in bytes.iter_mut().zip(rest) {
                *place = *byte;
            }
            return Ok(count);
        }
        let mut content = Content::new(&self.blocks, &file.inode)?;
        content.seek(offset)?;
        let mut count = 0;
        while let Some(rest) = bytes.get_mut(count..).filter(|rest| !rest.is_empty()) {
            match content.read(rest)? {
                0 => break,
                read => count += read,
            }
        }
        Ok(count)
    }

    /// An inode by number.
    fn inode(&self, number: u32) -> Result<Inode, ReadError> {
        let (group, index) = self.layout.place(number)?;
        let (block, offset) = self.layout.descriptor_place(group);
        let table = self.layout.inode_table(group, &self.blocks.read(block)?, offset)?;
        let at = u64::from(index) * self.layout.inode_size as u64;
        let size = self.layout.block_size as u64;
        let mut bytes = vec![0; self.layout.inode_size];
        self.blocks.read_at(table.saturating_add(at / size), (at % size) as usize, &mut bytes)?;
        Inode::new(number, &bytes, &self.layout)
    }

    /// The target of a symbolic link.
    fn target(&self, inode: &Inode) -> Result<Vec<u8>, ReadError> {
        let damaged =
            || ReadError::damaged(format!("the symbolic link {} has a wrong target", inode.number));
        if inode.size == 0 || inode.size > MAXIMUM_TARGET {
            return Err(damaged());
        }
        let mut target = vec![0; inode.size as usize];
        if inode.is_short_link() {
            target = inode.map_bytes().get(..inode.size as usize).unwrap_or_default().to_vec();
        } else if self.read_at(&File { inode: inode.clone() }, 0, &mut target)? < target.len() {
            return Err(damaged());
        }
        if target.contains(&0) { Err(damaged()) } else { Ok(target) }
    }
}

/// The superblock of a disk, and the layout that it tells.
fn super_block(disk: &dyn Disk) -> Result<(Vec<u8>, Layout), ReadError> {
    let length = disk.length()?;
    if length < super_block::OFFSET + super_block::SIZE as u64 {
        return Err(ReadError::NotExt4);
    }
    let mut bytes = vec![0; super_block::SIZE];
    disk.read_at(&mut bytes, super_block::OFFSET)?;
    let layout = Layout::new(&bytes, length)?;
    Ok((bytes, layout))
}

impl File {
    /// Its size in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.inode.size
    }
}
