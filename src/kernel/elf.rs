//! The little of the ELF format that kernels, modules and the guest's init need.
//!
//! 64-bit little-endian only. Every offset is the file's claim and is checked.

/// Size of the file header.
const HEADER: usize = 64;
/// Size of a program header.
const PROGRAM_HEADER: usize = 56;
/// Size of a section header.
const SECTION_HEADER: usize = 64;
/// `PT_LOAD`.
const LOAD: u32 = 1;
/// `SHT_NOBITS`.
const NO_BITS: u32 = 8;
/// `EM_X86_64`.
const X86_64: u16 = 62;

/// An ELF file in memory.
#[derive(Clone, Copy, Debug)]
pub struct Elf<'a> {
    data: &'a [u8],
}

/// Why bytes are not an ELF file that can be used.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ElfError {
    /// It is no 64-bit little-endian ELF file.
    #[error("it is not a 64-bit ELF file")]
    NotElf,
    /// It is for another machine.
    #[error("it is for machine {machine}, not for x86-64")]
    OtherMachine {
        /// `e_machine`.
        machine: u16,
    },
    /// It ends before something it announces.
    #[error("it is truncated")]
    Truncated,
}

impl<'a> Elf<'a> {
    /// Reads the header.
    ///
    /// # Errors
    /// Where it is not a 64-bit little-endian ELF file for x86-64.
    pub fn new(data: &'a [u8]) -> Result<Self, ElfError> {
        if !data.starts_with(b"\x7fELF\x02\x01") {
            return Err(ElfError::NotElf);
        }
        if data.len() < HEADER {
            return Err(ElfError::Truncated);
        }
        let elf = Self { data };
        match elf.half(18)? {
            X86_64 => Ok(elf),
            machine => Err(ElfError::OtherMachine { machine }),
        }
    }

    /// The content of the section called `name`; `None` where there is none.
    ///
    /// # Errors
    /// Where the tables or the section lie outside the file.
    pub fn section(&self, name: &[u8]) -> Result<Option<&'a [u8]>, ElfError> {
        let table = self.offset(40)?;
        let count = usize::from(self.half(60)?);
        if count == 0 {
            return Ok(None);
        }
        let header = |index: usize| {
            let start = index.checked_mul(SECTION_HEADER).and_then(|from| table.checked_add(from));
            start.filter(|start| self.bytes(*start, SECTION_HEADER).is_ok())
        };
        let content = |start: usize| match self.word(start + 4)? {
            NO_BITS => Ok(&[][..]),
            _ => self.bytes(self.offset(start + 24)?, self.offset(start + 32)?),
        };
        let names = content(header(usize::from(self.half(62)?)).ok_or(ElfError::Truncated)?)?;
        for index in 0..count {
            let start = header(index).ok_or(ElfError::Truncated)?;
            let name_start = self.word(start)? as usize;
            let found =
                names.get(name_start..).and_then(|rest| rest.split(|byte| *byte == 0).next());
            if found == Some(name) {
                return content(start).map(Some);
            }
        }
        Ok(None)
    }

    /// Where the file's last loaded byte is, from its start: all that a kernel needs to
    /// run the program lies before.
    ///
    /// # Errors
    /// Where nothing is loaded or a segment lies outside the file.
    pub fn loaded_length(&self) -> Result<usize, ElfError> {
        let table = self.offset(32)?;
        let count = usize::from(self.half(56)?);
        let length = count.checked_mul(PROGRAM_HEADER).ok_or(ElfError::Truncated)?;
        self.bytes(table, length)?;
        let mut end = table + length;
        let mut loads = false;
        for start in (table..table + length).step_by(PROGRAM_HEADER) {
            let (offset, size) = (self.offset(start + 8)?, self.offset(start + 32)?);
            self.bytes(offset, size)?;
            end = end.max(offset + size);
            loads |= self.word(start)? == LOAD;
        }
        if loads { Ok(end) } else { Err(ElfError::Truncated) }
    }

    /// The program without section headers and whatever else is never loaded.
    ///
    /// # Errors
    /// As [`Self::loaded_length`].
    pub fn without_sections(&self) -> Result<Vec<u8>, ElfError> {
        let mut program = self.bytes(0, self.loaded_length()?.max(HEADER))?.to_vec();
        // e_shoff, then e_shnum and e_shstrndx.
        for field in [40..48, 60..64] {
            program.get_mut(field).ok_or(ElfError::Truncated)?.fill(0);
        }
        Ok(program)
    }

    fn bytes(&self, start: usize, length: usize) -> Result<&'a [u8], ElfError> {
        let end = start.checked_add(length).ok_or(ElfError::Truncated)?;
        self.data.get(start..end).ok_or(ElfError::Truncated)
    }

    fn array<const N: usize>(&self, start: usize) -> Result<[u8; N], ElfError> {
        self.bytes(start, N)?.try_into().map_err(|_| ElfError::Truncated)
    }

    fn half(&self, start: usize) -> Result<u16, ElfError> {
        self.array(start).map(u16::from_le_bytes)
    }

    fn word(&self, start: usize) -> Result<u32, ElfError> {
        self.array(start).map(u32::from_le_bytes)
    }

    fn offset(&self, start: usize) -> Result<usize, ElfError> {
        let value = self.array(start).map(u64::from_le_bytes)?;
        usize::try_from(value).map_err(|_| ElfError::Truncated)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// An object file with the given sections, as a module has.
    pub(crate) fn object(sections: &[(&str, &[u8])]) -> Vec<u8> {
        let mut file = vec![0; HEADER];
        file[..6].copy_from_slice(b"\x7fELF\x02\x01");
        file[16] = 1;
        file[18..20].copy_from_slice(&X86_64.to_le_bytes());
        let mut names = vec![0];
        let mut headers = vec![0; SECTION_HEADER];
        let mut header = |name: usize, offset: usize, size: usize| {
            let mut one = [0; SECTION_HEADER];
            one[..4].copy_from_slice(&(name as u32).to_le_bytes());
            one[4] = 1;
            one[24..32].copy_from_slice(&(offset as u64).to_le_bytes());
            one[32..40].copy_from_slice(&(size as u64).to_le_bytes());
            headers.extend_from_slice(&one);
        };
        for (name, content) in sections {
            header(names.len(), file.len(), content.len());
            names.extend_from_slice(name.as_bytes());
            names.push(0);
            file.extend_from_slice(content);
        }
        header(names.len(), file.len(), names.len() + 10);
        names.extend_from_slice(b".shstrtab\0");
        file.extend_from_slice(&names);
        let table = file.len() as u64;
        file[40..48].copy_from_slice(&table.to_le_bytes());
        let count = sections.len() as u16 + 2;
        file[60..62].copy_from_slice(&count.to_le_bytes());
        file[62..64].copy_from_slice(&(count - 1).to_le_bytes());
        file.extend_from_slice(&headers);
        file
    }

    #[test]
    fn a_section_is_found_by_name() {
        let file = object(&[(".text", b"code"), (".modinfo", b"name=x\0")]);
        let elf = Elf::new(&file).unwrap();
        assert_eq!(elf.section(b".modinfo").unwrap(), Some(&b"name=x\0"[..]));
        assert_eq!(elf.section(b".mod").unwrap(), None);
        assert_eq!(Elf::new(b"\x7fELF").unwrap_err(), ElfError::NotElf);
    }

    #[test]
    fn a_program_loses_only_what_is_not_loaded() {
        let own = std::fs::read("/proc/self/exe").unwrap();
        let program = Elf::new(&own).unwrap().without_sections().unwrap();
        assert!(program.len() < own.len());
        assert_eq!(program[HEADER..], own[HEADER..program.len()]);
        // What is left still runs.
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("program");
        std::fs::write(&path, program).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&path, mode).unwrap();
        let output = std::process::Command::new(&path).arg("--list").output().unwrap();
        assert!(output.status.success());
        assert!(output.stdout.ends_with(b"benchmarks\n"));
    }

    proptest! {
        #[test]
        fn hostile_headers_are_refused_or_read(
            offset in 0_usize..300, value in any::<u64>(), cut in 0_usize..400,
        ) {
            let mut file = object(&[(".modinfo", b"name=x\0")]);
            let offset = offset.min(file.len() - 8);
            file[offset..offset + 8].copy_from_slice(&value.to_le_bytes());
            file.truncate(cut.max(64));
            if let Ok(elf) = Elf::new(&file) {
                let _ = elf.section(b".modinfo");
                let _ = elf.without_sections();
            }
        }
    }
}
