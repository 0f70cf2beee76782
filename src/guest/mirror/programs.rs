//! The programs that make the loopback addresses of the distros and of the host one.
//!
//! They are called with `struct bpf_sock_addr`, in which they read an address, and may put
//! another: the distro's program sees the one that it has used, and the network the one that
//! stands for the host. They look at sockets of one network namespace and nothing else.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::guest::listeners::assembler::{
    Assembler, FRAME, Instruction, Label, R0, R1, R2, R3, R4, R5, R6, R7, Register,
};
use crate::guest::listeners::bpf::Map;
use crate::guest::listeners::functions::{
    FIND_TCP, FIND_UDP, MAP_UPDATE, RELEASE, SET_RESULT, SOCKET_COOKIE, look_up, only_in,
};

/// Bits of what the host has at a port.
pub const TCP: u32 = 1;
/// The same.
pub const UDP: u32 = 2;

/// Parts of the context.
const ADDRESS4: i16 = 4;
const ADDRESS6: i16 = 8;
const PORT: i16 = 24;
const PROTOCOL: i16 = 36;
const SOCKET: i16 = 64;
/// Parts of a socket.
const SOURCE4: i16 = 24;
const SOURCE6: i16 = 28;

/// The stack: a key of a map, a value, and what a socket is looked for by, at the most.
const KEY: i16 = -8;
const VALUE: i16 = -16;
const PLACE: i16 = -56;
/// The length of an address of each version, and of two ports.
const LENGTH4: i16 = 4;
const LENGTH6: i16 = 16;
const PORTS: i16 = 4;

const LOOPBACK4: u32 = u32::from_ne_bytes(Ipv4Addr::LOCALHOST.octets());
/// The third word of an address of IPv4 in the clothes of IPv6.
const MAPPED: u32 = u32::from_ne_bytes([0, 0, 0xff, 0xff]);
/// The fourth word of ::1.
const LOOPBACK6: u32 = u32::from_ne_bytes([0, 0, 0, 1]);

/// The version of IP that a program is for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Version {
    /// Version 4.
    Four,
    /// Version 6, and addresses of version 4 in its clothes.
    Six,
}

/// What the programs share.
#[derive(Debug)]
pub struct Maps {
    /// What the host has at each port, by its number.
    pub ports: Map,
    /// The numbers of sockets that were led to the host.
    pub led: Map,
    /// The network namespace whose sockets count.
    pub namespace: u64,
}

/// What stands for the host on the link.
pub type Host = (Ipv4Addr, Ipv6Addr);

/// Keeps the socket's protocol as one of the bits in [`R7`].
fn protocol(program: &mut Assembler, end: Label) {
    let [datagram, known] = std::array::from_fn(|_| program.label());
    program.load(R2, R6, PROTOCOL);
    program.if_is(R2, libc::IPPROTO_UDP, datagram);
    program.if_not(R2, libc::IPPROTO_TCP.cast_unsigned(), end);
    program.set(R7, TCP.cast_signed());
    program.go(known);
    program.place(datagram);
    program.set(R7, UDP.cast_signed());
    program.place(known);
}

/// Goes on where the host has the context's port by the protocol in [`R7`].
fn host_has(program: &mut Assembler, maps: &Maps, end: Label) {
    let has = program.label();
    program.load(R2, R6, PORT);
    program.swap_network_order(R2);
    program.store(FRAME, KEY, R2);
    look_up(program, &maps.ports, KEY, end);
    program.load(R2, R0, 0);
    program.if_common(R2, R7, has);
    program.go(end);
    program.place(has);
}

/// Word `index` of the context's address of IPv6.
fn word(program: &mut Assembler, to: Register, index: i16) {
    program.load(to, R6, ADDRESS6 + 4 * index);
}

/// Jumps to `mapped` where an address of IPv6 is one of IPv4 in its clothes, to `end` where its
/// first half is not zero, and goes on with the third word in [`R2`], the fourth in [`R3`].
fn take_apart(program: &mut Assembler, mapped: Label, end: Label) {
    for index in 0..2 {
        word(program, R2, index);
        program.if_not(R2, 0, end);
    }
    word(program, R2, 2);
    word(program, R3, 3);
    let other = program.label();
    program.if_not(R2, MAPPED, other);
    program.go(mapped);
    program.place(other);
}

/// Before `bind`: a port that the host has is taken, where an address is asked for that means
/// the host as well (B213).
#[must_use]
pub fn refuse(maps: &Maps, version: Version) -> Vec<Instruction> {
    let mut program = Assembler::default();
    let [end, asked, mapped] = std::array::from_fn(|_| program.label());
    program.copy(R6, R1);
    only_in(&mut program, maps.namespace, end);
    protocol(&mut program, end);
    match version {
        Version::Four => program.load(R3, R6, ADDRESS4),
        Version::Six => {
            take_apart(&mut program, mapped, end);
            program.if_not(R2, 0, end);
            program.if_is(R3, 0, asked);
            program.if_not(R3, LOOPBACK6, end);
            program.go(asked);
            program.place(mapped);
        }
    }
    program.if_is(R3, 0, asked);
    program.if_not(R3, LOOPBACK4, end);
    program.place(asked);
    // Nobody has port 0, which is one of the kernel's choice.
    host_has(&mut program, maps, end);
    program.set(R1, -libc::EADDRINUSE);
    program.call(SET_RESULT);
    program.leave(0);
    program.place(end);
    program.leave(1);
    program.finish()
}

/// Goes on where nobody in the namespace has the port, on a loopback address of this length.
/// That is [`R4`]'s word, with zeros before it.
fn nobody_has(program: &mut Assembler, length: i16, end: Label) {
    let [datagram, found, nobody] = std::array::from_fn(|_| program.label());
    let size = 2 * length + PORTS;
    for offset in (0..size).step_by(4) {
        program.store_value(FRAME, PLACE + offset, 0);
    }
    program.store(FRAME, PLACE + 2 * length - 4, R4);
    program.load(R2, R6, PORT);
    program.store_short(FRAME, PLACE + 2 * length + 2, R2);
    program.copy(R1, R6);
    program.set_stack(R2, PLACE);
    program.set(R3, size.into());
    // In the namespace of the socket.
    program.set(R4, -1);
    program.set(R5, 0);
    program.if_is(R7, UDP.cast_signed(), datagram);
    program.call(FIND_TCP);
    program.go(found);
    program.place(datagram);
    program.call(FIND_UDP);
    program.place(found);
    program.if_is(R0, 0, nobody);
    program.copy(R1, R0);
    program.call(RELEASE);
    program.go(end);
    program.place(nobody);
}

/// Notes that the socket was led to the host.
fn note(program: &mut Assembler, maps: &Maps) {
    program.copy(R1, R6);
    program.call(SOCKET_COOKIE);
    program.store_wide(FRAME, KEY, R0);
    program.store_wide_value(FRAME, VALUE, 0);
    program.set_map(R1, maps.led.number());
    program.set_stack(R2, KEY);
    program.set_stack(R3, VALUE);
    program.set(R4, 0);
    program.call(MAP_UPDATE);
}

/// Goes on, with a note of the socket, where the address, whose last word is in [`R3`], is the
/// unspecified or the `loopback` one, and the host has the port and nobody here. The loopback
/// address is given by its last word and the length of all.
fn only_the_hosts(program: &mut Assembler, maps: &Maps, loopback: (u32, i16), end: Label) {
    let (word, length) = loopback;
    let meant = program.label();
    program.if_is(R3, 0, meant);
    program.if_not(R3, word, end);
    program.place(meant);
    host_has(program, maps, end);
    program.set(R4, word.cast_signed());
    nobody_has(program, length, end);
    note(program, maps);
}

/// Puts a word into the context's address.
fn put(program: &mut Assembler, offset: i16, value: u32) {
    program.set(R2, value.cast_signed());
    program.store(R6, offset, R2);
}

fn put_all(program: &mut Assembler, address: Ipv6Addr) {
    let octets = address.octets();
    for (bytes, offset) in octets.as_chunks::<4>().0.iter().zip((ADDRESS6..).step_by(4)) {
        put(program, offset, u32::from_ne_bytes(*bytes));
    }
}

/// Before `connect`, or a datagram that says where it goes: what is for the loopback address,
/// or the unspecified one, which means the same, and for nobody here, is led to the host where
/// that has the port.
#[must_use]
pub fn lead(maps: &Maps, (host4, host6): Host, version: Version) -> Vec<Instruction> {
    let mut program = Assembler::default();
    let [end, mapped] = std::array::from_fn(|_| program.label());
    let host4 = u32::from_ne_bytes(host4.octets());
    program.copy(R6, R1);
    only_in(&mut program, maps.namespace, end);
    protocol(&mut program, end);
    // Who is bound to the loopback address gets no answer from outside of the machine.
    program.load_wide(R2, R6, SOCKET);
    program.load(R3, R2, SOURCE4);
    let elsewhere = program.label();
    program.if_not(R3, LOOPBACK4, elsewhere);
    program.go(end);
    program.place(elsewhere);
    if version == Version::Six {
        let elsewhere = program.label();
        for (index, value) in [0, 0, 0, LOOPBACK6].into_iter().enumerate() {
            program.load(R3, R2, SOURCE6 + 4 * index as i16);
            program.if_not(R3, value, elsewhere);
        }
        program.go(end);
        program.place(elsewhere);
        take_apart(&mut program, mapped, end);
        program.if_not(R2, 0, end);
        only_the_hosts(&mut program, maps, (LOOPBACK6, LENGTH6), end);
        put_all(&mut program, host6);
        program.go(end);
        program.place(mapped);
    } else {
        program.load(R3, R6, ADDRESS4);
    }
    only_the_hosts(&mut program, maps, (LOOPBACK4, LENGTH4), end);
    let offset = if version == Version::Six { ADDRESS6 + 12 } else { ADDRESS4 };
    put(&mut program, offset, host4);
    program.place(end);
    program.leave(1);
    program.finish()
}

/// Where an address is told of a socket that was led to the host: the one that it has used.
#[must_use]
pub fn restore(maps: &Maps, (host4, host6): Host, version: Version) -> Vec<Instruction> {
    let mut program = Assembler::default();
    let [end, mapped, six] = std::array::from_fn(|_| program.label());
    program.copy(R6, R1);
    let host4 = u32::from_ne_bytes(host4.octets());
    match version {
        Version::Four => program.load(R3, R6, ADDRESS4),
        Version::Six => {
            let octets = host6.octets();
            word(&mut program, R2, 0);
            program.if_is(R2, 0, mapped);
            for (bytes, index) in octets.as_chunks::<4>().0.iter().zip(0..) {
                word(&mut program, R2, index);
                program.if_not(R2, u32::from_ne_bytes(*bytes), end);
            }
            program.go(six);
            program.place(mapped);
            let mapped = program.label();
            take_apart(&mut program, mapped, end);
            program.go(end);
            program.place(mapped);
        }
    }
    program.if_not(R3, host4, end);
    was_led(&mut program, maps, end);
    let offset = if version == Version::Six { ADDRESS6 + 12 } else { ADDRESS4 };
    put(&mut program, offset, LOOPBACK4);
    if version == Version::Six {
        program.go(end);
        program.place(six);
        was_led(&mut program, maps, end);
        put_all(&mut program, Ipv6Addr::LOCALHOST);
    }
    program.place(end);
    program.leave(1);
    program.finish()
}

/// Goes on where the socket was led to the host.
fn was_led(program: &mut Assembler, maps: &Maps, end: Label) {
    program.copy(R1, R6);
    program.call(SOCKET_COOKIE);
    program.store_wide(FRAME, KEY, R0);
    look_up(program, &maps.led, KEY, end);
}
