//! The disks of the adapter, and the handle that attaches and detaches them.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use zerocopy::IntoBytes as _;

use super::backend::{Backend, Volume};
use super::state::{ScsiState, UnitState};
use super::unit::Unit;
use super::wire::{self, Address, Event};
use super::{MAXIMUM_UNITS, ScsiError};
use crate::devices::ring::Ring;

/// The most events kept for a driver that does not take them.
const MAXIMUM_EVENTS: usize = 1024;

/// How a disk is attached.
#[derive(Clone, Debug, Default)]
pub struct DiskOptions {
    /// Whether the guest must not write.
    pub read_only: bool,
    /// The serial number the guest sees, at most 36 bytes of printable ASCII; the rest
    /// is cut. Empty: made from the unit's number.
    pub serial: String,
}

/// The commands a unit is working on.
#[derive(Debug, Default)]
pub(super) struct Gate {
    tasks: Mutex<Vec<u64>>,
    left: Condvar,
}

impl Gate {
    fn lock(&self) -> MutexGuard<'_, Vec<u64>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a task is being worked on.
    pub(super) fn has(&self, task: Option<u64>) -> bool {
        let tasks = self.lock();
        task.map_or(!tasks.is_empty(), |task| tasks.contains(&task))
    }

    /// Waits until that task, or every one, has ended; false where the time is up first.
    pub(super) fn wait(&self, task: Option<u64>, limit: Option<Duration>) -> bool {
        let end = limit.map(|limit| Instant::now() + limit);
        let mut tasks = self.lock();
        while task.map_or(!tasks.is_empty(), |task| tasks.contains(&task)) {
            tasks = match end.map(|end| end.saturating_duration_since(Instant::now())) {
                None => self.left.wait(tasks).unwrap_or_else(PoisonError::into_inner),
                Some(Duration::ZERO) => return false,
                Some(rest) => {
                    self.left.wait_timeout(tasks, rest).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
        true
    }
}

/// A unit in use by one command. Detaching waits until it is dropped.
#[derive(Debug)]
pub(super) struct Busy {
    unit: Option<Arc<Unit>>,
    gate: Arc<Gate>,
    task: u64,
}

impl Busy {
    /// The unit.
    pub(super) fn unit(&self) -> Option<&Unit> {
        self.unit.as_deref()
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        // First the unit: who waits at the gate wants the file closed.
        self.unit = None;
        let mut tasks = self.gate.lock();
        if let Some(position) = tasks.iter().position(|task| *task == self.task) {
            tasks.swap_remove(position);
        }
        self.gate.left.notify_all();
    }
}

#[derive(Debug)]
struct Slot {
    unit: Arc<Unit>,
    gate: Arc<Gate>,
}

#[derive(Debug, Default)]
struct Table {
    slots: BTreeMap<u16, Slot>,
    next: u16,
}

/// Events on their way to the driver.
#[derive(Debug, Default)]
struct Events {
    ring: Option<Ring>,
    pending: VecDeque<Event>,
    lost: bool,
}

impl Events {
    fn post(&mut self, event: Event) {
        // Without a driver there is nobody to tell: it will look at all units itself.
        if self.ring.is_none() {
            return;
        }
        if self.pending.len() < MAXIMUM_EVENTS {
            self.pending.push_back(event);
        } else {
            self.lost = true;
        }
        self.deliver();
    }

    fn deliver(&mut self) {
        let Some(ring) = &mut self.ring else { return };
        let memory = Arc::clone(ring.memory());
        let mut delivered = false;
        while !self.pending.is_empty() || self.lost {
            let Some(chain) = ring.pop() else {
                if ring.enable_notification() {
                    continue;
                }
                break;
            };
            let mut written = 0;
            if let Ok(mut buffer) = chain.writer(&memory)
                && buffer.length() >= size_of::<Event>()
            {
                let mut event = self.pending.pop_front().unwrap_or(Event {
                    event: wire::EVENT_NONE.into(),
                    lun: [0; 8],
                    reason: 0.into(),
                });
                if std::mem::take(&mut self.lost) {
                    event.event = (event.event.get() | wire::EVENTS_MISSED).into();
                }
                written = buffer.copy_from(event.as_bytes());
            }
            ring.add_used(chain.head, written as u32);
            delivered = true;
        }
        if delivered {
            ring.signal();
        }
    }
}

#[derive(Debug, Default)]
struct Shared {
    table: Mutex<Table>,
    events: Mutex<Events>,
}

/// The disks of one adapter.
#[derive(Clone, Debug, Default)]
pub struct ScsiBus {
    shared: Arc<Shared>,
}

impl ScsiBus {
    /// An adapter without disks.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Attaches a file or block device as it is and returns its logical unit. A running
    /// guest finds it at once. Numbers are handed out in turn, so that one that was
    /// detached is not soon mistaken for its successor. The file is closed by
    /// [`ScsiBus::detach`].
    ///
    /// # Errors
    /// [`ScsiError::Full`], [`ScsiError::Length`] and [`ScsiError::TooSmall`].
    pub fn attach(&self, file: File, options: DiskOptions) -> Result<u16, ScsiError> {
        self.attach_backend(Box::new(Volume::raw(file)), options)
    }

    /// Attaches a disk whose bytes come from anywhere, as [`ScsiBus::attach`] does.
    ///
    /// # Errors
    /// As [`ScsiBus::attach`].
    pub fn attach_backend(
        &self,
        backend: Box<dyn Backend>,
        options: DiskOptions,
    ) -> Result<u16, ScsiError> {
        let mut table = self.table();
        let lun = (0..MAXIMUM_UNITS)
            .map(|offset| (table.next + offset) % MAXIMUM_UNITS)
            .find(|lun| !table.slots.contains_key(lun))
            .ok_or(ScsiError::Full)?;
        let unit = Unit::new(backend, options.read_only, serial(&options.serial, lun))?;
        table.slots.insert(lun, Slot { unit: Arc::new(unit), gate: Arc::default() });
        table.next = (lun + 1) % MAXIMUM_UNITS;
        // The table stays locked so that events have the order of what they tell.
        self.post(wire::EVENT_TRANSPORT_RESET, lun, wire::RESET_RESCAN);
        Ok(lun)
    }

    /// Detaches a disk: the guest sees it gone, commands being worked on end, everything
    /// written is flushed and the file is closed.
    ///
    /// # Errors
    /// [`ScsiError::NotAttached`], and [`ScsiError::Flush`] where the disk is detached
    /// but may have lost what was written last.
    pub fn detach(&self, lun: u16) -> Result<(), ScsiError> {
        let slot = {
            let mut table = self.table();
            let slot = table.slots.remove(&lun).ok_or(ScsiError::NotAttached { lun })?;
            self.post(wire::EVENT_TRANSPORT_RESET, lun, wire::RESET_REMOVED);
            slot
        };
        slot.gate.wait(None, None);
        slot.unit.flush().map_err(|source| ScsiError::Flush { lun, source })
    }

    /// Tells the guest where a disk's backend has become longer or shorter.
    ///
    /// # Errors
    /// [`ScsiError::NotAttached`], [`ScsiError::Length`] and [`ScsiError::TooSmall`].
    pub fn measure_again(&self, lun: u16) -> Result<(), ScsiError> {
        let table = self.table();
        let slot = table.slots.get(&lun).ok_or(ScsiError::NotAttached { lun })?;
        if slot.unit.measure_again()? {
            // The additional sense code and qualifier of "capacity data has changed".
            self.post(wire::EVENT_PARAMETER_CHANGE, lun, 0x2a | (0x09 << 8));
        }
        Ok(())
    }

    /// The logical units in use, ascending.
    #[must_use]
    pub fn attached(&self) -> Vec<u16> {
        self.table().slots.keys().copied().collect()
    }

    /// Takes a unit for one command.
    pub(super) fn enter(&self, lun: u16, task: u64) -> Option<Busy> {
        let table = self.table();
        let slot = table.slots.get(&lun)?;
        slot.gate.lock().push(task);
        Some(Busy { unit: Some(Arc::clone(&slot.unit)), gate: Arc::clone(&slot.gate), task })
    }

    /// The commands of a unit.
    pub(super) fn gate(&self, lun: u16) -> Option<Arc<Gate>> {
        self.table().slots.get(&lun).map(|slot| Arc::clone(&slot.gate))
    }

    /// Lets every next command of a unit, or of all, fail with "was reset".
    pub(super) fn mark_reset(&self, lun: Option<u16>) {
        for (number, slot) in &self.table().slots {
            if lun.is_none_or(|lun| lun == *number) {
                slot.unit.attract(super::sense::Sense::RESET);
            }
        }
    }

    /// From now on events go to this ring.
    pub(super) fn connect(&self, ring: Ring) {
        let mut events = self.events();
        *events = Events { ring: Some(ring), ..Events::default() };
        events.deliver();
    }

    /// The driver has made room for events.
    pub(super) fn deliver(&self) {
        self.events().deliver();
    }

    /// The driver is gone, with it what it was to be told.
    pub(super) fn disconnect(&self) {
        *self.events() = Events::default();
    }

    /// What a snapshot would hold.
    #[must_use]
    pub fn state(&self) -> ScsiState {
        let table = self.table();
        let units = table.slots.iter().map(|(lun, slot)| UnitState {
            lun: *lun,
            serial: slot.unit.serial().to_owned(),
            read_only: slot.unit.read_only(),
            attention: slot.unit.attentions(),
        });
        let events = self.events();
        let pending = events.pending.iter().map(|event| {
            let lun = match Address::parse(event.lun) {
                Address::Unit(lun) => lun,
                Address::ReportLuns | Address::Nobody => 0,
            };
            (event.event.get(), lun, event.reason.get())
        });
        ScsiState {
            next_unit: table.next,
            units: units.collect(),
            events: pending.collect(),
            ..ScsiState::default()
        }
    }

    fn post(&self, event: u32, lun: u16, reason: u32) {
        self.events().post(Event {
            event: event.into(),
            lun: Address::encode(lun),
            reason: reason.into(),
        });
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.shared.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn events(&self) -> MutexGuard<'_, Events> {
        self.shared.events.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn serial(wanted: &str, lun: u16) -> String {
    let clean: String = wanted.chars().filter(char::is_ascii_graphic).take(36).collect();
    if clean.is_empty() { format!("wslr-{lun}") } else { clean }
}
