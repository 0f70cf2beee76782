//! A distro's own `/etc/wsl-distribution.conf`: how its first start goes (behaviour
//! reference 2.4). What `wsl` shows in its menus by it has no counterpart here.

use super::syntax::{self, AfterBadLine};
use super::value;

/// Where the file is in a distro.
pub const PATH: &str = "/etc/wsl-distribution.conf";

/// `[oobe]`.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct FirstStart {
    /// A line for `/bin/sh`, run as root on the terminal of the first start.
    pub command: Option<String>,
    /// The default user once the command has succeeded.
    pub default_uid: Option<u32>,
    /// The name it is installed under where nobody says another.
    pub default_name: Option<String>,
}

impl FirstStart {
    /// Reads the text of the file; nothing counts after the first line that cannot be
    /// read, and the first of two lines of a key wins.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let (entries, _) = syntax::parse(text, AfterBadLine::Stop);
        let find = |key: &str| {
            let is_wanted = |entry: &&syntax::Entry| {
                entry.section.eq_ignore_ascii_case("oobe") && entry.key.eq_ignore_ascii_case(key)
            };
            let found = entries.iter().find(is_wanted);
            found.map(|entry| entry.value.clone()).filter(|value| !value.is_empty())
        };
        let uid = find("defaultUid").and_then(|text| value::integer(&text));
        Self {
            command: find("command"),
            // The highest number means "none" to the kernel.
            default_uid: uid.and_then(|uid| u32::try_from(uid).ok()).filter(|uid| *uid != u32::MAX),
            default_name: find("defaultName"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_start_is_what_oobe_says() {
        let text = "[oobe]\ncommand = /usr/lib/wsl/oobe --all\nDefaultUid=0x3e8\n\
                    defaultName=Mine\ndefaultUid=5\n[shortcut]\nicon=/x\n";
        let wanted = FirstStart {
            command: Some("/usr/lib/wsl/oobe --all".into()),
            default_uid: Some(1000),
            default_name: Some("Mine".into()),
        };
        assert_eq!(FirstStart::parse(text), wanted);
    }

    #[test]
    fn what_cannot_be_is_absent() {
        for text in ["", "[oobe]\ncommand=\ndefaultUid=-1\n", "[oobe]\ndefaultUid=4294967295\n"] {
            assert_eq!(FirstStart::parse(text), FirstStart::default());
        }
        let text = "[oobe]\ndefaultUid=x\n[oobe\ncommand=a\n";
        assert_eq!(FirstStart::parse(text), FirstStart::default());
    }
}
