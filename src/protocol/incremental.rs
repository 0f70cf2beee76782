//! Frames from a descriptor that must not be waited for.
//!
//! The reader takes exactly the bytes of one frame and never one beyond it, so that what
//! follows on the stream can be read by another process. A body is allocated as it
//! arrives, never for what its length word only promises.

use std::io::{self, Read};

use serde::de::DeserializeOwned;

use super::frame::FrameError;

/// The largest step in which a body is read.
const STEP: usize = 64 << 10;

/// Collects one frame after the other from a non-blocking stream.
#[derive(Debug)]
pub struct FrameReader {
    /// The longest body accepted, in bytes.
    limit: usize,
    buffer: Vec<u8>,
}

impl FrameReader {
    /// A reader that accepts bodies of up to `limit` bytes.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self { limit, buffer: Vec::new() }
    }

    /// The body of the next frame, or `None` where the stream has no more bytes yet.
    ///
    /// # Errors
    /// [`FrameError::Closed`] where the stream ends between frames, else any other.
    pub fn next_body(&mut self, stream: &mut impl Read) -> Result<Option<Vec<u8>>, FrameError> {
        loop {
            let target = match self.buffer.first_chunk::<4>() {
                None => 4,
                Some(word) => {
                    let length = u32::from_le_bytes(*word) as usize;
                    if length > self.limit {
                        return Err(FrameError::TooLong { length });
                    }
                    4 + length
                }
            };
            let start = self.buffer.len();
            if start >= 4 && start == target {
                let mut body = std::mem::take(&mut self.buffer);
                body.drain(..4);
                return Ok(Some(body));
            }
            self.buffer.resize(start + (target - start).min(STEP), 0);
            let result = stream.read(self.buffer.get_mut(start..).unwrap_or_default());
            self.buffer.truncate(start + result.as_ref().map_or(0, |count| *count));
            match result {
                Ok(0) if start == 0 => return Err(FrameError::Closed),
                Ok(0) => {
                    return Err(FrameError::Stream(io::ErrorKind::UnexpectedEof.into()));
                }
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) => return Err(FrameError::Stream(error)),
            }
        }
    }

    /// The next message, or `None` where it has not arrived whole.
    ///
    /// # Errors
    /// As [`Self::next_body`], and [`FrameError::Malformed`].
    pub fn next_message<T: DeserializeOwned>(
        &mut self,
        stream: &mut impl Read,
    ) -> Result<Option<T>, FrameError> {
        let Some(body) = self.next_body(stream)? else { return Ok(None) };
        postcard::from_bytes(&body).map(Some).map_err(FrameError::Malformed)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::super::frame;
    use super::*;

    /// A stream that gives its chunks one per read, and would block between them.
    struct Chunks(VecDeque<Vec<u8>>, bool);

    impl Read for Chunks {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.1 = !self.1;
            if self.1 {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            let Some(chunk) = self.0.front_mut() else { return Ok(0) };
            let count = chunk.len().min(buffer.len());
            buffer[..count].copy_from_slice(&chunk[..count]);
            chunk.drain(..count);
            if chunk.is_empty() {
                self.0.pop_front();
            }
            Ok(count)
        }
    }

    proptest! {
        #[test]
        fn frames_cut_anywhere_arrive_whole(
            messages in proptest::collection::vec(".{0,40}", 1..5),
            cut in 1_usize..9,
        ) {
            let bytes: Vec<u8> =
                messages.iter().flat_map(|message| frame::encode(message).unwrap()).collect();
            let mut stream =
                Chunks(bytes.chunks(cut).map(<[u8]>::to_vec).collect(), false);
            let mut reader = FrameReader::new(4096);
            let mut back = Vec::new();
            loop {
                match reader.next_message::<String>(&mut stream) {
                    Ok(Some(message)) => back.push(message),
                    Ok(None) => {}
                    Err(FrameError::Closed) => break,
                    Err(error) => panic!("{error}"),
                }
            }
            prop_assert_eq!(back, messages);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>) {
            let mut reader = FrameReader::new(64);
            let _ = reader.next_message::<String>(&mut bytes.as_slice());
        }
    }

    #[test]
    fn not_one_byte_beyond_the_frame_is_taken() {
        let mut bytes = frame::encode(&7_u32).unwrap();
        bytes.extend_from_slice(b"payload");
        let mut stream = bytes.as_slice();
        let message: Option<u32> = FrameReader::new(64).next_message(&mut stream).unwrap();
        assert_eq!((message, stream), (Some(7), b"payload".as_slice()));
    }

    #[test]
    fn a_length_beyond_the_limit_is_refused() {
        let bytes = 65_u32.to_le_bytes();
        assert!(matches!(
            FrameReader::new(64).next_body(&mut bytes.as_slice()),
            Err(FrameError::TooLong { length: 65 })
        ));
    }
}
