//! A distro's disk as one that Windows' WSL can import: a dynamic VHDX, or a fixed VHD where
//! the target's name asks for one.

use super::error::ExportError;
use super::root;
use super::target::Target;
use crate::convert::open_disk;
use crate::disk::{self, Disk, DiskError, Format, vhd, vhdx};
use crate::registry::Hold;
use crate::terminal::progress::Bar;

/// Copies the distro's disk, holes as holes, into a new one of that format.
pub(super) fn write(
    hold: &Hold,
    target: &Target,
    format: Format,
    bar: &Bar,
) -> Result<(), ExportError> {
    let failed = |action| move |source| DiskError::Io { action, source };
    let from = open_disk(hold.record(), root(hold)?)?;
    let size = from.length().map_err(failed("read"))?;
    let data = data(from.as_ref()).map_err(failed("read"))?;
    target.check_space(data)?;
    bar.set_total(size);
    let file = || target.stream().try_clone().map_err(failed("write"));
    if format == Format::Vhd {
        vhd::create(&file()?, &vhd::Options { size, fixed: true })?;
    } else {
        vhdx::create(&file()?, &vhdx::Options::new(size))?;
    }
    let to = disk::open(file()?, format, true)?;
    disk::copy(from.as_ref(), to.as_ref(), |count| bar.add(count)).map_err(failed("copy"))?;
    Ok(())
}

/// How many bytes may be anything but zeroes.
fn data(disk: &dyn Disk) -> std::io::Result<u64> {
    let (mut offset, mut data) = (0, 0);
    loop {
        let extent = disk.extent(offset)?;
        if extent.length == 0 {
            return Ok(data);
        }
        offset += extent.length;
        data += if extent.data { extent.length } else { 0 };
    }
}
