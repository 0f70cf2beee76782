//! Names of machines as a distro may carry them (B140, B141).

/// The longest host name that Linux takes, in bytes (`HOST_NAME_MAX`).
const MAXIMUM_LENGTH: usize = 64;

/// A name of letters, digits, and single inner dots and hyphens, at most 64 of them and
/// never nothing: what does not fit is left out, and of nothing `localhost` is left.
#[must_use]
pub fn clean(name: &str) -> String {
    let is_separator = |character: char| "-.".contains(character);
    let allowed = |character: &char| character.is_ascii_alphanumeric() || is_separator(*character);
    let mut clean = String::new();
    for character in name.chars().filter(allowed) {
        let is_doubled = is_separator(character) && clean.ends_with(is_separator);
        if clean.len() < MAXIMUM_LENGTH && !is_doubled {
            clean.push(character);
        }
    }
    match clean.trim_matches(is_separator) {
        "" => "localhost".to_owned(),
        trimmed => trimmed.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn b140_b141_a_name_is_cleaned() {
        for (name, expected) in [
            ("build-3.lan", "build-3.lan"),
            ("-we_ird..n\u{e4}me-", "weird.nme"),
            ("SimpleHostname", "SimpleHostname"),
            ("Simple-Hostname", "Simple-Hostname"),
            ("Simple_Hostname", "SimpleHostname"),
            ("-hostname", "hostname"),
            ("--hostname", "hostname"),
            ("hostname.-", "hostname"),
            (".hostname", "hostname"),
            ("hostname.", "hostname"),
            ("host.name.", "host.name"),
            ("host..name", "host.name"),
            ("host|name", "hostname"),
            (".a-", "a"),
            (".a-b", "a-b"),
            (".", "localhost"),
            ("-", "localhost"),
            ("-.-", "localhost"),
            ("___", "localhost"),
        ] {
            assert_eq!(clean(name), expected, "{name:?}");
        }
        assert_eq!(clean(&"a".repeat(90)).len(), 64);
    }
}
