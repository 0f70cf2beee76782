//! The two headers: the one with the higher number is the current one, the other one is
//! written next, so that one of them is whole at any instant.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use uuid::Uuid;

use super::format::{
    HEADER_LENGTH, HEADERS, MEGABYTE, checksum, damaged, u16_at, u32_at, u64_at, unsupported,
    uuid_at,
};
use crate::disk::{DiskError, put};

const HEADER_SIGNATURE: &[u8; 4] = b"head";

/// The longest log that is read; it is kept in memory. Hyper-V writes 1 MB.
const MAXIMUM_LOG: u32 = 32 << 20;

/// What a header says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Header {
    /// Differs for each time that the file is opened and changed.
    pub(super) file_id: Uuid,
    /// Differs where the disk's content does.
    pub(super) data_id: Uuid,
    /// That of the log's entries; nil where there is nothing to replay.
    pub(super) log_id: Uuid,
    /// Where the log is.
    pub(super) log_offset: u64,
    /// Its length, whole megabytes.
    pub(super) log_length: u32,
}

/// Both headers.
#[derive(Debug)]
pub(super) struct Headers {
    /// The one that holds.
    pub(super) current: Header,
    /// The number of the log's last entry; each has a higher one than all before.
    pub(super) sequence: u64,
    number: u64,
    index: usize,
}

impl Header {
    fn parse(bytes: &[u8]) -> Option<(u64, Self)> {
        let valid = bytes.starts_with(HEADER_SIGNATURE) && u32_at(bytes, 4) == checksum(bytes);
        valid.then(|| {
            let header = Self {
                file_id: uuid_at(bytes, 16),
                data_id: uuid_at(bytes, 32),
                log_id: uuid_at(bytes, 48),
                log_length: u32_at(bytes, 68),
                log_offset: u64_at(bytes, 72),
            };
            (u64_at(bytes, 8), header)
        })
    }

    fn encode(&self, number: u64) -> [u8; HEADER_LENGTH] {
        let mut bytes = [0; HEADER_LENGTH];
        put(&mut bytes, 0, HEADER_SIGNATURE);
        put(&mut bytes, 8, &number.to_le_bytes());
        put(&mut bytes, 16, &self.file_id.to_bytes_le());
        put(&mut bytes, 32, &self.data_id.to_bytes_le());
        put(&mut bytes, 48, &self.log_id.to_bytes_le());
        // The version of the log is 0, that of the format 1.
        put(&mut bytes, 66, &1_u16.to_le_bytes());
        put(&mut bytes, 68, &self.log_length.to_le_bytes());
        put(&mut bytes, 72, &self.log_offset.to_le_bytes());
        let sum = checksum(&bytes);
        put(&mut bytes, 4, &sum.to_le_bytes());
        bytes
    }

    fn check(&self, bytes: &[u8]) -> Result<(), DiskError> {
        let (log_version, version) = (u16_at(bytes, 64), u16_at(bytes, 66));
        if version != 1 || (log_version != 0 && !self.log_id.is_nil()) {
            return Err(unsupported(format!("its version is {version}, its log's {log_version}")));
        }
        let (offset, length) = (self.log_offset, u64::from(self.log_length));
        if offset < MEGABYTE
            || !offset.is_multiple_of(MEGABYTE)
            || length == 0
            || !length.is_multiple_of(MEGABYTE)
            || offset.checked_add(length).is_none_or(|end| end > i64::MAX as u64)
        {
            return Err(damaged(format!("its log of {length} bytes is at {offset}")));
        }
        if self.log_length > MAXIMUM_LOG {
            return Err(unsupported(format!("its log is {length} bytes long")));
        }
        Ok(())
    }
}

impl Headers {
    /// Reads both and takes the current one.
    pub(super) fn read(file: &File) -> Result<Self, DiskError> {
        let mut best: Option<(u64, Header, usize, [u8; HEADER_LENGTH])> = None;
        for (index, offset) in HEADERS.into_iter().enumerate() {
            let mut bytes = [0; HEADER_LENGTH];
            match file.read_exact_at(&mut bytes, offset) {
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => continue,
                result => result.map_err(DiskError::read)?,
            }
            let Some((number, header)) = Header::parse(&bytes) else { continue };
            match &best {
                Some((other, ..)) if *other > number => {}
                Some((other, same, ..)) if *other == number && *same != header => {
                    return Err(damaged(format!("both headers have the number {number}")));
                }
                _ => best = Some((number, header, index, bytes)),
            }
        }
        let (number, current, index, bytes) =
            best.ok_or_else(|| damaged("neither header has the right checksum"))?;
        current.check(&bytes)?;
        Ok(Self { current, sequence: 0, number, index })
    }

    /// Makes `header` the current one, on stable storage.
    pub(super) fn write(&mut self, file: &File, header: Header) -> io::Result<()> {
        let number = self.number.checked_add(1).ok_or(io::ErrorKind::InvalidData)?;
        let index = 1 - self.index;
        let offset = HEADERS.get(index).copied().unwrap_or_default();
        file.write_all_at(&header.encode(number), offset)?;
        file.sync_data()?;
        (self.current, self.number, self.index) = (header, number, index);
        Ok(())
    }
}

/// Writes the headers of a new file.
pub(super) fn create(file: &File, header: &Header) -> io::Result<()> {
    for (number, offset) in HEADERS.into_iter().enumerate() {
        file.write_all_at(&header.encode(number as u64), offset)?;
    }
    Ok(())
}
