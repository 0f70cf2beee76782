//! Length-prefixed postcard frames over any byte stream.
//!
//! A frame is a little-endian `u32` length and that many bytes. Lengths beyond
//! [`MAXIMUM_LENGTH`] are refused before anything is allocated, so a hostile peer cannot
//! make the reader allocate memory.

use std::io::{self, Read, Write};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// The largest body accepted, in bytes.
pub const MAXIMUM_LENGTH: usize = 4 << 20;

/// Why a frame could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The stream ended between two frames.
    #[error("the peer closed the connection")]
    Closed,
    /// A body that is not the expected message.
    #[error("malformed message")]
    Malformed(#[source] postcard::Error),
    /// The stream failed, or ended inside a frame.
    #[error("connection lost")]
    Stream(#[source] io::Error),
    /// A length above [`MAXIMUM_LENGTH`].
    #[error("message of {length} bytes is longer than {MAXIMUM_LENGTH}")]
    TooLong {
        /// The announced or encoded length in bytes.
        length: usize,
    },
}

/// Writes one message as a single `write` call.
///
/// # Errors
/// [`FrameError::TooLong`] and [`FrameError::Stream`].
pub fn write<T: Serialize>(stream: &mut impl Write, message: &T) -> Result<(), FrameError> {
    let bytes = encode(message)?;
    stream.write_all(&bytes).map_err(FrameError::Stream)
}

/// The bytes of one frame.
///
/// # Errors
/// [`FrameError::TooLong`] and [`FrameError::Malformed`].
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, FrameError> {
    let mut bytes = postcard::to_extend(message, vec![0; 4]).map_err(FrameError::Malformed)?;
    let length = bytes.len() - 4;
    if length > MAXIMUM_LENGTH {
        return Err(FrameError::TooLong { length });
    }
    bytes[..4].copy_from_slice(&(length as u32).to_le_bytes());
    Ok(bytes)
}

/// Reads one message.
///
/// # Errors
/// [`FrameError::Closed`] where the stream ends before the first byte, else any other.
pub fn read<T: DeserializeOwned>(stream: &mut impl Read) -> Result<T, FrameError> {
    let mut length = [0; 4];
    match stream.read(&mut length[..1]) {
        Ok(0) => return Err(FrameError::Closed),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::Interrupted => return read(stream),
        Err(error) => return Err(FrameError::Stream(error)),
    }
    stream.read_exact(&mut length[1..]).map_err(FrameError::Stream)?;
    let length = u32::from_le_bytes(length) as usize;
    if length > MAXIMUM_LENGTH {
        return Err(FrameError::TooLong { length });
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).map_err(FrameError::Stream)?;
    postcard::from_bytes(&body).map_err(FrameError::Malformed)
}

/// Cuts frames out of a stream that arrives in arbitrary pieces, for readers that must
/// not block inside a frame.
#[derive(Debug, Default)]
pub struct Decoder {
    bytes: Vec<u8>,
    start: usize,
}

impl Decoder {
    /// Takes what was read.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.start);
        self.start = 0;
        self.bytes.extend_from_slice(bytes);
    }

    /// The next whole message, if there is one.
    ///
    /// # Errors
    /// [`FrameError::TooLong`] and [`FrameError::Malformed`]; the stream is then useless.
    pub fn take<T: DeserializeOwned>(&mut self) -> Result<Option<T>, FrameError> {
        let pending = self.bytes.get(self.start..).unwrap_or_default();
        let Some((length, rest)) = pending.split_first_chunk::<4>() else { return Ok(None) };
        let length = u32::from_le_bytes(*length) as usize;
        if length > MAXIMUM_LENGTH {
            return Err(FrameError::TooLong { length });
        }
        let Some(body) = rest.get(..length) else { return Ok(None) };
        let message = postcard::from_bytes(body).map_err(FrameError::Malformed)?;
        self.start += 4 + length;
        Ok(Some(message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_survives_the_round_trip() {
        let mut stream = Vec::new();
        write(&mut stream, &("hello".to_owned(), 7_u64)).unwrap();
        let back: (String, u64) = read(&mut stream.as_slice()).unwrap();
        assert_eq!(back, ("hello".to_owned(), 7));
    }

    #[test]
    fn an_announced_length_beyond_the_limit_is_refused_before_allocation() {
        let stream = u32::MAX.to_le_bytes();
        assert!(matches!(read::<String>(&mut stream.as_slice()), Err(FrameError::TooLong { .. })));
    }

    #[test]
    fn frames_are_found_wherever_the_stream_is_cut() {
        let mut stream = Vec::new();
        for word in ["one", "", "three"] {
            write(&mut stream, &word).unwrap();
        }
        for size in 1..stream.len() {
            let mut decoder = Decoder::default();
            let mut words = Vec::new();
            for piece in stream.chunks(size) {
                decoder.push(piece);
                while let Some(word) = decoder.take::<String>().unwrap() {
                    words.push(word);
                }
            }
            assert_eq!(words, ["one", "", "three"]);
        }
    }

    #[test]
    fn an_end_between_frames_differs_from_an_end_inside_one() {
        assert!(matches!(read::<u8>(&mut [].as_slice()), Err(FrameError::Closed)));
        assert!(matches!(read::<u8>(&mut [1, 0].as_slice()), Err(FrameError::Stream(_))));
    }
}
