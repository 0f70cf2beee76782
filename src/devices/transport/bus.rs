//! Finds the device whose registers an address belongs to.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::mmio::Transport;

/// The register windows of a machine's devices, one after the other.
#[derive(Debug)]
pub struct Bus {
    start: u64,
    window: u64,
    transports: Vec<Mutex<Transport>>,
}

impl Bus {
    /// Windows of `window` bytes each from `start` on.
    pub fn new(start: u64, window: u64, transports: Vec<Transport>) -> Self {
        Self { start, window, transports: transports.into_iter().map(Mutex::new).collect() }
    }

    /// How many devices there are.
    pub fn len(&self) -> usize {
        self.transports.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.transports.is_empty()
    }

    /// The device at an address, and the address within its window.
    fn find(&self, address: u64) -> Option<(MutexGuard<'_, Transport>, u64)> {
        let offset = address.checked_sub(self.start)?;
        let index = usize::try_from(offset.checked_div(self.window)?).ok()?;
        let transport = self.transports.get(index)?;
        Some((transport.lock().unwrap_or_else(PoisonError::into_inner), offset % self.window))
    }

    /// Carries out a processor's read; where nothing is, all bits are set.
    pub fn read(&self, address: u64, data: &mut [u8]) {
        match self.find(address) {
            Some((transport, offset)) => transport.read(offset, data),
            None => data.fill(0xff),
        }
    }

    /// Carries out a processor's write; where nothing is, it is lost.
    pub fn write(&self, address: u64, data: &[u8]) {
        if let Some((mut transport, offset)) = self.find(address) {
            transport.write(offset, data);
        }
    }

    /// Resets every device; none touches guest memory afterwards.
    pub fn reset(&self) {
        for transport in &self.transports {
            transport.lock().unwrap_or_else(PoisonError::into_inner).reset();
        }
    }
}
