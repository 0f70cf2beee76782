//! The thread that gives the host back what the guest reports free.
//!
//! A report is the guest's word on its own memory: a wrong one costs the guest what was
//! there. That all of it is guest memory was checked when the chain was taken.

use std::sync::Arc;

use super::device::FIRST_REPORTING;
use crate::devices::ring::Ring;
use crate::devices::worker::Worker;
use crate::devices::{Activation, ActivationError};

/// Starts the thread.
///
/// # Errors
/// [`ActivationError::Resources`].
pub fn start(activation: Activation) -> Result<Worker, ActivationError> {
    let (mut rings, events): (Vec<_>, Vec<_>) = activation.rings().unzip();
    Worker::start("balloon", events, move |position| {
        if let Some(ring) = rings.get_mut(position) {
            serve(ring, position >= FIRST_REPORTING);
        }
    })
}

/// Takes all chains that are there. Those of the other queues are lists of pages to inflate
/// by, which nobody has asked for, and to deflate by, of which there are none: they are given
/// back as they are.
fn serve(ring: &mut Ring, reports: bool) {
    loop {
        ring.disable_notification();
        while let Some(chain) = ring.pop() {
            if reports && let Ok(mut free) = chain.writer(&Arc::clone(ring.memory())) {
                free.discard();
            }
            ring.add_used(chain.head, 0);
        }
        ring.signal();
        if !ring.enable_notification() {
            return;
        }
    }
}
