//! A running machine together with its control channel, from boot to end.

use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::control::{Control, ControlError};
use super::error::ServiceError;
use super::machine::{Kind, Machine};
use super::supervisor::Supervisor;
use super::virtual_machine::RESOLVER_SETTINGS;
use super::{clock, distro, host_settings, log, mirror, reclaim};
use crate::config::wslconfig::WslConfig;
use crate::error::Failure;
use crate::protocol::frame::FrameError;
use crate::protocol::guest::{Configure, Event, Request};
use crate::vmm::exit::Exit;

/// Random bytes given to a fresh guest.
const ENTROPY: usize = 4096;

/// A machine whose init has taken its configuration.
#[derive(Debug)]
pub struct Vm {
    /// Which machine it is.
    pub kind: Kind,
    /// The machine.
    pub machine: Arc<dyn Machine>,
    /// The channel to its init.
    pub control: Control,
    /// `uname -r` of the guest.
    pub kernel: String,
    /// What it was started with.
    pub settings: WslConfig,
    end: OnceLock<Failure>,
}

impl Vm {
    /// Boots a machine and configures its guest. Its end is reported to the supervisor.
    ///
    /// # Errors
    /// Where the machine cannot be built, or its guest does not come up in time.
    pub fn start(
        supervisor: &Arc<Supervisor>,
        kind: Kind,
    ) -> Result<(Arc<Self>, Vec<String>), Failure> {
        let settings = WslConfig::load(&supervisor.paths);
        let mut warnings = settings.warnings.clone();
        log(format_args!("starting the machine ({kind:?})"));
        let machine = supervisor.boot.boot(kind, &settings)?;
        log(format_args!("the machine runs"));
        warnings.extend(machine.warnings());
        let logs = supervisor.paths.logs();
        let fail = |machine: &Arc<dyn Machine>| {
            machine.kill();
            let exit = machine.wait();
            log(format_args!("{exit}"));
            match exit {
                exit @ (Exit::Reset | Exit::Failure { .. }) => {
                    Some(crash(kind, machine.as_ref(), exit, &logs))
                }
                Exit::Killed | Exit::PowerOff => None,
            }
        };
        let greeting = machine
            .control(settings.kernel_boot_timeout)
            .map_err(|error| Failure::new("Wsl/Service", &error))
            .and_then(|stream| {
                Control::open(stream, settings.kernel_boot_timeout)
                    .map_err(|error| Failure::new("Wsl/Service", &error))
            });
        let (control, reader, kernel) = match greeting {
            Ok(greeting) => greeting,
            Err(failure) => return Err(fail(&machine).unwrap_or(failure)),
        };
        let vm = Arc::new(Self {
            kind,
            machine: Arc::clone(&machine),
            control,
            kernel,
            settings,
            end: OnceLock::new(),
        });
        log(format_args!("kernel {} and its init are up", vm.kernel));
        let spawned = {
            let (vm, supervisor) = (Arc::clone(&vm), Arc::clone(supervisor));
            super::spawn("control", move || {
                let error = vm.control.serve(reader, |event| vm.told(&supervisor, event));
                if !matches!(error, FrameError::Closed | FrameError::Stream(_)) {
                    log(format_args!("control channel: {error}"));
                    vm.machine.kill();
                }
            })
        };
        let configured = spawned.and_then(|()| match kind {
            Kind::Host => Ok(Vec::new()),
            Kind::Virtual => vm.configure().inspect(|_| {
                for failure in
                    [clock::follow(&vm), reclaim::follow(&vm)].into_iter().filter_map(Result::err)
                {
                    log(format_args!("{failure}"));
                }
            }),
        });
        match configured {
            Ok(more) => {
                log(format_args!("the guest is configured"));
                warnings.extend(more);
            }
            Err(failure) => return Err(fail(&machine).unwrap_or(failure)),
        }
        let mut ended = host_settings::follow(&vm, RESOLVER_SETTINGS);
        ended.extend(mirror::follow(&vm));
        let (watched, supervisor) = (Arc::clone(&vm), Arc::clone(supervisor));
        super::spawn("machine-end", move || {
            let exit = watched.machine.wait();
            drop(ended);
            log(format_args!("{exit}"));
            let failure = match exit {
                exit @ (Exit::Reset | Exit::Failure { .. }) => {
                    crash(kind, watched.machine.as_ref(), exit, &supervisor.paths.logs())
                }
                Exit::Killed | Exit::PowerOff => {
                    Failure::new("Wsl/Service", &ServiceError::ShuttingDown)
                }
            };
            let _ = watched.end.set(failure);
            supervisor.ended(&watched);
        })
        .inspect_err(|_| vm.machine.kill())?;
        Ok((vm, warnings))
    }

    /// Takes what the guest tells.
    fn told(self: &Arc<Self>, supervisor: &Arc<Supervisor>, event: Event) {
        let ports = self.machine.ports();
        match event {
            Event::DistroExited { distro } => {
                if let Some(ports) = ports {
                    ports.forget(distro);
                }
                supervisor.exited(self, distro);
            }
            Event::PortOpened(listener) => {
                if let Some(ports) = ports {
                    ports.opened(listener);
                }
            }
            Event::PortClosed { socket } => {
                if let Some(ports) = ports {
                    ports.closed(socket);
                }
            }
            Event::Described { distro, flavor, os_version } => {
                distro::describe(&supervisor.paths, distro, flavor, os_version);
            }
            Event::Hello { .. } | Event::Reply { .. } => {}
        }
    }

    /// Why the machine ended, once it has.
    #[must_use]
    pub fn end(&self) -> Option<&Failure> {
        self.end.get()
    }

    /// The failure of a request, or the machine's end where that is what caused it.
    pub fn failure(&self, contexts: &str, error: &ControlError) -> Failure {
        if matches!(error, ControlError::Lost(_)) {
            // The channel's end is seen a moment before the machine's.
            for _ in 0..200 {
                if let Some(end) = self.end() {
                    return end.clone();
                }
                thread::sleep(Duration::from_millis(10));
            }
        }
        Failure::new(contexts, error)
    }

    fn configure(&self) -> Result<Vec<String>, Failure> {
        let mut entropy = vec![0; ENTROPY];
        if let Err(source) = read_random(&mut entropy) {
            let error = ServiceError::System { action: "read random bytes", source };
            return Err(Failure::new("Wsl/Service/CreateVm", &error));
        }
        let request = Request::Configure(Configure {
            time: clock::now(),
            entropy,
            modules: self.machine.modules(),
            swap: self.machine.swap(),
            network: self.machine.network(),
            crash_dumps: self.settings.crash_dumps.is_some(),
            load_modules: self.settings.load_kernel_modules.clone(),
        });
        self.control
            .request(request, self.settings.kernel_boot_timeout)
            .map_err(|error| Failure::new("Wsl/Service/CreateVm", &error))
    }
}

fn read_random(buffer: &mut [u8]) -> std::io::Result<()> {
    use std::io::Read;
    std::fs::File::open("/dev/urandom")?.read_exact(buffer)
}

/// The failure of a machine that ended by itself. What its kernel said last is saved for
/// the user to read.
fn crash(kind: Kind, machine: &dyn Machine, exit: Exit, logs: &Path) -> Failure {
    if let (Kind::Host, Exit::Failure { reason }) = (kind, &exit) {
        let log = logs.join("service.log");
        let error = ServiceError::HostMachine { reason: reason.clone(), log };
        return Failure::new("Wsl/Service", &error);
    }
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let path = logs.join(format!("kernel-panic-{seconds}.txt"));
    if let Err(error) = machine.save_log(&path) {
        log(format_args!("cannot write {}: {error}", path.display()));
    }
    Failure::new("Wsl/Service", &ServiceError::Crashed { exit, log: path })
}
