//! The ACPI tables: all that the kernel learns about the platform.
//!
//! The hardware-reduced model (ACPI 6.5, 4.1): no PIC, PIT, RTC, i8042 or power
//! management block is promised, so the kernel looks for none. The DSDT names the
//! processors, the bridge to the bus of PCI, and the virtio devices that are not on it
//! (`LNRO0005`, the id under which Linux's `virtio_mmio` finds its devices).

use acpi_tables::aml::{
    AddressSpace as Range, AddressSpaceCacheable, Device, EISAName, IO, Interrupt, Memory32Fixed,
    Name, Package, Path, ResourceTemplate, Scope,
};
use acpi_tables::fadt::{FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::madt::{
    EnabledStatus, IoApic, LocalInterruptController, MADT, ProcessorLocalApic,
};
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;
use acpi_tables::{Aml, AmlSink};
use vm_memory::{Address, Bytes, GuestAddress, GuestMemoryMmap};

use super::{layout, ports};
use crate::devices::transport::pci::bus as pci;
use crate::vmm::error::VmmError;

/// Who made the tables.
const MANUFACTURER: [u8; 6] = *b"WSLR  ";
/// Which tables they are.
const MODEL: [u8; 8] = *b"WSLRMMIO";
/// Their revision.
const REVISION: u32 = 1;
/// The revision of the DSDT from which integers are 64 bits wide.
const DSDT_REVISION: u8 = 2;
/// The length of a table's header.
const HEADER_LENGTH: u32 = 36;

/// `IAPC_BOOT_ARCH`: there is no VGA; there is no CMOS clock.
const NO_VGA: u16 = 1 << 2;
const NO_CMOS_CLOCK: u16 = 1 << 5;

/// A virtio device of the platform.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct VirtioWindow {
    /// Where its registers are.
    pub start: u64,
    /// Its interrupt line.
    pub line: u32,
}

/// The window of the device at that position.
#[must_use]
pub fn virtio_window(position: usize) -> VirtioWindow {
    let position = position as u32;
    VirtioWindow {
        start: layout::VIRTIO_START + u64::from(position) * layout::VIRTIO_LENGTH,
        line: layout::VIRTIO_FIRST_LINE + position,
    }
}

/// Writes the tables for a machine of that many processors and virtio devices.
///
/// Returns the address of the root pointer.
///
/// # Errors
/// [`VmmError::AcpiTooLarge`] and [`VmmError::Memory`].
pub fn write(
    memory: &GuestMemoryMmap,
    processors: u32,
    devices: usize,
) -> Result<GuestAddress, VmmError> {
    let tables = build(processors, devices);
    let limit = layout::ACPI_END - layout::ACPI.raw_value();
    if tables.len() as u64 > limit {
        return Err(VmmError::AcpiTooLarge { length: tables.len() as u64, limit });
    }
    memory
        .write_slice(&tables, layout::ACPI)
        .map_err(|error| VmmError::Memory { bytes: limit, reason: error.to_string() })?;
    Ok(layout::ACPI)
}

/// The bytes of all tables, as they are from [`layout::ACPI`] on, the root pointer first.
fn build(processors: u32, devices: usize) -> Vec<u8> {
    let mut blob = vec![0; Rsdp::len()];
    let dsdt = append(&mut blob, &description(processors, devices));
    let fadt = append(&mut blob, &FixedTable { dsdt });
    let madt = append(&mut blob, &interrupts(processors));
    let mut list = XSDT::new(MANUFACTURER, MODEL, REVISION);
    list.add_entry(fadt);
    list.add_entry(madt);
    let list = append(&mut blob, &list);

    let mut root = Vec::new();
    Rsdp::new(MANUFACTURER, list).to_aml_bytes(&mut root);
    blob.splice(..root.len(), root);
    blob
}

/// Appends a table; returns its guest address.
fn append(blob: &mut Vec<u8>, table: &dyn Aml) -> u64 {
    blob.resize(blob.len().next_multiple_of(64), 0);
    let address = layout::ACPI.raw_value() + blob.len() as u64;
    table.to_aml_bytes(blob);
    address
}

/// The fixed table (FADT).
struct FixedTable {
    dsdt: u64,
}

impl Aml for FixedTable {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        let register =
            |port: u16| GAS::new(AddressSpace::SystemIo, 8, 0, AccessSize::ByteAccess, port.into());
        let mut builder = FADTBuilder::new(MANUFACTURER, MODEL, REVISION)
            .dsdt_64(self.dsdt)
            .flag(Flags::HwReducedAcpi)
            .flag(Flags::ResetRegSup)
            .flag(Flags::Headless)
            .flag(Flags::PwrButton)
            .flag(Flags::SlpButton)
            .flag(Flags::Wbinvd);
        builder.reset_reg = register(ports::RESET);
        builder.reset_value = ports::RESET_VALUE;
        builder.sleep_control_reg = register(ports::SLEEP_CONTROL);
        builder.sleep_status_reg = register(ports::SLEEP_STATUS);
        builder.iapc_boot_arch = (NO_VGA | NO_CMOS_CLOCK).into();
        builder.hypervisor_vendor_identity = u64::from_le_bytes(*b"WSLR\0\0\0\0").into();
        builder.finalize().to_aml_bytes(sink);
    }
}

/// The interrupt controllers (MADT).
fn interrupts(processors: u32) -> MADT {
    let local = LocalInterruptController::Address(layout::LOCAL_APIC);
    let mut table = MADT::new(MANUFACTURER, MODEL, REVISION, local);
    for processor in 0..processors {
        // The count is checked against `MAXIMUM_PROCESSORS`.
        let id = processor as u8;
        table.add_structure(ProcessorLocalApic::new(id, id, EnabledStatus::Enabled));
    }
    table.add_structure(IoApic::new(0, layout::IO_APIC, 0));
    table
}

/// The description of the platform (DSDT).
fn description(processors: u32, devices: usize) -> Sdt {
    let mut body = Vec::new();
    let off: u8 = ports::SLEEP_TYPE_OFF;
    Name::new("_S5_".into(), &Package::new(vec![&off, &off, &0_u8, &0_u8])).to_aml_bytes(&mut body);

    let processors: Vec<_> = (0..processors).map(|number| Processor { number }).collect();
    let devices: Vec<_> = (0..devices).map(|position| VirtioDevice { position }).collect();
    let mut children: Vec<&dyn Aml> = vec![&PciBridge];
    children.extend(processors.iter().map(|processor| processor as &dyn Aml));
    children.extend(devices.iter().map(|device| device as &dyn Aml));
    Scope::new("\\_SB_".into(), children).to_aml_bytes(&mut body);

    let mut table = Sdt::new(*b"DSDT", HEADER_LENGTH, DSDT_REVISION, MANUFACTURER, MODEL, REVISION);
    table.append_slice(&body);
    table
}

/// A processor's object.
struct Processor {
    number: u32,
}

impl Aml for Processor {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        let name = format!("C{:03X}", self.number);
        Device::new(
            Path::new(&name),
            vec![&Name::new("_HID".into(), &"ACPI0007"), &Name::new("_UID".into(), &self.number)],
        )
        .to_aml_bytes(sink);
    }
}

/// The bridge to the bus of PCI: the bus's number, the ports and the window of its devices.
struct PciBridge;

impl Aml for PciBridge {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        let ports = IO::new(pci::ADDRESS, pci::ADDRESS, 1, (pci::LAST - pci::ADDRESS + 1) as u8);
        let last = layout::PCI_START + (layout::PCI_LENGTH - 1);
        let none = AddressSpaceCacheable::NotCacheable;
        let registers = Range::new_memory(none, true, layout::PCI_START, last, None);
        let bus = Range::new_bus_number(0_u16, 0_u16);
        Device::new(
            "PCI0".into(),
            vec![
                &Name::new("_HID".into(), &EISAName::new("PNP0A03")),
                &Name::new("_UID".into(), &0_u8),
                &Name::new("_CCA".into(), &1_u8),
                &Name::new("_CRS".into(), &ResourceTemplate::new(vec![&bus, &ports, &registers])),
            ],
        )
        .to_aml_bytes(sink);
    }
}

/// A virtio device's object: its registers and its edge-triggered interrupt.
struct VirtioDevice {
    position: usize,
}

impl Aml for VirtioDevice {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        let window = virtio_window(self.position);
        let name = format!("V{:03X}", self.position);
        // The layout keeps all windows below 4 GiB.
        let registers = Memory32Fixed::new(true, window.start as u32, layout::VIRTIO_LENGTH as u32);
        let interrupt = Interrupt::new(true, true, false, false, window.line);
        Device::new(
            Path::new(&name),
            vec![
                &Name::new("_HID".into(), &"LNRO0005"),
                &Name::new("_UID".into(), &(self.position as u32)),
                &Name::new("_CCA".into(), &1_u8),
                &Name::new("_CRS".into(), &ResourceTemplate::new(vec![&registers, &interrupt])),
            ],
        )
        .to_aml_bytes(sink);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(bytes: &[u8], at: usize) -> u64 {
        u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
    }

    fn table(blob: &[u8], address: u64) -> &[u8] {
        let start = (address - layout::ACPI.raw_value()) as usize;
        let length = u32::from_le_bytes(blob[start + 4..start + 8].try_into().unwrap()) as usize;
        &blob[start..start + length]
    }

    fn sum(bytes: &[u8]) -> u8 {
        bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
    }

    #[test]
    fn every_table_is_reached_and_sums_to_zero() {
        let blob = build(3, 4);
        assert_eq!(&blob[..8], b"RSD PTR ");
        assert_eq!((sum(&blob[..20]), sum(&blob[..36])), (0, 0));
        let list = table(&blob, word(&blob, 24));
        assert_eq!((&list[..4], sum(list)), (&b"XSDT"[..], 0));
        let fadt = table(&blob, word(list, 36));
        assert_eq!((&fadt[..4], sum(fadt)), (&b"FACP"[..], 0));
        let madt = table(&blob, word(list, 44));
        assert_eq!((&madt[..4], sum(madt)), (&b"APIC"[..], 0));
        // Three local APICs of 8 bytes, one I/O APIC of 12.
        assert_eq!(madt.len(), 44 + 3 * 8 + 12);
        let dsdt = table(&blob, word(fadt, 140));
        assert_eq!((&dsdt[..4], sum(dsdt)), (&b"DSDT"[..], 0));
        let devices = dsdt.windows(8).filter(|window| window == b"LNRO0005").count();
        assert_eq!(devices, 4);
    }

    #[test]
    fn the_largest_machine_fits() {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap();
        write(&memory, layout::MAXIMUM_PROCESSORS, layout::MAXIMUM_DEVICES).unwrap();
    }
}
