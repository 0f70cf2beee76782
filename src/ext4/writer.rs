//! The writer: the tree so far, and what each entry adds to it.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use nix::fcntl::{FallocateFlags, fallocate};
use uuid::Uuid;
use zerocopy::little_endian::{U16, U32};

use super::allocator::Allocator;
use super::attributes::{self, AttributeBlocks};
use super::checksum;
use super::content::{self, Failure, MAXIMUM_FILE};
use super::directory::{self, Child, Directory, FileType};
use super::error::Error;
use super::extents::{self, Extents, Node};
use super::format::{
    BLOCK_SIZE, FIRST_INODE, INODE_EXTENTS, INODE_INDEX, Inode, JOURNAL, MAXIMUM_LINKS,
    MODE_BLOCK_DEVICE, MODE_CHARACTER_DEVICE, MODE_DIRECTORY, MODE_FIFO, MODE_FILE, MODE_SOCKET,
    MODE_SYMBOLIC_LINK, ROOT, ZERO_BLOCK,
};
use super::geometry::Geometry;
use super::inodes::{self, Inodes};
use super::journal;
use super::metadata::{self, Journal, UsedInodes};
use super::output::Output;
use crate::tree::path::TreePath;
use crate::tree::{Entry, Kind, Metadata, Segment, Sink, Timestamp};

/// Blocks of an empty `lost+found`: what `mke2fs` gives it, so that a check need not
/// allocate.
const LOST_AND_FOUND_BLOCKS: usize = 4;

/// The longest target of a symbolic link that fits in the inode, in bytes.
const MAXIMUM_INLINE_TARGET: usize = 59;

/// How an image is made.
#[derive(Clone, Debug)]
pub struct Options {
    /// The apparent size in bytes; the file takes only what is written.
    pub size: u64,
    /// The volume label, of which ext4 keeps 16 bytes.
    pub label: String,
    /// The file system's UUID.
    pub uuid: Uuid,
    /// What the hash of names begins with.
    pub hash_seed: Uuid,
    /// Whether there is a journal; a file system that is only ever mounted read-only
    /// needs none.
    pub journal: bool,
    /// The time of creation, which is also that of directories that no entry names.
    pub created: Timestamp,
}

impl Default for Options {
    /// 1 TiB, no label, random UUIDs, a journal, created now.
    fn default() -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            size: 1 << 40,
            label: String::new(),
            uuid: Uuid::new_v4(),
            hash_seed: Uuid::new_v4(),
            journal: true,
            created: Timestamp {
                seconds: i64::try_from(now.as_secs()).unwrap_or_default(),
                nanoseconds: now.subsec_nanos(),
            },
        }
    }
}

impl Options {
    pub(super) fn hash_seed(&self) -> [u32; 4] {
        let mut seed = [0; 4];
        for (word, bytes) in seed.iter_mut().zip(self.hash_seed.as_bytes().as_chunks::<4>().0) {
            *word = u32::from_le_bytes(*bytes);
        }
        seed
    }
}

/// What an image holds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Summary {
    /// Blocks of 4096 bytes in all.
    pub blocks: u64,
    /// Blocks that are free.
    pub free_blocks: u64,
    /// Inodes in all.
    pub inodes: u32,
    /// Inodes that are free.
    pub free_inodes: u32,
    /// Bytes of content, directories and maps that were written.
    pub written: u64,
}

/// Writes one ext4 image; entries come in through [`Sink`].
///
/// The image is a file system only after [`finish`](Self::finish); after an error the
/// file is of no use.
pub struct Writer {
    file: Arc<File>,
    options: Options,
    geometry: Arc<Geometry>,
    allocator: Allocator,
    output: Output,
    inodes: Inodes,
    attribute_blocks: AttributeBlocks,
    directories: HashMap<u32, Directory>,
    /// The directory of the last entry: the next one is mostly there too.
    recent: (Vec<u8>, u32),
    journal: Option<Journal>,
}

impl Writer {
    /// Starts an image in `file`, which is emptied.
    ///
    /// # Errors
    /// [`Error::Size`] and [`Error::Write`].
    pub fn new(file: File, options: Options) -> Result<Self, Error> {
        let geometry = Arc::new(Geometry::new(options.size)?);
        file.set_len(0).map_err(Error::Write)?;
        file.set_len(options.size).map_err(Error::Write)?;
        let file = Arc::new(file);
        let seed = checksum::file_system(options.uuid.as_bytes());
        let mut writer = Self {
            allocator: Allocator::new(&geometry),
            output: Output::new(Arc::clone(&file))?,
            inodes: Inodes::new(Arc::clone(&file), Arc::clone(&geometry), seed),
            attribute_blocks: AttributeBlocks::new(seed),
            directories: HashMap::new(),
            recent: (Vec::new(), ROOT),
            journal: None,
            file,
            options,
            geometry,
        };
        writer.begin()?;
        Ok(writer)
    }

    /// Writes directories and metadata, and waits until all is on the disk.
    ///
    /// # Errors
    /// [`Error::NoSpace`], [`Error::DirectoryTooLarge`] and [`Error::Write`].
    pub fn finish(mut self) -> Result<Summary, Error> {
        self.write_directories()?;
        self.inodes.flush()?;
        self.output.finish()?;
        self.correct_shared_attributes()?;
        let directories = self.directory_numbers();
        let (last, free) = self.inodes.taken();
        let (free_blocks, free_inodes) = metadata::Metadata {
            file: &self.file,
            geometry: &self.geometry,
            allocator: &self.allocator,
            inodes: UsedInodes { last, free, directories: &directories },
            journal: self.journal.as_ref(),
            options: &self.options,
        }
        .write()?;
        self.punch_freed();
        self.file.sync_all().map_err(Error::Write)?;
        Ok(Summary {
            blocks: self.geometry.blocks,
            free_blocks,
            inodes: self.geometry.inodes(),
            free_inodes,
            written: self.output.written(),
        })
    }

    /// The root, `lost+found` and the journal.
    fn begin(&mut self) -> Result<(), Error> {
        let root = self.new_directory_metadata();
        let inode = inodes::inode(MODE_DIRECTORY, &root, self.options.created);
        let root = Directory { parent: ROOT, inode, entries: HashMap::new() };
        self.directories.insert(ROOT, root);
        let metadata = Metadata { mode: 0o700, ..self.new_directory_metadata() };
        let path = TreePath::root();
        self.add_directory(&path, ROOT, b"lost+found", &metadata)?;
        let blocks = journal::size(self.geometry.blocks);
        if self.options.journal && blocks > 0 {
            let mut map = Extents::new(self.inodes.seed(JOURNAL));
            for logical in 0..blocks {
                let physical = self.allocator.allocate()?;
                map.push(logical as u32, physical, &mut self.allocator, &mut self.output)?;
                if logical == 0 {
                    self.output.write(physical, &journal::super_block(blocks))?;
                }
            }
            let metadata = Metadata { mode: 0o600, ..self.new_directory_metadata() };
            let mut inode = inodes::inode(MODE_FILE, &metadata, self.options.created);
            inode.block = map.finish(&mut self.allocator, &mut self.output)?;
            inode.flags = U32::new(INODE_EXTENTS);
            inode.set_size(blocks * BLOCK_SIZE as u64);
            inode.set_blocks(map.blocks());
            self.inodes.write(JOURNAL, &inode)?;
            self.journal = Some(Journal { inode, blocks });
        }
        Ok(())
    }

    fn new_directory_metadata(&self) -> Metadata {
        Metadata { mode: 0o755, modified: self.options.created, ..Metadata::default() }
    }

    /// The directory that holds `path`, made if it is missing.
    fn parent(&mut self, path: &TreePath, parent: &[u8]) -> Result<u32, Error> {
        if self.recent.0 == parent {
            return Ok(self.recent.1);
        }
        let mut number = ROOT;
        let mut end = 0;
        for name in parent.split(|byte| *byte == b'/').filter(|name| !name.is_empty()) {
            end += name.len() + 1;
            let child = self.child(number, name);
            number = match child {
                Some(Child { inode, kind: FileType::Directory }) => inode,
                Some(_) => {
                    let ancestor = parent.get(..end - 1).unwrap_or_default();
                    let ancestor = format!("/{}", String::from_utf8_lossy(ancestor).escape_debug());
                    return Err(Error::NotADirectory { path: path.to_string(), ancestor });
                }
                None => {
                    let metadata = self.new_directory_metadata();
                    self.add_directory(path, number, name, &metadata)?
                }
            };
        }
        self.recent = (parent.to_vec(), number);
        Ok(number)
    }

    fn child(&self, directory: u32, name: &[u8]) -> Option<Child> {
        self.directories.get(&directory)?.entries.get(name).copied()
    }

    fn link(&mut self, directory: u32, name: &[u8], child: Child) {
        if let Some(directory) = self.directories.get_mut(&directory) {
            directory.entries.insert(name.into(), child);
        }
    }

    fn add_directory(
        &mut self,
        path: &TreePath,
        parent: u32,
        name: &[u8],
        metadata: &Metadata,
    ) -> Result<u32, Error> {
        let number = self.inodes.allocate()?;
        let inode = self.inode(path, MODE_DIRECTORY, metadata)?;
        self.directories.insert(number, Directory { parent, inode, entries: HashMap::new() });
        self.link(parent, name, Child { inode: number, kind: FileType::Directory });
        Ok(number)
    }

    /// A directory entry for one that may exist.
    fn directory(&mut self, path: &TreePath, metadata: &Metadata) -> Result<(), Error> {
        let number = match path.split() {
            None => Some(ROOT),
            Some((parent, name)) => {
                let parent = self.parent(path, parent)?;
                match self.child(parent, name) {
                    Some(Child { inode, kind: FileType::Directory }) => Some(inode),
                    existing => {
                        if existing.is_some() {
                            self.remove(path, parent, name)?;
                        }
                        self.add_directory(path, parent, name, metadata)?;
                        None
                    }
                }
            }
        };
        let Some(number) = number else { return Ok(()) };
        let inode = self.inode(path, MODE_DIRECTORY, metadata)?;
        if let Some(directory) = self.directories.get_mut(&number) {
            let old = std::mem::replace(&mut directory.inode, inode).attribute_block();
            self.attribute_blocks.release(old, &mut self.allocator);
        }
        Ok(())
    }

    /// An inode with its attributes stored, and without content.
    fn inode(&mut self, path: &TreePath, kind: u16, metadata: &Metadata) -> Result<Inode, Error> {
        let mut inode = inodes::inode(kind, metadata, self.options.created);
        let layout = attributes::lay_out(&metadata.attributes).ok_or_else(|| {
            let size = |(name, value): &(Vec<u8>, Vec<u8>)| name.len() + value.len();
            let length = metadata.attributes.iter().map(size).sum();
            Error::Attributes { path: path.to_string(), length }
        })?;
        inode.attributes = layout.inode;
        let block = self.attribute_blocks.add(layout, &mut self.allocator, &mut self.output)?;
        inode.set_attribute_block(block);
        inode.set_blocks(u64::from(block != 0));
        Ok(inode)
    }

    /// Anything but a directory: what was there is replaced.
    fn leaf(&mut self, entry: Entry<'_>) -> Result<(), Error> {
        let Some((parent, name)) = entry.path.split() else {
            return Err(Error::DirectoryInTheWay { path: entry.path.to_string() });
        };
        let path = entry.path;
        let parent = self.parent(path, parent)?;
        let target = match &entry.kind {
            Kind::HardLink { target } => Some(self.link_target(path, target)?),
            _ => None,
        };
        if let Some(existing) = self.child(parent, name) {
            if target.is_some_and(|target| target.inode == existing.inode) {
                return Ok(());
            }
            self.remove(path, parent, name)?;
        }
        let child = match entry.kind {
            // `directory` takes these.
            Kind::Directory => return Ok(()),
            Kind::HardLink { target: target_path } => {
                // What was replaced may have been the target's directory.
                match target {
                    Some(child) => self.add_name(path, target_path, child)?,
                    None => return Ok(()),
                }
            }
            Kind::File { size, segments, content } => {
                self.file(path, entry.metadata, size, segments, content)?
            }
            Kind::SymbolicLink { target } => self.symbolic_link(path, entry.metadata, target)?,
            Kind::BlockDevice { major, minor } => {
                let kind = (MODE_BLOCK_DEVICE, FileType::BlockDevice);
                self.device(path, entry.metadata, kind, major, minor)?
            }
            Kind::CharacterDevice { major, minor } => {
                let kind = (MODE_CHARACTER_DEVICE, FileType::CharacterDevice);
                self.device(path, entry.metadata, kind, major, minor)?
            }
            Kind::Fifo => self.special(path, entry.metadata, MODE_FIFO, FileType::Fifo)?,
            Kind::Socket => self.special(path, entry.metadata, MODE_SOCKET, FileType::Socket)?,
        };
        self.link(parent, name, child);
        Ok(())
    }

    fn file(
        &mut self,
        path: &TreePath,
        metadata: &Metadata,
        size: u64,
        segments: &[Segment],
        reader: &mut dyn Read,
    ) -> Result<Child, Error> {
        if size > MAXIMUM_FILE {
            return Err(Error::FileTooLarge { path: path.to_string(), size });
        }
        let number = self.inodes.allocate()?;
        let mut inode = self.inode(path, MODE_FILE, metadata)?;
        let mut map = Extents::new(self.inodes.seed(number));
        content::store(size, segments, reader, &mut map, &mut self.allocator, &mut self.output)
            .map_err(|failure| match failure {
                Failure::Segments => Error::Segments { path: path.to_string() },
                Failure::Error(error) => error,
            })?;
        self.set_map(&mut inode, &mut map)?;
        inode.set_size(size);
        self.inodes.write(number, &inode)?;
        Ok(Child { inode: number, kind: FileType::File })
    }

    fn set_map(&mut self, inode: &mut Inode, map: &mut Extents) -> Result<(), Error> {
        inode.block = map.finish(&mut self.allocator, &mut self.output)?;
        inode.flags = U32::new(inode.flags.get() | INODE_EXTENTS);
        inode.set_blocks(inode.blocks() + map.blocks());
        Ok(())
    }

    fn symbolic_link(
        &mut self,
        path: &TreePath,
        metadata: &Metadata,
        target: &[u8],
    ) -> Result<Child, Error> {
        if target.is_empty() || target.len() >= BLOCK_SIZE || target.contains(&0) {
            return Err(Error::SymbolicLink { path: path.to_string(), length: target.len() });
        }
        let number = self.inodes.allocate()?;
        // Linux has no other mode for them.
        let metadata = Metadata { mode: 0o777, ..metadata.clone() };
        let mut inode = self.inode(path, MODE_SYMBOLIC_LINK, &metadata)?;
        if target.len() <= MAXIMUM_INLINE_TARGET {
            for (place, byte) in inode.block.iter_mut().zip(target) {
                *place = *byte;
            }
        } else {
            let mut block = ZERO_BLOCK;
            for (place, byte) in block.iter_mut().zip(target) {
                *place = *byte;
            }
            let mut map = Extents::new(self.inodes.seed(number));
            let physical = self.allocator.allocate()?;
            self.output.write(physical, &block)?;
            map.push(0, physical, &mut self.allocator, &mut self.output)?;
            self.set_map(&mut inode, &mut map)?;
        }
        inode.set_size(target.len() as u64);
        self.inodes.write(number, &inode)?;
        Ok(Child { inode: number, kind: FileType::SymbolicLink })
    }

    fn device(
        &mut self,
        path: &TreePath,
        metadata: &Metadata,
        (mode, kind): (u16, FileType),
        major: u32,
        minor: u32,
    ) -> Result<Child, Error> {
        // Linux has 12 bits for the major and 20 for the minor number.
        if major >= 1 << 12 || minor >= 1 << 20 {
            return Err(Error::Device { path: path.to_string(), major, minor });
        }
        let number = self.inodes.allocate()?;
        let mut inode = self.inode(path, mode, metadata)?;
        // The old form in the first word, else the new form in the second.
        let words = if major < 256 && minor < 256 {
            [major << 8 | minor, 0]
        } else {
            [0, minor & 0xff | major << 8 | (minor & !0xff) << 12]
        };
        for (place, word) in inode.block.chunks_exact_mut(4).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        self.inodes.write(number, &inode)?;
        Ok(Child { inode: number, kind })
    }

    fn special(
        &mut self,
        path: &TreePath,
        metadata: &Metadata,
        mode: u16,
        kind: FileType,
    ) -> Result<Child, Error> {
        let number = self.inodes.allocate()?;
        let inode = self.inode(path, mode, metadata)?;
        self.inodes.write(number, &inode)?;
        Ok(Child { inode: number, kind })
    }

    fn link_target(&self, path: &TreePath, target: &TreePath) -> Result<Child, Error> {
        let missing = || Error::NoTarget { path: path.to_string(), target: target.to_string() };
        let is_directory =
            || Error::TargetIsDirectory { path: path.to_string(), target: target.to_string() };
        let (parent, name) = target.split().ok_or_else(is_directory)?;
        let mut number = ROOT;
        for name in parent.split(|byte| *byte == b'/').filter(|name| !name.is_empty()) {
            match self.child(number, name) {
                Some(Child { inode, kind: FileType::Directory }) => number = inode,
                _ => return Err(missing()),
            }
        }
        match self.child(number, name) {
            Some(Child { kind: FileType::Directory, .. }) => Err(is_directory()),
            Some(child) => Ok(child),
            None => Err(missing()),
        }
    }

    fn add_name(
        &mut self,
        path: &TreePath,
        target: &TreePath,
        child: Child,
    ) -> Result<Child, Error> {
        let mut inode = self.inodes.read(child.inode)?;
        let links = inode.links_count.get();
        if links >= MAXIMUM_LINKS {
            return Err(Error::TooManyLinks {
                path: path.to_string(),
                target: target.to_string(),
                maximum: MAXIMUM_LINKS,
            });
        }
        inode.links_count = U16::new(links + 1);
        self.inodes.write(child.inode, &inode)?;
        Ok(child)
    }

    /// Removes a name, and its inode where it was the last.
    fn remove(&mut self, path: &TreePath, parent: u32, name: &[u8]) -> Result<(), Error> {
        let Some(child) = self.child(parent, name) else { return Ok(()) };
        if child.kind == FileType::Directory {
            let is_empty = self.directories.get(&child.inode).is_some_and(|d| d.entries.is_empty());
            if !is_empty || child.inode == FIRST_INODE {
                return Err(Error::DirectoryInTheWay { path: path.to_string() });
            }
            if let Some(directory) = self.directories.remove(&child.inode) {
                let block = directory.inode.attribute_block();
                self.attribute_blocks.release(block, &mut self.allocator);
            }
            self.recent = (Vec::new(), ROOT);
            self.inodes.free(child.inode)?;
        } else {
            let mut inode = self.inodes.read(child.inode)?;
            let links = inode.links_count.get().saturating_sub(1);
            if links > 0 {
                inode.links_count = U16::new(links);
                self.inodes.write(child.inode, &inode)?;
            } else {
                self.attribute_blocks.release(inode.attribute_block(), &mut self.allocator);
                if inode.flags.get() & INODE_EXTENTS != 0 {
                    self.free_map(&inode)?;
                }
                self.inodes.free(child.inode)?;
            }
        }
        if let Some(directory) = self.directories.get_mut(&parent) {
            directory.entries.remove(name);
        }
        Ok(())
    }

    fn free_map(&mut self, inode: &Inode) -> Result<(), Error> {
        let mut nodes = vec![extents::parse(&inode.block)];
        let mut waited = false;
        while let Some(node) = nodes.pop() {
            match node {
                Node::Leaf(leaf) => {
                    for extent in leaf {
                        let end = extent.physical + u64::from(extent.length);
                        (extent.physical..end).for_each(|block| self.allocator.free(block));
                    }
                }
                Node::Index(below) => {
                    for block in below {
                        if !waited {
                            self.output.wait()?;
                            waited = true;
                        }
                        let mut content = ZERO_BLOCK;
                        let place = block * BLOCK_SIZE as u64;
                        self.file.read_exact_at(&mut content, place).map_err(Error::Write)?;
                        nodes.push(extents::parse(&content));
                        self.allocator.free(block);
                    }
                }
            }
        }
        Ok(())
    }

    fn directory_numbers(&self) -> Vec<u32> {
        let mut numbers: Vec<_> = self.directories.keys().copied().collect();
        numbers.sort_unstable();
        numbers
    }

    fn write_directories(&mut self) -> Result<(), Error> {
        for number in self.directory_numbers() {
            let Some(directory) = self.directories.get(&number) else { continue };
            let minimum = if number == FIRST_INODE { LOST_AND_FOUND_BLOCKS } else { 1 };
            let seed = self.inodes.seed(number);
            let hash_seed = self.options.hash_seed();
            let laid_out = directory::lay_out(number, directory, minimum, hash_seed, seed)?;
            let children =
                directory.entries.values().filter(|child| child.kind == FileType::Directory);
            let links = 2 + children.count();
            let mut inode = directory.inode.clone();
            let mut map = Extents::new(seed);
            for (logical, block) in laid_out.blocks.iter().enumerate() {
                let physical = self.allocator.allocate()?;
                self.output.write(physical, block)?;
                map.push(logical as u32, physical, &mut self.allocator, &mut self.output)?;
            }
            self.set_map(&mut inode, &mut map)?;
            if laid_out.indexed {
                inode.flags = U32::new(inode.flags.get() | INODE_INDEX);
            }
            inode.set_size((laid_out.blocks.len() * BLOCK_SIZE) as u64);
            // One means more than can be counted.
            let links = u16::try_from(links).ok().filter(|links| *links <= MAXIMUM_LINKS);
            inode.links_count = U16::new(links.unwrap_or(1));
            self.inodes.write(number, &inode)?;
        }
        Ok(())
    }

    fn correct_shared_attributes(&self) -> Result<(), Error> {
        for (block, shares) in self.attribute_blocks.shared() {
            let mut content = ZERO_BLOCK;
            let place = block * BLOCK_SIZE as u64;
            self.file.read_exact_at(&mut content, place).map_err(Error::Write)?;
            self.attribute_blocks.reseal(&mut content, block, shares);
            self.file.write_all_at(&content, place).map_err(Error::Write)?;
        }
        Ok(())
    }

    /// Gives the host back what replaced files took. Where that cannot be, the image is
    /// right all the same.
    fn punch_freed(&self) {
        for run in self.allocator.freed() {
            let bytes = BLOCK_SIZE as i64;
            let place = |blocks: u64| i64::try_from(blocks).ok().and_then(|b| b.checked_mul(bytes));
            if let (Some(start), Some(length)) = (place(run.start), place(run.end - run.start)) {
                let flags =
                    FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
                let _ = fallocate(&*self.file, flags, start, length);
            }
        }
    }
}

impl Sink for Writer {
    type Error = Error;

    fn add(&mut self, entry: Entry<'_>) -> Result<(), Error> {
        match entry.kind {
            Kind::Directory => self.directory(entry.path, entry.metadata),
            _ => self.leaf(entry),
        }
    }
}
