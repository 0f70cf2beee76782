//! Command descriptor blocks (SPC-4 and SBC-3) as typed commands.

use super::sense::Sense;

/// The longest command descriptor block that is understood; longer ones are cut.
pub const LENGTH: usize = 16;

/// A run of logical blocks.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Blocks {
    /// The first.
    pub start: u64,
    /// How many.
    pub count: u32,
}

/// What the driver wants. Allocation lengths are in bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Command {
    /// INQUIRY.
    Inquiry {
        /// The vital product data page, or the standard data.
        page: Option<u8>,
        /// How much the driver takes.
        allocation: usize,
    },
    /// MODE SENSE (6) or (10).
    ModeSense {
        /// Which page.
        page: u8,
        /// Which subpage.
        subpage: u8,
        /// The kind of values: current, changeable, default, saved.
        control: u8,
        /// Whether it is the ten byte form.
        long: bool,
        /// How much the driver takes.
        allocation: usize,
    },
    /// READ (6), (10), (12) or (16).
    Read(Blocks),
    /// READ CAPACITY (10).
    ReadCapacity10,
    /// READ CAPACITY (16).
    ReadCapacity16 {
        /// How much the driver takes.
        allocation: usize,
    },
    /// REPORT LUNS.
    ReportLuns {
        /// Which kinds of units.
        select: u8,
        /// How much the driver takes.
        allocation: usize,
    },
    /// REQUEST SENSE.
    RequestSense {
        /// How much the driver takes.
        allocation: usize,
    },
    /// START STOP UNIT. A virtual disk is always ready.
    StartStop,
    /// SYNCHRONIZE CACHE (10) or (16).
    Synchronize(Blocks),
    /// TEST UNIT READY.
    TestUnitReady,
    /// UNMAP.
    Unmap {
        /// The length of the parameter list.
        length: usize,
    },
    /// VERIFY (10) or (16) without data.
    Verify(Blocks),
    /// WRITE (6), (10), (12) or (16).
    Write {
        /// Where.
        blocks: Blocks,
        /// Whether it must be stable before the command ends.
        force_unit_access: bool,
    },
    /// WRITE SAME (10) or (16).
    WriteSame {
        /// Where.
        blocks: Blocks,
        /// Whether space may be given back.
        unmap: bool,
        /// Whether there is no data and the block is zeroes.
        no_data: bool,
    },
}

impl Command {
    /// Reads a command descriptor block, filled up with zeroes.
    ///
    /// # Errors
    /// The sense data to answer with.
    pub fn parse(cdb: &[u8; LENGTH]) -> Result<Self, Sense> {
        let byte = |at: usize| cdb.get(at).copied().unwrap_or(0);
        let word = |at: usize| u16::from_be_bytes([byte(at), byte(at + 1)]);
        let long = |at: usize| (u32::from(word(at)) << 16) | u32::from(word(at + 2));
        let very_long = |at: usize| (u64::from(long(at)) << 32) | u64::from(long(at + 4));
        let flag = |mask: u8| byte(1) & mask != 0;
        let short = || Blocks { start: u64::from(long(2)), count: u32::from(word(7)) };
        let middle = || Blocks { start: u64::from(long(2)), count: long(6) };
        let wide = || Blocks { start: very_long(2), count: long(10) };
        let six = || Blocks {
            start: u64::from(long(0) & 0x1f_ffff),
            count: if byte(4) == 0 { 256 } else { u32::from(byte(4)) },
        };
        // Protection information is not offered, so its bits must be clear.
        let unprotected =
            |command: Self| if flag(0xe0) { Err(Sense::INVALID_FIELD) } else { Ok(command) };
        let write =
            |blocks: Blocks| unprotected(Self::Write { blocks, force_unit_access: flag(0x08) });
        let verify = |blocks: Blocks| {
            if flag(0x06) { Err(Sense::INVALID_FIELD) } else { unprotected(Self::Verify(blocks)) }
        };
        let write_same = |blocks: Blocks, no_data: bool| {
            // The anchored state is not offered.
            if flag(0x10) {
                return Err(Sense::INVALID_FIELD);
            }
            unprotected(Self::WriteSame { blocks, unmap: flag(0x08), no_data })
        };
        let mode_sense = |long: bool, allocation: usize| {
            Ok(Self::ModeSense {
                page: byte(2) & 0x3f,
                subpage: byte(3),
                control: byte(2) >> 6,
                long,
                allocation,
            })
        };
        match byte(0) {
            0x00 => Ok(Self::TestUnitReady),
            0x03 if flag(0x01) => Err(Sense::INVALID_FIELD),
            0x03 => Ok(Self::RequestSense { allocation: byte(4).into() }),
            0x08 => Ok(Self::Read(six())),
            0x0a => Ok(Self::Write { blocks: six(), force_unit_access: false }),
            0x12 => match (flag(0x01), byte(2)) {
                (true, page) => Ok(Self::Inquiry { page: Some(page), allocation: word(3).into() }),
                (false, 0) => Ok(Self::Inquiry { page: None, allocation: word(3).into() }),
                (false, _) => Err(Sense::INVALID_FIELD),
            },
            0x1a => mode_sense(false, byte(4).into()),
            0x1b => Ok(Self::StartStop),
            0x25 => Ok(Self::ReadCapacity10),
            0x28 => unprotected(Self::Read(short())),
            0x2a => write(short()),
            0x2f => verify(short()),
            0x35 => Ok(Self::Synchronize(short())),
            0x41 => write_same(short(), false),
            0x42 if flag(0x01) => Err(Sense::INVALID_FIELD),
            0x42 => Ok(Self::Unmap { length: word(7).into() }),
            0x5a => mode_sense(true, word(7).into()),
            0x88 => unprotected(Self::Read(wide())),
            0x8a => write(wide()),
            0x8f => verify(wide()),
            0x91 => Ok(Self::Synchronize(wide())),
            0x93 => write_same(wide(), flag(0x01)),
            0x9e if byte(1) & 0x1f == 0x10 => {
                Ok(Self::ReadCapacity16 { allocation: long(10) as usize })
            }
            0xa0 => Ok(Self::ReportLuns { select: byte(2), allocation: long(6) as usize }),
            0xa8 => unprotected(Self::Read(middle())),
            0xaa => write(middle()),
            _ => Err(Sense::INVALID_OPERATION),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cdb(bytes: &[u8]) -> [u8; LENGTH] {
        let mut cdb = [0; LENGTH];
        cdb[..bytes.len()].copy_from_slice(bytes);
        cdb
    }

    fn parse(bytes: &[u8]) -> Result<Command, Sense> {
        Command::parse(&cdb(bytes))
    }

    #[test]
    fn the_forms_of_reading_and_writing_agree() {
        let blocks = Blocks { start: 0x1_0203, count: 4 };
        for read in [
            &[0x08, 1, 2, 3, 4, 0][..],
            &[0x28, 0, 0, 1, 2, 3, 0, 0, 4, 0],
            &[0xa8, 0, 0, 1, 2, 3, 0, 0, 0, 4, 0, 0],
            &[0x88, 0, 0, 0, 0, 0, 0, 1, 2, 3, 0, 0, 0, 4, 0, 0],
        ] {
            assert_eq!(parse(read), Ok(Command::Read(blocks)), "{read:x?}");
        }
        assert_eq!(
            parse(&[0x0a, 0xff, 0, 0, 0, 0]),
            Ok(Command::Write {
                blocks: Blocks { start: 0x1f_0000, count: 256 },
                force_unit_access: false
            })
        );
        assert_eq!(
            parse(&[0x8a, 8, 0, 0, 0, 0, 0, 1, 2, 3, 0, 0, 0, 4, 0, 0]),
            Ok(Command::Write { blocks, force_unit_access: true })
        );
    }

    #[test]
    fn what_is_not_offered_is_refused_as_the_standard_says() {
        assert_eq!(parse(&[0xff]), Err(Sense::INVALID_OPERATION));
        assert_eq!(parse(&[0x28, 0x20]), Err(Sense::INVALID_FIELD));
        assert_eq!(parse(&[0x12, 0, 0x80]), Err(Sense::INVALID_FIELD));
        assert_eq!(parse(&[0x42, 1]), Err(Sense::INVALID_FIELD));
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_command_or_a_refusal(bytes: [u8; LENGTH]) {
            if let Err(sense) = Command::parse(&bytes) {
                prop_assert_eq!(sense.key, 5);
            }
        }
    }
}
