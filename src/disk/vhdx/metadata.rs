//! The metadata: how long the disk is, and in what it is divided.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use uuid::Uuid;

use super::format::{
    BLOCK_LENGTHS, DISK_ID, DISK_SIZE, FILE_PARAMETERS, LOGICAL_SECTOR, MAXIMUM_ENTRIES,
    MAXIMUM_SIZE, PARENT_LOCATOR, PHYSICAL_SECTOR, TABLE_LENGTH, damaged, u16_at, u32_at, u64_at,
    unsupported, uuid_at,
};
use super::region::Region;
use crate::disk::{DiskError, Format, put};

const METADATA_SIGNATURE: &[u8; 8] = b"metadata";

/// Bits of an item's entry.
const IS_USER: u32 = 1;
const IS_DISK: u32 = 2;
const IS_REQUIRED: u32 = 4;

/// Bits of the file's parameters.
const FIXED: u32 = 1;
const HAS_PARENT: u32 = 2;

/// What the metadata says; lengths in bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Metadata {
    /// The disk's length.
    pub(super) size: u64,
    /// A block's length.
    pub(super) block: u64,
    /// Whether all blocks have their place and keep it.
    pub(super) fixed: bool,
    /// The length of a logical sector: 512 or 4096.
    pub(super) logical_sector: u64,
    /// The length of a physical sector.
    pub(super) physical_sector: u64,
}

impl Metadata {
    /// Reads the region.
    pub(super) fn read(file: &File, region: &Region) -> Result<Self, DiskError> {
        let (offset, length) = *region;
        let mut table = vec![0; TABLE_LENGTH];
        file.read_exact_at(&mut table, offset).map_err(DiskError::read)?;
        let count = usize::from(u16_at(&table, 10));
        if !table.starts_with(METADATA_SIGNATURE) || count > MAXIMUM_ENTRIES {
            return Err(damaged("its metadata has no table"));
        }
        let mut items: HashMap<Uuid, Vec<u8>> = HashMap::new();
        for at in (0..count).map(|index| 32 + index * 32) {
            let id = uuid_at(&table, at);
            let (place, size) = (u32_at(&table, at + 16), u32_at(&table, at + 20));
            let flags = u32_at(&table, at + 24);
            let wanted = match id {
                FILE_PARAMETERS | DISK_SIZE => 8,
                LOGICAL_SECTOR | PHYSICAL_SECTOR => 4,
                DISK_ID => 16,
                PARENT_LOCATOR => return Err(DiskError::Differencing { format: Format::Vhdx }),
                _ if flags & IS_REQUIRED != 0 => {
                    return Err(unsupported(format!("it needs the item {id}")));
                }
                _ => continue,
            };
            let end = u64::from(place) + u64::from(size);
            if size != wanted
                || (place as usize) < TABLE_LENGTH
                || end > length
                || flags & IS_USER != 0
            {
                return Err(damaged(format!("the item {id} has {size} bytes at {place}")));
            }
            let mut item = vec![0; wanted as usize];
            file.read_exact_at(&mut item, offset + u64::from(place)).map_err(DiskError::read)?;
            if items.insert(id, item).is_some() {
                return Err(damaged(format!("it has two items {id}")));
            }
        }
        Self::understand(|id| {
            items.get(&id).ok_or_else(|| damaged(format!("the item {id} is missing")))
        })
    }

    fn understand<'a>(
        item: impl Fn(Uuid) -> Result<&'a Vec<u8>, DiskError>,
    ) -> Result<Self, DiskError> {
        let parameters = item(FILE_PARAMETERS)?;
        let flags = u32_at(parameters, 4);
        if flags & HAS_PARENT != 0 {
            return Err(DiskError::Differencing { format: Format::Vhdx });
        }
        let metadata = Self {
            size: u64_at(item(DISK_SIZE)?, 0),
            block: u32_at(parameters, 0).into(),
            fixed: flags & FIXED != 0,
            logical_sector: u32_at(item(LOGICAL_SECTOR)?, 0).into(),
            physical_sector: u32_at(item(PHYSICAL_SECTOR)?, 0).into(),
        };
        metadata.check()
    }

    fn check(self) -> Result<Self, DiskError> {
        let Self { size, block, logical_sector: logical, physical_sector: physical, .. } = self;
        if !BLOCK_LENGTHS.contains(&block) || !block.is_power_of_two() {
            return Err(damaged(format!("its blocks are {block} bytes long")));
        }
        if ![512, 4096].contains(&logical) || ![512, 4096].contains(&physical) {
            return Err(damaged(format!("its sectors are {logical} and {physical} bytes long")));
        }
        if size == 0 || size > MAXIMUM_SIZE || !size.is_multiple_of(logical) {
            return Err(damaged(format!("it is {size} bytes long")));
        }
        Ok(self)
    }

    /// Writes the region of a new file.
    pub(super) fn create(&self, file: &File, offset: u64, id: Uuid) -> io::Result<()> {
        let mut parameters = (self.block as u32).to_le_bytes().to_vec();
        parameters.extend_from_slice(&u32::from(self.fixed).to_le_bytes());
        let items = [
            (FILE_PARAMETERS, parameters, IS_REQUIRED),
            (DISK_SIZE, self.size.to_le_bytes().to_vec(), IS_DISK | IS_REQUIRED),
            (DISK_ID, id.to_bytes_le().to_vec(), IS_DISK | IS_REQUIRED),
            (LOGICAL_SECTOR, sector(self.logical_sector), IS_DISK | IS_REQUIRED),
            (PHYSICAL_SECTOR, sector(self.physical_sector), IS_DISK | IS_REQUIRED),
        ];
        let mut bytes = vec![0; TABLE_LENGTH];
        put(&mut bytes, 0, METADATA_SIGNATURE);
        put(&mut bytes, 10, &(items.len() as u16).to_le_bytes());
        for (index, (id, item, flags)) in items.into_iter().enumerate() {
            let at = 32 + index * 32;
            put(&mut bytes, at, &id.to_bytes_le());
            let place = bytes.len() as u32;
            put(&mut bytes, at + 16, &place.to_le_bytes());
            put(&mut bytes, at + 20, &(item.len() as u32).to_le_bytes());
            put(&mut bytes, at + 24, &flags.to_le_bytes());
            bytes.extend_from_slice(&item);
        }
        file.write_all_at(&bytes, offset)
    }
}

fn sector(length: u64) -> Vec<u8> {
    (length as u32).to_le_bytes().to_vec()
}
