//! The KVM machine as the service's [`Machine`]: kernel, disks, vsock, console.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::crash_dumps::CrashDumps;
use super::error::ServiceError;
use super::machine::{Boot, Kind, Load, Machine, MachineError, Resources, Storage, Use};
use super::{host_machine, lock, log, swap};
use crate::config::networking::{Mode, Networking};
use crate::config::paths::Paths;
use crate::config::wslconfig::WslConfig;
use crate::devices::VirtioDevice;
use crate::devices::balloon::device::Balloon;
use crate::devices::net::{Link, NetDevice};
use crate::devices::scsi::{DiskOptions, ScsiBus, ScsiDevice, ScsiError, Volume};
use crate::devices::vsock::{Vsock, VsockDevice};
use crate::disk::raw::Raw;
use crate::disk::{self, Disk, Format};
use crate::error::{Diagnose, Failure, chain};
use crate::ext4::reader::{Image, ReadError};
use crate::kernel::{self, Prepared, initramfs};
use crate::network::addresses::{self, Addresses};
use crate::network::nat::{self, Nat};
use crate::network::ports::Ports;
use crate::network::resolver;
use crate::protocol::frame::{self, FrameError};
use crate::protocol::guest::{
    CONTROL_PORT, CRASH_PORT, Mirrored, Network, Root, STREAM_PORT, StreamHeader,
};
use crate::protocol::session::{Session, StreamKind};
use crate::vmm::error::VmmError;
use crate::vmm::exit::Exit;
use crate::vmm::machine::{Configuration, VirtualMachine};
use crate::vmm::{command_line, probe};

/// Where the host's resolver is set up.
pub const RESOLVER_SETTINGS: &str = "/etc/resolv.conf";

/// The size of a page of the host, in bytes.
const PAGE: u64 = 4096;

/// The contexts of a machine that cannot be built in the error code.
const CREATE: &str = "Wsl/Service/CreateInstance/CreateVm";

/// Builds machines from the prepared kernel.
#[derive(Debug)]
pub struct Builder {
    paths: Paths,
}

impl Builder {
    /// A builder for that user's machines.
    #[must_use]
    pub fn new(paths: Paths) -> Self {
        Self { paths }
    }
}

impl Builder {
    /// Attaches the disk to swap to; what is wrong with it is a warning.
    fn attach_swap(
        &self,
        disks: &ScsiBus,
        settings: &WslConfig,
        warnings: &mut Vec<String>,
    ) -> Option<u16> {
        let file = settings.swap_file.as_deref();
        let attached = swap::prepare(settings.swap, file, &self.paths.data).and_then(|disk| {
            let options = DiskOptions { read_only: false, serial: "wslr-swap".to_owned() };
            disk.map(|disk| disks.attach_backend(Box::new(Volume::new(disk)), options))
                .transpose()
                .map_err(|error| format!("cannot attach the swap disk: {}", chain(&error)))
        });
        attached.unwrap_or_else(|warning| {
            warnings.push(warning);
            None
        })
    }
}

impl Boot for Builder {
    fn boot(&self, kind: Kind, settings: &WslConfig) -> Result<Arc<dyn Machine>, Failure> {
        if kind == Kind::Host {
            return host_machine::start(&self.paths);
        }
        fn failed(error: impl Diagnose) -> Failure {
            Failure::new(CREATE, &error)
        }
        let kernel = match &settings.kernel {
            Some(path) => kernel::custom(&self.paths, path),
            None => kernel::current(&self.paths),
        }
        .map_err(failed)?;
        probe::run().map_err(failed)?;
        let disks = ScsiBus::new();
        let modules = match settings.kernel_modules.as_ref().or(kernel.modules_disk.as_ref()) {
            Some(path) => Some(attach_modules(&disks, path)?),
            None => None,
        };
        let mut warnings = Vec::new();
        let swap = self.attach_swap(&disks, settings, &mut warnings);
        let vsock = Vsock::new().map_err(failed)?;
        let (sender, calls) = channel();
        let control = sender.clone();
        vsock
            .listen(CONTROL_PORT, move |stream| {
                // Where nobody waits any more the machine has ended.
                let _ = control.send(Ok(stream));
            })
            .map_err(failed)?;
        if let Some(count) = settings.crash_dumps {
            let folder = settings.crash_dump_folder.clone();
            let dumps = CrashDumps::new(folder.unwrap_or_else(|| self.paths.crashes()), count);
            vsock.listen(CRASH_PORT, move |stream| dumps.accept(stream)).map_err(failed)?;
        }
        let mut devices: Vec<Box<dyn VirtioDevice>> = vec![
            Box::new(ScsiDevice::new(disks.clone(), settings.processors)),
            Box::new(VsockDevice::new(vsock.clone())),
            Box::new(Balloon::default()),
        ];
        let networking = &settings.networking;
        let addresses = (networking.mode != Mode::None).then(|| choose_addresses(networking));
        let ports = Ports::new(log, networking.ignored_ports.clone())
            .map_err(|source| failed(ServiceError::System { action: "make an event", source }))?;
        if let Some(addresses) = addresses {
            devices.push(Box::new(network_device(addresses, networking, ports.clone())));
        }
        let line = command_line::build(
            settings.processors,
            settings.debug_console,
            &settings.kernel_command_line,
        )
        .map_err(|error| failed(VmmError::from(error)))?;
        let machine = VirtualMachine::start(Configuration {
            kernel: kernel.vmlinux.clone(),
            initramfs: initramfs::build(Path::new("/proc/self/exe"), &kernel.modules)
                .map_err(failed)?,
            command_line: line,
            memory: settings.memory,
            processors: settings.processors,
            nested_virtualization: settings.nested_virtualization,
            console_log: self.paths.logs().join("kernel.log"),
            devices,
        })
        .map_err(failed)?;
        if let Some(path) = &settings.debug_console_log_file
            && let Err(error) = machine.console_log().copy_to(path)
        {
            warnings
                .push(format!("cannot write the kernel's log to '{}': {error}", path.display()));
        }
        watch(&machine, sender)?;
        Ok(Arc::new(KvmMachine {
            machine,
            disks,
            vsock,
            modules,
            swap,
            warnings,
            network: addresses.map(|addresses| guest_network(addresses, networking)),
            ports,
            calls: Mutex::new(calls),
            processors: settings.processors,
            memory: settings.memory,
            _kernel: kernel,
        }))
    }
}

/// Attaches the read-only disk with the kernel's modules.
fn attach_modules(disks: &ScsiBus, path: &Path) -> Result<u16, Failure> {
    let attached = File::open(path).map_err(ScsiError::Length).and_then(|file| {
        let serial = "wslr-modules".to_owned();
        disks.attach(file, DiskOptions { read_only: true, serial })
    });
    attached.map_err(|error| {
        let failure = Failure::new(CREATE, &error);
        Failure { message: format!("'{}': {}", path.display(), failure.message), ..failure }
    })
}

/// The addresses on a machine's link.
fn choose_addresses(networking: &Networking) -> Addresses {
    let addresses = Addresses::choose();
    Addresses { resolver: networking.resolver.unwrap_or(addresses.gateway4), ..addresses }
}

/// The interface of a machine, connected to the host's networks.
fn network_device(addresses: Addresses, networking: &Networking, ports: Ports) -> NetDevice {
    let settings = nat::Settings {
        addresses,
        resolver: PathBuf::from(RESOLVER_SETTINGS),
        hosts: PathBuf::from("/etc/hosts"),
        ports,
        host_loopback: networking.host_loopback,
        lan_forwarding: networking.lan_forwarding,
    };
    let connect = move |offloads| {
        let nat = Nat::new(settings.clone(), offloads)?;
        Ok(Box::new(nat) as Box<dyn Link>)
    };
    NetDevice::new(addresses::GUEST_MAC, addresses::MTU, Box::new(connect))
}

/// What the guest is told of the network.
fn guest_network(addresses: Addresses, networking: &Networking) -> Network {
    let settings = std::fs::read_to_string(RESOLVER_SETTINGS).unwrap_or_default();
    let host = (addresses.host4, addresses.host6);
    let mirrored = Mirrored { host: networking.host_loopback.then_some(host) };
    Network {
        routes6: addresses::host_has_ipv6(),
        caller: networking.localhost_forwarding.then_some(host),
        mirrored: (networking.mode == Mode::Mirrored).then_some(mirrored),
        search: resolver::search(&settings),
        ..addresses.network(networking.mode.name())
    }
}

/// Tells who waits for the guest's call where the machine ends instead.
fn watch(machine: &VirtualMachine, calls: Sender<Result<UnixStream, Exit>>) -> Result<(), Failure> {
    let watched = machine.clone();
    super::spawn("machine-watch", move || {
        let _ = calls.send(Err(watched.wait()));
    })
}

#[derive(Debug)]
struct KvmMachine {
    machine: VirtualMachine,
    disks: ScsiBus,
    vsock: Vsock,
    modules: Option<u16>,
    swap: Option<u16>,
    warnings: Vec<String>,
    network: Option<Network>,
    ports: Ports,
    /// The guest's control connections, and the machine's end.
    calls: Mutex<Receiver<Result<UnixStream, Exit>>>,
    processors: u32,
    memory: u64,
    /// Keeps the kernel from being removed by an update.
    _kernel: Prepared,
}

impl Machine for KvmMachine {
    fn attach(&self, storage: Storage) -> Result<Root, MachineError> {
        let read_only = storage.usage == Use::Own { read_only: true };
        let options = DiskOptions { read_only, serial: String::new() };
        let disk: Box<dyn Disk> = match (Format::of(&storage.path), storage.usage) {
            (Format::Raw, Use::Root { reserved: true }) => Box::new(Raw::reserved(storage.file)),
            (format, _) => disk::open(storage.file, format, !read_only)?,
        };
        // What the kernel may know and the reader does not is the kernel's to say.
        if let Use::Root { .. } = storage.usage
            && let Err(error @ (ReadError::NotExt4 | ReadError::Damaged { .. })) =
                Image::examine(disk.as_ref())
        {
            return Err(error.into());
        }
        let attached = self.disks.attach_backend(Box::new(Volume::new(disk)), options);
        attached.map(|lun| Root::Disk { lun }).map_err(|error| match error {
            ScsiError::Full => MachineError::TooManyDisks,
            error => MachineError::Attach { reason: chain(&error) },
        })
    }

    fn measure_again(&self, root: &Root) -> Result<(), MachineError> {
        let Root::Disk { lun } = root else {
            return Err(MachineError::NotAttached { root: root.clone() });
        };
        let failed = |error: ScsiError| MachineError::Attach { reason: chain(&error) };
        self.disks.measure_again(*lun).map_err(failed)
    }

    fn detach(&self, root: &Root) -> Result<(), MachineError> {
        let not_attached = || MachineError::NotAttached { root: root.clone() };
        let Root::Disk { lun } = root else { return Err(not_attached()) };
        match self.disks.detach(*lun) {
            Ok(()) => Ok(()),
            Err(error @ ScsiError::Flush { .. }) => {
                log(format_args!("{}", chain(&error)));
                Ok(())
            }
            Err(_) => Err(not_attached()),
        }
    }

    fn open(
        &self,
        number: u64,
        session: &Session,
        control: UnixStream,
        streams: Vec<(StreamKind, OwnedFd)>,
    ) -> Result<(), MachineError> {
        let failed = |error: FrameError| MachineError::Connect { reason: chain(&error) };
        let connect = |kind, stream: OwnedFd, request: &[u8]| {
            let mut prefix =
                frame::encode(&StreamHeader { session: number, kind }).map_err(failed)?;
            prefix.extend_from_slice(request);
            self.vsock.connect(STREAM_PORT, stream, prefix, |_| {}).map_err(|error| {
                match self.machine.exit() {
                    Some(exit) => MachineError::Ended { exit },
                    None => MachineError::Connect { reason: chain(&error) },
                }
            })
        };
        let request = frame::encode(session).map_err(failed)?;
        connect(StreamKind::Control, control.into(), &request)?;
        streams.into_iter().try_for_each(|(kind, stream)| connect(kind, stream, &[]))
    }

    fn control(&self, limit: Duration) -> Result<UnixStream, MachineError> {
        match lock(&self.calls).recv_timeout(limit) {
            Ok(Ok(stream)) => {
                // Init calls before any other program runs; nobody else shall be heard.
                self.vsock.stop_listening(CONTROL_PORT);
                Ok(stream)
            }
            Ok(Err(exit)) => Err(MachineError::Ended { exit }),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                Err(MachineError::BootTimeout {
                    limit,
                    log: self.machine.console_log().path().to_owned(),
                })
            }
        }
    }

    fn modules(&self) -> Option<u16> {
        self.modules
    }

    fn swap(&self) -> Option<u16> {
        self.swap
    }

    fn warnings(&self) -> Vec<String> {
        self.warnings.clone()
    }

    fn network(&self) -> Option<Network> {
        self.network.clone()
    }

    fn ports(&self) -> Option<&Ports> {
        Some(&self.ports)
    }

    fn kill(&self) {
        self.machine.kill();
    }

    fn wait(&self) -> Exit {
        self.machine.wait()
    }

    fn resources(&self) -> Option<Resources> {
        Some(Resources { processors: self.processors, memory: self.memory })
    }

    fn load(&self) -> Option<Load> {
        // The service has little memory beside the guest's.
        let sizes = std::fs::read_to_string("/proc/self/statm").ok()?;
        let pages: u64 = sizes.split(' ').nth(1)?.parse().ok()?;
        let resident = pages.saturating_mul(PAGE);
        Some(Load { processor_time: self.machine.processor_time(), resident })
    }

    fn save_log(&self, to: &Path) -> io::Result<()> {
        self.machine.console_log().save_recent(to)
    }
}
