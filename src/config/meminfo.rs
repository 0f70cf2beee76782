//! What the kernel tells of this machine's memory (`/proc/meminfo`).

use std::fs;

/// A line's value in bytes; `None` where the kernel does not tell it.
#[must_use]
pub fn bytes(name: &str) -> Option<u64> {
    of(&fs::read_to_string("/proc/meminfo").ok()?, name)
}

/// The same of that text.
#[must_use]
pub fn of(text: &str, name: &str) -> Option<u64> {
    let mut lines = text.lines().filter_map(|line| line.split_once(':'));
    let (_, value) = lines.find(|(field, _)| *field == name)?;
    value.trim().strip_suffix(" kB")?.parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_found_by_its_whole_name() {
        let text = "MemTotal:       1024 kB\nSwapCached:      8 kB\nCached:  2 kB\nHugePages:  0\n";
        assert_eq!(of(text, "Cached"), Some(2048));
        assert_eq!(of(text, "HugePages"), None);
        assert_eq!(of(text, "MemFree"), None);
        assert!(bytes("MemTotal").is_some_and(|bytes| bytes > 1 << 20));
    }
}
