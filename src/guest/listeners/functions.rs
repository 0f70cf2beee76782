//! The functions of the kernel that programs call, by their numbers (`enum bpf_func_id`), and
//! what programs of several kinds begin with.

use super::assembler::{Assembler, Label, R0, R1, R2, R6};
use super::bpf::Map;

pub const MAP_LOOKUP: i32 = 1;
pub const MAP_UPDATE: i32 = 2;
pub const MAP_DELETE: i32 = 3;
pub const PROCESS_NAME: i32 = 16;
pub const SOCKET_COOKIE: i32 = 46;
pub const SET_CALLBACKS: i32 = 59;
pub const SOCKETS_UPDATE: i32 = 70;
pub const FIND_TCP: i32 = 84;
pub const FIND_UDP: i32 = 85;
pub const RELEASE: i32 = 86;
pub const NAMESPACE_COOKIE: i32 = 122;
pub const ASSIGN: i32 = 124;
pub const RING_OUTPUT: i32 = 130;
/// Since Linux 5.18.
pub const SET_RESULT: i32 = 187;

/// Finds the value of the key at a place of the stack; jumps to `none` where there is none.
pub fn look_up(program: &mut Assembler, map: &Map, key: i16, none: Label) {
    program.set_map(R1, map.number());
    program.set_stack(R2, key);
    program.call(MAP_LOOKUP);
    program.if_is(R0, 0, none);
}

/// Jumps to `end` where the socket of the context, in [`R6`], is in another network namespace.
pub fn only_in(program: &mut Assembler, namespace: u64, end: Label) {
    program.copy(R1, R6);
    program.call(NAMESPACE_COOKIE);
    program.set_wide(R2, namespace);
    program.if_differ(R0, R2, end);
}
