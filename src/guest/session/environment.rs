//! The environment a session starts with (behaviour reference 4.4).
//!
//! Later wins: what every session has, the host's variables, the distro's
//! `/etc/environment` and locale, and last what says who and where the user is. A distro
//! that names no language gets `C.UTF-8`, the one that needs no installed locale.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::Surroundings;
use super::login::Login;
use super::users::{self, Account};
use crate::guest::read_file;
use crate::protocol::session::User;

/// The search path of a session, unless the distro says otherwise.
const PATH: &[u8] = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/usr/games:\
                      /usr/local/games";

/// The names and values of a session's environment.
pub type Environment = BTreeMap<Vec<u8>, Vec<u8>>;

/// Builds a session's environment.
#[must_use]
pub fn build(
    account: &Account,
    surroundings: &Surroundings,
    from_host: Vec<(Vec<u8>, Vec<u8>)>,
) -> Environment {
    let files = [Path::new("/etc/default/locale"), Path::new("/etc/locale.conf")];
    let locale = files.into_iter().find_map(|path| read_file(path).ok()).unwrap_or_default();
    let distro_wide = read_file(Path::new("/etc/environment")).unwrap_or_default();
    let Surroundings { distro, hostname, .. } = surroundings;
    merge(account, distro, hostname, from_host, &distro_wide, &locale)
}

fn merge(
    account: &Account,
    distro: &str,
    hostname: &str,
    from_host: Vec<(Vec<u8>, Vec<u8>)>,
    distro_wide: &[u8],
    locale: &[u8],
) -> Environment {
    let mut environment = Environment::new();
    let mut set = |name: &[u8], value: &[u8]| {
        if is_name(name) && !value.contains(&0) {
            environment.insert(name.to_vec(), value.to_vec());
        }
    };
    set(b"HOSTTYPE", std::env::consts::ARCH.as_bytes());
    set(b"LANG", b"C.UTF-8");
    set(b"PATH", PATH);
    set(b"TERM", b"xterm-256color");
    for (name, value) in &from_host {
        set(name, value);
    }
    for (name, value) in assignments(distro_wide) {
        set(name, value);
    }
    // B149: only this one of the locale file.
    if let Some((name, value)) = assignments(locale).find(|(name, _)| *name == b"LANG") {
        set(name, value);
    }
    set(b"HOME", &account.home);
    set(b"LOGNAME", &account.name);
    set(b"NAME", hostname.as_bytes());
    set(b"SHELL", &account.shell);
    set(b"USER", &account.name);
    set(b"WSL_DISTRO_NAME", distro.as_bytes());
    environment
}

/// Adds what says where a login session is (B165).
pub fn add_login(environment: &mut Environment, login: &Login) {
    let runtime = login.runtime.as_os_str().as_bytes();
    let bus = login.runtime.join("bus");
    let mut set = |name: &[u8], value: &[u8]| environment.insert(name.to_vec(), value.to_vec());
    if fs::symlink_metadata(&bus).is_ok() {
        let address = [b"unix:path=", bus.as_os_str().as_bytes()].concat();
        set(b"DBUS_SESSION_BUS_ADDRESS", &address);
    }
    set(b"XDG_RUNTIME_DIR", runtime);
    set(b"XDG_SESSION_CLASS", b"user");
    set(b"XDG_SESSION_ID", login.session.as_bytes());
    set(b"XDG_SESSION_TYPE", b"tty");
}

/// The environment of what a distro's init starts for itself, as root.
#[must_use]
pub fn of_root(surroundings: &Surroundings) -> Vec<CString> {
    let root =
        users::find(&User::Number(0), None).ok().flatten().unwrap_or_else(|| Account::unnamed(0));
    to_strings(&build(&root, surroundings, Vec::new()))
}

/// The environment as `execve` takes it.
#[must_use]
pub fn to_strings(environment: &Environment) -> Vec<CString> {
    environment
        .iter()
        .filter_map(|(name, value)| CString::new([name, b"=".as_slice(), value].concat()).ok())
        .collect()
}

fn is_name(name: &[u8]) -> bool {
    !name.is_empty() && !name.iter().any(|byte| matches!(byte, b'=' | 0))
}

/// The assignments of an `environment` or locale file: `NAME=value` lines, `export` before
/// and quotes around the value allowed (pam_env(8)).
fn assignments(file: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    file.split(|byte| *byte == b'\n').filter_map(|line| {
        let line = line.trim_ascii();
        let line = line.strip_prefix(b"export ").unwrap_or(line).trim_ascii_start();
        if line.starts_with(b"#") {
            return None;
        }
        let equals = line.iter().position(|byte| *byte == b'=')?;
        let (name, value) = line.split_at(equals);
        let value = value.get(1..)?.trim_ascii();
        let unquoted = [b'"', b'\'']
            .into_iter()
            .find_map(|quote| value.strip_prefix(&[quote])?.strip_suffix(&[quote]));
        Some((name.trim_ascii_end(), unquoted.unwrap_or(value)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account() -> Account {
        Account {
            name: b"alice".to_vec(),
            uid: 1000,
            gid: 1000,
            groups: vec![1000],
            home: b"/home/alice".to_vec(),
            shell: b"/bin/zsh".to_vec(),
        }
    }

    fn merged(from_host: &[(&str, &str)], distro_wide: &str, locale: &str) -> Vec<String> {
        let from_host =
            from_host.iter().map(|(name, value)| (name.as_bytes().into(), value.as_bytes().into()));
        let environment = merge(
            &account(),
            "Debian",
            "box",
            from_host.collect(),
            distro_wide.as_bytes(),
            locale.as_bytes(),
        );
        to_strings(&environment).into_iter().map(|text| text.into_string().unwrap()).collect()
    }

    #[test]
    fn a_session_has_the_variables_of_wsl() {
        let all = merged(&[], "", "");
        for wanted in [
            "HOME=/home/alice",
            "USER=alice",
            "LOGNAME=alice",
            "SHELL=/bin/zsh",
            "NAME=box",
            "WSL_DISTRO_NAME=Debian",
            "TERM=xterm-256color",
            "HOSTTYPE=x86_64",
        ] {
            assert!(all.iter().any(|line| line == wanted), "{wanted} in {all:?}");
        }
    }

    #[test]
    fn the_distro_wins_over_the_host_and_identity_over_both() {
        let all = merged(
            &[("TERM", "vt100"), ("PATH", "/host"), ("HOME", "/host"), ("a=b", "x"), ("", "y")],
            "# note\nPATH=\"/opt/bin:/bin\"\nexport EDITOR=vi\nHOME=/wrong\nbroken\n",
            "",
        );
        for wanted in ["TERM=vt100", "PATH=/opt/bin:/bin", "EDITOR=vi", "HOME=/home/alice"] {
            assert!(all.iter().any(|line| line == wanted), "{wanted} in {all:?}");
        }
        assert!(!all.iter().any(|line| line.contains('x') && line.starts_with("a=")));
    }

    #[test]
    fn b149_the_language_is_that_of_the_locale_file_without_quotes() {
        let all = merged(&[], "", "LC_ALL=x\nLANG='de_DE.UTF-8'\n");
        assert!(all.contains(&"LANG=de_DE.UTF-8".to_owned()));
        assert!(!all.iter().any(|line| line.starts_with("LC_ALL")));
    }
}
