//! The files a distro is given at each start: host name, hosts, resolver, time zone; and
//! its own `wsl.conf`, which tells which of them it wants.
//!
//! Each is written beside and renamed, so that whatever the distro has put at its place
//! (a link, a FIFO) is replaced and never opened.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};

use crate::config::time_zone;
use crate::config::wslconf::{self, WslConf};
use crate::guest::read_file;
use crate::image::observer;

/// The os-release file that `/etc/os-release` is usually a link to.
const USR_RELEASE: &str = "/usr/lib/os-release";

/// How much of an os-release file is read, in bytes.
const MAXIMUM_RELEASE: usize = 64 << 10;

/// Where the tz database is.
const ZONES: &str = "/usr/share/zoneinfo";

/// Reads the distro's `wsl.conf`, from inside its root. A missing one says nothing.
#[must_use]
pub fn read_conf() -> WslConf {
    match read_file(Path::new(wslconf::PATH)) {
        Ok(bytes) => WslConf::parse(&String::from_utf8_lossy(&bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => WslConf::default(),
        Err(error) => {
            let mut conf = WslConf::default();
            conf.warnings.push(format!("Failed to open config file {}, {error}", wslconf::PATH));
            conf
        }
    }
}

/// What the distro says that it is, from inside its root.
#[must_use]
pub fn release() -> (String, String) {
    let read = |path: &str| {
        let bytes = read_file(Path::new(path)).unwrap_or_default();
        String::from_utf8_lossy(bytes.get(..MAXIMUM_RELEASE).unwrap_or(&bytes)).into_owned()
    };
    observer::os_release(&read("/etc/os-release"), &read(USR_RELEASE))
}

/// Where the directory that all distros share is in a distro (B146).
#[must_use]
pub fn shared(conf: &WslConf) -> PathBuf {
    conf.automount.root.join("wsl")
}

/// Writes all that the distro does not keep for itself (B142, B143); a failure is a
/// warning.
#[must_use]
pub fn write_all(conf: &WslConf, hostname: &str, time_zone: Option<&str>) -> Vec<String> {
    let mut results = vec![("/etc/hostname", write("/etc/hostname", &format!("{hostname}\n")))];
    if conf.network.generate_hosts {
        results.push(("/etc/hosts", write("/etc/hosts", &hosts(hostname))));
    }
    let resolver = shared(conf).join("resolv.conf");
    results.push((
        "/etc/resolv.conf",
        if conf.network.generate_resolv_conf {
            link_resolver(&resolver)
        } else {
            unlink_resolver(&resolver)
        },
    ));
    if let Some(zone) = time_zone {
        results.push((time_zone::FILE, follow_time_zone(conf, zone)));
    }
    let warning = |(path, result): (&str, io::Result<()>)| {
        result.err().map(|error| format!("cannot write '{path}': {error}"))
    };
    results.into_iter().filter_map(warning).collect()
}

/// `/etc/hosts` (B142).
fn hosts(hostname: &str) -> String {
    let short = hostname.split('.').next().unwrap_or(hostname);
    let own = if short == hostname { hostname.to_owned() } else { format!("{hostname}\t{short}") };
    format!(
        "# This file is written by wslr at each start of the distribution. To keep your own,\n\
         # put this into /etc/wsl.conf:\n\
         # [network]\n\
         # generateHosts = false\n\
         127.0.0.1\tlocalhost\n\
         127.0.1.1\t{own}\n\
         \n\
         ::1\tip6-localhost ip6-loopback\n\
         fe00::0\tip6-localnet\n\
         ff00::0\tip6-mcastprefix\n\
         ff02::1\tip6-allnodes\n\
         ff02::2\tip6-allrouters\n"
    )
}

/// Tells Debian's package manager not to drop its privileges, which it cannot where there
/// is one user only; a failure is a warning.
pub fn write_for_one_user() -> Option<String> {
    let path = "/etc/apt/apt.conf.d/00wslr";
    if !Path::new("/etc/apt/apt.conf.d").is_dir() {
        return None;
    }
    let content = "// This file is written by wslr: the distribution has one user only.\n\
                   APT::Sandbox::User \"root\";\n";
    write(path, content).err().map(|error| format!("cannot write '{path}': {error}"))
}

/// Replaces a file by one with this content, `0644`.
fn write(path: &str, content: &str) -> io::Result<()> {
    replace(path, |beside| {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o644).open(beside)?;
        file.write_all(content.as_bytes())
    })
}

/// Replaces a file by what is made beside it.
fn replace(path: &str, make: impl FnOnce(&str) -> io::Result<()>) -> io::Result<()> {
    let beside = format!("{path}.wslr");
    let _ = fs::remove_file(&beside);
    make(&beside).and_then(|()| fs::rename(&beside, path)).inspect_err(|_| {
        let _ = fs::remove_file(&beside);
    })
}

/// Points a missing or dangling `/etc/resolv.conf` to the shared one.
fn link_resolver(shared: &Path) -> io::Result<()> {
    let path = Path::new("/etc/resolv.conf");
    if fs::metadata(path).is_ok() {
        return Ok(());
    }
    remove(path)?;
    symlink(shared, path)
}

/// Takes the link to the shared resolver away, and no other.
fn unlink_resolver(shared: &Path) -> io::Result<()> {
    let path = Path::new("/etc/resolv.conf");
    if fs::read_link(path).is_ok_and(|target| target == shared) { remove(path) } else { Ok(()) }
}

/// Removes a file that may be missing.
fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Makes the host's zone the distro's, where that is wanted and its database has it (B232).
///
/// # Errors
/// The system's.
pub fn follow_time_zone(conf: &WslConf, zone: &str) -> io::Result<()> {
    if !conf.follows_time_zone || !time_zone::is_name(zone) {
        return Ok(());
    }
    let file = Path::new(ZONES).join(zone);
    if !file.is_file() {
        return Ok(());
    }
    if fs::read_link(time_zone::FILE).is_ok_and(|target| target == file) {
        return Ok(());
    }
    replace(time_zone::FILE, |beside| symlink(&file, beside))?;
    // Debian's older name for the same; most systems have none.
    if fs::symlink_metadata("/etc/timezone").is_ok() {
        write("/etc/timezone", &format!("{zone}\n"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn b142_hosts_names_the_machine_by_both_its_names() {
        let text = hosts("host.domain");
        assert!(text.contains("\n# [network]\n# generateHosts = false\n127.0.0.1\tlocalhost\n"));
        assert!(text.contains("\n127.0.1.1\thost.domain\thost\n"));
        assert!(hosts("host").contains("\n127.0.1.1\thost\n"));
    }
}
