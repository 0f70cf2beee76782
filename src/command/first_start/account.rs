//! The account of the user who opens a distro first: a name, a password, and the right to
//! become root. Asked on the terminal.

use std::env;
use std::io::{self, BufRead, Write};

use super::{as_root, captured, failed};
use crate::command::output;
use crate::config::paths::Paths;
use crate::error::Failure;
use crate::namespaces::user::{self, Mapping};
use crate::registry::Distro;

/// The longest name that `useradd` takes.
const MAXIMUM_NAME: usize = 32;

/// Makes the account with the groups that a person's first one has, and prints its number.
/// An account of a person that is there already was made by an attempt before.
const SCRIPT: &str = r#"uid=$(id -u -- "$1" 2>/dev/null) || uid=
if [ "${uid:-0}" -lt 1000 ]; then
    shell=/bin/bash
    [ -x "$shell" ] || shell=/bin/sh
    useradd --create-home --shell "$shell" -- "$1" >&2 || exit
fi
for group in adm cdrom sudo dip plugdev; do
    if grep -q "^$group:" /etc/group; then usermod --append --groups "$group" -- "$1" >&2; fi
done
exec id -u -- "$1""#;

/// Makes the account; gives its user id, or nothing where the user gave up. A distro that can
/// have no user but its root keeps that one.
pub(super) fn make(paths: &Paths, distro: &Distro) -> Result<Option<u32>, Failure> {
    if distro.version == 1 && matches!(Mapping::of_this_user(), Mapping::Single { .. }) {
        return Ok(Some(0));
    }
    output::print(
        "Please make a user account for this distribution. Its name need not be your name on \
         this host.\n",
    )?;
    let offered = offered();
    loop {
        let question = match &offered {
            Some(name) => format!("User name [{name}]: "),
            None => "User name: ".to_owned(),
        };
        let Some(answer) = ask(&question)? else { return Ok(None) };
        let name = match (answer.as_str(), &offered) {
            ("", Some(name)) => name,
            (answer, _) => answer,
        };
        if !is_name(name) {
            output::print(
                "A user name begins with a lower-case letter or '_' and goes on with these, \
                 digits and '-'; it has no more than 32 characters.\n",
            )?;
            continue;
        }
        let made = captured(paths, distro.id, &["/bin/sh", "-c", SCRIPT, "sh", name])?;
        let uid = String::from_utf8_lossy(&made.output).trim_end().parse::<u32>().ok();
        let Some(uid) = uid.filter(|_| made.status == 0) else { continue };
        return Ok(set_password(distro, name)?.then_some(uid));
    }
}

/// Has the user choose a password; false where there is none in the end.
fn set_password(distro: &Distro, name: &str) -> Result<bool, Failure> {
    loop {
        if as_root(distro.id, &["--exec", "passwd", "--", name])?.success() {
            return Ok(true);
        }
        match ask("No password is set. Try again? [Y/n] ")? {
            Some(answer) if !answer.starts_with(['n', 'N']) => {}
            _ => return Ok(false),
        }
    }
}

/// Asks for a line; nothing at the end of the input.
fn ask(question: &str) -> Result<Option<String>, Failure> {
    output::print(question)?;
    let mut line = String::new();
    match io::stdin().lock().read_line(&mut line) {
        Ok(0) => {
            let _ = writeln!(io::stderr());
            Ok(None)
        }
        Ok(_) => Ok(Some(line.trim().to_owned())),
        // Bytes that are no text are no name.
        Err(error) if error.kind() == io::ErrorKind::InvalidData => Ok(Some("?".to_owned())),
        Err(error) => Err(failed("read the terminal")(error)),
    }
}

/// The name of who runs this, of whom `sudo` was called by where that is root.
fn offered() -> Option<String> {
    let own = user::login_name(nix::unistd::Uid::current().as_raw());
    let own = own.and_then(|name| String::from_utf8(name).ok());
    own.filter(|name| name != "root")
        .or_else(|| env::var("SUDO_USER").ok())
        .filter(|name| is_name(name) && name != "root")
}

/// Whether `useradd` of any distribution takes it.
fn is_name(name: &str) -> bool {
    let mut characters = name.chars();
    let is_start = |one: char| one.is_ascii_lowercase() || one == '_';
    name.len() <= MAXIMUM_NAME
        && characters.next().is_some_and(is_start)
        && characters.all(|one| is_start(one) || one.is_ascii_digit() || one == '-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_useradd() {
        for name in ["a", "_x", "alice-2", &"x".repeat(32)] {
            assert!(is_name(name), "{name}");
        }
        for name in ["", "-a", "2a", "Alice", "a b", "a:b", "é", "a$", &"x".repeat(33)] {
            assert!(!is_name(name), "{name}");
        }
    }
}
