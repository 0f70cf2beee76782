//! A distro's own `/etc/wsl.conf` (behaviour reference 2.3).
//!
//! Read at each start of the distro (B139), by the distro's init and from inside its root.
//! Up to the first line that cannot be read everything counts, nothing after it does; what
//! is wrong becomes warnings with their places (B138). Keys that `wsl` knows and this
//! program does not use are checked all the same, so that one file serves both.

use std::path::PathBuf;
use std::time::Duration;

use super::hostname;
use super::keys::Table;
use super::syntax::AfterBadLine;
use super::value::Kind::{self, Bool, Enum, Integer, Text};

/// Where the file is in a distro.
pub const PATH: &str = "/etc/wsl.conf";

/// The time `systemd` has to come up, and to go down.
const INIT_TIMEOUT: Duration = Duration::from_secs(10);

/// What new files may not be, unless the file says otherwise.
const UMASK: u32 = 0o022;

const TABLE: Table = Table { keys: KEYS, aliases: ALIASES, after_bad_line: AfterBadLine::Stop };

/// On this host the time zone to follow is not that of Windows; both names are taken.
const ALIASES: &[(&str, &str)] = &[("time.useHostTimezone", "time.useWindowsTimezone")];

const KEYS: &[(&str, &str, Kind)] = &[
    ("automount", "cgroups", Enum(&["v1", "v2"])),
    ("automount", "enabled", Bool),
    ("automount", "ldconfig", Bool),
    ("automount", "mountFsTab", Bool),
    ("automount", "options", Text),
    ("automount", "root", Text),
    ("boot", "command", Text),
    ("boot", "initTimeout", Integer),
    ("boot", "protectBinfmt", Bool),
    ("boot", "systemd", Bool),
    ("fileServer", "enabled", Bool),
    ("fileServer", "logFile", Text),
    ("fileServer", "logLevel", Integer),
    ("fileServer", "logTruncate", Bool),
    ("filesystem", "umask", Text),
    ("general", "guiApplications", Bool),
    ("gpu", "appendLibPath", Bool),
    ("gpu", "enabled", Bool),
    ("interop", "appendWindowsPath", Bool),
    ("interop", "enabled", Bool),
    ("network", "generateHosts", Bool),
    ("network", "generateResolvConf", Bool),
    ("network", "hostname", Text),
    ("time", "useHostTimezone", Bool),
    ("time", "useWindowsTimezone", Bool),
    ("user", "default", Text),
];

/// The settings, with `wsl`'s defaults where the file says nothing.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct WslConf {
    /// What is mounted from outside.
    pub automount: Automount,
    /// What is started.
    pub boot: Boot,
    /// What the distro has to do with the host's programs.
    pub interop: Interop,
    /// Its name and its resolver.
    pub network: Network,
    /// The mask of new files' permissions, of the init and of sessions.
    pub umask: u32,
    /// `/etc/localtime` follows the host.
    pub follows_time_zone: bool,
    /// The name of the user a session runs as where none is asked for (B150).
    pub default_user: Option<String>,
    /// What is wrong with the file, one line each, without `wslr: warning: `.
    pub warnings: Vec<String>,
}

/// `[automount]`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Automount {
    /// Mount the host's folders.
    pub enabled: bool,
    /// Where mounts from outside are, an absolute path.
    pub root: PathBuf,
    /// Options of those mounts.
    pub options: String,
    /// Mount what `/etc/fstab` lists.
    pub mount_fstab: bool,
    /// Tell the dynamic linker of the libraries from outside.
    pub ldconfig: bool,
}

/// `[boot]`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Boot {
    /// A line for `/bin/sh`, run as root at each start and not waited for.
    pub command: Option<String>,
    /// The distro's `/sbin/init` is its first process.
    pub systemd: bool,
    /// How long that may take to come up, and to go down; zero is not waited for.
    pub init_timeout: Duration,
    /// It cannot turn the machine's binary formats off (B168).
    pub protect_binfmt: bool,
}

/// `[interop]`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Interop {
    /// The host's programs can be run.
    pub enabled: bool,
    /// They are in `PATH`.
    pub append_path: bool,
}

/// `[network]`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Network {
    /// Write `/etc/hosts` (B142).
    pub generate_hosts: bool,
    /// Point `/etc/resolv.conf` to the shared one (B143).
    pub generate_resolv_conf: bool,
    /// The distro's host name in place of the host's own, cleaned (B140).
    pub hostname: Option<String>,
}

impl Default for WslConf {
    fn default() -> Self {
        Self::parse("")
    }
}

impl WslConf {
    /// The settings in safe mode, whatever the file says: nothing of the distro is started
    /// and nothing of it changed (B125).
    #[must_use]
    pub fn safe() -> Self {
        let mut conf = Self::default();
        (conf.automount.enabled, conf.automount.mount_fstab) = (false, false);
        conf.automount.ldconfig = false;
        (conf.network.generate_hosts, conf.network.generate_resolv_conf) = (false, false);
        (conf.interop.enabled, conf.follows_time_zone) = (false, false);
        conf
    }

    /// Reads the text of the file.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let (mut values, mut warnings) = TABLE.read(text, PATH);
        // Octal with or without a zero before it.
        let umask = values.text("filesystem.umask").map(|text| u32::from_str_radix(&text, 8));
        let umask = match umask {
            Some(Ok(umask @ 0..=0o777)) => umask,
            Some(_) => {
                warnings.push(format!("filesystem.umask in {PATH} is no octal number up to 0777"));
                UMASK
            }
            None => UMASK,
        };
        let timeout = values.integer("boot.inittimeout").map(u64::try_from);
        let timeout = match timeout {
            Some(Ok(milliseconds)) => Duration::from_millis(milliseconds),
            Some(Err(_)) | None => INIT_TIMEOUT,
        };
        let root = values.text("automount.root").map(PathBuf::from);
        let root = root.filter(|root| {
            let is_usable = root.is_absolute();
            if !is_usable {
                warnings.push(format!("automount.root in {PATH} is no absolute path"));
            }
            is_usable
        });
        Self {
            automount: Automount {
                enabled: values.flag("automount.enabled", true),
                root: root.unwrap_or_else(|| "/mnt".into()),
                options: values.text("automount.options").unwrap_or_default(),
                mount_fstab: values.flag("automount.mountfstab", true),
                ldconfig: values.flag("automount.ldconfig", true),
            },
            boot: Boot {
                command: values.text("boot.command"),
                systemd: values.flag("boot.systemd", false),
                init_timeout: timeout,
                protect_binfmt: values.flag("boot.protectbinfmt", true),
            },
            interop: Interop {
                enabled: values.flag("interop.enabled", true),
                append_path: values.flag("interop.appendwindowspath", true),
            },
            network: Network {
                generate_hosts: values.flag("network.generatehosts", true),
                generate_resolv_conf: values.flag("network.generateresolvconf", true),
                hostname: values.text("network.hostname").map(|name| hostname::clean(&name)),
            },
            umask,
            follows_time_zone: values.flag("time.usewindowstimezone", true),
            default_user: values.text("user.default"),
            warnings,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_empty_file_gives_the_defaults() {
        let conf = WslConf::default();
        assert_eq!(conf.boot.init_timeout, Duration::from_secs(10));
        assert!(!conf.boot.systemd && conf.boot.protect_binfmt && conf.boot.command.is_none());
        assert!(conf.network.generate_hosts && conf.network.generate_resolv_conf);
        assert_eq!((conf.umask, conf.network.hostname), (0o022, None));
        assert_eq!(conf.automount.root, PathBuf::from("/mnt"));
        assert!(conf.follows_time_zone && conf.interop.enabled && conf.default_user.is_none());
        assert_eq!(conf.warnings, [""; 0]);
    }

    #[test]
    fn values_are_read_ignoring_the_case_of_their_keys() {
        let conf = WslConf::parse(
            "[Boot]\r\nSystemD=true\r\ncommand = \"touch /x\" # note\r\ninitTimeout=0\r\n\
             [network]\ngeneratehosts=False\nhostname=.My_Box.\n[user]\ndefault=alice\n\
             [filesystem]\numask=077\n[automount]\nroot=/x\nmountFsTab=0\noptions=\"a,b\"\n\
             [interop]\nappendWindowsPath=false\n[time]\nuseHostTimezone=false",
        );
        assert!(conf.boot.systemd && !conf.network.generate_hosts && !conf.follows_time_zone);
        assert_eq!(conf.boot.command.as_deref(), Some("touch /x"));
        assert_eq!((conf.boot.init_timeout, conf.umask), (Duration::ZERO, 0o077));
        assert_eq!(conf.network.hostname.as_deref(), Some("MyBox"));
        assert_eq!(conf.default_user.as_deref(), Some("alice"));
        assert_eq!((conf.automount.root, conf.automount.mount_fstab), ("/x".into(), false));
        assert_eq!((conf.automount.options.as_str(), conf.interop.append_path), ("a,b", false));
        assert_eq!(conf.warnings, [""; 0]);
    }

    #[test]
    fn b138_each_wrong_line_is_a_warning_with_its_place() {
        for (text, warning) in [
            ("[foo]\na=a\n", "Unknown key 'foo.a' in /etc/wsl.conf:2"),
            ("\n\n[boot]\ncommand=\\m\n", "Invalid escaped character: 'm' in /etc/wsl.conf:4"),
            ("[a-b]\n", "Invalid section name in /etc/wsl.conf:1"),
            ("[boot\n", "Expected ']' in /etc/wsl.conf:1"),
            ("[boot]\nsystemd\n", "Expected '=' in /etc/wsl.conf:2"),
            (
                "[boot]\nsystemd=yes\n",
                "Invalid boolean value 'yes' for key 'boot.systemd' in /etc/wsl.conf:2",
            ),
            (
                "[automount]\ncgroups=v3",
                "Invalid value 'v3' for config key 'automount.cgroups' in /etc/wsl.conf:2 \
                 (Valid values: v1, v2)",
            ),
            (
                "[filesystem]\numask=09",
                "filesystem.umask in /etc/wsl.conf is no octal number up to 0777",
            ),
            (
                "[time]\nuseHostTimezone=0\nuseWindowsTimezone=0\n",
                "Duplicated config key 'time.useWindowsTimezone' in /etc/wsl.conf:3 \
                 (Conflicting key: 'time.useHostTimezone' in /etc/wsl.conf:2)",
            ),
            (
                "[filesystem]\numask=1000",
                "filesystem.umask in /etc/wsl.conf is no octal number up to 0777",
            ),
            ("[automount]\nroot=x", "automount.root in /etc/wsl.conf is no absolute path"),
        ] {
            assert_eq!(WslConf::parse(text).warnings, [warning], "{text:?}");
        }
    }

    #[test]
    fn b138_nothing_counts_after_the_first_line_that_cannot_be_read() {
        let conf = WslConf::parse("[user]\ndefault=a\n[network\nhostname=b\n[boot]\nsystemd=1\n");
        assert_eq!(conf.default_user.as_deref(), Some("a"));
        assert_eq!((conf.network.hostname, conf.boot.systemd), (None, false));
        // A wrong value or an unknown key is a line that can be read.
        let conf = WslConf::parse("[boot]\nsystemd=no\nfoo=1\ninitTimeout=5\n");
        assert_eq!((conf.boot.init_timeout, conf.warnings.len()), (Duration::from_millis(5), 2));
    }

    proptest! {
        #[test]
        fn any_text_gives_settings(text in "(\\PC|[\\[\\]=#\"\\\\\r\n a]){0,200}") {
            let conf = WslConf::parse(&text);
            prop_assert!(conf.automount.root.is_absolute() && conf.umask <= 0o777);
        }
    }
}
