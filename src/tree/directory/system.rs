//! The system calls on directory trees that nix does not offer: extended attributes, and
//! directories opened without ever leaving the tree.
//!
//! Paths are given below a directory descriptor and never go through a link.

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};

/// The longest value of an attribute (`XATTR_SIZE_MAX`), and of a list of names.
const MAXIMUM: usize = 65536;

/// Opens a directory at a path below `root`, through no link, mount point or `..`. The
/// empty path is `root`.
pub(super) fn open_directory(root: &impl AsFd, path: &[u8]) -> Result<OwnedFd, Errno> {
    let how = OpenHow::new()
        .flags(OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC)
        .resolve(
            ResolveFlag::RESOLVE_BENEATH
                | ResolveFlag::RESOLVE_NO_SYMLINKS
                | ResolveFlag::RESOLVE_NO_MAGICLINKS
                | ResolveFlag::RESOLVE_NO_XDEV,
        );
    openat2(root, if path.is_empty() { b".".as_slice() } else { path }, how)
}

/// What attributes are of: an open file or directory, or an entry of a directory that
/// cannot be opened (a link, a device).
pub(super) enum Place<'a> {
    /// An open file.
    Open(&'a OwnedFd),
    /// A name in an open directory; a link is not followed.
    Name(&'a OwnedFd, &'a [u8]),
}

impl Place<'_> {
    /// A path that leads there; there is no call that takes a directory and a name on
    /// kernels before 6.13.
    fn path(&self) -> Result<CString, Errno> {
        let bytes = match self {
            Self::Open(file) => format!("/proc/self/fd/{}", file.as_raw_fd()).into_bytes(),
            Self::Name(directory, name) => {
                let mut path = format!("/proc/self/fd/{}/", directory.as_raw_fd()).into_bytes();
                path.extend_from_slice(name);
                path
            }
        };
        CString::new(bytes).map_err(|_| Errno::EINVAL)
    }

    /// The names of its attributes.
    pub(super) fn attribute_names(&self) -> Result<Vec<Vec<u8>>, Errno> {
        let path = self.path()?;
        let list = grow(|buffer, size| {
            // SAFETY: the path is NUL-terminated; the buffer has `size` bytes.
            unsafe {
                match self {
                    Self::Open(file) => libc::flistxattr(file.as_raw_fd(), buffer.cast(), size),
                    Self::Name(..) => libc::llistxattr(path.as_ptr(), buffer.cast(), size),
                }
            }
        });
        let list = match list {
            Err(Errno::EOPNOTSUPP) => return Ok(Vec::new()),
            list => list?,
        };
        let names = list.split(|byte| *byte == 0).filter(|name| !name.is_empty());
        Ok(names.map(<[u8]>::to_vec).collect())
    }

    /// The value of an attribute.
    pub(super) fn attribute(&self, name: &[u8]) -> Result<Vec<u8>, Errno> {
        let (path, name) = (self.path()?, c_string(name)?);
        grow(|buffer, size| {
            // SAFETY: path and name are NUL-terminated; the buffer has `size` bytes.
            unsafe {
                match self {
                    Self::Open(file) => {
                        libc::fgetxattr(file.as_raw_fd(), name.as_ptr(), buffer, size)
                    }
                    Self::Name(..) => libc::lgetxattr(path.as_ptr(), name.as_ptr(), buffer, size),
                }
            }
        })
    }

    /// Sets an attribute.
    pub(super) fn set_attribute(&self, name: &[u8], value: &[u8]) -> Result<(), Errno> {
        let (path, name) = (self.path()?, c_string(name)?);
        let (bytes, size) = (value.as_ptr().cast(), value.len());
        // SAFETY: path and name are NUL-terminated; the value has `size` bytes.
        Errno::result(unsafe {
            match self {
                Self::Open(file) => {
                    libc::fsetxattr(file.as_raw_fd(), name.as_ptr(), bytes, size, 0)
                }
                Self::Name(..) => libc::lsetxattr(path.as_ptr(), name.as_ptr(), bytes, size, 0),
            }
        })
        .map(drop)
    }

    /// Removes an attribute; one that is not there is no error.
    pub(super) fn remove_attribute(&self, name: &[u8]) -> Result<(), Errno> {
        let (path, name) = (self.path()?, c_string(name)?);
        // SAFETY: path and name are NUL-terminated.
        let result = Errno::result(unsafe {
            match self {
                Self::Open(file) => libc::fremovexattr(file.as_raw_fd(), name.as_ptr()),
                Self::Name(..) => libc::lremovexattr(path.as_ptr(), name.as_ptr()),
            }
        });
        match result {
            Ok(_) | Err(Errno::ENODATA | Errno::EOPNOTSUPP) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

fn c_string(bytes: &[u8]) -> Result<CString, Errno> {
    CString::new(bytes).map_err(|_| Errno::EINVAL)
}

/// Calls until the buffer is large enough.
fn grow(call: impl Fn(*mut libc::c_void, usize) -> isize) -> Result<Vec<u8>, Errno> {
    let mut buffer = vec![0_u8; 256];
    loop {
        match Errno::result(call(buffer.as_mut_ptr().cast(), buffer.len())) {
            Ok(length) => {
                buffer.truncate(length.unsigned_abs());
                return Ok(buffer);
            }
            Err(Errno::ERANGE) if buffer.len() < MAXIMUM => buffer.resize(buffer.len() * 16, 0),
            Err(error) => return Err(error),
        }
    }
}
