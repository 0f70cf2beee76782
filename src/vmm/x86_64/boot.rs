//! Puts a kernel, its initramfs, command line and boot parameters into memory.
//!
//! The 64-bit protocol of Linux (`Documentation/arch/x86/boot.rst`): an uncompressed ELF
//! is entered at its entry point, a bzImage 0x200 bytes after its load address, both
//! with the boot parameters' address in RSI.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::path::Path;

use linux_loader::loader::bootparam::{boot_e820_entry, boot_params, setup_header};
use linux_loader::loader::{BzImage, Elf, KernelLoader};
use vm_memory::{
    Address, ByteValued, Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryError,
    GuestMemoryMmap, GuestMemoryRegion,
};

use super::{layout, tables};
use crate::vmm::error::VmmError;

/// `setup_header::boot_flag`.
const BOOT_FLAG: u16 = 0xaa55;
/// `setup_header::header`, "HdrS".
const HEADER_MAGIC: u32 = 0x5372_6448;
/// `setup_header::type_of_loader`: none of the registered ones.
const LOADER_UNKNOWN: u8 = 0xff;
/// The 64-bit entry point of a bzImage, from where it was loaded.
const BZIMAGE_ENTRY: u64 = 0x200;
/// `setup_header::xloadflags`: the kernel has a 64-bit entry point.
const XLF_KERNEL_64: u16 = 1;
/// `setup_data` with random bytes (Linux 6.1 and newer; older ones ignore it).
const SETUP_RNG_SEED: u32 = 9;
/// How many random bytes.
const SEED_LENGTH: usize = 64;
/// e820 type: ordinary memory.
const E820_MEMORY: u32 = 1;
/// e820 type: ACPI tables.
const E820_ACPI: u32 = 3;
/// Room left after the kernel for what it allocates before it knows the initramfs.
const KERNEL_SLACK: u64 = 32 << 20;
/// `e_machine` of the ELF header.
const ELF_X86_64: u16 = 62;

/// A kernel in memory.
#[derive(Debug)]
struct Kernel {
    /// Where it is entered.
    entry: GuestAddress,
    /// The first byte after it, its zeroed data included.
    end: u64,
    /// The header that a bzImage brings along.
    header: Option<setup_header>,
}

/// Loads everything.
///
/// Returns the address at which the first processor enters the kernel.
///
/// # Errors
/// The `Kernel…`, `InitramfsTooLarge` and `Memory` kinds.
pub fn load(
    memory: &GuestMemoryMmap,
    kernel: &Path,
    initramfs: &[u8],
    command_line: &str,
    acpi_root: GuestAddress,
) -> Result<GuestAddress, VmmError> {
    let kernel = load_kernel(memory, kernel)?;
    let initramfs_start = load_initramfs(memory, initramfs, kernel.end)?;
    let written = write_parameters(
        memory,
        &kernel,
        (initramfs_start, initramfs.len()),
        command_line,
        acpi_root,
    )
    .and_then(|()| tables::write(memory));
    written.map_err(|error| memory_error(memory, &error))?;
    Ok(kernel.entry)
}

/// The error for memory that cannot be written, which a checked size rules out.
fn memory_error(memory: &GuestMemoryMmap, error: &GuestMemoryError) -> VmmError {
    let bytes = memory.iter().map(GuestMemoryRegion::len).sum();
    VmmError::Memory { bytes, reason: error.to_string() }
}

/// Loads an ELF or a bzImage, whichever the file is.
fn load_kernel(memory: &GuestMemoryMmap, path: &Path) -> Result<Kernel, VmmError> {
    let read_error = |source| VmmError::KernelRead { path: path.to_owned(), source };
    let format_error =
        |reason: &str| VmmError::KernelFormat { path: path.to_owned(), reason: reason.to_owned() };
    let mut file = File::open(path).map_err(read_error)?;
    let mut start = [0; 20];
    file.read_exact(&mut start).map_err(|source| match source.kind() {
        io::ErrorKind::UnexpectedEof => format_error("the file is too short"),
        _ => read_error(source),
    })?;
    file.rewind().map_err(read_error)?;
    let first = Some(GuestAddress(layout::HIGH_MEMORY_START));

    if start.starts_with(b"\x7fELF") {
        if u16::from_le_bytes([start[18], start[19]]) != ELF_X86_64 {
            return Err(format_error("it is for another architecture"));
        }
        let loaded = Elf::load(memory, None, &mut file, first)
            .map_err(|error| format_error(&error.to_string()))?;
        return Ok(Kernel { entry: loaded.kernel_load, end: loaded.kernel_end, header: None });
    }

    let loaded = BzImage::load(memory, None, &mut file, first)
        .map_err(|_| format_error("it is neither an x86-64 ELF nor a bzImage"))?;
    let header = loaded.setup_header.unwrap_or_default();
    if header.xloadflags & XLF_KERNEL_64 == 0 {
        return Err(format_error("it has no 64-bit entry point"));
    }
    let entry = loaded.kernel_load.checked_add(BZIMAGE_ENTRY);
    let entry = entry.ok_or_else(|| format_error("its load address is out of range"))?;
    // It unpacks itself to its preferred address and needs `init_size` bytes there.
    let unpacked = header.pref_address.saturating_add(u64::from(header.init_size));
    let end = unpacked.max(loaded.kernel_end);
    Ok(Kernel { entry, end, header: Some(header) })
}

/// Puts the initramfs at the end of the memory below the hole.
fn load_initramfs(
    memory: &GuestMemoryMmap,
    initramfs: &[u8],
    kernel_end: u64,
) -> Result<GuestAddress, VmmError> {
    let low_end = memory
        .find_region(GuestAddress(0))
        .map_or(0, |region| region.len())
        .min(layout::HOLE_START);
    let length = initramfs.len() as u64;
    let start = low_end.checked_sub(length).map(|start| start & !0xfff);
    match start {
        Some(start) if start >= kernel_end.saturating_add(KERNEL_SLACK) => {
            let start = GuestAddress(start);
            memory.write_slice(initramfs, start).map_err(|error| memory_error(memory, &error))?;
            Ok(start)
        }
        _ => Err(VmmError::InitramfsTooLarge {
            length,
            memory: memory.iter().map(GuestMemoryRegion::len).sum(),
        }),
    }
}

/// Writes the boot parameters and what they point to.
fn write_parameters(
    memory: &GuestMemoryMmap,
    kernel: &Kernel,
    (initramfs, initramfs_length): (GuestAddress, usize),
    command_line: &str,
    acpi_root: GuestAddress,
) -> Result<(), GuestMemoryError> {
    memory.write_slice(command_line.as_bytes(), layout::COMMAND_LINE)?;
    memory.write_slice(&[0], layout::COMMAND_LINE.unchecked_add(command_line.len() as u64))?;
    write_random_seed(memory)?;

    let header = setup_header {
        boot_flag: BOOT_FLAG,
        header: HEADER_MAGIC,
        type_of_loader: LOADER_UNKNOWN,
        // All of these are below 4 GiB by the layout.
        cmd_line_ptr: layout::COMMAND_LINE.raw_value() as u32,
        cmdline_size: command_line.len() as u32,
        ramdisk_image: initramfs.raw_value() as u32,
        ramdisk_size: initramfs_length as u32,
        setup_data: layout::RANDOM_SEED.raw_value(),
        ..kernel.header.unwrap_or_default()
    };
    let mut parameters = boot_params {
        hdr: header,
        acpi_rsdp_addr: acpi_root.raw_value(),
        ..boot_params::default()
    };

    let mut map = vec![
        (0, layout::LOW_MEMORY_END, E820_MEMORY),
        (layout::ACPI.raw_value(), layout::ACPI_END, E820_ACPI),
    ];
    for region in memory.iter() {
        let start = region.start_addr().raw_value().max(layout::HIGH_MEMORY_START);
        map.push((start, region.start_addr().raw_value() + region.len(), E820_MEMORY));
    }
    for (slot, (start, end, type_)) in parameters.e820_table.iter_mut().zip(&map) {
        *slot = boot_e820_entry { addr: *start, size: end - start, r#type: *type_ };
    }
    parameters.e820_entries = map.len() as u8;
    memory.write_slice(parameters.as_slice(), layout::BOOT_PARAMETERS)
}

/// Gives the kernel's random pool its first bytes, so that nothing waits for it.
fn write_random_seed(memory: &GuestMemoryMmap) -> Result<(), GuestMemoryError> {
    let mut seed = [0; SEED_LENGTH];
    // Where the host has no random bytes the kernel uses its other sources.
    let filled = File::open("/dev/urandom").and_then(|mut source| source.read_exact(&mut seed));
    let length = if filled.is_ok() { SEED_LENGTH as u32 } else { 0 };
    let mut entry = Vec::with_capacity(16 + SEED_LENGTH);
    entry.extend_from_slice(&0_u64.to_le_bytes());
    entry.extend_from_slice(&SETUP_RNG_SEED.to_le_bytes());
    entry.extend_from_slice(&length.to_le_bytes());
    entry.extend_from_slice(&seed);
    memory.write_slice(&entry, layout::RANDOM_SEED)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    const KERNEL_ADDRESS: u64 = 0x100_0000;

    fn memory() -> GuestMemoryMmap {
        GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 128 << 20)]).unwrap()
    }

    /// A minimal ELF with one loaded segment of four bytes.
    fn elf(machine: u16, address: u64) -> Vec<u8> {
        let mut image = vec![0; 64 + 56];
        image[..8].copy_from_slice(b"\x7fELF\x02\x01\x01\0");
        image[16..18].copy_from_slice(&2_u16.to_le_bytes());
        image[18..20].copy_from_slice(&machine.to_le_bytes());
        image[24..32].copy_from_slice(&address.to_le_bytes());
        image[32..40].copy_from_slice(&64_u64.to_le_bytes());
        image[54..56].copy_from_slice(&56_u16.to_le_bytes());
        image[56..58].copy_from_slice(&1_u16.to_le_bytes());
        image[64..68].copy_from_slice(&1_u32.to_le_bytes());
        image[72..80].copy_from_slice(&120_u64.to_le_bytes());
        image[88..96].copy_from_slice(&address.to_le_bytes());
        image[96..104].copy_from_slice(&4_u64.to_le_bytes());
        image[104..112].copy_from_slice(&4096_u64.to_le_bytes());
        image.extend_from_slice(b"code");
        image
    }

    fn file(content: &[u8]) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(content).unwrap();
        file
    }

    #[test]
    fn an_elf_kernel_its_initramfs_and_parameters_are_in_memory() {
        let memory = memory();
        let kernel = file(&elf(ELF_X86_64, KERNEL_ADDRESS));
        let entry = load(&memory, kernel.path(), b"cpio", "quiet", layout::ACPI).unwrap();
        assert_eq!(entry, GuestAddress(KERNEL_ADDRESS));
        let code: [u8; 4] = memory.read_obj(entry).unwrap();
        assert_eq!(&code, b"code");

        let parameters: boot_params = memory.read_obj(layout::BOOT_PARAMETERS).unwrap();
        let header = parameters.hdr;
        let start = u64::from(header.ramdisk_image);
        assert_eq!((header.ramdisk_size, start % 4096), (4, 0));
        let content: [u8; 4] = memory.read_obj(GuestAddress(start)).unwrap();
        assert_eq!(&content, b"cpio");
        let line: [u8; 6] = memory.read_obj(GuestAddress(header.cmd_line_ptr.into())).unwrap();
        assert_eq!(&line, b"quiet\0");
        let usable: u64 = parameters.e820_table[..parameters.e820_entries as usize]
            .iter()
            .filter(|entry| entry.r#type == E820_MEMORY)
            .map(|entry| entry.size)
            .sum();
        assert_eq!(usable, (127 << 20) + layout::LOW_MEMORY_END);
    }

    #[test]
    fn what_is_no_kernel_is_refused() {
        let memory = memory();
        for content in [
            b"short".to_vec(),
            vec![0; 4096],
            elf(183, KERNEL_ADDRESS),
            elf(ELF_X86_64, 0x1000),
            elf(ELF_X86_64, u64::MAX - 1),
            elf(ELF_X86_64, 1 << 40),
        ] {
            let kernel = file(&content);
            let result = load(&memory, kernel.path(), b"", "", layout::ACPI);
            assert!(matches!(result, Err(VmmError::KernelFormat { .. })), "{result:?}");
        }
        let missing = load(&memory, Path::new("/nonexistent"), b"", "", layout::ACPI);
        assert!(matches!(missing, Err(VmmError::KernelRead { .. })));
    }

    #[test]
    fn an_initramfs_that_would_meet_the_kernel_is_refused() {
        let memory = memory();
        let kernel = file(&elf(ELF_X86_64, KERNEL_ADDRESS));
        let initramfs = vec![0; 100 << 20];
        let result = load(&memory, kernel.path(), &initramfs, "", layout::ACPI);
        assert!(matches!(result, Err(VmmError::InitramfsTooLarge { .. })));
    }
}
