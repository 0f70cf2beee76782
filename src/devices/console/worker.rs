//! The thread that moves what the guest writes into the log.

use std::sync::Arc;

use super::log::ConsoleLog;
use crate::devices::ring::Ring;
use crate::devices::worker::Worker;
use crate::devices::{Activation, ActivationError};

/// The queue from the guest.
const TRANSMIT: usize = 1;
/// How much is moved at once.
const CHUNK: usize = 4096;

/// Starts the thread.
///
/// # Errors
/// [`ActivationError::Resources`].
pub fn start(activation: Activation, log: Arc<ConsoleLog>) -> Result<Worker, ActivationError> {
    let served = activation.rings().skip(TRANSMIT).take(1);
    let (mut rings, events): (Vec<_>, Vec<_>) = served.unzip();
    Worker::start("console", events, move |position| {
        if let Some(ring) = rings.get_mut(position) {
            drain(ring, &log);
        }
    })
}

/// Writes all that is there to the log.
fn drain(ring: &mut Ring, log: &ConsoleLog) {
    loop {
        ring.disable_notification();
        while let Some(chain) = ring.pop() {
            if let Ok(mut buffers) = chain.reader(&Arc::clone(ring.memory())) {
                let mut chunk = [0; CHUNK];
                loop {
                    let count = buffers.copy_to(&mut chunk);
                    if count == 0 {
                        break;
                    }
                    log.write(chunk.get(..count).unwrap_or_default());
                }
            }
            ring.add_used(chain.head, 0);
            ring.signal();
        }
        if !ring.enable_notification() {
            return;
        }
    }
}
