//! SHA-256 digests as manifests and archives write them.

use std::fmt;
use std::io::Read;

use sha2::Digest;

use crate::error::Diagnose;

/// The SHA-256 of a file.
#[derive(Clone, Copy, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Sha256([u8; 32]);

/// A text that is not a SHA-256.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("Invalid hex string: {text}")]
pub struct ChecksumError {
    /// The text.
    pub text: String,
}

impl Diagnose for ChecksumError {
    fn code(&self) -> &'static str {
        "VerifyChecksum/E_INVALIDARG"
    }
}

impl Sha256 {
    /// Reads 64 hexadecimal digits in either case, with or without `0x` (B070).
    ///
    /// # Errors
    /// Where the text is anything else.
    pub fn parse(text: &str) -> Result<Self, ChecksumError> {
        let error = || ChecksumError { text: text.chars().take(128).collect() };
        let digits =
            text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")).unwrap_or(text).as_bytes();
        let mut bytes = [0; 32];
        if digits.len() != 2 * bytes.len() {
            return Err(error());
        }
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            for digit in pair {
                let value = char::from(*digit).to_digit(16).ok_or_else(error)?;
                *byte = (*byte << 4) | u8::try_from(value).map_err(|_| error())?;
            }
        }
        Ok(Self(bytes))
    }

    /// The digest of everything that `reader` gives.
    ///
    /// # Errors
    /// Where reading fails.
    pub fn of(reader: &mut impl Read) -> std::io::Result<Self> {
        let mut hasher = Hasher::default();
        let mut buffer = vec![0; 128 * 1024];
        loop {
            let count = reader.read(&mut buffer)?;
            let Some(read) = buffer.get(..count).filter(|read| !read.is_empty()) else { break };
            hasher.update(read);
        }
        Ok(hasher.finish())
    }
}

impl fmt::Display for Sha256 {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in self.0 {
            write!(formatter, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Sha256 {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

/// Makes a [`Sha256`] from pieces.
#[derive(Clone, Debug, Default)]
pub(crate) struct Hasher(sha2::Sha256);

impl Hasher {
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub(crate) fn finish(self) -> Sha256 {
        Sha256(self.0.finalize().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn b070_prefix_and_case_are_optional() {
        let upper = format!("0x{}", EMPTY.to_uppercase());
        assert_eq!(Sha256::parse(EMPTY).unwrap(), Sha256::parse(&upper).unwrap());
        assert_eq!(Sha256::of(&mut [].as_slice()).unwrap().to_string(), EMPTY);
    }

    #[test]
    fn b070_malformed_and_odd_lengths_are_refused() {
        for text in ["", "0x", "wrong", &EMPTY[1..], &format!("{EMPTY}00"), &"g".repeat(64)] {
            let error = Sha256::parse(text).unwrap_err();
            assert_eq!(error.to_string(), format!("Invalid hex string: {text}"));
            assert_eq!(error.code(), "VerifyChecksum/E_INVALIDARG");
        }
    }
}
