//! The balloon is always empty, so there is no state beside that of the queues.

use serde::{Deserialize, Serialize};

/// What a snapshot would hold.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct BalloonState {}
