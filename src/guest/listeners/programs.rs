//! The programs that tell when a distro begins and ends to listen, and the one that finds
//! the listener of a packet from the host.
//!
//! They are attached to a distro's cgroup and see the sockets that its processes make,
//! whatever those are; nothing in the distro is touched. A map holds who listens now and is
//! the truth; a ring says what has changed and wakes the reader. Where the ring has no room
//! a mark is left, and the reader looks at the whole map.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::BorrowedFd;

use super::assembler::{
    Assembler, FRAME, Instruction, Label, R0, R1, R2, R3, R4, R6, R7, Register,
};
use super::bpf::{Hook, Map, Program};
use super::functions::{
    ASSIGN, MAP_DELETE, MAP_LOOKUP, MAP_UPDATE, PROCESS_NAME, RELEASE, RING_OUTPUT, SET_CALLBACKS,
    SOCKET_COOKIE, SOCKETS_UPDATE, look_up, only_in,
};

/// The length of a record.
pub const RECORD: usize = 64;
/// Where its parts are: a 32-bit number each, but for the last three.
pub const KIND: usize = 0;
/// The distro.
pub const DISTRO: usize = 4;
/// The number of the protocol.
pub const PROTOCOL: usize = 8;
/// The number of the address's family.
pub const FAMILY: usize = 12;
/// In the host's order.
pub const PORT: usize = 16;
/// The kernel's 64-bit number of the socket.
pub const SOCKET: usize = 24;
/// 16 bytes, of IPv4 the first four.
pub const ADDRESS: usize = 32;
/// The name of the process, 16 bytes with a zero.
pub const PROCESS: usize = 48;

/// A record of a socket that listens.
pub const OPENED: u32 = 1;
/// A record of one that does no more.
pub const CLOSED: u32 = 2;

/// The record on a program's stack, and what else is there.
const STACK: i16 = -(RECORD as i16);
const KEY: i16 = STACK - 8;

/// Wake the ring's reader in any case.
const WAKE: i32 = 2;
/// Tell of changes of a connection's state.
const STATES: i32 = 4;
/// Only where nobody has the place.
const VACANT: i32 = 1;
/// How many sockets that share a port are known (`SO_REUSEPORT`): one is enough for the kernel
/// to find all, and as long as one of these is left the port is.
const SHARERS: i32 = 8;

const FAMILY4: i32 = libc::AF_INET;
const FAMILY6: i32 = libc::AF_INET6;

/// What the programs share.
#[derive(Debug)]
pub struct Maps {
    /// Who listens: the socket's number, and its record.
    pub listeners: Map,
    /// The names of processes that bound a socket of TCP, by the socket's number.
    pub names: Map,
    /// Sockets of TCP that listen on the loopback address, by port, and by family and a
    /// number among those that share the port.
    pub loopback: Map,
    /// The first and the last of the ports that clients are given.
    pub chosen: Map,
    /// A number that is not zero where a record was lost.
    pub lost: Map,
    /// The ring.
    pub ring: i32,
}

/// Where a packet for a listener on the loopback address comes in, and from whom.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Entrance {
    /// The number of the interface.
    pub interface: u32,
    /// The host, as the guest knows it.
    pub host4: Ipv4Addr,
    /// The same of IPv6.
    pub host6: Ipv6Addr,
}

/// A distro whose sockets are watched.
#[derive(Clone, Copy, Debug)]
pub struct Watched {
    /// Its number in records.
    pub number: u32,
    /// The network namespace whose sockets count; a container's own do not.
    pub namespace: u64,
}

/// Attaches all programs to a distro's group.
///
/// # Errors
/// The system's: it may be forbidden, or the kernel too old.
pub fn attach(maps: &Maps, watched: Watched, group: BorrowedFd<'_>) -> io::Result<()> {
    // Kernels before 6.0 do not tell such programs the name.
    let bound = |hook, address, size| {
        Program::load(hook, &bound(maps, watched, (address, size), true))
            .or_else(|_| Program::load(hook, &self::bound(maps, watched, (address, size), false)))
    };
    let programs = [
        Program::load(Hook::Tcp, &tcp(maps, watched))?,
        bound(Hook::Bound4, 24, 1)?,
        bound(Hook::Bound6, 28, 4)?,
        Program::load(Hook::Released, &released(maps))?,
    ];
    programs.iter().try_for_each(|program| program.attach(group))
}

/// Writes an empty record of a socket that begins to listen; jumps to `end` where the
/// socket is in another namespace. Its number is put into the record.
fn begin(program: &mut Assembler, watched: Watched, end: Label) {
    only_in(program, watched.namespace, end);
    for offset in (0..RECORD as i16).step_by(8) {
        program.store_wide_value(FRAME, STACK + offset, 0);
    }
    program.store_value(FRAME, STACK + KIND as i16, OPENED.cast_signed());
    program.store_value(FRAME, STACK + DISTRO as i16, watched.number.cast_signed());
    socket(program);
}

/// Puts the socket's number into the record.
fn socket(program: &mut Assembler) {
    program.copy(R1, R6);
    program.call(SOCKET_COOKIE);
    program.store_wide(FRAME, STACK + SOCKET as i16, R0);
}

/// Copies 32-bit words of the context into the record.
fn copy(program: &mut Assembler, from: i16, to: usize, count: i16) {
    for word in 0..count {
        program.load(R2, R6, from + 4 * word);
        program.store(FRAME, STACK + to as i16 + 4 * word, R2);
    }
}

/// A map and the socket's number as arguments.
fn with_socket(program: &mut Assembler, map: &Map) {
    program.set_map(R1, map.number());
    program.set_stack(R2, STACK + SOCKET as i16);
}

/// Sends the record.
fn send(program: &mut Assembler, maps: &Maps) {
    let done = program.label();
    program.set_map(R1, maps.ring);
    program.set_stack(R2, STACK);
    program.set(R3, RECORD as i32);
    program.set(R4, WAKE);
    program.call(RING_OUTPUT);
    program.if_is(R0, 0, done);
    program.store_value(FRAME, KEY, 0);
    look_up(program, &maps.lost, KEY, done);
    program.store_value(R0, 0, 1);
    program.place(done);
}

/// Notes the record among those that listen, and sends it.
fn note(program: &mut Assembler, maps: &Maps) {
    with_socket(program, &maps.listeners);
    program.set_stack(R3, STACK);
    program.set(R4, 0);
    program.call(MAP_UPDATE);
    send(program, maps);
}

/// Forgets the record's socket and says so, where it has listened.
fn forget(program: &mut Assembler, maps: &Maps, end: Label) {
    with_socket(program, &maps.listeners);
    program.call(MAP_DELETE);
    program.if_not(R0, 0, end);
    send(program, maps);
}

/// An otherwise empty record of a socket that does not listen any more.
fn begin_closed(program: &mut Assembler) {
    for offset in (0..RECORD as i16).step_by(8) {
        program.store_wide_value(FRAME, STACK + offset, 0);
    }
    program.store_value(FRAME, STACK + KIND as i16, CLOSED.cast_signed());
    socket(program);
}

/// After `bind` (`struct bpf_sock`): a socket of UDP listens; of one of TCP the process is
/// noted, for the moment in which it will.
fn bound(
    maps: &Maps,
    watched: Watched,
    (address, words): (i16, i16),
    with_name: bool,
) -> Vec<Instruction> {
    let mut program = Assembler::default();
    let [end, datagram, named, noted] = std::array::from_fn(|_| program.label());
    program.copy(R6, R1);
    program.load(R2, R6, 12);
    program.if_not(R2, libc::IPPROTO_UDP.cast_unsigned(), noted);
    // A client's port, as most are: nobody is woken for it.
    program.load(R7, R6, 44);
    program.store_value(FRAME, KEY, 0);
    look_up(&mut program, &maps.chosen, KEY, noted);
    program.load(R2, R0, 0);
    program.if_less(R7, R2, noted);
    program.load(R2, R0, 4);
    program.if_less(R2, R7, noted);
    program.go(end);
    program.place(noted);
    begin(&mut program, watched, end);
    if with_name {
        program.set_stack(R1, STACK + PROCESS as i16);
        program.set(R2, 16);
        program.call(PROCESS_NAME);
    }
    program.load(R2, R6, 12);
    program.if_is(R2, libc::IPPROTO_UDP, datagram);
    program.if_not(R2, libc::IPPROTO_TCP.cast_unsigned(), end);
    program.place(named);
    with_socket(&mut program, &maps.names);
    program.set_stack(R3, STACK + PROCESS as i16);
    program.set(R4, 0);
    program.call(MAP_UPDATE);
    program.go(end);
    program.place(datagram);
    program.store(FRAME, STACK + PROTOCOL as i16, R2);
    copy(&mut program, 4, FAMILY, 1);
    copy(&mut program, 44, PORT, 1);
    copy(&mut program, address, ADDRESS, words);
    note(&mut program, maps);
    program.place(end);
    program.leave(1);
    program.finish()
}

/// When the last descriptor of a socket is closed (`struct bpf_sock`).
fn released(maps: &Maps) -> Vec<Instruction> {
    let mut program = Assembler::default();
    let end = program.label();
    program.copy(R6, R1);
    begin_closed(&mut program);
    forget(&mut program, maps, end);
    program.place(end);
    program.leave(1);
    program.finish()
}

/// What happens to connections of TCP (`struct bpf_sock_ops`).
fn tcp(maps: &Maps, watched: Watched) -> Vec<Instruction> {
    const ACCEPTED: i32 = 5;
    const STATE: i32 = 10;
    const LISTENS: i32 = 11;
    const LISTENING: u32 = 10;
    const FAMILY_AT: i16 = 20;
    const LOCAL4: i16 = 28;
    const LOCAL6: i16 = 48;
    const LOCAL_PORT: i16 = 68;
    let mut program = Assembler::default();
    let [end, listens, state, accepted] = std::array::from_fn(|_| program.label());
    let [four, addressed, unnamed, six, local] = std::array::from_fn(|_| program.label());
    program.copy(R6, R1);
    program.load(R2, R6, 0);
    program.if_is(R2, LISTENS, listens);
    program.if_is(R2, STATE, state);
    program.if_is(R2, ACCEPTED, accepted);
    program.go(end);

    // A connection has what its listener had: its states do not matter.
    program.place(accepted);
    program.copy(R1, R6);
    program.set(R2, 0);
    program.call(SET_CALLBACKS);
    program.go(end);

    program.place(state);
    program.load(R2, R6, 4);
    program.if_not(R2, LISTENING, end);
    begin_closed(&mut program);
    forget(&mut program, maps, end);
    program.go(end);

    program.place(listens);
    begin(&mut program, watched, end);
    program.copy(R1, R6);
    program.set(R2, STATES);
    program.call(SET_CALLBACKS);
    program.store_value(FRAME, STACK + PROTOCOL as i16, libc::IPPROTO_TCP);
    copy(&mut program, FAMILY_AT, FAMILY, 1);
    copy(&mut program, LOCAL_PORT, PORT, 1);
    program.load(R2, R6, FAMILY_AT);
    program.if_is(R2, FAMILY4, four);
    copy(&mut program, LOCAL6, ADDRESS, 4);
    program.go(addressed);
    program.place(four);
    copy(&mut program, LOCAL4, ADDRESS, 1);
    program.place(addressed);
    with_socket(&mut program, &maps.names);
    program.call(MAP_LOOKUP);
    program.if_is(R0, 0, unnamed);
    for offset in [0, 8] {
        program.load_wide(R2, R0, offset);
        program.store_wide(FRAME, STACK + PROCESS as i16 + offset, R2);
    }
    program.place(unnamed);
    note(&mut program, maps);

    // On the loopback address: the key is port and family of that.
    let word = |index: i16| STACK + ADDRESS as i16 + 4 * index;
    let part = |program: &mut Assembler, to: Register, index| program.load(to, FRAME, word(index));
    let loopback4 = u32::from_ne_bytes(Ipv4Addr::LOCALHOST.octets());
    program.load(R2, R6, LOCAL_PORT);
    program.store(FRAME, KEY, R2);
    program.store_value(FRAME, KEY + 4, FAMILY4);
    part(&mut program, R2, 0);
    program.load(R3, FRAME, STACK + FAMILY as i16);
    program.if_is(R3, FAMILY6, six);
    program.if_not(R2, loopback4, end);
    program.go(local);
    program.place(six);
    program.if_not(R2, 0, end);
    part(&mut program, R2, 1);
    program.if_not(R2, 0, end);
    part(&mut program, R2, 2);
    part(&mut program, R3, 3);
    let own = program.label();
    program.if_is(R2, 0, own);
    // An address of IPv4 in the clothes of IPv6, as Java's.
    program.if_not(R2, u32::from_ne_bytes([0, 0, 0xff, 0xff]), end);
    program.if_not(R3, loopback4, end);
    program.go(local);
    program.place(own);
    program.if_not(R3, u32::from_ne_bytes([0, 0, 0, 1]), end);
    program.store_value(FRAME, KEY + 4, FAMILY6);
    program.place(local);
    for _ in 0..SHARERS {
        program.copy(R1, R6);
        program.set_map(R2, maps.loopback.number());
        program.set_stack(R3, KEY);
        program.set(R4, VACANT);
        program.call(SOCKETS_UPDATE);
        program.if_is(R0, 0, end);
        next_sharer(&mut program);
    }
    program.place(end);
    program.leave(1);
    program.finish()
}

/// Makes the key that of the next socket on the same port.
fn next_sharer(program: &mut Assembler) {
    program.load(R2, FRAME, KEY + 4);
    program.add(R2, 1 << 16);
    program.store(FRAME, KEY + 4, R2);
}

/// For a packet of the host, finds the socket that listens on the loopback address
/// (`struct bpf_sk_lookup`).
#[must_use]
pub fn lookup(maps: &Maps, entrance: Entrance) -> Vec<Instruction> {
    let mut program = Assembler::default();
    let [end, six, found] = std::array::from_fn(|_| program.label());
    program.copy(R6, R1);
    program.load(R2, R6, 12);
    program.if_not(R2, libc::IPPROTO_TCP.cast_unsigned(), end);
    program.load(R2, R6, 64);
    program.if_not(R2, entrance.interface, end);
    program.load(R2, R6, 8);
    program.store(FRAME, KEY + 4, R2);
    program.if_is(R2, FAMILY6, six);
    program.load(R2, R6, 16);
    program.if_not(R2, u32::from_ne_bytes(entrance.host4.octets()), end);
    program.go(found);
    program.place(six);
    let host6 = entrance.host6.octets();
    for (word, at) in host6.as_chunks::<4>().0.iter().zip((20..).step_by(4)) {
        program.load(R2, R6, at);
        program.if_not(R2, u32::from_ne_bytes(*word), end);
    }
    program.place(found);
    program.load(R2, R6, 60);
    program.store(FRAME, KEY, R2);
    let socket = program.label();
    for _ in 0..SHARERS {
        program.set_map(R1, maps.loopback.number());
        program.set_stack(R2, KEY);
        program.call(MAP_LOOKUP);
        // The other comparison would not tell the kernel that there is one.
        let none = program.label();
        program.if_is(R0, 0, none);
        program.go(socket);
        program.place(none);
        next_sharer(&mut program);
    }
    program.go(end);
    program.place(socket);
    program.copy(R7, R0);
    program.copy(R1, R6);
    program.copy(R2, R7);
    program.set(R3, 0);
    program.call(ASSIGN);
    program.copy(R1, R7);
    program.call(RELEASE);
    program.place(end);
    // Let the packet pass, wherever it goes now.
    program.leave(1);
    program.finish()
}
