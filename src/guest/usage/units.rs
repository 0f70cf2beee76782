//! The units of systemd that are the user's own: transient ones, and those whose file an
//! administrator or a user has written, in place of a package.
//!
//! Which unit a process is of its cgroup tells; nobody has to be asked.

use std::collections::{BTreeSet, HashSet};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{Mode, SFlag, fstat};
use nix::unistd::Pid;

use super::processes::{Process, printable};

/// Where the system's own and transient units are.
const SYSTEM: [&str; 3] =
    ["run/systemd/transient", "etc/systemd/system", "usr/local/lib/systemd/system"];

/// A unit, and the user in whose manager it is.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
struct Unit {
    name: String,
    user: Option<u32>,
}

/// The units of the user's own that have processes.
pub fn of_the_user(init: Pid, processes: &[Process]) -> BTreeSet<String> {
    let units: HashSet<Unit> =
        processes.iter().filter_map(|process| unit(&process.group()?)).collect();
    if units.is_empty() {
        return BTreeSet::new();
    }
    let Ok(root) = File::open(format!("/proc/{init}/root")).map(OwnedFd::from) else {
        return BTreeSet::new();
    };
    let homes = homes(&root);
    units
        .into_iter()
        .filter(|unit| places(unit, &homes).iter().any(|path| is_file(&root, path)))
        .map(|unit| format!("the unit {}", printable(&unit.name)))
        .collect()
}

/// The unit of a cgroup. Sessions of users are no services, nor is what starts services.
fn unit(group: &str) -> Option<Unit> {
    let is_unit = |name: &&str| name.ends_with(".service") || name.ends_with(".scope");
    let name = group.split('/').rfind(is_unit)?;
    let is_base = name == "init.scope"
        || (name.starts_with("session-") && name.ends_with(".scope"))
        || name.starts_with("user@");
    if is_base {
        return None;
    }
    let user = group
        .split('/')
        .find_map(|segment| segment.strip_prefix("user@")?.strip_suffix(".service")?.parse().ok());
    Some(Unit { name: name.to_owned(), user })
}

/// Where the file of such a unit is, below the root.
fn places(unit: &Unit, homes: &[(u32, PathBuf)]) -> Vec<PathBuf> {
    let directories = match unit.user {
        None => SYSTEM.map(PathBuf::from).to_vec(),
        Some(user) => {
            let home = homes.iter().filter(|(uid, _)| *uid == user);
            home.map(|(_, home)| home.join(".config/systemd/user"))
                .chain([
                    PathBuf::from(format!("run/user/{user}/systemd/transient")),
                    PathBuf::from("etc/systemd/user"),
                ])
                .collect()
        }
    };
    // `name@instance.service` may come from `name@.service`.
    let template = unit.name.split_once('@').and_then(|(name, rest)| {
        rest.rsplit_once('.').map(|(_, suffix)| format!("{name}@.{suffix}"))
    });
    let names = std::iter::once(unit.name.clone()).chain(template);
    names.flat_map(|name| directories.iter().map(move |directory| directory.join(&name))).collect()
}

/// The users' homes, of the distro's `/etc/passwd`, without their leading slash.
fn homes(root: &OwnedFd) -> Vec<(u32, PathBuf)> {
    use std::io::Read;
    let mut passwd = Vec::new();
    let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK;
    if let Some(file) = open(root, Path::new("etc/passwd"), flags).filter(is_regular) {
        let _ = File::from(file).take(1 << 20).read_to_end(&mut passwd);
    }
    String::from_utf8_lossy(&passwd)
        .lines()
        .filter_map(|line| {
            let fields: Vec<&str> = line.split(':').collect();
            let home = fields.get(5)?.trim_start_matches('/');
            Some((fields.get(2)?.parse().ok()?, PathBuf::from(home)))
        })
        .collect()
}

/// Whether there is a file, and no link: a link is to a package's, or to nothing.
fn is_file(root: &OwnedFd, path: &Path) -> bool {
    open(root, path, OFlag::O_PATH | OFlag::O_NOFOLLOW).is_some_and(|file| is_regular(&file))
}

fn is_regular(file: &OwnedFd) -> bool {
    fstat(file).is_ok_and(|status| {
        SFlag::from_bits_truncate(status.st_mode & SFlag::S_IFMT.bits()) == SFlag::S_IFREG
    })
}

/// Opens what is in the distro, whatever its links say.
fn open(root: &OwnedFd, path: &Path, flags: OFlag) -> Option<OwnedFd> {
    let how = OpenHow::new()
        .flags(flags | OFlag::O_CLOEXEC)
        .mode(Mode::empty())
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    openat2(root, path, how).ok()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn the_unit_of_a_cgroup_is_its_last() {
        let found = |group: &str| unit(group).map(|unit| (unit.name, unit.user));
        let own = |name: &str, user| Some((name.to_owned(), user));
        assert_eq!(found("/x/systemd/system.slice/a.service"), own("a.service", None));
        assert_eq!(found("/system.slice/a.service/payload"), own("a.service", None));
        let manager = "/user.slice/user-7.slice/user@7.service";
        assert_eq!(found(&format!("{manager}/app.slice/b.service")), own("b.service", Some(7)));
        assert_eq!(found(&format!("{manager}/init.scope")), None);
        for none in ["/", "/x", manager, "/user.slice/user-7.slice/session-c1.scope"] {
            assert_eq!(found(none), None, "{none}");
        }
    }

    #[test]
    fn a_unit_is_the_users_where_a_file_of_its_own_is_there() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        for name in ["etc/systemd/system", "run", "home/a/.config/systemd/user"] {
            fs::create_dir_all(path(name)).unwrap();
        }
        symlink("/etc", path("run/systemd")).unwrap();
        fs::write(path("etc/systemd/system/mine@.service"), "").unwrap();
        fs::write(path("home/a/.config/systemd/user/u.service"), "").unwrap();
        symlink("/lib/theirs.service", path("etc/systemd/system/theirs.service")).unwrap();
        fs::write(path("etc/passwd"), "a:x:7:7::/home/a:/bin/sh\nbroken\n").unwrap();
        let root = OwnedFd::from(File::open(directory.path()).unwrap());
        let homes = homes(&root);
        assert_eq!(homes, [(7, PathBuf::from("home/a"))]);
        let is_own = |name: &str, user| {
            let unit = Unit { name: name.to_owned(), user };
            places(&unit, &homes).iter().any(|path| is_file(&root, path))
        };
        assert!(is_own("mine@1.service", None) && is_own("u.service", Some(7)));
        assert!(!is_own("theirs.service", None) && !is_own("u.service", None));
        // A link of the distro is followed in the distro.
        fs::remove_dir_all(path("etc/systemd")).unwrap();
        symlink("/proc/self", path("etc/systemd")).unwrap();
        assert!(!is_file(&root, Path::new("etc/systemd/status")));
    }
}
