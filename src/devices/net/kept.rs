//! Frames for the guest without a guest: each is kept. For tests and fuzz targets.

use std::io::{self, IoSlice};

use vm_memory::{Bytes as _, GuestAddress, GuestMemoryMmap};

use super::Deliver;
use crate::devices::buffers::{Buffers, Segment};

/// The frames, whole and in order.
#[derive(Debug, Default)]
pub struct Kept(pub Vec<Vec<u8>>);

impl Deliver for Kept {
    fn pieces(&mut self, pieces: &[IoSlice<'_>]) -> bool {
        self.0.push(pieces.iter().flat_map(|piece| piece.to_vec()).collect());
        true
    }

    fn filled(
        &mut self,
        _before: usize,
        most: usize,
        fill: &mut dyn FnMut(&mut Buffers<'_>) -> io::Result<usize>,
        head: &mut dyn FnMut(usize, &mut Vec<u8>),
    ) -> Option<io::Result<usize>> {
        // Shorter than 4 GiB.
        let room = Segment { address: GuestAddress(0), length: most as u32 };
        let memory = GuestMemoryMmap::<()>::from_ranges(&[(room.address, most)]).ok()?;
        let result = Buffers::new(&memory, &[room])
            .map_err(io::Error::other)
            .and_then(|mut buffers| fill(&mut buffers));
        if let Ok(length @ 1..) = result {
            let mut frame = Vec::new();
            head(length, &mut frame);
            let before = frame.len();
            frame.resize(before + length, 0);
            let data = frame.get_mut(before..).unwrap_or_default();
            memory.read_slice(data, room.address).ok()?;
            self.0.push(frame);
        }
        Some(result)
    }
}
