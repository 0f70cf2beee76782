//! What a snapshot of the adapter would hold.

use serde::{Deserialize, Serialize};

use super::sense::Sense;

/// The adapter.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct ScsiState {
    /// The `sense_size` field as the driver wrote it.
    pub sense_size: u32,
    /// The `cdb_size` field as the driver wrote it.
    pub cdb_size: u32,
    /// Where the search for the next free unit starts.
    pub next_unit: u16,
    /// The disks.
    pub units: Vec<UnitState>,
    /// Events the driver has not seen, oldest first: the code, the unit, the reason.
    pub events: Vec<(u32, u16, u32)>,
}

/// One disk. Its backend is named by whoever attached it.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct UnitState {
    /// The logical unit.
    pub lun: u16,
    /// Its serial number.
    pub serial: String,
    /// Whether the driver must not write.
    pub read_only: bool,
    /// Unit attentions not yet reported, oldest first.
    pub attention: Vec<Sense>,
}
