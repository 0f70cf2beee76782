//! `wslinfo`, which programs in a distro ask about it (B173, B212).
//!
//! It is a link in the distro to the executable that its machine's init is. What the machine
//! alone knows stands in a file that each start of the distro writes.

use std::ffi::OsString;
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::symlink;
use std::path::Path;

use super::connectivity;

/// The program's name.
const NAME: &str = "wslinfo";
/// Where it is in a distro, as with `wsl`.
const LINK: &str = "/bin/wslinfo";
/// The directory of what is told, and the file with the mode of the network.
const DIRECTORY: &str = "/run/wslr";
const MODE: &str = "/run/wslr/networking-mode";
/// Whom the distro asks for names.
const RESOLVER: &str = "/etc/resolv.conf";

const USAGE: &str = "\
Usage: wslinfo --networking-mode | --version [-n]
       wslinfo --check-connectivity [NAME[:PORT]]

  --networking-mode  Print how the distribution is connected: none, nat, mirrored,
                     consomme or wsl1.
  --check-connectivity [NAME[:PORT]]
                     Connect to a place of the Internet. The exit status is 2 where
                     its name cannot be resolved, 3 where it cannot be connected to.
  --version          Print the version of wslr; also --wsl-version.
  -n                 Print no newline at the end.
  --help             Show this text.
";

/// Makes the program, which is at `init`, known in this distro; a failure is a warning.
#[must_use]
pub fn install(init: &Path, mode: &str) -> Option<String> {
    let link = || match symlink(init, LINK) {
        // The distro's own, or that of an earlier start.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        result => result,
    };
    let result =
        fs::create_dir_all(DIRECTORY).and_then(|()| fs::write(MODE, mode)).and_then(|()| link());
    result.err().map(|error| format!("cannot make '{LINK}': {error}"))
}

/// Answers and ends, where this process has been called by that name.
pub fn run_if_called() {
    let mut words = std::env::args_os();
    let name = words.next().unwrap_or_default();
    if Path::new(&name).file_name().is_some_and(|name| name == NAME) {
        let words: Vec<OsString> = words.collect();
        if words.first().is_some_and(|word| word == "--check-connectivity") {
            std::process::exit(check_connectivity(&words));
        }
        let mode = || fs::read_to_string(MODE);
        match answer(&words, mode) {
            Ok(text) => {
                let written = io::stdout().write_all(text.as_bytes());
                std::process::exit(i32::from(written.is_err()));
            }
            Err(text) => {
                let _ = io::stderr().write_all(text.as_bytes());
                std::process::exit(1);
            }
        }
    }
}

/// Says whether the world is reached (B220).
fn check_connectivity(words: &[OsString]) -> i32 {
    let target = match words {
        [_] => None,
        [_, target] => target.to_str(),
        _ => {
            let _ = io::stderr().write_all(USAGE.as_bytes());
            return 1;
        }
    };
    match connectivity::check(target, Path::new(RESOLVER)) {
        Ok((target, address)) => {
            i32::from(writeln!(io::stdout(), "'{target}' ({address}) is connected to").is_err())
        }
        Err(error) => {
            let _ = writeln!(io::stderr(), "wslinfo: {error}");
            error.status()
        }
    }
}

/// What is printed, or why nothing is.
fn answer(words: &[OsString], mode: impl Fn() -> io::Result<String>) -> Result<String, String> {
    let mut newline = "\n";
    let mut text = None;
    for word in words {
        match word.to_str() {
            Some("-n") => newline = "",
            Some("--help") => return Ok(USAGE.to_owned()),
            Some("--networking-mode") => {
                let mode = mode().map_err(|error| format!("wslinfo: '{MODE}': {error}\n"))?;
                text = Some(mode);
            }
            Some("--version" | "--wsl-version") => {
                text = Some(env!("CARGO_PKG_VERSION").to_owned())
            }
            _ => {
                let word = word.to_string_lossy();
                return Err(format!(
                    "wslinfo: unknown option: {word}\nTry 'wslinfo --help' for its options.\n"
                ));
            }
        }
    }
    text.map(|text| text + newline).ok_or_else(|| USAGE.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn b173_b212_the_mode_and_the_version_are_told() {
        let ask = |words: &[&str]| {
            let words: Vec<OsString> = words.iter().map(OsString::from).collect();
            answer(&words, || Ok("none".to_owned()))
        };
        assert_eq!(ask(&["--networking-mode"]), Ok("none\n".to_owned()));
        assert_eq!(ask(&["--networking-mode", "-n"]), Ok("none".to_owned()));
        assert_eq!(ask(&["-n", "--version"]), Ok(env!("CARGO_PKG_VERSION").to_owned()));
        assert_eq!(ask(&["--wsl-version"]), ask(&["--version"]));
        assert!(ask(&["--help"]).unwrap().starts_with("Usage: wslinfo "));
        assert!(ask(&["--invalid"]).unwrap_err().contains("'wslinfo --help'"));
        assert!(ask(&[]).is_err());
    }
}
