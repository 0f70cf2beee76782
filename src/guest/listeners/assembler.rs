//! Small programs for the kernel's own machine, BPF, put together instruction by instruction
//! (RFC 9669). They are few and short: a compiler for them would be a larger dependency than
//! they are.

/// A register. `0` has results, `1` to `5` arguments, `6` to `9` survive calls.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Register(u8);

/// Results.
pub const R0: Register = Register(0);
/// The first argument, at the start the context.
pub const R1: Register = Register(1);
/// The second argument.
pub const R2: Register = Register(2);
/// The third argument.
pub const R3: Register = Register(3);
/// The fourth argument.
pub const R4: Register = Register(4);
/// The fifth argument.
pub const R5: Register = Register(5);
/// Survives calls.
pub const R6: Register = Register(6);
/// Survives calls.
pub const R7: Register = Register(7);
/// The end of the stack.
pub const FRAME: Register = Register(10);

/// A place in a program to jump to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Label(usize);

/// `struct bpf_insn` as the kernel reads it.
pub type Instruction = u64;

/// A program that is being put together.
#[derive(Debug, Default)]
pub struct Assembler {
    instructions: Vec<Instruction>,
    /// Where labels are, as far as that is known.
    places: Vec<usize>,
    /// Jumps and where they go.
    jumps: Vec<(usize, Label)>,
}

fn encode(code: u8, to: Register, from: Register, offset: i16, value: i32) -> Instruction {
    let [offset_low, offset_high] = offset.to_ne_bytes();
    let [a, b, c, d] = value.to_ne_bytes();
    let registers =
        if cfg!(target_endian = "little") { from.0 << 4 | to.0 } else { to.0 << 4 | from.0 };
    u64::from_ne_bytes([code, registers, offset_low, offset_high, a, b, c, d])
}

impl Assembler {
    fn push(&mut self, code: u8, to: Register, from: Register, offset: i16, value: i32) {
        self.instructions.push(encode(code, to, from, offset, value));
    }

    /// A label, to be placed later.
    pub fn label(&mut self) -> Label {
        self.places.push(0);
        Label(self.places.len() - 1)
    }

    /// Says that a label is here.
    pub fn place(&mut self, label: Label) {
        if let Some(place) = self.places.get_mut(label.0) {
            *place = self.instructions.len();
        }
    }

    fn jump(&mut self, code: u8, left: Register, right: Register, value: i32, to: Label) {
        self.jumps.push((self.instructions.len(), to));
        self.push(code, left, right, 0, value);
    }

    /// Copies a register.
    pub fn copy(&mut self, to: Register, from: Register) {
        self.push(0xbf, to, from, 0, 0);
    }

    /// Sets a register to a small number.
    pub fn set(&mut self, to: Register, value: i32) {
        self.push(0xb7, to, R0, 0, value);
    }

    /// Sets a register to any number.
    pub fn set_wide(&mut self, to: Register, value: u64) {
        self.push(0x18, to, R0, 0, value as i32);
        self.push(0, R0, R0, 0, (value >> 32) as i32);
    }

    /// Sets a register to a map.
    pub fn set_map(&mut self, to: Register, number: i32) {
        // In place of a source register: that the number is a descriptor.
        self.push(0x18, to, Register(1), 0, number);
        self.push(0, R0, R0, 0, 0);
    }

    /// Sets a register to a place on the stack.
    pub fn set_stack(&mut self, to: Register, offset: i16) {
        self.copy(to, FRAME);
        self.push(0x07, to, R0, 0, offset.into());
    }

    /// Adds a small number to the low 32 bits of a register.
    pub fn add(&mut self, to: Register, value: i32) {
        self.push(0x04, to, R0, 0, value);
    }

    /// Makes the low 16 bits of a register those of a number in the network's order, or back.
    pub fn swap_network_order(&mut self, register: Register) {
        self.push(0xdc, register, R0, 0, 16);
    }

    /// Loads 32 bits.
    pub fn load(&mut self, to: Register, from: Register, offset: i16) {
        self.push(0x61, to, from, offset, 0);
    }

    /// Loads 64 bits.
    pub fn load_wide(&mut self, to: Register, from: Register, offset: i16) {
        self.push(0x79, to, from, offset, 0);
    }

    /// Stores 32 bits.
    pub fn store(&mut self, to: Register, offset: i16, from: Register) {
        self.push(0x63, to, from, offset, 0);
    }

    /// Stores 16 bits.
    pub fn store_short(&mut self, to: Register, offset: i16, from: Register) {
        self.push(0x6b, to, from, offset, 0);
    }

    /// Stores 64 bits.
    pub fn store_wide(&mut self, to: Register, offset: i16, from: Register) {
        self.push(0x7b, to, from, offset, 0);
    }

    /// Stores a 32-bit number.
    pub fn store_value(&mut self, to: Register, offset: i16, value: i32) {
        self.push(0x62, to, R0, offset, value);
    }

    /// Stores a 64-bit number.
    pub fn store_wide_value(&mut self, to: Register, offset: i16, value: i32) {
        self.push(0x7a, to, R0, offset, value);
    }

    /// Jumps.
    pub fn go(&mut self, to: Label) {
        self.jump(0x05, R0, R0, 0, to);
    }

    /// Jumps where 64 bits are a number.
    pub fn if_is(&mut self, left: Register, value: i32, to: Label) {
        self.jump(0x15, left, R0, value, to);
    }

    /// Jumps where the low 32 bits are not those of a number.
    pub fn if_not(&mut self, left: Register, value: u32, to: Label) {
        self.jump(0x56, left, R0, value.cast_signed(), to);
    }

    /// Jumps where two registers differ.
    pub fn if_differ(&mut self, left: Register, right: Register, to: Label) {
        self.jump(0x5d, left, right, 0, to);
    }

    /// Jumps where the left register is less than the right one.
    pub fn if_less(&mut self, left: Register, right: Register, to: Label) {
        self.jump(0xad, left, right, 0, to);
    }

    /// Jumps where two registers have a bit in common.
    pub fn if_common(&mut self, left: Register, right: Register, to: Label) {
        self.jump(0x4d, left, right, 0, to);
    }

    /// Calls a function of the kernel by its number (`linux/bpf.h`).
    pub fn call(&mut self, function: i32) {
        self.push(0x85, R0, R0, 0, function);
    }

    /// Ends the program with a result.
    pub fn leave(&mut self, result: i32) {
        self.set(R0, result);
        self.push(0x95, R0, R0, 0, 0);
    }

    /// The program, its jumps filled in.
    #[must_use]
    pub fn finish(mut self) -> Vec<Instruction> {
        for (at, label) in self.jumps {
            let place = self.places.get(label.0).copied().unwrap_or_default();
            // Programs have far fewer instructions than 32,768.
            let distance = (place as i64 - at as i64 - 1) as i16;
            if let Some(instruction) = self.instructions.get_mut(at) {
                let mut bytes = instruction.to_ne_bytes();
                let [_, _, low, high, ..] = &mut bytes;
                [*low, *high] = distance.to_ne_bytes();
                *instruction = u64::from_ne_bytes(bytes);
            }
        }
        self.instructions
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jumps_go_forward_and_back_to_their_labels() {
        let mut program = Assembler::default();
        let (start, end) = (program.label(), program.label());
        program.place(start);
        program.load(R2, R1, 4);
        program.if_is(R2, 7, end);
        program.go(start);
        program.place(end);
        program.leave(1);
        let bytes: Vec<[u8; 8]> = program.finish().iter().map(|one| one.to_ne_bytes()).collect();
        if cfg!(target_endian = "little") {
            assert_eq!(bytes[0], [0x61, 0x12, 4, 0, 0, 0, 0, 0]);
            assert_eq!(bytes[1], [0x15, 0x02, 1, 0, 7, 0, 0, 0]);
            assert_eq!(bytes[2], [0x05, 0, 0xfd, 0xff, 0, 0, 0, 0]);
            assert_eq!(bytes[3], [0xb7, 0, 0, 0, 1, 0, 0, 0]);
            assert_eq!(bytes[4], [0x95, 0, 0, 0, 0, 0, 0, 0]);
        }
    }
}
