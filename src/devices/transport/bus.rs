//! Finds the device whose registers an address belongs to.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::mmio::Transport;
use super::pci::bus::PciBus;

/// The register windows of a machine's devices, one after the other, and its bus of PCI.
#[derive(Debug)]
pub struct Bus {
    /// The bus of PCI.
    pub pci: PciBus,
    start: u64,
    window: u64,
    transports: Vec<Mutex<Option<Transport>>>,
}

impl Bus {
    /// Windows of `window` bytes each from `start` on.
    pub fn new(start: u64, window: u64, transports: Vec<Transport>, pci: PciBus) -> Self {
        Self {
            pci,
            start,
            window,
            transports: transports.into_iter().map(|one| Mutex::new(Some(one))).collect(),
        }
    }

    /// How many devices there are.
    pub fn len(&self) -> usize {
        self.transports.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.transports.is_empty()
    }

    /// Carries `access` out on the device at an address; false where there is no window.
    fn with(&self, address: u64, access: impl FnOnce(&mut Transport, u64)) -> bool {
        let found = address.checked_sub(self.start).and_then(|offset| {
            let index = usize::try_from(offset.checked_div(self.window)?).ok()?;
            Some((lock(self.transports.get(index)?), offset % self.window))
        });
        let Some((mut slot, offset)) = found else { return false };
        if let Some(transport) = slot.as_mut() {
            access(transport, offset);
        }
        true
    }

    /// Carries out a processor's read; where nothing is, all bits are set.
    pub fn read(&self, address: u64, data: &mut [u8]) {
        data.fill(0xff);
        if !self.with(address, |transport, offset| transport.read(offset, data)) {
            self.pci.read(address, data);
        }
    }

    /// Carries out a processor's write; where nothing is, it is lost.
    pub fn write(&self, address: u64, data: &[u8]) {
        if !self.with(address, |transport, offset| transport.write(offset, data)) {
            self.pci.write(address, data);
        }
    }

    /// Resets every device and takes it away; none touches guest memory afterwards.
    pub fn remove_all(&self) {
        for slot in &self.transports {
            lock(slot).take();
        }
        self.pci.remove_all();
    }
}

fn lock(slot: &Mutex<Option<Transport>>) -> MutexGuard<'_, Option<Transport>> {
    slot.lock().unwrap_or_else(PoisonError::into_inner)
}
