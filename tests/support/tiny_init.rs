//! A first program of less than 300 bytes: says that it is there, and powers off.
//!
//! Assembled by hand, so that a test or a benchmark of the machine measures the kernel
//! and nothing of ours.

use std::io::Write;

/// What it writes to the kernel's log.
pub const GREETING: &str = "tiny-init: up";

/// Where the program is loaded.
const ADDRESS: u64 = 0x40_0000;
/// The length of the ELF header and one program header.
const HEADERS: u64 = 64 + 56;

/// Opens `/dev/kmsg`, writes the message, powers off.
const CODE: [u8; 64] = [
    0xb8, 0x02, 0x00, 0x00, 0x00, // mov eax, 2 (open)
    0x48, 0x8d, 0x3d, 0x34, 0x00, 0x00, 0x00, // lea rdi, [rip + 52]: the path
    0xbe, 0x01, 0x00, 0x00, 0x00, // mov esi, 1 (write only)
    0x0f, 0x05, // syscall
    0x89, 0xc7, // mov edi, eax
    0xb8, 0x01, 0x00, 0x00, 0x00, // mov eax, 1 (write)
    0x48, 0x8d, 0x35, 0x29, 0x00, 0x00, 0x00, // lea rsi, [rip + 41]: the message
    0xba, 0x11, 0x00, 0x00, 0x00, // mov edx, 17: its length
    0x0f, 0x05, // syscall
    0xb8, 0xa9, 0x00, 0x00, 0x00, // mov eax, 169 (reboot)
    0xbf, 0xad, 0xde, 0xe1, 0xfe, // mov edi, 0xfee1dead
    0xbe, 0x69, 0x19, 0x12, 0x28, // mov esi, 672274793
    0xba, 0xdc, 0xfe, 0x21, 0x43, // mov edx, 0x4321fedc (power off)
    0x0f, 0x05, // syscall
    0xeb, 0xfe, // jmp to itself
];

/// The program as an ELF file.
fn program() -> Vec<u8> {
    let mut content = CODE.to_vec();
    content.extend_from_slice(b"/dev/kmsg\0");
    // Level 1, "alert", which also a quiet kernel shows.
    let message = format!("<1>{GREETING}\n");
    content.extend_from_slice(message.as_bytes());
    elf(ADDRESS, &content)
}

/// An ELF file that is entered at its content, loaded behind its headers at `address`.
pub fn elf(address: u64, content: &[u8]) -> Vec<u8> {
    let length = HEADERS + content.len() as u64;

    let mut elf = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    let mut put = |bytes: &[u8]| elf.extend_from_slice(bytes);
    put(&2_u16.to_le_bytes()); // an executable
    put(&62_u16.to_le_bytes()); // for x86-64
    put(&1_u32.to_le_bytes());
    put(&(address + HEADERS).to_le_bytes()); // entry
    put(&64_u64.to_le_bytes()); // program headers
    put(&[0; 12]); // no sections, no flags
    for value in [64_u16, 56, 1, 0, 0, 0] {
        put(&value.to_le_bytes());
    }
    put(&1_u32.to_le_bytes()); // loaded
    put(&5_u32.to_le_bytes()); // readable and executable
    for value in [0, address, address, length, length, 4096] {
        put(&value.to_le_bytes());
    }
    elf.extend_from_slice(content);
    elf
}

/// An initramfs with the program as its init.
pub fn initramfs() -> Vec<u8> {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(&program()).unwrap();
    wslr::kernel::initramfs::build(file.path(), &[]).unwrap()
}
