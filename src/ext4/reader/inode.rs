//! One inode, checked.

use zerocopy::FromBytes;

use super::super::checksum;
use super::super::format::{self, INODE_EXTENTS};
use super::error::ReadError;
use super::super_block::Layout;
use crate::tree::{Metadata, Timestamp};

/// Its content is in the inode.
const INLINE_DATA: u32 = 0x1000_0000;

/// Its content is encrypted.
const ENCRYPT: u32 = 0x800;

/// Bytes of an inode before the part that grew later.
const ORIGINAL: usize = 128;

/// How a file's blocks are found.
#[derive(Clone, Debug)]
pub(super) enum Map {
    /// By a tree of extents, whose root this is.
    Extents([u8; 60]),
    /// By pointers to blocks.
    Indirect([u8; 60]),
    /// Not at all: the first bytes of the content are here.
    Inline([u8; 60]),
}

/// An inode.
#[derive(Clone, Debug)]
pub(super) struct Inode {
    /// Its number.
    pub(super) number: u32,
    /// Type and permissions.
    pub(super) mode: u16,
    /// Its names.
    pub(super) links: u16,
    /// Bytes of content.
    pub(super) size: u64,
    /// `INODE_*`.
    pub(super) flags: u32,
    /// Where the content is.
    pub(super) map: Map,
    /// The block with more attributes, or 0.
    pub(super) attribute_block: u64,
    /// The attributes inside the inode, with what precedes them.
    pub(super) inline_attributes: Vec<u8>,
    /// What checksums of its blocks begin with; `None` where there are none.
    pub(super) seed: Option<u32>,
    owner: (u32, u32),
    modified: Timestamp,
}

impl Inode {
    /// Reads an inode's bytes.
    pub(super) fn new(number: u32, bytes: &[u8], layout: &Layout) -> Result<Self, ReadError> {
        let damaged = |what: &str| ReadError::damaged(format!("inode {number} has {what}"));
        let mut padded = [0; size_of::<format::Inode>()];
        for (place, byte) in padded.iter_mut().zip(bytes) {
            *place = *byte;
        }
        let raw = format::Inode::read_from_bytes(&padded).map_err(|_| damaged("no content"))?;
        let extra = match bytes.len() {
            ..=ORIGINAL => 0,
            _ => usize::from(raw.extra_isize.get()),
        };
        if ORIGINAL + extra > bytes.len() || extra % 4 != 0 {
            return Err(damaged("a wrong size"));
        }
        let seed = layout.seed.map(|seed| {
            let seed = checksum::extend(seed, &number.to_le_bytes());
            checksum::extend(seed, &raw.generation.get().to_le_bytes())
        });
        if let Some(seed) = seed {
            let has_high = extra >= 4;
            let mut covered = bytes.to_vec();
            // The checksum's own places count as zeros.
            for at in [0x7c, 0x7d].into_iter().chain([0x82, 0x83].into_iter().filter(|_| has_high))
            {
                if let Some(byte) = covered.get_mut(at) {
                    *byte = 0;
                }
            }
            let sum = checksum::extend(seed, &covered);
            let high = if has_high { raw.checksum_hi.get() } else { (sum >> 16) as u16 };
            if u32::from(high) << 16 | u32::from(raw.checksum_lo.get()) != sum {
                return Err(damaged("a wrong checksum"));
            }
        }
        let flags = raw.flags.get();
        if flags & ENCRYPT != 0 {
            return Err(ReadError::Unsupported { features: "encrypt".to_owned() });
        }
        let map = if flags & INLINE_DATA != 0 {
            Map::Inline(raw.block)
        } else if flags & INODE_EXTENTS != 0 {
            Map::Extents(raw.block)
        } else {
            Map::Indirect(raw.block)
        };
        let pair = |low: u16, high: u16| u32::from(high) << 16 | u32::from(low);
        let mode = raw.mode.get();
        // The high half has had other meanings for what is neither.
        let has_high = matches!(mode & 0o170_000, format::MODE_FILE | format::MODE_DIRECTORY);
        let high = if has_high { raw.size_hi.get() } else { 0 };
        let inline_attributes = bytes.get(ORIGINAL + extra..).filter(|_| extra > 0);
        Ok(Self {
            number,
            mode,
            links: raw.links_count.get(),
            size: u64::from(high) << 32 | u64::from(raw.size_lo.get()),
            flags,
            map,
            attribute_block: raw.attribute_block(),
            inline_attributes: inline_attributes.unwrap_or_default().to_vec(),
            seed,
            owner: (
                pair(raw.uid_lo.get(), raw.uid_hi.get()),
                pair(raw.gid_lo.get(), raw.gid_hi.get()),
            ),
            modified: time(raw.mtime.get(), if extra >= 12 { raw.mtime_extra.get() } else { 0 }),
        })
    }

    /// Its type, the bits of the mode.
    pub(super) fn kind(&self) -> u16 {
        self.mode & 0o170_000
    }

    /// Whether it is a symbolic link whose target is where the map would be.
    pub(super) fn is_short_link(&self) -> bool {
        self.kind() == format::MODE_SYMBOLIC_LINK
            && self.size < 60
            && matches!(self.map, Map::Indirect(_))
    }

    /// The 60 bytes of the map.
    pub(super) fn map_bytes(&self) -> &[u8; 60] {
        match &self.map {
            Map::Extents(bytes) | Map::Indirect(bytes) | Map::Inline(bytes) => bytes,
        }
    }

    /// Owner, mode and time, with the attributes given.
    pub(super) fn metadata(&self, attributes: Vec<(Vec<u8>, Vec<u8>)>) -> Metadata {
        Metadata {
            mode: u32::from(self.mode & 0o7777),
            uid: self.owner.0,
            gid: self.owner.1,
            modified: self.modified,
            attributes,
        }
    }

    /// Major and minor number of a device.
    pub(super) fn device(&self) -> (u32, u32) {
        let word = |at| super::super_block::word(self.map_bytes(), at);
        match word(0) {
            0 => {
                let new = word(4);
                ((new & 0xf_ff00) >> 8, (new & 0xff) | ((new >> 12) & 0xf_ff00))
            }
            old => ((old >> 8) & 0xff, old & 0xff),
        }
    }
}

/// A time: 32 bits with a sign, two more on top, and nanoseconds.
fn time(seconds: u32, extra: u32) -> Timestamp {
    Timestamp {
        seconds: i64::from(seconds.cast_signed()) + (i64::from(extra & 3) << 32),
        nanoseconds: (extra >> 2).min(999_999_999),
    }
}
