//! The one bus: what is at which number, and how the guest reaches it.
//!
//! Configuration spaces are reached by two ports ("configuration mechanism #1", PCI Local Bus
//! Specification 3.0, 3.2.2.3.2). The first place has the host's bridge, by which a kernel knows
//! that there is a bus.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kvm_ioctls::VmFd;

use super::configuration::{self, ConfigurationSpace};
use super::function::{Function, SIZE};
use crate::devices::{GuestMemory, VirtioDevice};
use crate::vmm::kvm::KvmError;

/// The port of the address, and the first of four for the data.
pub const ADDRESS: u16 = 0xcf8;
const DATA: u16 = 0xcfc;
/// The last port.
pub const LAST: u16 = 0xcff;

/// The address names a place.
const ENABLED: u32 = 1 << 31;
/// The most functions: those of bus 0, less the bridge, one each.
const MAXIMUM: usize = 31;

/// Why a device is not put on the bus.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// No events for it.
    #[error("no events for a device")]
    Events(#[from] io::Error),
    /// KVM.
    #[error(transparent)]
    Kvm(#[from] KvmError),
}

/// The bus.
#[derive(Debug)]
pub struct PciBus {
    address: Mutex<u32>,
    bridge: ConfigurationSpace,
    functions: Vec<Mutex<Option<Function>>>,
}

impl PciBus {
    /// A bus with these devices, their registers from `start` on.
    ///
    /// # Errors
    /// Where no events can be made, or KVM does not take them.
    pub fn new(
        vm: &Arc<VmFd>,
        memory: &GuestMemory,
        start: u32,
        devices: Vec<Box<dyn VirtioDevice>>,
    ) -> Result<Self, AttachError> {
        debug_assert!(devices.len() <= MAXIMUM);
        let mut functions = Vec::new();
        for (device, place) in devices.into_iter().zip((start..).step_by(SIZE as usize)) {
            let function = Function::new(device, Arc::clone(memory), place)?;
            function.connect(vm)?;
            functions.push(function);
        }
        Ok(Self::with(functions))
    }

    pub(super) fn with(functions: Vec<Function>) -> Self {
        // A bridge between the host and PCI, of a vendor that makes none that a driver looks for.
        let mut bridge = ConfigurationSpace::new(0x1b36, 0x0008, [0, 0, 0x06]);
        bridge.set(configuration::SUBSYSTEM_VENDOR, &0x1af4_u16.to_le_bytes());
        let functions = functions.into_iter().map(|one| Mutex::new(Some(one))).collect();
        Self { address: Mutex::new(0), bridge, functions }
    }

    /// Carries out a read of a port; where nothing is, all bits are set.
    pub fn read_port(&self, port: u16, data: &mut [u8]) {
        data.fill(0xff);
        let address = *lock(&self.address);
        if port == ADDRESS && data.len() == 4 {
            data.copy_from_slice(&address.to_le_bytes());
        } else if let Some((place, offset)) = place_of(address, port, data.len()) {
            match place.checked_sub(1) {
                None => self.bridge.read(offset, data),
                Some(number) => {
                    if let Some(slot) = self.functions.get(number)
                        && let Some(function) = lock(slot).as_ref()
                    {
                        function.read_configuration(offset, data);
                    }
                }
            }
        }
    }

    /// Carries out a write to a port; where nothing is, it is lost.
    pub fn write_port(&self, port: u16, data: &[u8]) {
        let mut address = lock(&self.address);
        if port == ADDRESS
            && let Ok(bytes) = <[u8; 4]>::try_from(data)
        {
            *address = u32::from_le_bytes(bytes);
        } else if let Some((place, offset)) = place_of(*address, port, data.len())
            && let Some(slot) = place.checked_sub(1).and_then(|number| self.functions.get(number))
            && let Some(function) = lock(slot).as_mut()
        {
            function.write_configuration(offset, data);
        }
    }

    /// Carries `access` out on the device whose registers are at an address, if there is one.
    fn with_function(&self, address: u64, access: impl FnOnce(&mut Function, u64)) -> bool {
        for slot in &self.functions {
            if let Some(function) = lock(slot).as_mut()
                && let Some(offset) = function.offset(address)
            {
                access(function, offset);
                return true;
            }
        }
        false
    }

    /// Carries out a read of a register; false where there is none.
    pub fn read(&self, address: u64, data: &mut [u8]) -> bool {
        self.with_function(address, |function, offset| function.read(offset, data))
    }

    /// Carries out a write to a register; false where there is none.
    pub fn write(&self, address: u64, data: &[u8]) -> bool {
        self.with_function(address, |function, offset| function.write(offset, data))
    }

    /// Resets every device and takes it away; none touches guest memory afterwards.
    pub fn remove_all(&self) {
        for slot in &self.functions {
            lock(slot).take();
        }
    }
}

/// The number on the bus and the place in its configuration space that a port leads to.
fn place_of(address: u32, port: u16, length: usize) -> Option<(usize, usize)> {
    let offset = usize::from(port.checked_sub(DATA)?);
    let [register, function, bus, _] = address.to_le_bytes();
    let is_place = address & ENABLED != 0 && bus == 0 && function % 8 == 0;
    let fits = offset + length <= 4;
    (is_place && fits).then(|| (usize::from(function / 8), usize::from(register & 0xfc) + offset))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
