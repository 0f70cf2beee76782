//! The console has no state beside its queues'.

use serde::{Deserialize, Serialize};

/// What a snapshot would hold.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct ConsoleState {}
