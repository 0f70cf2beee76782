//! The distro's users, read from its `/etc/passwd` and `/etc/group`.
//!
//! Read here and not by the C library: the executable is static, and the library's name
//! services are the machine's, not the distro's. Lines that are not of the form of
//! passwd(5) or group(5) are passed over, as the library does.

use std::io;
use std::path::Path;

use crate::guest::read_file;
use crate::protocol::session::User;

/// A user, ready to become.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Account {
    /// The login name; the number where there is none.
    pub name: Vec<u8>,
    /// The user's id.
    pub uid: u32,
    /// The primary group's id.
    pub gid: u32,
    /// All groups, the primary one first.
    pub groups: Vec<u32>,
    /// The home directory.
    pub home: Vec<u8>,
    /// The login shell.
    pub shell: Vec<u8>,
}

impl Account {
    /// A user that `/etc/passwd` does not know. Root's gid is 0 even without that file.
    #[must_use]
    pub fn unnamed(uid: u32) -> Self {
        Self {
            name: uid.to_string().into_bytes(),
            uid,
            gid: uid,
            groups: vec![uid],
            home: b"/".to_vec(),
            shell: b"/bin/sh".to_vec(),
        }
    }
}

/// Looks a user up; `None` where a name is unknown. A number needs no entry. `default` is
/// the name that `wsl.conf` gives the default user; an unknown one counts for nothing
/// (B150).
///
/// # Errors
/// Where `/etc/passwd` exists and cannot be read.
pub fn find(user: &User, default: Option<&str>) -> io::Result<Option<Account>> {
    let passwd = read_or_empty(Path::new("/etc/passwd"))?;
    let group = read_or_empty(Path::new("/etc/group")).unwrap_or_default();
    let named = match (user, default) {
        (User::Default(_), Some(name)) => account(&User::Name(name.to_owned()), &passwd, &group),
        _ => None,
    };
    Ok(named.or_else(|| account(user, &passwd, &group)))
}

fn read_or_empty(path: &Path) -> io::Result<Vec<u8>> {
    match read_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        result => result,
    }
}

/// The account of a user in the given files.
fn account(user: &User, passwd: &[u8], group: &[u8]) -> Option<Account> {
    let is_wanted = |account: &Account| match user {
        User::Name(name) => account.name == name.as_bytes(),
        User::Default(uid) | User::Number(uid) => account.uid == *uid,
    };
    let found = passwd.split(|byte| *byte == b'\n').filter_map(parse_passwd).find(is_wanted);
    let mut account = match (found, user) {
        (Some(account), _) => account,
        (None, User::Default(uid) | User::Number(uid)) => Account::unnamed(*uid),
        (None, User::Name(_)) => return None,
    };
    account.groups = vec![account.gid];
    for (gid, members) in group.split(|byte| *byte == b'\n').filter_map(parse_group) {
        let is_member = members.split(|byte| *byte == b',').any(|name| name == account.name);
        if is_member && !account.groups.contains(&gid) {
            account.groups.push(gid);
        }
    }
    Some(account)
}

fn parse_passwd(line: &[u8]) -> Option<Account> {
    let fields: Vec<&[u8]> = line.split(|byte| *byte == b':').collect();
    let [name, _, uid, gid, _, home, shell] = fields.as_slice() else { return None };
    if name.is_empty() || name.starts_with(b"#") || line.contains(&0) {
        return None;
    }
    let or = |value: &[u8], default: &[u8]| {
        if value.is_empty() { default.to_vec() } else { value.to_vec() }
    };
    Some(Account {
        name: name.to_vec(),
        uid: number(uid)?,
        gid: number(gid)?,
        groups: Vec::new(),
        home: or(home, b"/"),
        shell: or(shell, b"/bin/sh"),
    })
}

fn parse_group(line: &[u8]) -> Option<(u32, &[u8])> {
    let mut fields = line.split(|byte| *byte == b':');
    let gid = number(fields.nth(2)?)?;
    Some((gid, fields.next()?))
}

/// A user or group id; the highest number means "unchanged" to the kernel and is none.
fn number(digits: &[u8]) -> Option<u32> {
    let number = std::str::from_utf8(digits).ok()?.parse().ok()?;
    (number != u32::MAX).then_some(number)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PASSWD: &[u8] = b"root:x:0:0:root:/root:/bin/bash\n# note\nbroken:x:1\n\
        alice:x:1000:1000:Alice,,,:/home/alice:/bin/zsh\nbare:x:7:8:::\n";

    #[test]
    fn a_user_has_the_home_shell_and_ids_of_the_file() {
        let alice = account(&User::Name("alice".into()), PASSWD, b"").unwrap();
        assert_eq!((alice.uid, alice.gid, alice.groups), (1000, 1000, vec![1000]));
        assert_eq!((alice.home, alice.shell), (b"/home/alice".to_vec(), b"/bin/zsh".to_vec()));
        let bare = account(&User::Number(7), PASSWD, b"").unwrap();
        assert_eq!((bare.name, bare.home), (b"bare".to_vec(), b"/".to_vec()));
        assert_eq!(bare.shell, b"/bin/sh");
    }

    #[test]
    fn b011_an_unknown_name_is_no_user_but_an_unknown_number_is() {
        assert_eq!(account(&User::Name("nobody-here".into()), PASSWD, b""), None);
        assert_eq!(account(&User::Name(String::new()), b"::0:0::/:/bin/sh", b""), None);
        assert_eq!(account(&User::Number(0), b"", b"").unwrap().gid, 0);
    }

    #[test]
    fn b012_more_than_32_groups_are_all_there() {
        let group: String =
            (0..100).map(|index| format!("g{index}:x:{}:bob,alice\n", 2000 + index)).collect();
        let alice = account(&User::Name("alice".into()), PASSWD, group.as_bytes()).unwrap();
        assert_eq!(alice.groups.len(), 101);
        let root = account(&User::Number(0), PASSWD, group.as_bytes()).unwrap();
        assert_eq!(root.groups, [0]);
    }

    proptest! {
        #[test]
        fn no_file_makes_it_panic(passwd: Vec<u8>, group: Vec<u8>) {
            let _ = account(&User::Number(0), &passwd, &group);
        }
    }
}
