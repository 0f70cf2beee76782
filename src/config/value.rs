//! Values of configuration keys, and what is said about wrong ones
//! (behaviour reference 2.1).

use super::size;

/// What a key's value has to be.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// `1`, `0`, `true`, `false`, in any case.
    Bool,
    /// One of these words, in any case.
    Enum(&'static [&'static str]),
    /// Decimal, `0x` hexadecimal or `0` octal.
    Integer,
    /// See [`size::parse`].
    Size,
    /// Anything.
    Text,
}

/// Reads a boolean.
#[must_use]
pub fn boolean(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "true" => Some(true),
        "0" | "false" => Some(false),
        _ => None,
    }
}

/// Reads an integer as C writes it.
#[must_use]
pub fn integer(text: &str) -> Option<i64> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text),
    };
    if digits.starts_with(['+', '-']) {
        return None;
    }
    let lower = digits.to_ascii_lowercase();
    let magnitude = match (lower.strip_prefix("0x"), lower.strip_prefix('0')) {
        (Some(hex), _) if !hex.starts_with(['+', '-']) => i64::from_str_radix(hex, 16),
        (None, Some(octal)) if !octal.is_empty() && !octal.starts_with(['+', '-']) => {
            i64::from_str_radix(octal, 8)
        }
        _ => lower.parse(),
    };
    magnitude.ok().map(|magnitude| if negative { -magnitude } else { magnitude })
}

impl Kind {
    /// What is wrong with `text` as the value of `key`, without its place; `None` where
    /// nothing is.
    #[must_use]
    pub fn problem(self, key: &str, text: &str, place: &str) -> Option<String> {
        let valid = match self {
            Self::Bool => boolean(text).is_some(),
            Self::Enum(words) => words.iter().any(|word| word.eq_ignore_ascii_case(text)),
            Self::Integer => integer(text).is_some(),
            Self::Size => size::parse(text).is_ok(),
            Self::Text => true,
        };
        if valid {
            return None;
        }
        Some(match self {
            Self::Bool => format!("Invalid boolean value '{text}' for key '{key}' in {place}"),
            Self::Integer => format!("Invalid integer value '{text}' for key '{key}' in {place}"),
            Self::Size => {
                format!("Invalid memory string '{text}' for .wslconfig entry '{key}' in {place}")
            }
            Self::Enum(words) => format!(
                "Invalid value '{text}' for config key '{key}' in {place} (Valid values: {})",
                words.join(", ")
            ),
            Self::Text => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_are_decimal_hexadecimal_or_octal() {
        for (text, expected) in [
            ("15000", Some(15000)),
            ("-1", Some(-1)),
            ("0x10", Some(16)),
            ("0X1f", Some(31)),
            ("010", Some(8)),
            ("0", Some(0)),
            ("", None),
            ("0x", None),
            ("1 ", None),
            ("08", None),
            ("--1", None),
            ("0x-1", None),
            ("99999999999999999999", None),
        ] {
            assert_eq!(integer(text), expected, "{text:?}");
        }
    }

    #[test]
    fn booleans_are_two_words_and_two_digits() {
        assert_eq!(boolean("TRUE"), Some(true));
        assert_eq!(boolean("0"), Some(false));
        assert_eq!(boolean("yes"), None);
        assert_eq!(boolean(""), None);
    }
}
