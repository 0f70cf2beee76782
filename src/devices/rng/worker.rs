//! The thread that fills the guest's buffers with random bytes of the host.

use std::fs::File;
use std::io::Read;
use std::sync::Arc;

use crate::devices::ring::Ring;
use crate::devices::worker::Worker;
use crate::devices::{Activation, ActivationError};

/// The most bytes given for one buffer: drivers ask for less, and a guest that asks for
/// gigabytes gets a short answer, as the specification allows.
const MAXIMUM: usize = 4096;

/// Starts the thread.
///
/// # Errors
/// [`ActivationError::Resources`].
pub fn start(activation: Activation) -> Result<Worker, ActivationError> {
    let mut source = File::open("/dev/urandom")
        .map_err(|source| ActivationError::Resources { device: "rng", source })?;
    let (mut rings, events): (Vec<_>, Vec<_>) = activation.rings().unzip();
    Worker::start("rng", events, move |position| {
        if let Some(ring) = rings.get_mut(position) {
            fill(ring, &mut source);
        }
    })
}

/// Fills all buffers that are there.
fn fill(ring: &mut Ring, source: &mut impl Read) {
    loop {
        ring.disable_notification();
        while let Some(chain) = ring.pop() {
            let mut written = 0;
            if let Ok(mut buffers) = chain.writer(&Arc::clone(ring.memory())) {
                let mut bytes = [0; MAXIMUM];
                let wanted = buffers.length().min(MAXIMUM);
                if let Some(bytes) = bytes.get_mut(..wanted)
                    && source.read_exact(bytes).is_ok()
                {
                    written = buffers.copy_from(bytes);
                }
            }
            // At most `MAXIMUM`.
            ring.add_used(chain.head, written as u32);
        }
        ring.signal();
        if !ring.enable_notification() {
            return;
        }
    }
}
