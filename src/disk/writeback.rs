//! Telling the host to begin to write, so that little is left for the sync at a file's end.

use std::fs::File;
use std::os::fd::AsRawFd as _;

/// Lets the host begin to write a range of a file to its storage; a length of 0 is up to
/// the file's end. Only a hint: what goes wrong shows when the file is synced.
pub fn start(file: &File, offset: u64, length: u64) {
    let (Ok(offset), Ok(length)) = (i64::try_from(offset), i64::try_from(length)) else { return };
    // SAFETY: it takes no memory, only numbers.
    unsafe {
        libc::sync_file_range(file.as_raw_fd(), offset, length, libc::SYNC_FILE_RANGE_WRITE);
    }
}
