//! A reader that a thread of its own reads ahead from, in large buffers that are reused.

use std::io::{self, Read};
use std::sync::mpsc::{Receiver, SyncSender, channel, sync_channel};

/// Bytes of one buffer.
const BUFFER: usize = 1 << 20;

/// Buffers in all.
const BUFFERS: usize = 16;

struct Filled {
    bytes: Vec<u8>,
    length: usize,
}

/// Calls `work` with a reader of what a thread reads from `reader` in the meantime.
///
/// # Errors
/// Where no thread can be started. A failure to read comes out of the reader.
pub(super) fn with_reader<T>(
    reader: impl Read + Send,
    work: impl FnOnce(Ahead) -> T,
) -> io::Result<T> {
    std::thread::scope(|scope| {
        let (filled, incoming) = sync_channel(BUFFERS);
        let (returned, empty) = channel();
        for _ in 0..BUFFERS {
            // The receiver is alive: it moves to the thread below.
            let _ = returned.send(vec![0; BUFFER]);
        }
        std::thread::Builder::new()
            .name("image-reader".to_owned())
            .spawn_scoped(scope, move || read_ahead(reader, &filled, &empty))?;
        Ok(work(Ahead { incoming, returned, current: None, position: 0 }))
    })
}

/// Reads until the end, the first error, or until the other side is gone.
fn read_ahead(
    mut reader: impl Read,
    filled: &SyncSender<io::Result<Filled>>,
    empty: &Receiver<Vec<u8>>,
) {
    while let Ok(mut bytes) = empty.recv() {
        let mut length = 0;
        while let Some(rest) = bytes.get_mut(length..).filter(|rest| !rest.is_empty()) {
            match reader.read(rest) {
                Ok(0) => break,
                Ok(count) => length += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    // What came before the error comes out before it.
                    let _ = filled.send(Ok(Filled { bytes, length }));
                    let _ = filled.send(Err(error));
                    return;
                }
            }
        }
        if length == 0 || filled.send(Ok(Filled { bytes, length })).is_err() {
            return;
        }
    }
}

/// The reading end.
pub(super) struct Ahead {
    incoming: Receiver<io::Result<Filled>>,
    returned: std::sync::mpsc::Sender<Vec<u8>>,
    current: Option<Filled>,
    position: usize,
}

impl Read for Ahead {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            let Some(current) = &self.current else {
                match self.incoming.recv() {
                    Ok(filled) => self.current = Some(filled?),
                    Err(_) => return Ok(0),
                }
                self.position = 0;
                continue;
            };
            let rest = current.bytes.get(self.position..current.length).unwrap_or_default();
            let count = rest.len().min(buffer.len());
            if let (Some(to), Some(from)) = (buffer.get_mut(..count), rest.get(..count))
                && count > 0
            {
                to.copy_from_slice(from);
                self.position += count;
                return Ok(count);
            }
            if let Some(filled) = self.current.take() {
                // At the end the thread is gone.
                let _ = self.returned.send(filled.bytes);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_comes_through_then_the_error() {
        struct Failing(usize);
        impl Read for Failing {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                if self.0 == 0 {
                    return Err(io::Error::other("boom"));
                }
                let count = buffer.len().min(self.0).min(70_000);
                buffer[..count].fill(7);
                self.0 -= count;
                Ok(count)
            }
        }
        let total = 3 * BUFFER + 5;
        with_reader(Failing(total), |mut reader| {
            let mut bytes = Vec::new();
            let error = reader.read_to_end(&mut bytes).unwrap_err();
            assert_eq!(error.to_string(), "boom");
            assert_eq!(bytes, vec![7; total]);
        })
        .unwrap();
    }

    #[test]
    fn leaving_early_ends_the_thread() {
        let byte = with_reader(io::repeat(1), |mut reader| {
            let mut byte = [0];
            reader.read_exact(&mut byte).unwrap();
            byte
        });
        assert_eq!(byte.unwrap(), [1]);
    }
}
