//! Everything in an image as tree entries.

use std::collections::{HashMap, HashSet};
use std::io::{self, Read};

use super::Image;
use super::attributes;
use super::content::{self, Content};
use super::directory;
use super::error::ReadError;
use super::inode::{Inode, Map};
use crate::ext4::format::{
    FIRST_INODE, MODE_BLOCK_DEVICE, MODE_CHARACTER_DEVICE, MODE_DIRECTORY, MODE_FIFO, MODE_FILE,
    MODE_SOCKET, MODE_SYMBOLIC_LINK, ROOT,
};
use crate::tree::path::TreePath;
use crate::tree::segments::SegmentReader;
use crate::tree::{CopyError, Entry, Kind, Metadata, Segment, Sink};

/// A directory on the way down, and the names in it that are still to come, the next one
/// last.
struct Level {
    path: TreePath,
    names: Vec<directory::Name>,
}

struct Walk<'a, S> {
    image: &'a Image,
    sink: &'a mut S,
    /// The directories that were seen: none is in two places.
    directories: HashSet<u32>,
    /// The first path of files with more names, and how many are still to come.
    links: HashMap<u32, (TreePath, u16)>,
}

pub(super) fn read_tree<S: Sink>(
    image: &Image,
    sink: &mut S,
) -> Result<(), CopyError<ReadError, S::Error>> {
    let mut walk = Walk { image, sink, directories: HashSet::new(), links: HashMap::new() };
    let root = image.inode(ROOT)?;
    if root.kind() != MODE_DIRECTORY {
        return Err(ReadError::damaged("the root is no directory").into());
    }
    let mut stack = vec![walk.directory(TreePath::root(), &root)?];
    while let Some(level) = stack.last_mut() {
        let Some((name, number)) = level.names.pop() else {
            stack.pop();
            continue;
        };
        let below = walk.entry(&level.path, &name, number)?;
        stack.extend(below);
    }
    Ok(())
}

impl<S: Sink> Walk<'_, S> {
    fn add<'a>(
        &mut self,
        path: &'a TreePath,
        metadata: &'a Metadata,
        kind: Kind<'a>,
    ) -> Result<(), CopyError<ReadError, S::Error>> {
        add(self.sink, path, metadata, kind)
    }

    /// Passes a directory on and reads its names.
    fn directory(
        &mut self,
        path: TreePath,
        inode: &Inode,
    ) -> Result<Level, CopyError<ReadError, S::Error>> {
        if !self.directories.insert(inode.number) {
            let what = format!("directory {} is in two places", inode.number);
            return Err(ReadError::damaged(what).into());
        }
        let metadata = self.metadata(inode)?;
        self.add(&path, &metadata, Kind::Directory)?;
        let mut names = directory::read(self.image, inode)?;
        // Inodes that are neighbours are read together.
        names.sort_unstable_by(|a, b| (b.1, &b.0).cmp(&(a.1, &a.0)));
        Ok(Level { path, names })
    }

    /// All metadata, without what is only how ext4 stores content.
    fn metadata(&self, inode: &Inode) -> Result<Metadata, ReadError> {
        let mut attributes = attributes::read(&self.image.blocks, inode, self.image.layout.seed)?;
        attributes.retain(|(name, _)| name != attributes::INLINE);
        Ok(inode.metadata(attributes))
    }

    /// Passes one entry on; gives the directory to go down into.
    fn entry(
        &mut self,
        parent: &TreePath,
        name: &[u8],
        number: u32,
    ) -> Result<Option<Level>, CopyError<ReadError, S::Error>> {
        let bytes = match parent.is_root() {
            true => name.to_vec(),
            false => [parent.as_bytes(), b"/", name].concat(),
        };
        let path = TreePath::new(&bytes).map_err(|error| ReadError::damaged(error.to_string()))?;
        if let Some((target, left)) = self.links.get_mut(&number) {
            let metadata = Metadata::default();
            add(self.sink, &path, &metadata, Kind::HardLink { target })?;
            *left = left.saturating_sub(1);
            if *left == 0 {
                self.links.remove(&number);
            }
            return Ok(None);
        }
        let inode = self.image.inode(number)?;
        if inode.links == 0 {
            let what = format!("inode {number} is deleted, but '{path}' is its name");
            return Err(ReadError::damaged(what).into());
        }
        if inode.kind() == MODE_DIRECTORY {
            // Every file system has one of its own.
            if number == FIRST_INODE
                && bytes == b"lost+found"
                && directory::read(self.image, &inode)?.is_empty()
            {
                return Ok(None);
            }
            return self.directory(path, &inode).map(Some);
        }
        self.leaf(&path, &inode)?;
        if inode.links > 1 {
            self.links.insert(number, (path, inode.links - 1));
        }
        Ok(None)
    }

    /// Passes on what is not a directory.
    fn leaf(
        &mut self,
        path: &TreePath,
        inode: &Inode,
    ) -> Result<(), CopyError<ReadError, S::Error>> {
        let metadata = self.metadata(inode)?;
        let (major, minor) = inode.device();
        let target;
        let kind = match inode.kind() {
            MODE_FILE => return self.file(path, &metadata, inode),
            MODE_SYMBOLIC_LINK => {
                target = self.image.target(inode)?;
                Kind::SymbolicLink { target: &target }
            }
            MODE_BLOCK_DEVICE => Kind::BlockDevice { major, minor },
            MODE_CHARACTER_DEVICE => Kind::CharacterDevice { major, minor },
            MODE_FIFO => Kind::Fifo,
            MODE_SOCKET => Kind::Socket,
            _ => {
                let what = format!("inode {} has no type", inode.number);
                return Err(ReadError::damaged(what).into());
            }
        };
        self.add(path, &metadata, kind)
    }

    fn file(
        &mut self,
        path: &TreePath,
        metadata: &Metadata,
        inode: &Inode,
    ) -> Result<(), CopyError<ReadError, S::Error>> {
        let size = inode.size;
        if let Map::Inline(_) = inode.map {
            let bytes = content::inline_content(self.image, inode)?;
            let segments = [Segment { offset: 0, length: bytes.len() as u64 }];
            let content = &mut bytes.as_slice();
            return self.add(path, metadata, Kind::File { size, segments: &segments, content });
        }
        let blocks = &self.image.blocks;
        let segments = content::segments(blocks, inode)?;
        let mut content = Content::new(blocks, inode)?;
        let mut content = SegmentReader::new(&segments, |space, offset| {
            content
                .seek(offset)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            content.read(space)
        });
        self.add(path, metadata, Kind::File { size, segments: &segments, content: &mut content })
    }
}

fn add<'a, S: Sink>(
    sink: &mut S,
    path: &'a TreePath,
    metadata: &'a Metadata,
    kind: Kind<'a>,
) -> Result<(), CopyError<ReadError, S::Error>> {
    sink.add(Entry { path, metadata, kind }).map_err(CopyError::Sink)
}
