//! The user's `.wslconfig` (behaviour reference 2.2).
//!
//! Whatever is wrong with the file becomes a warning with its place, and the rest is
//! used. Keys that `wsl` knows and this program does not use yet are checked all the same,
//! so that one file serves both.

use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fs, io, thread};

use super::keys::Table;
use super::meminfo;
use super::networking::{Mode, Networking};
use super::paths::Paths;
use super::syntax::AfterBadLine;
use super::value::Kind::{self, Bool, Enum, Integer, Size, Text};

/// The smallest memory of a virtual machine, in bytes.
const MINIMUM_MEMORY: u64 = 256 << 20;

/// The size of a new distro's disk where nothing else is asked for, in bytes.
const DEFAULT_DISK: u64 = 1 << 40;

/// Modules that are loaded unless the file says otherwise (B129).
const DEFAULT_MODULES: [&str; 3] = ["tun", "ip_tables", "br_netfilter"];

/// How many memory images of crashed processes are kept where nothing else is asked for.
const DEFAULT_DUMPS: i64 = 10;

/// Files beyond this are not configuration.
const MAXIMUM_LENGTH: u64 = 1 << 20;

const NETWORKING_MODES: Kind =
    Enum(&["none", "nat", "bridged", "mirrored", "consomme", "VirtioProxy"]);

const TABLE: Table = Table { keys: KEYS, aliases: ALIASES, after_bad_line: AfterBadLine::Continue };

/// The keys that `wsl` has in two sections.
const ALIASES: &[(&str, &str)] = &[
    ("experimental.autoProxy", "wsl2.autoProxy"),
    ("experimental.dnsTunneling", "wsl2.dnsTunneling"),
    ("experimental.firewall", "wsl2.firewall"),
    ("experimental.networkingMode", "wsl2.networkingMode"),
];

const KEYS: &[(&str, &str, Kind)] = &[
    ("experimental", "autoMemoryReclaim", Enum(&["disabled", "gradual", "dropCache"])),
    ("experimental", "autoProxy", Bool),
    ("experimental", "bestEffortDnsParsing", Bool),
    ("experimental", "dnsTunneling", Bool),
    ("experimental", "dnsTunnelingIpAddress", Text),
    ("experimental", "firewall", Bool),
    ("experimental", "hostAddressLoopback", Bool),
    ("experimental", "ignoredPorts", Text),
    ("experimental", "initialAutoProxyTimeout", Integer),
    ("experimental", "networkingMode", NETWORKING_MODES),
    ("experimental", "setVersionDebug", Bool),
    ("experimental", "sparseVhd", Bool),
    ("experimental", "swiotlb", Size),
    ("experimental", "virtioFsAggregateShares", Bool),
    ("general", "distributionInstallPath", Text),
    ("general", "instanceIdleTimeout", Integer),
    ("wsl2", "autoProxy", Bool),
    ("wsl2", "crashDumpFolder", Text),
    ("wsl2", "debugConsole", Bool),
    ("wsl2", "debugConsoleLogFile", Text),
    ("wsl2", "defaultVhdSize", Size),
    ("wsl2", "dhcp", Bool),
    ("wsl2", "dhcpTimeout", Integer),
    ("wsl2", "distributionStartTimeout", Integer),
    ("wsl2", "dnsProxy", Bool),
    ("wsl2", "dnsTunneling", Bool),
    ("wsl2", "earlyBootLogging", Bool),
    ("wsl2", "firewall", Bool),
    ("wsl2", "gpuSupport", Bool),
    ("wsl2", "guiApplications", Bool),
    ("wsl2", "hardwarePerformanceCounters", Bool),
    ("wsl2", "hostFileSystemAccess", Bool),
    ("wsl2", "ipv6", Bool),
    ("wsl2", "isolateDistroCgroup", Bool),
    ("wsl2", "kernel", Text),
    ("wsl2", "kernelBootTimeout", Integer),
    ("wsl2", "kernelCommandLine", Text),
    ("wsl2", "kernelDebugPort", Integer),
    ("wsl2", "kernelModules", Text),
    ("wsl2", "loadDefaultKernelModules", Bool),
    ("wsl2", "loadKernelModules", Text),
    ("wsl2", "localhostForwarding", Bool),
    ("wsl2", "macAddress", Text),
    ("wsl2", "maxCrashDumpCount", Integer),
    ("wsl2", "memory", Size),
    ("wsl2", "mountDeviceTimeout", Integer),
    ("wsl2", "nestedVirtualization", Bool),
    ("wsl2", "networkingMode", NETWORKING_MODES),
    ("wsl2", "processors", Integer),
    ("wsl2", "safeMode", Bool),
    ("wsl2", "swap", Size),
    ("wsl2", "swapFile", Text),
    ("wsl2", "systemDistro", Text),
    ("wsl2", "telemetry", Bool),
    ("wsl2", "virtio", Bool),
    ("wsl2", "virtio9p", Bool),
    ("wsl2", "virtiofs", Bool),
    ("wsl2", "vmIdleTimeout", Integer),
    ("wsl2", "vmSwitch", Text),
    ("wslr", "debianMirror", Text),
    ("wslr", "hostLoopback", Bool),
    ("wslr", "isolatedDistributions", Text),
    ("wslr", "lanForwarding", Bool),
    ("wslr", "servicesKeepRunning", Bool),
    ("wslr", "ubuntuMirror", Text),
];

/// What the host has.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Host {
    /// Memory in bytes.
    pub memory: u64,
    /// Logical processors.
    pub processors: u32,
}

/// What becomes of memory that an idle machine's guest has cached files in (B136).
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum MemoryReclaim {
    /// It stays the guest's.
    Disabled,
    /// It goes back to the host little by little, as long as nothing of it is missed.
    Gradual,
    /// All of it goes back to the host.
    #[default]
    DropCache,
}

/// The settings, with `wsl`'s defaults where the file says nothing.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct WslConfig {
    /// Memory of the virtual machine in bytes.
    pub memory: u64,
    /// Its processors.
    pub processors: u32,
    /// What it can swap out, in bytes; 0 is nothing.
    pub swap: u64,
    /// Where to; nowhere that can be seen where absent.
    pub swap_file: Option<PathBuf>,
    /// What becomes of what the guest has cached.
    pub memory_reclaim: MemoryReclaim,
    /// A kernel of the user's own.
    pub kernel: Option<PathBuf>,
    /// The modules disk of that kernel.
    pub kernel_modules: Option<PathBuf>,
    /// Modules of the kernel that are loaded when it has started.
    pub load_kernel_modules: Vec<String>,
    /// Appended to the kernel's command line.
    pub kernel_command_line: String,
    /// How long the machine lives on without distros; `None` is for ever.
    pub vm_idle_timeout: Option<Duration>,
    /// How long a distro lives on without sessions; `None` is for ever.
    pub instance_idle_timeout: Option<Duration>,
    /// How long the kernel may take to reach its init.
    pub kernel_boot_timeout: Duration,
    /// How long a distro may take to take sessions.
    pub distribution_start_timeout: Duration,
    /// The size of a new distro's disk in bytes.
    pub default_vhd_size: u64,
    /// Where new distros are kept.
    pub distribution_install_path: Option<PathBuf>,
    /// The guest may run virtual machines of its own.
    pub nested_virtualization: bool,
    /// The machine's network.
    pub networking: Networking,
    /// Show the kernel's log.
    pub debug_console: bool,
    /// Append the kernel's log to this file.
    pub debug_console_log_file: Option<PathBuf>,
    /// In place of the manifest's mirror.
    pub debian_mirror: Option<String>,
    /// In place of the manifest's mirror.
    pub ubuntu_mirror: Option<String>,
    /// Where the memory images of crashed processes go.
    pub crash_dump_folder: Option<PathBuf>,
    /// How many of them are kept; `None` where there are none.
    pub crash_dumps: Option<usize>,
    /// Everything that can be left out is (B125).
    pub safe_mode: bool,
    /// A distro with running services is not idle.
    pub services_keep_running: bool,
    /// What is wrong with the file, one line each, without `wslr: warning: `.
    pub warnings: Vec<String>,
}

impl Host {
    /// This host.
    #[must_use]
    pub fn current() -> Self {
        Self {
            memory: meminfo::bytes("MemTotal").unwrap_or(2 << 30),
            processors: thread::available_parallelism()
                .ok()
                .and_then(|count| u32::try_from(count.get()).ok())
                .unwrap_or(1),
        }
    }
}

impl WslConfig {
    /// How long the guest may take to stop something in good order: a sixth of the time to
    /// start it, which leaves 10 s by default and follows a slow host.
    #[must_use]
    pub fn stop_limit(&self) -> Duration {
        (self.distribution_start_timeout / 6).max(Duration::from_secs(2))
    }

    /// Reads the user's file. A missing one says nothing; one that cannot be read is a
    /// warning (B122).
    #[must_use]
    pub fn load(paths: &Paths) -> Self {
        let file = &paths.config;
        let host = Host::current();
        match read(file) {
            Ok(text) => Self::parse(&text, file, host),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Self::parse("", file, host),
            Err(error) => {
                let mut config = Self::parse("", file, host);
                let warning = format!("Failed to open config file {}, {error}", file.display());
                config.warnings.push(warning);
                config
            }
        }
    }

    /// Reads the text of `file`.
    #[must_use]
    pub fn parse(text: &str, file: &Path, host: Host) -> Self {
        let name = file.display().to_string();
        let (mut values, mut warnings) = TABLE.read(text, &name);
        // A path of the user's own hand: `~` is the home, and the file's directory is
        // where a relative one starts.
        let home = file.parent().unwrap_or(Path::new("/"));
        let path = |text: String| match text.strip_prefix("~/") {
            Some(rest) => home.join(rest),
            None => home.join(text),
        };
        let mut config = Self {
            memory: host.memory / 2,
            processors: host.processors,
            memory_reclaim: memory_reclaim(values.text("experimental.automemoryreclaim")),
            swap: 0,
            swap_file: values.text("wsl2.swapfile").map(path),
            kernel: values.text("wsl2.kernel").map(path),
            kernel_modules: values.text("wsl2.kernelmodules").map(path),
            load_kernel_modules: load_kernel_modules(
                values.flag("wsl2.loaddefaultkernelmodules", true),
                values.text("wsl2.loadkernelmodules"),
            ),
            kernel_command_line: values.text("wsl2.kernelcommandline").unwrap_or_default(),
            vm_idle_timeout: timeout(values.integer("wsl2.vmidletimeout"), 60_000),
            instance_idle_timeout: timeout(values.integer("general.instanceidletimeout"), 15_000),
            kernel_boot_timeout: limit(values.integer("wsl2.kernelboottimeout"), 30_000),
            distribution_start_timeout: limit(
                values.integer("wsl2.distributionstarttimeout"),
                60_000,
            ),
            default_vhd_size: values.bytes("wsl2.defaultvhdsize").unwrap_or(DEFAULT_DISK),
            distribution_install_path: values.text("general.distributioninstallpath").map(path),
            nested_virtualization: values.flag("wsl2.nestedvirtualization", true),
            networking: Networking::read(&mut values, &name, &mut warnings),
            debug_console: values.flag("wsl2.debugconsole", false),
            debug_console_log_file: values.text("wsl2.debugconsolelogfile").map(path),
            debian_mirror: values.text("wslr.debianmirror"),
            ubuntu_mirror: values.text("wslr.ubuntumirror"),
            crash_dump_folder: values.text("wsl2.crashdumpfolder").map(path),
            crash_dumps: count(values.integer("wsl2.maxcrashdumpcount"), DEFAULT_DUMPS),
            safe_mode: values.flag("wsl2.safemode", false),
            services_keep_running: values.flag("wslr.serviceskeeprunning", true),
            warnings,
        };
        if let Some(memory) = values.bytes("wsl2.memory") {
            config.memory = memory;
        }
        config.memory = config.memory.min(host.memory).max(MINIMUM_MEMORY);
        // A quarter of the memory in whole GB.
        let usual_swap = config.memory.div_ceil(4).next_multiple_of(1 << 30);
        config.swap = values.bytes("wsl2.swap").unwrap_or(usual_swap);
        let processors = values.integer("wsl2.processors");
        if let Some(wanted) = processors.filter(|wanted| *wanted > 0) {
            let available = host.processors;
            config.processors = u32::try_from(wanted).unwrap_or(u32::MAX).min(available);
            if wanted > i64::from(available) {
                config.warnings.push(format!(
                    "wsl2.processors cannot exceed the number of logical processors on the \
                     system ({wanted} > {available})"
                ));
            }
        }
        if config.safe_mode {
            config.make_safe();
        }
        config
    }

    /// Leaves out what a machine can be started without.
    fn make_safe(&mut self) {
        (self.kernel, self.kernel_modules) = (None, None);
        self.load_kernel_modules.clear();
        self.kernel_command_line.clear();
        self.swap = 0;
        (self.networking.mode, self.nested_virtualization) = (Mode::None, false);
        self.warnings.push(
            "SAFE MODE ENABLED: many features are off; 'safeMode' in .wslconfig turns it on and \
             off"
            .to_owned(),
        );
    }
}

fn memory_reclaim(word: Option<String>) -> MemoryReclaim {
    match word.unwrap_or_default().to_ascii_lowercase().as_str() {
        "disabled" => MemoryReclaim::Disabled,
        "gradual" => MemoryReclaim::Gradual,
        _ => MemoryReclaim::DropCache,
    }
}

/// The text of the file; what is not UTF-8 in it is replaced.
fn read(file: &Path) -> io::Result<String> {
    if fs::metadata(file)?.len() > MAXIMUM_LENGTH {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    let bytes = fs::read(file)?;
    let text = String::from_utf8_lossy(&bytes);
    Ok(text.strip_prefix('\u{feff}').unwrap_or(&text).to_owned())
}

/// Milliseconds; negative is for ever.
fn timeout(milliseconds: Option<i64>, default: i64) -> Option<Duration> {
    u64::try_from(milliseconds.unwrap_or(default)).ok().map(Duration::from_millis)
}

/// The names of modules to load, each once.
fn load_kernel_modules(has_defaults: bool, more: Option<String>) -> Vec<String> {
    let defaults: &[&str] = if has_defaults { &DEFAULT_MODULES } else { &[] };
    let more = more.unwrap_or_default();
    let mut names: Vec<String> = Vec::new();
    for name in defaults.iter().copied().chain(more.split(',').map(str::trim)) {
        if !name.is_empty() && !names.iter().any(|known| known == name) {
            names.push(name.to_owned());
        }
    }
    names
}

/// A number of things; none where it is zero or negative.
fn count(number: Option<i64>, default: i64) -> Option<usize> {
    usize::try_from(number.unwrap_or(default)).ok().filter(|number| *number > 0)
}

/// Milliseconds; what cannot be a limit is the default.
fn limit(milliseconds: Option<i64>, default: u64) -> Duration {
    let milliseconds = milliseconds.and_then(|number| u64::try_from(number).ok());
    Duration::from_millis(milliseconds.filter(|number| *number > 0).unwrap_or(default))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: Host = Host { memory: 8 << 30, processors: 4 };

    fn config(text: &str) -> WslConfig {
        WslConfig::parse(text, Path::new("/h/.wslconfig"), HOST)
    }

    fn warnings(text: &str) -> Vec<String> {
        config(text).warnings
    }

    #[test]
    fn an_empty_file_gives_the_defaults() {
        let config = config("");
        assert_eq!(config.memory, 4 << 30);
        assert_eq!(config.processors, 4);
        assert_eq!(config.vm_idle_timeout, Some(Duration::from_secs(60)));
        assert_eq!(config.instance_idle_timeout, Some(Duration::from_secs(15)));
        assert_eq!(config.default_vhd_size, 1 << 40);
        assert_eq!((config.swap, config.swap_file), (1 << 30, None));
        assert!(config.nested_virtualization && !config.debug_console);
        assert!(config.services_keep_running);
        assert_eq!(config.memory_reclaim, MemoryReclaim::DropCache);
        assert_eq!((config.crash_dumps, config.crash_dump_folder), (Some(10), None));
        assert_eq!(config.warnings, [""; 0]);
    }

    #[test]
    fn values_are_read_ignoring_the_case_of_their_keys() {
        let config = config(
            "[WSL2]\nMemory=2GB\nswap=0\nswapFile=s\nprocessors=0x2\nkernel=~/vmlinux\nvmIdleTimeout=-1\n\
             kernelCommandLine=a=b \"c d\"\n[general]\ninstanceIdleTimeout=0\n\
             distributionInstallPath=/d\n[wslr]\ndebianMirror=http://m/debian\n",
        );
        assert_eq!(config.memory, 2 << 30);
        assert_eq!((config.swap, config.swap_file), (0, Some("/h/s".into())));
        assert_eq!(config.processors, 2);
        assert_eq!(config.kernel, Some("/h/vmlinux".into()));
        assert_eq!(config.vm_idle_timeout, None);
        assert_eq!(config.instance_idle_timeout, Some(Duration::ZERO));
        assert_eq!(config.kernel_command_line, "a=b c d");
        assert_eq!(config.distribution_install_path, Some("/d".into()));
        assert_eq!(config.debian_mirror.as_deref(), Some("http://m/debian"));
        assert_eq!(config.warnings, [""; 0]);
    }

    #[test]
    fn b136_memory_is_given_back_as_the_file_says() {
        let of = |word: &str| {
            let text = format!("[experimental]\nautoMemoryReclaim={word}");
            (config(&text).memory_reclaim, warnings(&text).len())
        };
        assert_eq!(of("disabled"), (MemoryReclaim::Disabled, 0));
        assert_eq!(of("Gradual"), (MemoryReclaim::Gradual, 0));
        assert_eq!(of("dropcache"), (MemoryReclaim::DropCache, 0));
        assert_eq!(of("sometimes"), (MemoryReclaim::DropCache, 1));
    }

    #[test]
    fn b129_modules_to_load_are_the_usual_ones_and_the_users() {
        let of = |text: &str| config(&format!("[wsl2]\n{text}")).load_kernel_modules;
        assert_eq!(of(""), ["tun", "ip_tables", "br_netfilter"]);
        let text = "loadDefaultKernelModules=false\nloadKernelModules= usb_storage,,dm_crypt ,\n";
        assert_eq!(of(text), ["usb_storage", "dm_crypt"]);
        let text = "loadKernelModules=tun,veth";
        assert_eq!(of(text), ["tun", "ip_tables", "br_netfilter", "veth"]);
        assert_eq!(of("safeMode=true"), [""; 0]);
    }

    #[test]
    fn b161_dumps_are_as_many_as_the_file_says() {
        let of = |text: &str| config(&format!("[wsl2]\nmaxCrashDumpCount={text}")).crash_dumps;
        assert_eq!((of("2"), of("0"), of("-1")), (Some(2), None, None));
        let folder = config("[wsl2]\ncrashDumpFolder=~/crashes").crash_dump_folder;
        assert_eq!(folder, Some("/h/crashes".into()));
    }

    #[test]
    fn b120_every_kind_of_wrong_value_is_one_warning_with_its_place() {
        for (text, warning) in [
            ("[wsl2]\nfoo=1", "Unknown key 'wsl2.foo' in /h/.wslconfig:2"),
            ("bar=1", "Unknown key 'bar' in /h/.wslconfig:1"),
            ("[wsl2]\n[x-y]", "Invalid section name in /h/.wslconfig:2"),
            (
                "[wsl2]\nprocessors=b",
                "Invalid integer value 'b' for key 'wsl2.processors' in /h/.wslconfig:2",
            ),
            (
                "[wsl2]\nprocessors=",
                "Invalid integer value '' for key 'wsl2.processors' in /h/.wslconfig:2",
            ),
            ("[wsl2]\nipv6=x", "Invalid boolean value 'x' for key 'wsl2.ipv6' in /h/.wslconfig:2"),
            (
                "[wsl2]\nmemory=4.5GB",
                "Invalid memory string '4.5GB' for .wslconfig entry 'wsl2.memory' \
                 in /h/.wslconfig:2",
            ),
            (
                "[experimental]\nautoMemoryReclaim=x",
                "Invalid value 'x' for config key 'experimental.autoMemoryReclaim' in \
                 /h/.wslconfig:2 (Valid values: disabled, gradual, dropCache)",
            ),
        ] {
            assert_eq!(warnings(text), [warning]);
        }
    }

    #[test]
    fn b127_sizes_are_checked() {
        let told = warnings("[experimental]\nswiotlb=garbage\n");
        assert!(told[0].starts_with("Invalid memory string 'garbage' for .wslconfig entry"));
        let fine = "[experimental]\nswiotlb=64M\n[wsl2]\ndefaultVhdSize=64GB\n";
        assert_eq!(warnings(fine), [""; 0]);
        assert_eq!(warnings("[experimental]\nswiotlb=4096K\n"), [""; 0]);
    }

    #[test]
    fn b121_the_first_of_two_keys_wins_also_across_their_sections() {
        let text = "[wsl2]\nprocessors=1\nProcessors=2\n";
        assert_eq!(config(text).processors, 1);
        assert_eq!(
            warnings(text),
            ["Duplicated config key 'wsl2.Processors' in /h/.wslconfig:3 \
              (Conflicting key: 'wsl2.processors' in /h/.wslconfig:2)"]
        );
        let text = "[experimental]\nnetworkingMode=nat\n[wsl2]\nnetworkingMode=nat\n";
        assert_eq!(warnings(text).len(), 1);
    }

    #[test]
    fn b125_safe_mode_leaves_out_what_can_be() {
        let text = "[wsl2]\nsafeMode=true\nkernel=/k\nkernelCommandLine=a\nswap=1GB\n";
        let config = config(text);
        assert_eq!((config.kernel, config.kernel_command_line.as_str()), (None, ""));
        assert_eq!((config.swap, config.networking.mode, config.safe_mode), (0, Mode::None, true));
        assert!(config.warnings[0].starts_with("SAFE MODE ENABLED"), "{:?}", config.warnings);
    }

    #[test]
    fn b122_a_file_that_cannot_be_read_is_a_warning() {
        let home = tempfile::tempdir().unwrap();
        let paths = Paths::below(home.path());
        assert_eq!(WslConfig::load(&paths).warnings, [""; 0]);
        fs::create_dir(&paths.config).unwrap();
        let warnings = WslConfig::load(&paths).warnings;
        assert!(warnings[0].starts_with("Failed to open config file "), "{warnings:?}");
    }

    #[test]
    fn b123_too_many_processors_are_a_warning() {
        let config = config("[wsl2]\nprocessors=5\n");
        assert_eq!(config.processors, 4);
        assert!(config.warnings[0].ends_with("(5 > 4)"));
    }

    #[test]
    fn b124_memory_stays_between_its_limits() {
        assert_eq!(config("[wsl2]\nmemory=1MB\n").memory, 256 << 20);
        assert_eq!(config("[wsl2]\nmemory=1TB\n").memory, 8 << 30);
    }

    #[test]
    fn a_byte_order_mark_is_no_part_of_the_file() {
        let home = tempfile::tempdir().unwrap();
        let paths = Paths::below(home.path());
        fs::write(&paths.config, "\u{feff}[wsl2]\r\nprocessors=1\r\n").unwrap();
        let config = WslConfig::load(&paths);
        assert_eq!((config.processors, config.warnings.len()), (1, 0));
    }
}
