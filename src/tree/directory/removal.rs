//! A directory tree on its way out.

use std::os::fd::{AsFd, OwnedFd};

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, RenameFlags, renameat2};
use nix::sys::stat::fstatat;
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::error::{Action, Error};
use super::system::open_directory;

/// How deep directories are kept open; what is deeper is moved up first.
const DEPTH: usize = 64;

/// Deletes the directory `name` of `parent` with all that is in it. No link is followed,
/// and a mount point in it is an error that leaves what is mounted alone. What is not
/// there is deleted.
///
/// # Errors
/// [`Error::Io`]; a part is then deleted.
pub fn remove(parent: &impl AsFd, name: &[u8]) -> Result<(), Error> {
    let failed = |name: &[u8], error| {
        Error::io(Action::Delete, String::from_utf8_lossy(name).escape_debug(), error)
    };
    let top = match open_directory(parent, name) {
        Err(Errno::ENOENT) => return Ok(()),
        // A file or a link of that name.
        Err(Errno::ENOTDIR | Errno::ELOOP) => {
            return unlinkat(parent, name, UnlinkatFlags::NoRemoveDir)
                .map_err(|error| failed(name, error));
        }
        result => result.map_err(|error| failed(name, error))?,
    };
    let mut stack = vec![(name.to_vec(), top)];
    let mut moved = 0_u64;
    while let Some((own, directory)) = stack.last() {
        let Some(child) = first_directory(directory).map_err(|error| failed(own, error))? else {
            let own = own.clone();
            stack.pop();
            let removed = match stack.last() {
                Some((_, above)) => unlinkat(above, own.as_slice(), UnlinkatFlags::RemoveDir),
                None => unlinkat(parent, own.as_slice(), UnlinkatFlags::RemoveDir),
            };
            removed.map_err(|error| failed(&own, error))?;
            continue;
        };
        if stack.len() < DEPTH {
            let open = open_directory(directory, &child).map_err(|error| failed(&child, error))?;
            stack.push((child, open));
            continue;
        }
        // Its new name can be of something that is there; then the next is tried.
        if let Some((_, top)) = stack.first() {
            loop {
                moved += 1;
                let to = format!("wslr-deleted-{moved}");
                let flags = RenameFlags::RENAME_NOREPLACE;
                match renameat2(directory, child.as_slice(), top, to.as_str(), flags) {
                    Err(Errno::EEXIST) => {}
                    result => break result.map_err(|error| failed(&child, error))?,
                }
            }
        }
    }
    Ok(())
}

/// Deletes what is not a directory; gives a directory that is in it.
fn first_directory(directory: &OwnedFd) -> Result<Option<Vec<u8>>, Errno> {
    // A position of its own, from the start.
    let mut entries = Dir::from_fd(open_directory(directory, b"")?)?;
    for entry in entries.iter() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name == b"." || name == b".." {
            continue;
        }
        let is_directory = match entry.file_type() {
            Some(kind) => kind == nix::dir::Type::Directory,
            None => {
                let status = fstatat(directory, name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
                status.st_mode & libc::S_IFMT == libc::S_IFDIR
            }
        };
        if is_directory {
            return Ok(Some(name.to_vec()));
        }
        unlinkat(directory, name, UnlinkatFlags::NoRemoveDir)?;
    }
    Ok(None)
}
