//! The system call `bpf` (bpf(2)) and the kernel's ring of records; their `unsafe` is here.

use std::ffi::c_void;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use nix::errno::Errno;

use super::assembler::Instruction;

/// What the kernel's verifier may say at the most.
const VERIFIER_LOG: usize = 16 << 10;

/// The commands, of `enum bpf_cmd`.
const MAP_CREATE: i32 = 0;
const MAP_LOOKUP: i32 = 1;
const MAP_UPDATE: i32 = 2;
const MAP_NEXT_KEY: i32 = 4;
const PROGRAM_LOAD: i32 = 5;
const PROGRAM_ATTACH: i32 = 8;
const LINK_CREATE: i32 = 28;

/// Beside other programs of the same group.
const ALLOW_MULTIPLE: u32 = 2;

/// Sorts of maps, of `enum bpf_map_type`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u32)]
pub enum MapKind {
    /// By any key.
    Hash = 1,
    /// By number.
    Array = 2,
    /// By any key; the one not used for longest makes room.
    Recent = 9,
    /// Sockets by any key; one that is closed leaves by itself.
    Sockets = 18,
    /// A ring of records.
    Ring = 27,
}

/// Sorts of programs, and where they are attached: of `enum bpf_prog_type` and
/// `enum bpf_attach_type`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Hook {
    /// A socket of IPv4 is about to be bound.
    Bind4,
    /// A socket of IPv6 is about to be bound.
    Bind6,
    /// A socket of IPv4 is about to be connected.
    Connect4,
    /// A socket of IPv6 is about to be connected.
    Connect6,
    /// A datagram of IPv4 has a destination of its own.
    Send4,
    /// A datagram of IPv6 has a destination of its own.
    Send6,
    /// Whom a datagram of IPv4 is from is told.
    Receive4,
    /// Whom a datagram of IPv6 is from is told.
    Receive6,
    /// The other end of a socket of IPv4 is told.
    Peer4,
    /// The other end of a socket of IPv6 is told.
    Peer6,
    /// A socket of IPv4 was bound.
    Bound4,
    /// A socket of IPv6 was bound.
    Bound6,
    /// A socket is let go.
    Released,
    /// A connection of TCP changes its state.
    Tcp,
    /// A packet looks for its socket.
    Lookup,
}

impl Hook {
    fn numbers(self) -> (u32, u32) {
        match self {
            Self::Bind4 => (18, 8),
            Self::Bind6 => (18, 9),
            Self::Connect4 => (18, 10),
            Self::Connect6 => (18, 11),
            Self::Send4 => (18, 14),
            Self::Send6 => (18, 15),
            Self::Receive4 => (18, 19),
            Self::Receive6 => (18, 20),
            Self::Peer4 => (18, 29),
            Self::Peer6 => (18, 30),
            Self::Bound4 => (9, 12),
            Self::Bound6 => (9, 13),
            Self::Released => (9, 34),
            Self::Tcp => (13, 3),
            Self::Lookup => (30, 36),
        }
    }
}

/// `union bpf_attr`, as far as it is used here.
#[derive(Clone, Copy)]
#[repr(C)]
union Attributes {
    /// All zero: the kernel wants unused parts so.
    words: [u64; 18],
    map: MapAttributes,
    element: ElementAttributes,
    program: ProgramAttributes,
    attach: [u32; 4],
}

#[derive(Clone, Copy)]
#[repr(C)]
struct MapAttributes {
    kind: u32,
    key_size: u32,
    value_size: u32,
    entries: u32,
}

#[derive(Clone, Copy)]
#[repr(C)]
struct ElementAttributes {
    map: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

#[derive(Clone, Copy)]
#[repr(C)]
struct ProgramAttributes {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    version: u32,
    flags: u32,
    name: [u8; 16],
    interface: u32,
    attach: u32,
}

fn attributes() -> Attributes {
    Attributes { words: [0; 18] }
}

/// # Safety
/// The pointers in `attributes` are valid for what the command does with them.
unsafe fn bpf(command: i32, attributes: &mut Attributes) -> io::Result<i32> {
    // SAFETY: the structure is valid and its size is passed; the rest is the caller's word.
    let result = Errno::result(unsafe {
        let size = size_of::<Attributes>();
        libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attributes), size)
    })?;
    // Descriptors and zero.
    Ok(result as i32)
}

fn descriptor(number: i32) -> OwnedFd {
    // SAFETY: the caller has it from a call that made it, and nothing else owns it.
    unsafe { OwnedFd::from_raw_fd(number) }
}

/// A map.
#[derive(Debug)]
pub struct Map {
    file: OwnedFd,
    key_size: usize,
    value_size: usize,
}

impl Map {
    /// A map of that sort, with keys and values of so many bytes.
    ///
    /// # Errors
    /// The system's.
    pub fn new(kind: MapKind, key_size: u32, value_size: u32, entries: u32) -> io::Result<Self> {
        let mut attributes = attributes();
        attributes.map = MapAttributes { kind: kind as u32, key_size, value_size, entries };
        // SAFETY: there are no pointers.
        let file = descriptor(unsafe { bpf(MAP_CREATE, &mut attributes) }?);
        Ok(Self { file, key_size: key_size as usize, value_size: value_size as usize })
    }

    /// Its number, for programs.
    #[must_use]
    pub fn number(&self) -> i32 {
        self.file.as_raw_fd()
    }

    fn element(&self, key: &[u8], value: u64, flags: u64) -> Attributes {
        let mut attributes = attributes();
        attributes.element = ElementAttributes {
            map: self.number().cast_unsigned(),
            padding: 0,
            key: key.as_ptr().addr() as u64,
            value,
            flags,
        };
        attributes
    }

    /// The value of a key.
    #[must_use]
    pub fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        if key.len() != self.key_size {
            return None;
        }
        let mut value = vec![0; self.value_size];
        let mut attributes = self.element(key, value.as_mut_ptr().addr() as u64, 0);
        // SAFETY: key and value are as long as the map's.
        unsafe { bpf(MAP_LOOKUP, &mut attributes) }.ok().map(|_| value)
    }

    /// Sets the value of a key.
    ///
    /// # Errors
    /// The system's.
    pub fn set(&self, key: &[u8], value: &[u8]) -> io::Result<()> {
        if (key.len(), value.len()) != (self.key_size, self.value_size) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mut attributes = self.element(key, value.as_ptr().addr() as u64, 0);
        // SAFETY: key and value are as long as the map's.
        unsafe { bpf(MAP_UPDATE, &mut attributes) }.map(|_| ())
    }

    /// All keys, or those that the map has while it is looked at.
    #[must_use]
    pub fn keys(&self) -> Vec<Vec<u8>> {
        let mut keys: Vec<Vec<u8>> = Vec::new();
        let mut next = vec![0; self.key_size];
        loop {
            let last = keys.last().map_or(&[][..], Vec::as_slice);
            let mut attributes = self.element(last, next.as_mut_ptr().addr() as u64, 0);
            if keys.is_empty() {
                attributes.element = ElementAttributes {
                    key: 0,
                    map: self.number().cast_unsigned(),
                    padding: 0,
                    value: next.as_mut_ptr().addr() as u64,
                    flags: 0,
                };
            }
            // SAFETY: both keys are as long as the map's, or the first is none.
            if unsafe { bpf(MAP_NEXT_KEY, &mut attributes) }.is_err() {
                return keys;
            }
            keys.push(next.clone());
        }
    }
}

/// A program that the kernel has checked.
#[derive(Debug)]
pub struct Program {
    file: OwnedFd,
    hook: Hook,
}

impl Program {
    /// Has the kernel check a program and take it.
    ///
    /// # Errors
    /// The system's, with what the verifier said last.
    pub fn load(hook: Hook, instructions: &[Instruction]) -> io::Result<Self> {
        match Self::try_load(hook, instructions, &mut []) {
            Err(error) if error.raw_os_error() != Some(libc::EPERM) => {
                // Once more, to hear why.
                let mut log = vec![0; VERIFIER_LOG];
                match Self::try_load(hook, instructions, &mut log) {
                    Ok(program) => Ok(program),
                    Err(_) => {
                        let end = log.iter().position(|byte| *byte == 0).unwrap_or(log.len());
                        let text = String::from_utf8_lossy(log.get(..end).unwrap_or_default());
                        let last: Vec<&str> = text.lines().rev().take(3).collect();
                        let last = last.join("; ");
                        Err(io::Error::new(error.kind(), format!("{hook:?}: {error}: {last}")))
                    }
                }
            }
            result => result,
        }
    }

    fn try_load(hook: Hook, instructions: &[Instruction], log: &mut [u8]) -> io::Result<Self> {
        let (kind, attach) = hook.numbers();
        let mut attributes = attributes();
        attributes.program = ProgramAttributes {
            kind,
            count: u32::try_from(instructions.len()).map_err(io::Error::other)?,
            instructions: instructions.as_ptr().addr() as u64,
            // None of the functions called wants another.
            license: c"Apache-2.0".as_ptr().addr() as u64,
            log_level: u32::from(!log.is_empty()),
            log_size: u32::try_from(log.len()).map_err(io::Error::other)?,
            log: if log.is_empty() { 0 } else { log.as_mut_ptr().addr() as u64 },
            version: 0,
            flags: 0,
            name: *b"wslr\0\0\0\0\0\0\0\0\0\0\0\0",
            interface: 0,
            attach,
        };
        // SAFETY: instructions, license and log live through the call and are as long as said.
        let file = descriptor(unsafe { bpf(PROGRAM_LOAD, &mut attributes) }?);
        Ok(Self { file, hook })
    }

    /// Attaches it to a group, for as long as that exists.
    ///
    /// # Errors
    /// The system's.
    pub fn attach(&self, group: BorrowedFd<'_>) -> io::Result<()> {
        let mut attributes = attributes();
        let [group, program] =
            [group.as_raw_fd(), self.file.as_raw_fd()].map(|number| number.cast_unsigned());
        attributes.attach = [group, program, self.hook.numbers().1, ALLOW_MULTIPLE];
        // SAFETY: there are no pointers.
        unsafe { bpf(PROGRAM_ATTACH, &mut attributes) }.map(|_| ())
    }

    /// Attaches it to a network namespace, until what this gives is closed.
    ///
    /// # Errors
    /// The system's.
    pub fn link(&self, namespace: BorrowedFd<'_>) -> io::Result<OwnedFd> {
        let mut attributes = attributes();
        let [namespace, program] =
            [namespace.as_raw_fd(), self.file.as_raw_fd()].map(|number| number.cast_unsigned());
        attributes.attach = [program, namespace, self.hook.numbers().1, 0];
        // SAFETY: there are no pointers.
        unsafe { bpf(LINK_CREATE, &mut attributes) }.map(descriptor)
    }
}

/// A mapping of a part of a ring.
#[derive(Debug)]
struct Mapping {
    start: NonNull<u8>,
    length: usize,
}

impl Mapping {
    fn new(ring: &Map, offset: usize, length: usize, protection: i32) -> io::Result<Self> {
        let offset = libc::off_t::try_from(offset).map_err(io::Error::other)?;
        // SAFETY: a new mapping at a place of the kernel's choice.
        let start = unsafe {
            let nowhere = std::ptr::null_mut();
            libc::mmap(nowhere, length, protection, libc::MAP_SHARED, ring.number(), offset)
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        // Children, which become distros' inits, have no business with it.
        // SAFETY: the mapping has just been made.
        let _ = unsafe { libc::madvise(start, length, libc::MADV_DONTFORK) };
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { start, length })
    }

    fn position(&self) -> &AtomicU64 {
        // SAFETY: the mapping begins with the position, on a page boundary, and lives as
        // long as `self`; the kernel and this side access it atomically.
        unsafe { AtomicU64::from_ptr(self.start.as_ptr().cast()) }
    }

    /// The 32-bit word there, which the kernel may be writing; `None` beyond the end.
    fn word(&self, offset: usize) -> Option<u32> {
        if !offset.is_multiple_of(4) || offset.checked_add(4)? > self.length {
            return None;
        }
        // SAFETY: the word is within the mapping and aligned.
        let word = unsafe { AtomicU32::from_ptr(self.start.as_ptr().add(offset).cast()) };
        Some(word.load(Ordering::Acquire))
    }

    /// Copies bytes; false where they are not all in it.
    fn copy(&self, offset: usize, to: &mut [u8]) -> bool {
        if offset.checked_add(to.len()).is_none_or(|end| end > self.length) {
            return false;
        }
        // SAFETY: the source is within the mapping, and the kernel does not write to what
        // lies between the two positions.
        unsafe {
            let from = self.start.as_ptr().add(offset);
            std::ptr::copy_nonoverlapping(from, to.as_mut_ptr(), to.len());
        }
        true
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is this one's and nothing borrows from it any more.
        let _ = unsafe { libc::munmap(self.start.as_ptr().cast::<c_void>(), self.length) };
    }
}

// SAFETY: a mapping belongs to no thread.
unsafe impl Send for Mapping {}

/// The reading end of a ring of records that programs write.
#[derive(Debug)]
pub struct Ring {
    map: Map,
    taken: Mapping,
    /// The position up to which there are records, and then the records, twice in a row.
    given: Mapping,
    page: usize,
    length: usize,
}

impl Ring {
    /// A ring of so many bytes, a power of two and some pages.
    ///
    /// # Errors
    /// The system's.
    pub fn new(length: u32) -> io::Result<Self> {
        let map = Map::new(MapKind::Ring, 0, 0, length)?;
        let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE)?
            .and_then(|size| usize::try_from(size).ok())
            .ok_or(io::ErrorKind::Unsupported)?;
        let length = length as usize;
        let taken = Mapping::new(&map, 0, page, libc::PROT_READ | libc::PROT_WRITE)?;
        let given = Mapping::new(&map, page, page + 2 * length, libc::PROT_READ)?;
        Ok(Self { map, taken, given, page, length })
    }

    /// Its number, for programs.
    #[must_use]
    pub fn number(&self) -> i32 {
        self.map.number()
    }

    /// Takes the next record; `None` where there is none. One of another length than
    /// `record` is skipped and leaves it as it was.
    pub fn take(&mut self, record: &mut [u8]) -> Option<()> {
        /// Bits of a record's length: it is being written; it is to be skipped.
        const BUSY: u32 = 1 << 31;
        const DISCARDED: u32 = 1 << 30;
        const HEADER: usize = 8;
        let taken = self.taken.position().load(Ordering::Relaxed);
        if taken == self.given.position().load(Ordering::Acquire) {
            return None;
        }
        let start = self.page + (taken as usize & (self.length - 1));
        let header = self.given.word(start)?;
        if header & BUSY != 0 {
            return None;
        }
        let length = (header & !DISCARDED) as usize;
        if header & DISCARDED == 0 && length == record.len() {
            self.given.copy(start + HEADER, record);
        }
        let whole = (length + HEADER).next_multiple_of(8) as u64;
        self.taken.position().store(taken + whole, Ordering::Release);
        Some(())
    }
}

impl AsFd for Ring {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.map.file.as_fd()
    }
}

/// The number that the kernel gives the network namespace of this thread.
///
/// # Errors
/// The system's.
pub fn namespace() -> io::Result<u64> {
    const SO_NETNS_COOKIE: i32 = 71;
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
    let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    let mut cookie = 0_u64;
    let mut length = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the value is a local of the length that is passed.
    Errno::result(unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    })?;
    Ok(cookie)
}
