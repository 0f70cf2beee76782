//! The time zone of a machine, as the tz database names it (`Europe/Berlin`).

use std::fs;
use std::path::Path;

/// The link that makes a zone a system's.
pub const FILE: &str = "/etc/localtime";

/// The name of this host's time zone; `None` where its files do not tell.
#[must_use]
pub fn of_host() -> Option<String> {
    let target = fs::canonicalize(FILE).ok();
    let from_link = target.as_deref().and_then(from_path);
    from_link.or_else(|| {
        let text = fs::read_to_string("/etc/timezone").ok()?;
        Some(text.trim().to_owned()).filter(|name| is_name(name))
    })
}

/// The zone whose file this is.
fn from_path(path: &Path) -> Option<String> {
    let (_, name) = path.to_str()?.split_once("/zoneinfo/")?;
    let name = ["posix/", "right/"].iter().find_map(|top| name.strip_prefix(top)).unwrap_or(name);
    Some(name.to_owned()).filter(|name| is_name(name))
}

/// Whether this can be the name of a zone, and so is a path below the database's directory.
#[must_use]
pub fn is_name(name: &str) -> bool {
    let is_part = |part: &str| {
        part.starts_with(|first: char| first.is_ascii_alphabetic())
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_+-".contains(&byte))
    };
    name.len() < 100 && name.split('/').all(is_part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn b232_a_zone_is_named_by_its_file() {
        let zone = |path: &str| from_path(Path::new(path));
        assert_eq!(zone("/usr/share/zoneinfo/Europe/Berlin").as_deref(), Some("Europe/Berlin"));
        assert_eq!(zone("/usr/share/zoneinfo/right/Etc/GMT+1").as_deref(), Some("Etc/GMT+1"));
        assert_eq!(zone("/usr/share/zoneinfo/UTC").as_deref(), Some("UTC"));
        assert_eq!(zone("/etc/localtime"), None);
        for wrong in ["", "/", "../x", "Europe/", "Europe/../x", "a b", ".x"] {
            assert!(!is_name(wrong), "{wrong:?}");
        }
    }
}
