//! Sizes as the user writes them, on the command line and in `.wslconfig` (B033).

use crate::error::Diagnose;

/// Text that is no size.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("Invalid size: {text}")]
pub struct SizeError {
    /// As typed.
    pub text: String,
}

impl Diagnose for SizeError {
    fn code(&self) -> &'static str {
        "E_INVALIDARG"
    }

    fn hint(&self) -> Option<String> {
        Some("a size is a number and B, KB, MB, GB or TB, e.g. 64GB".to_owned())
    }
}

/// Reads decimal digits and an optional `B K KB M MB G GB T TB`, in either case, as bytes;
/// the units are powers of 1024.
///
/// # Errors
/// For anything else, and for more than 2^64 - 1 bytes.
pub fn parse(text: &str) -> Result<u64, SizeError> {
    let invalid = || SizeError { text: text.to_owned() };
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at_checked(digits).ok_or_else(invalid)?;
    let shift = match unit.to_ascii_uppercase().as_str() {
        "" | "B" => 0,
        "K" | "KB" => 10,
        "M" | "MB" => 20,
        "G" | "GB" => 30,
        "T" | "TB" => 40,
        _ => return Err(invalid()),
    };
    let number: u64 = number.parse().map_err(|_| invalid())?;
    number.checked_mul(1 << shift).ok_or_else(invalid)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn b033_sizes_are_digits_and_a_unit() {
        for (text, bytes) in [
            ("1024", 1024),
            ("10K", 10 << 10),
            ("10KB", 10 << 10),
            ("2M", 2 << 20),
            ("3GB", 3 << 30),
            ("1T", 1 << 40),
            ("0", 0),
            ("0GB", 0),
            ("7B", 7),
            ("64gb", 64 << 30),
        ] {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn b033_anything_else_is_refused() {
        for text in
            ["foo", "", "0foo", "/", "1 GB", "1.5G", "-1", "+1", "GB", "1KiB", "17000000T", "é"]
        {
            assert_eq!(parse(text), Err(SizeError { text: text.to_owned() }));
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in ".*") {
            let _ = parse(&text);
        }
    }
}
