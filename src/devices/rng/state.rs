//! The random number generator has no state beside its queue's.

use serde::{Deserialize, Serialize};

/// What a snapshot would hold.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct RngState {}
